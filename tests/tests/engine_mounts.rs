//! What containers of an engine see of files: rootfs that are disks, and every kind of mount.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use caisson_end_to_end::engine::{Containerd, Release};
use caisson_end_to_end::{eventually, text};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

mod containerd_1_6 {
    #[test]
    fn file_systems_of_the_guest() {
        super::file_systems_of_the_guest(super::Release::Installed);
    }
}

mod containerd_1_7 {
    #[test]
    fn file_systems_of_the_guest() {
        super::file_systems_of_the_guest(super::Release::Previous);
    }

    #[test]
    fn snapshots_on_disks() {
        super::snapshots_on_disks(super::Release::Previous);
    }
}

mod containerd_2 {
    #[test]
    fn file_systems_of_the_guest() {
        super::file_systems_of_the_guest(super::Release::Newest);
    }

    #[test]
    fn snapshots_on_disks() {
        super::snapshots_on_disks(super::Release::Newest);
    }

    #[test]
    fn layers_of_erofs() {
        super::layers_of_erofs(super::Release::Newest);
    }
}

const BLOCKFILE: [&str; 2] = ["--snapshotter", "blockfile"];

fn snapshots_on_disks(release: Release) {
    let engine = Containerd::with_blockfile(release);
    let run = |flags: &[&str], name: &str| {
        let all: Vec<_> = BLOCKFILE.iter().chain(flags).copied().collect();
        engine.container(&all, name, &["sleep", "1000"], b"")
    };
    let exec = |name: &str, script: &str| {
        engine.ok(&["task", "exec", "--exec-id", "one", name, "sh", "-c", script])
    };
    let started = run(&["-d"], "kept");
    assert!(started.status.success(), "{started:?}");
    let said = exec("kept", "echo word > /kept; grep ' / ' /proc/mounts");
    assert!(said.contains(" / ext4 rw,"), "{said}");

    // A mount that passes on the host does not stay in shims.
    let passing = engine.folder("containerd-mount1");
    rustix::mount::mount(
        "none",
        &passing,
        "tmpfs",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .expect("mounted");
    // What shares folders shows that this is where mounts would be seen.
    engine.detached("shared");
    let mounts: Vec<_> = engine
        .processes(&["containerd-shim"])
        .into_iter()
        .map(|shim| std::fs::read_to_string(format!("/proc/{shim}/mountinfo")).expect("mounts"))
        .collect();
    let of_overlay =
        |mounts: &&String| mounts.contains("/snapshots/") && mounts.contains("lowerdir=");
    assert_eq!(mounts.iter().filter(of_overlay).count(), 1, "{mounts:?}");
    let host = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let passing_path = passing.to_string_lossy();
    assert!(host.contains(&*passing_path), "{host}");
    assert!(
        !mounts.iter().any(|mounts| mounts.contains(&*passing_path)),
        "{mounts:?}"
    );
    rustix::mount::unmount(&passing, UnmountFlags::empty()).expect("unmounted");
    for mounts in mounts.iter().chain([&host]) {
        assert!(
            of_loops(mounts, &engine.snapshot_files()).is_empty(),
            "{mounts}"
        );
    }

    // The machine goes, and another one is given the disk.
    engine.run(&["task", "rm", "-f", "kept"], b"");
    engine.ok(&["task", "start", "-d", "kept"]);
    assert_eq!(exec("kept", "cat /kept"), "word\n");

    // No two machines write into one file system.
    engine.run(&["task", "rm", "-f", "kept"], b"");
    let files = engine.snapshot_files();
    assert!(!files.is_empty());
    let locks: Vec<_> = files
        .iter()
        .map(|path| File::open(path).expect("a file"))
        .collect();
    for file in &locks {
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).expect("let go of");
    }
    let refused = engine.run(&["task", "start", "-d", "kept"], b"");
    let error = text(&refused.stderr);
    assert!(error.contains("in use by another container"), "{error}");
    drop(locks);
    engine.ok(&["task", "start", "-d", "kept"]);
    assert_eq!(exec("kept", "cat /kept"), "word\n");
    engine.run(&["task", "rm", "-f", "kept"], b"");
    remove(&engine, "shared");
    on_a_device(&engine, "kept");
    engine.ok(&["container", "rm", "kept"]);

    let kind = |kind: &str| format!("io.kubernetes.cri.container-type={kind}");
    let (sandbox, member) = (kind("sandbox"), kind("container"));
    let of_pod = [
        "-d",
        "--annotation",
        "io.kubernetes.cri.sandbox-id=pod",
        "--annotation",
    ];
    let (sandbox, member) = (
        [&of_pod[..], &[&sandbox]].concat(),
        [&of_pod[..], &[&member]].concat(),
    );
    let started = engine.container(&sandbox, "pod", &["never-run"], b"");
    assert!(started.status.success(), "{started:?}");
    for name in ["1", "2", "3", "4", "5"] {
        let started = run(&member, name);
        assert!(started.status.success(), "{started:?}");
    }
    let refused = run(&member, "6");
    let error = text(&refused.stderr);
    assert!(error.contains("no room for another disk"), "{error}");
    engine.ok(&["container", "rm", "6"]);
    // Each disk goes with its container.
    for name in ["2", "4"] {
        remove(&engine, name);
    }
    for name in ["7", "8"] {
        let started = run(&member, name);
        assert!(started.status.success(), "{started:?}");
        let said = exec(name, "ls /; grep ' / ' /proc/mounts");
        assert!(
            said.contains(" / ext4 rw,") && !said.contains("kept"),
            "{said}"
        );
    }
    for name in ["1", "3", "5", "7", "8", "pod"] {
        remove(&engine, name);
    }
    assert!(!engine.log().contains("a disk stays"), "{}", engine.log());
    engine.shows("snapshots that are disks, not mounted by the host (blockfile)");
}

