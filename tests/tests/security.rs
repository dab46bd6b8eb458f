//! What a container may do in its guest.

use caisson_end_to_end::image::{Image, Layer};
use caisson_end_to_end::{Caisson, text};

const DEFAULT_CAPABILITIES: u64 = 0x0000_0000_a804_25fb;
const ALL_CAPABILITIES: u64 = 0x0000_01ff_ffff_ffff;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const CHOWN: u64 = 1;

fn capabilities(caisson: &Caisson, flags: &[&str]) -> u64 {
    let printed = caisson.shell(flags, "grep -E 'Cap(Eff|Bnd)' /proc/self/status");
    let values: Vec<_> = printed
        .lines()
        .map(|line| {
            u64::from_str_radix(line.split('\t').nth(1).expect("a value"), 16).expect("a number")
        })
        .collect();
    assert_eq!(
        values[0], values[1],
        "what is not granted is not in the bounding set either"
    );
    values[0]
}

/// A field of a process's status.
fn status(pid: u64, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.expect("a field").trim().to_owned()
}

#[test]
fn every_process_of_a_machine_is_jailed() {
    let caisson = Caisson::new();
    let mut users = Vec::new();
    // One QEMU is the copy of another, one is executed.
    for (name, template) in [("one", "auto"), ("other", "state")] {
        // With a port, its network's process is there as well.
        let flags = ["-v", "/tmp:/x", "-p", "127.0.0.1::80"];
        let run = ["run", "-d", "--name", name].into_iter().chain(flags);
        let mut run = caisson.command(run.chain(["busybox", "sleep", "1000"]));
        let output = run.env("CAISSON_TEMPLATE", template).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let machine = &caisson.inspect(name)["MachinePids"];
        let mut programs = Vec::new();
        for pid in machine.as_array().expect("pids") {
            let pid = pid.as_u64().expect("a pid");
            programs.push(status(pid, "Name"));
            assert_eq!(status(pid, "NoNewPrivs"), "1", "{programs:?}");
            assert_eq!(status(pid, "Seccomp"), "2", "{programs:?}");
            let host = std::fs::read_link("/proc/self/ns/mnt").expect("a namespace");
            let own = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace");
            assert_ne!(own, host, "{programs:?}");
            for folder in ["home", "root", "var", "tmp", "sys"] {
                let path = format!("/proc/{pid}/root/{folder}");
                assert!(
                    !std::path::Path::new(&path).exists(),
                    "{programs:?}: {folder}"
                );
            }
            if programs.last().is_some_and(|name| name.starts_with("qemu")) {
                assert_eq!(status(pid, "CapPrm"), "0000000000000000");
                assert_eq!(status(pid, "CapBnd"), "0000000000000000");
                users.push(status(pid, "Uid"));
                let interfaces = std::fs::read_to_string(format!("/proc/{pid}/net/dev"));
                let interfaces = interfaces.expect("interfaces");
                assert_eq!(interfaces.lines().count(), 3, "the loopback: {interfaces}");
            }
        }
        assert_eq!(programs.len(), 4, "{programs:?}");
    }
    // A QEMU that is taken over can send no signal to another one.
    assert_eq!(users.len(), 2);
    assert_ne!(users[0], users[1]);
}

