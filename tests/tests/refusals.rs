//! Flags that a virtual machine cannot honour: refused with the reason, never ignored.

use std::io::Write;
use std::os::unix::net::UnixListener;

use caisson_end_to_end::{Caisson, text};

/// Flags of Docker and a value each that asks for something special.
const REFUSED: &[&[&str]] = &[
    &["--pid", "host"],
    &["--pid", "container:other"],
    &["--ipc", "host"],
    &["--uts", "host"],
    &["--userns", "host"],
    &["--cgroupns", "host"],
    &["--cgroup-parent", "/x"],
    &["--runtime", "runc"],
    &["--isolation", "hyperv"],
    &["--gpus", "all"],
    &["--device-cgroup-rule", "c 1:1 r"],
    &["--blkio-weight", "10"],
    &["--blkio-weight-device", "/dev/sda:10"],
    &["--device-read-bps", "/dev/sda:1m"],
    &["--device-read-iops", "/dev/sda:1"],
    &["--device-write-bps", "/dev/sda:1m"],
    &["--device-write-iops", "/dev/sda:1"],
    &["--link", "db"],
    &["--volumes-from", "other"],
    &["--volume-driver", "nfs"],
    &["--storage-opt", "size=1g"],
    &["--cpu-shares", "512"],
    &["--cpu-period", "1000"],
    &["--cpu-quota", "1000"],
    &["--cpu-rt-period", "1000"],
    &["--cpu-rt-runtime", "1000"],
    &["--cpuset-cpus", "0"],
    &["--cpuset-mems", "0"],
    &["--memory-reservation", "64m"],
    &["--memory-swap", "1g"],
    &["--memory-swappiness", "10"],
    &["--kernel-memory", "64m"],
    &["--oom-kill-disable"],
    &["--oom-score-adj", "100"],
    &["--group-add", "adm"],
    &["--restart", "always"],
    &["--attach", "stdout"],
    &["--sig-proxy=false"],
    &["--detach-keys", "ctrl-x"],
    &["--log-driver", "syslog"],
    &["--log-opt", "max-size=1m"],
    &["--health-cmd", "true"],
    &["--annotation", "a=b"],
    &["--disable-content-trust=false"],
    &["--use-api-socket"],
];

/// Values of flags that are there, which cannot be had in a virtual machine.
const IMPOSSIBLE: &[(&[&str], &str)] = &[
    (&["--network", "host"], "a kernel of its own"),
    (
        &["--network", "container:other"],
        "a virtual machine of its own",
    ),
    (&["--device", "/dev/sda"], "--volume"),
    (&["--device", "/dev/kvm"], "not offered"),
    (&["--security-opt", "apparmor=docker-default"], "AppArmor"),
    (&["--security-opt", "label=type:x"], "SELinux"),
    (&["--platform", "linux/arm64"], "linux/amd64 only"),
    (&["--platform", "windows/amd64"], "no platform"),
    (&["--sysctl", "kernel.hostname=x"], "--hostname"),
    (
        &[
            "--mount",
            "type=bind,src=/tmp,dst=/x,bind-propagation=shared",
        ],
        "propagation",
    ),
    (&["--mount", "type=npipe,src=/tmp,dst=/x"], "npipe"),
    (&["-v", "/tmp:/x:rshared"], "propagation"),
    (&["-v", "/tmp:/"], "/ cannot be mounted over"),
    (&["-v", "/tmp:/proc/x"], "/proc"),
    (&["--cpus", "1000"], "--cpus 1000"),
    (&["--memory", "1m"], "--memory"),
    (&["--hypervisor", "xen"], "xen"),
];

fn refused(caisson: &Caisson, flags: &[&str], words: &[&str]) {
    let output = caisson.run(
        ["run", "--rm"]
            .iter()
            .chain(flags)
            .chain(&["busybox", "true"]),
    );
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{flags:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{flags:?}: {error}");
    }
}

#[test]
fn flags_of_docker_are_refused_with_their_reason() {
    let caisson = Caisson::new();
    for flags in REFUSED {
        let name = flags[0].split('=').next().expect("a name");
        refused(&caisson, flags, &[name, "cannot be honoured: "]);
    }
    assert_eq!(caisson.ok(["ps", "-aq"]), "");
}

#[test]
fn values_that_cannot_be_had_are_refused_with_their_reason() {
    let caisson = Caisson::new();
    for (flags, words) in IMPOSSIBLE {
        refused(&caisson, flags, &[words]);
    }
    assert_eq!(caisson.ok(["ps", "-aq"]), "");
}

#[test]
fn what_is_so_anyway_is_accepted() {
    let caisson = Caisson::new();
    let flags = [
        "--network",
        "none",
        "--ipc",
        "private",
        "--restart",
        "no",
        "--cgroupns=private",
        "--sig-proxy=true",
    ];
    let printed = caisson.shell(&flags, "ls /sys/class/net");
    assert_eq!(printed, "lo\n");
}

#[test]
fn sockets_and_devices_of_the_host_are_not_shared() {
    let caisson = Caisson::new();
    let folder = caisson.folder("special");
    let socket = folder.join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    for path in [
        socket.to_string_lossy().into_owned(),
        "/dev/null".to_owned(),
    ] {
        let volume = format!("{path}:/x");
        refused(
            &caisson,
            &["-v", &volume],
            &["--volume", "only files and folders"],
        );
    }
}

#[test]
fn mistakes_in_files_are_named_by_line() {
    let caisson = Caisson::new();
    let path = caisson.folder("files").join("file");
    let mut file = std::fs::File::create(&path).expect("a file");
    writeln!(file, "GOOD=1\n\nBAD NAME=1").expect("written");
    let path = path.to_string_lossy();
    refused(&caisson, &["--env-file", &path], &["--env-file", "line 3"]);
    refused(
        &caisson,
        &["--label-file", "/no/such/file"],
        &["--label-file", "/no/such/file"],
    );
}