/// As devmapper has them: the snapshot of a container that has "word" in `/kept`, and does
/// not run, is put behind a block device.
fn on_a_device(engine: &Containerd, name: &str) {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let files = engine.snapshot_files();
    let snapshot = files.iter().max_by_key(|path| number(path));
    let snapshot = snapshot.expect("the container's snapshot");
    let file = snapshot.with_extension("file");
    std::fs::rename(snapshot, &file).expect("renamed");
    let device = LoopDevice::new(&file);
    std::os::unix::fs::symlink(&device.0, snapshot).expect("a link");

    engine.ok(&["task", "start", "-d", name]);
    let script = "cat /kept; grep ' / ' /proc/mounts; echo device > /kept";
    let said = engine.ok(&["task", "exec", "--exec-id", "one", name, "sh", "-c", script]);
    assert!(
        said.starts_with("word\n") && said.contains(" / ext4 rw,"),
        "{said}"
    );
    let folder = engine.folder("containerd-mount2");
    let mount = || {
        rustix::mount::mount(
            &device.0,
            &folder,
            "ext4",
            MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
    };
    assert_eq!(mount(), Err(Errno::BUSY), "the machine has it for itself");

    engine.run(&["task", "rm", "-f", name], b"");
    mount().expect("nobody has it");
    let kept = std::fs::read_to_string(folder.join("kept")).expect("it was written");
    let refused = engine.run(&["task", "start", "-d", name], b"");
    rustix::mount::unmount(&folder, UnmountFlags::empty()).expect("unmounted");
    assert_eq!(kept, "device\n");
    let error = text(&refused.stderr);
    assert!(error.contains("mounted on the host"), "{error}");
    drop(device);
    std::fs::rename(&file, snapshot).expect("renamed");
}

/// A block device on a file, which goes when this is dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path) -> Self {
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output();
        let made = made.expect("losetup");
        assert!(made.status.success(), "{made:?}");
        Self(text(&made.stdout).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// The loop devices of these files that are mounted.
fn of_loops(mounts: &str, files: &[PathBuf]) -> Vec<String> {
    let devices = mounts.lines().filter_map(|line| {
        let (_, after) = line.split_once(" - ")?;
        after.split(' ').nth(1)?.strip_prefix("/dev/")
    });
    devices
        .filter(|device| {
            let path = format!("/sys/block/{device}/loop/backing_file");
            let file = std::fs::read_to_string(path).unwrap_or_default();
            files.iter().any(|path| path.as_os_str() == file.trim())
        })
        .map(str::to_owned)
        .collect()
}

fn remove(engine: &Containerd, name: &str) {
    engine.run(&["task", "kill", "--signal", "KILL", name], b"");
    eventually("it has stopped", || {
        engine.status(name).as_deref() == Some("STOPPED")
    });
    engine.run(&["task", "rm", name], b"");
    engine.ok(&["container", "rm", name]);
}

/// containerd mounts the layers, which nobody can write to, and the shim what is over them.
fn layers_of_erofs(release: Release) {
    let engine = Containerd::start(release);
    let output = engine.container(
        &["--rm", "--snapshotter", "erofs"],
        "layers",
        &["sh", "-c", "echo word > /new; cat /new; uname -r"],
        b"",
    );
    assert!(
        text(&output.stdout).starts_with("word\n6.12."),
        "{output:?}"
    );
    assert_eq!(text(&output.stderr), "");
    engine.forget_layers();
    engine.shows("layers of the erofs snapshotter");
}

fn file_systems_of_the_guest(release: Release) {
    let engine = Containerd::start(release);
    let mounts = [
        "type=tmpfs,src=tmpfs,dst=/t,options=nosuid:size=1m:mode=700",
        "type=tmpfs,src=shm,dst=/dev/shm,options=nosuid:noexec:nodev:mode=1777:size=2m",
        "type=mqueue,src=mqueue,dst=/q,options=nosuid:noexec:nodev",
        "type=hugetlbfs,src=hugetlbfs,dst=/huge,options=pagesize=2M",
        "type=cgroup,src=cgroup,dst=/c,options=ro:nosuid:noexec:nodev",
        "type=sysfs,src=sysfs,dst=/s,options=ro",
        "type=ramfs,src=ramfs,dst=/r",
    ];
    let mut flags = vec!["--rm"];
    for mount in &mounts {
        flags.extend(["--mount", mount]);
    }
    let script = "for at in /t /dev/shm /q /huge /c /s /r; do \
                  grep \" $at \" /proc/mounts | tail -n 1 | cut -d' ' -f1-4; done; \
                  touch /q/queue; cut -d: -f1 /q/queue; touch /huge/x /r/x /dev/shm/x; \
                  head -c 2000000 /dev/zero > /t/big; stat -c %s /t/big; \
                  cat /c/cgroup.procs | wc -l; mkdir /c/new || echo refused";
    let output = engine.container(&flags, "kinds", &["sh", "-c", script], b"");
    let said = text(&output.stdout);
    let lines: Vec<_> = said.lines().collect();
    let expected = [
        "tmpfs /t tmpfs rw,nosuid,relatime,size=1024k,mode=700",
        "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=2048k",
        "mqueue /q mqueue rw,nosuid,nodev,noexec,relatime",
        "hugetlbfs /huge hugetlbfs rw,relatime,pagesize=2M",
        "cgroup /c cgroup2 ro,nosuid,nodev,noexec,relatime,favordynmods",
        "sysfs /s sysfs ro,relatime",
        "ramfs /r ramfs rw,relatime",
        "QSIZE",
        "1048576",
    ];
    assert_eq!(&lines[..expected.len()], expected, "{output:?}");
    assert!(
        lines[9].parse::<u32>().is_ok_and(|count| count > 0),
        "{said}"
    );
    assert_eq!(lines[10..], ["refused"], "{output:?}");

    let unknown = "type=nfs,src=host:/x,dst=/x";
    let refused = engine.container(&["--rm", "--mount", unknown], "nfs", &["true"], b"");
    let error = text(&refused.stderr);
    assert!(error.contains("(/x)") && error.contains("nfs"), "{error}");
    engine.shows("tmpfs, shm, mqueue, hugetlbfs, cgroup, sysfs");
}