#[test]
fn capabilities_are_dockers_and_can_be_changed() {
    let caisson = Caisson::new();
    for (flags, expected) in [
        (&[][..], DEFAULT_CAPABILITIES),
        (
            &["--cap-add", "NET_ADMIN"],
            DEFAULT_CAPABILITIES | NET_ADMIN,
        ),
        (&["--cap-drop", "CAP_CHOWN"], DEFAULT_CAPABILITIES & !CHOWN),
        (&["--cap-drop", "ALL", "--cap-add", "chown"], CHOWN),
        (&["--cap-drop", "all"], 0),
        (
            &["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"],
            ALL_CAPABILITIES & !SYS_ADMIN,
        ),
        (&["--privileged"], ALL_CAPABILITIES),
    ] {
        assert_eq!(capabilities(&caisson, flags), expected, "{flags:?}");
    }
    let output = caisson.run([
        "run",
        "--rm",
        "--cap-drop",
        "CHOWN",
        "busybox",
        "chown",
        "1",
        "/tmp",
    ]);
    assert!(
        text(&output.stderr).contains("Operation not permitted"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_default_filter_denies_what_dockers_does() {
    let caisson = Caisson::new();
    // A user namespace needs no capability: only the filter stands in the way.
    let script = "grep Seccomp: /proc/self/status; unshare -U true && echo a namespace; \
        unshare -m true && echo a mount namespace; \
        mount -t tmpfs none /tmp && echo a mount; true";
    let filtered = caisson.run(["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(text(&filtered.stdout), "Seccomp:\t2\n");
    assert_eq!(
        text(&filtered.stderr).matches("not permitted").count()
            + text(&filtered.stderr).matches("denied").count(),
        3,
        "{}",
        text(&filtered.stderr)
    );
    let printed = caisson.shell(
        &["--security-opt", "seccomp=unconfined"],
        "grep Seccomp: /proc/self/status; unshare -U true && echo a namespace",
    );
    assert_eq!(printed, "Seccomp:\t0\na namespace\n");
    // The filter follows the capabilities.
    let printed = caisson.shell(
        &["--cap-add", "SYS_ADMIN"],
        "mount -t tmpfs none /tmp && unshare -m true && echo both",
    );
    assert_eq!(printed, "both\n");
    let printed = caisson.shell(
        &["--privileged"],
        "grep Seccomp: /proc/self/status; unshare -m true && echo yes",
    );
    assert_eq!(printed, "Seccomp:\t0\nyes\n");
}

#[test]
fn a_filter_of_the_users_is_in_force() {
    let caisson = Caisson::new();
    let file = caisson.folder("seccomp").join("profile.json");
    let path = format!("seccomp={}", file.display());
    std::fs::write(
        &file,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#,
    )
    .expect("written");
    let printed = caisson.shell(
        &["--security-opt", &path],
        "mkdir /x 2>&1 || true; touch /y && unshare -U echo rest",
    );
    assert!(
        printed.contains("No space left on device") && printed.ends_with("rest\n"),
        "{printed}"
    );
    for (profile, words) in [
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["#,
            "line 1",
        ),
        (r#"{"defaultAction": "SCMP_ACT_NOPE"}"#, "SCMP_ACT_NOPE"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "unknown": 1}"#,
            "unknown",
        ),
    ] {
        std::fs::write(&file, profile).expect("written");
        let error = caisson.fails(
            125,
            ["run", "--rm", "--security-opt", &path, "busybox", "true"],
        );
        assert!(
            error.contains("profile.json") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn no_new_privileges_means_none() {
    let caisson = Caisson::new();
    let file = caisson.folder("images").join("image.tar");
    // A file capability lets any user bind mounts; with the flag it counts for nothing.
    let capability = [&[1, 0, 0, 2][..], &(1_u32 << 21).to_le_bytes(), &[0; 12]].concat();
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static on the host");
    Image::on_busybox("caps:1")
        .layer(
            Layer::new()
                .attributes(&[("security.capability", &capability)])
                .bytes("bin/capable", 0o755, &busybox),
        )
        .save_as_docker(&file);
    caisson.ok(["load", "-q", "-i", &file.to_string_lossy()]);
    let run = |flags: &[&str]| {
        let begin = ["run", "--rm", "--cap-add", "SYS_ADMIN", "-u", "nobody"]
            .iter()
            .chain(flags);
        let script =
            "ln -s /bin/capable /tmp/grep; /tmp/grep -E 'CapEff|NoNewPrivs' /proc/self/status";
        caisson.ok(begin.chain(&["caps:1", "sh", "-c", script]))
    };
    assert_eq!(run(&[]), "CapEff:\t0000000000200000\nNoNewPrivs:\t0\n");
    let printed = run(&["--security-opt", "no-new-privileges"]);
    assert_eq!(printed, "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
}

#[test]
fn paths_of_the_kernel_are_masked_or_read_only() {
    let caisson = Caisson::new();
    let script = "wc -c < /proc/keys; wc -c < /proc/interrupts; ls -A /sys/firmware | wc -l; \
        for path in /proc/sys/kernel/hostname /sys/kernel/profiling /proc/irq/default_smp_affinity \
            /sys/fs/cgroup/cgroup.procs; do \
            echo 1 2>/dev/null > $path && echo $path was written; done; true";
    let output = caisson.run(["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), "0\n0\n0\n");
    let printed = caisson.shell(
        &["--privileged"],
        "wc -c < /proc/interrupts; echo 42 > /proc/sys/vm/swappiness; cat /proc/sys/vm/swappiness",
    );
    let lines: Vec<_> = printed.lines().collect();
    assert_ne!(lines[0], "0");
    assert_eq!(lines[1], "42");
    let printed = caisson.shell(
        &["--security-opt", "systempaths=unconfined"],
        "wc -c < /proc/interrupts",
    );
    assert_ne!(printed, "0\n");
}

#[test]
fn a_read_only_root_can_be_written_nowhere_but_in_volumes() {
    let caisson = Caisson::new();
    let script =
        "touch /x /etc/x /bin/x 2>&1; touch /data/x /run-data/x /dev/shm/x && echo written";
    let output = caisson.run([
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/run-data",
        "-v",
        "/data",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let printed = text(&output.stdout);
    assert_eq!(
        printed.matches("Read-only file system").count(),
        3,
        "{printed}"
    );
    assert!(printed.ends_with("written\n"), "{printed}");
}

#[test]
fn devices_are_there_only_if_they_were_asked_for() {
    let caisson = Caisson::new();
    // Nodes can be made, as with Docker, but not opened: here the guest's own disks.
    let script = "mknod /tmp/disk b 254 0 && mknod /tmp/mem c 1 1 && mknod /tmp/fuse c 10 229; \
        for device in /tmp/disk /tmp/mem /tmp/fuse; do head -c 1 $device 2>&1; done; \
        head -c 4 /dev/zero | wc -c; echo x > /dev/null; head -c 8 /dev/urandom | wc -c; ls /dev/fuse 2>&1";
    let output = caisson.run(["run", "--rm", "busybox", "sh", "-c", script]);
    let printed = text(&output.stdout);
    assert_eq!(
        printed.matches("Operation not permitted").count(),
        3,
        "{printed}"
    );
    assert!(
        printed.contains("4\n8\n") && printed.contains("/dev/fuse: No such file"),
        "{printed}"
    );
    let printed = caisson.shell(
        &["--device", "/dev/fuse", "--device", "/dev/net/tun"],
        "ls -l /dev/fuse /dev/net/tun; exec 3<>/dev/fuse && echo opened",
    );
    assert!(
        printed.contains("10, 229") && printed.contains("10, 200"),
        "{printed}"
    );
    assert!(printed.ends_with("opened\n"), "{printed}");
}

#[test]
fn the_programs_namespaces_are_its_own() {
    let caisson = Caisson::new();
    let printed = caisson.shell(&[], "ls /proc | grep -c '^[0-9]*$'; cat /proc/self/cgroup; ls /sys/fs/cgroup | head -1; mount | grep -c caisson-share || true");
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[1], "0::/", "{printed}");
    assert_eq!(lines.last(), Some(&"0"), "{printed}");
}
