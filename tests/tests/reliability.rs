//! What is left when something is killed, when there are many, and when the disk is full.
//!
//! The agent itself cannot be killed from a container, however privileged: it is the first
//! process of another pid namespace. A panic of the guest's kernel ends it in its stead.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caisson_end_to_end::image::{Image, Layer, initramfs};
use caisson_end_to_end::{Caisson, eventually, finish, kill, output, text, wait};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::json;

/// The supervisor's name: it is executed as `/proc/self/exe`.
const SUPERVISOR: &str = "exe";

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    pid: u32,
    name: String,
    started: String,
}

impl Part {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once(" (")?.1.rsplit_once(") ")?;
        let fields: Vec<_> = rest.split(' ').collect();
        // A zombie has ended.
        (fields[0] != "Z").then(|| Self {
            pid,
            name: name.to_owned(),
            started: fields[19].to_owned(),
        })
    }

    fn is_gone(&self) -> bool {
        Self::of(self.pid).as_ref() != Some(self)
    }
}

/// The supervisor, QEMU and the device processes of a container.
fn parts(caisson: &Caisson, name: &str) -> Vec<Part> {
    let found = caisson.inspect(name);
    let machine = found["MachinePids"].as_array().expect("pids").iter();
    let pids = machine.chain([&found["SupervisorPid"]]);
    pids.map(|pid| {
        let pid = u32::try_from(pid.as_u64().expect("a pid")).expect("a pid");
        Part::of(pid).expect("it runs")
    })
    .collect()
}

fn expect_dead(caisson: &Caisson, name: &str) {
    eventually("it is dead", || {
        caisson.inspect(name)["State"]["Status"] == "dead"
    });
    let state = &caisson.inspect(name)["State"];
    assert!(
        state["Error"]
            .as_str()
            .is_some_and(|reason| reason.len() > 10),
        "{state}"
    );
    assert_eq!(
        (&state["ExitCode"], &state["Running"]),
        (&json!(137), &json!(false))
    );
    assert!(caisson.ok(["ps", "-a"]).contains("Dead"));
}

#[test]
fn whichever_part_is_killed_the_others_end_and_it_is_told() {
    let caisson = Caisson::new();
    let volume = format!("{}:/data", caisson.folder("data").display());
    let start = || {
        caisson.ok([
            "run",
            "-d",
            "--name",
            "box",
            "--network",
            "none",
            "-v",
            &volume,
            "busybox",
            "sleep",
            "1000",
        ]);
        parts(&caisson, "box")
    };
    let count = start().len();
    assert_eq!(
        count, 4,
        "QEMU, devices for streams and volumes, supervisor"
    );
    caisson.ok(["rm", "-f", "box"]);
    for victim in 0..count {
        let parts = start();
        kill(parts[victim].pid, "KILL");
        for part in &parts {
            eventually(&format!("{part:?} has ended"), || part.is_gone());
        }
        expect_dead(&caisson, "box");
        let error = caisson.fails(125, ["exec", "box", "true"]);
        assert!(error.contains("not running (dead: "), "{error}");
        // It can be started again, or removed.
        if victim == 0 {
            caisson.ok(["start", "box"]);
            caisson.ok(["stop", "-t", "0", "box"]);
        }
        caisson.ok(["rm", "box"]);
        assert_eq!(
            std::fs::read_dir(caisson.run_directory())
                .expect("a folder")
                .count(),
            0
        );
    }
}

#[test]
fn whoever_is_attached_learns_of_a_loss() {
    let caisson = Caisson::new();
    let victims = ["qemu-system-x86", "caisson-devices", SUPERVISOR];
    for (victim, flags) in victims
        .map(|victim| (victim, &["--rm"][..]))
        .into_iter()
        .chain([(SUPERVISOR, &[][..])])
    {
        let begin = ["run", "--name", "box"].iter().chain(flags);
        let child = caisson
            .command(begin.chain(&["busybox", "sh", "-c", "echo ready; exec sleep 1000"]))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a command");
        eventually("it runs", || {
            let listed = caisson.run(["inspect", "box"]);
            text(&listed.stdout).contains("\"Status\": \"running\"")
        });
        let parts = parts(&caisson, "box");
        let part = parts.iter().find(|part| part.name == victim);
        kill(part.expect("a part of that name").pid, "KILL");
        let output = finish(child);
        assert_eq!(output.status.code(), Some(137));
        assert!(
            text(&output.stderr).starts_with("caisson: "),
            "{}",
            text(&output.stderr)
        );
        if flags.is_empty() {
            expect_dead(&caisson, "box");
            caisson.ok(["rm", "box"]);
        }
        eventually("nothing is listed", || caisson.ok(["ps", "-aq"]).is_empty());
    }
}

#[test]
fn a_start_can_be_killed_at_any_moment() {
    let caisson = Caisson::new();
    let victims = [SUPERVISOR, "qemu-system-x86", "caisson-devices"];
    for number in 0..12_u64 {
        let (victim, moment) = (
            victims[(number % 3) as usize],
            Duration::from_millis(40 * number),
        );
        let mut child = caisson
            .command(["run", "--rm", "--name", "box", "busybox", "sleep", "1000"])
            .stderr(Stdio::null())
            .spawn()
            .expect("a command");
        // The moment is the point, so it is waited for.
        let begin = Instant::now();
        while begin.elapsed() < moment {
            std::thread::park_timeout(moment - begin.elapsed());
        }
        let mut found = None;
        eventually("the victim is there", || {
            let all = caisson.processes().into_iter().filter_map(Part::of);
            found = all.into_iter().find(|part| part.name == victim);
            found.is_some() || child.try_wait().expect("a child").is_some()
        });
        if let Some(part) = found {
            // It may have ended by itself at this very moment.
            let _ = Command::new("kill")
                .arg("-9")
                .arg(part.pid.to_string())
                .output();
        }
        // What was to become a template is done without: then the container runs all the same.
        let mut survived = false;
        eventually(
            &format!("the end, or a start: {victim} after {moment:?}"),
            || {
                survived = caisson.run(["exec", "box", "true"]).status.success();
                survived || child.try_wait().expect("a child").is_some()
            },
        );
        if survived {
            caisson.ok(["rm", "-f", "box"]);
        }
        assert!(!wait(child).success(), "{victim} after {moment:?}");
        eventually(&format!("nothing runs: {victim} after {moment:?}"), || {
            caisson.processes().is_empty()
        });
        caisson.ok(["rm", "-f", "box"]);
        let left = std::fs::read_dir(caisson.run_directory())
            .expect("a folder")
            .count();
        assert_eq!(left, 0, "{victim} after {moment:?}");
    }
}

#[test]
fn a_command_that_is_killed_leaves_its_container_to_others() {
    let caisson = Caisson::new();
    let mut child = caisson
        .command(["run", "--rm", "--name", "box", "busybox", "sleep", "1000"])
        .spawn()
        .expect("a command");
    eventually("it runs", || {
        text(&caisson.run(["inspect", "box"]).stdout).contains("\"Status\": \"running\"")
    });
    let parts = parts(&caisson, "box");
    child.kill().expect("killed");
    wait(child);
    assert_eq!(caisson.ok(["exec", "box", "echo", "alive"]), "alive\n");
    caisson.ok(["stop", "-t", "0", "box"]);
    for part in &parts {
        eventually("it has ended", || part.is_gone());
    }
    eventually("it is removed", || caisson.ok(["ps", "-aq"]).is_empty());
}

#[test]
fn a_panic_of_the_guest_ends_the_machine() {
    let caisson = Caisson::new();
    let script = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    let error = caisson.fails(
        137,
        [
            "run",
            "--name",
            "box",
            "--privileged",
            "-m",
            "64m",
            "busybox",
            "sh",
            "-c",
            script,
        ],
    );
    assert!(error.contains("caisson: "), "{error}");
    expect_dead(&caisson, "box");
    let log = caisson.ok(["logs", "--boot", "box"]);
    assert!(log.contains("Kernel panic"), "{log}");
    caisson.ok(["rm", "box"]);
}

#[test]
fn a_guest_that_does_not_come_up_is_given_up() {
    let caisson = Caisson::new();
    let folder = caisson.folder("initramfs");
    // The second is longer than any command may take: who waited for it would be found out.
    for (script, deadline, least) in [
        ("while :; do :; done", "3", Duration::from_secs(3)),
        ("exit 1", "1000", Duration::ZERO),
    ] {
        let mut command = caisson.command(["run", "--name", "box", "busybox", "true"]);
        command
            .env("CAISSON_INITRAMFS", initramfs(&folder, script))
            .env("CAISSON_BOOT_DEADLINE", deadline);
        let begin = Instant::now();
        let told = output(command, b"");
        let error = text(&told.stderr);
        assert_eq!(told.status.code(), Some(125), "{error}");
        assert!(begin.elapsed() >= least, "{error}");
        assert!(error.contains("the last it said on its console"), "{error}");
        caisson.ok(["rm", "box"]);
        std::fs::remove_dir_all(&folder).expect("removed");
        std::fs::create_dir(&folder).expect("a folder");
    }
}

#[test]
fn one_container_is_started_fifty_times_in_a_row() {
    let caisson = Caisson::new();
    caisson.ok([
        "create",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo x >> /starts; wc -l < /starts",
    ]);
    let mut times = Vec::new();
    for number in 1..=50 {
        let begin = Instant::now();
        assert_eq!(caisson.ok(["start", "-a", "box"]), format!("{number}\n"));
        times.push(begin.elapsed());
    }
    report("50 starts in a row", &mut times);
}

/// Shows how long starts took, with `--nocapture`.
fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:.2?}, longest {longest:.2?}");
}

/// Nothing of an installation is left but its image.
fn expect_no_trace(caisson: &Caisson) {
    eventually("no process is left", || caisson.processes().is_empty());
    assert_eq!(caisson.ok(["ps", "-aq"]), "");
    for folder in [caisson.run_directory(), caisson.root().join("containers")] {
        let left: Vec<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name != ".lock")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let folders = [caisson.root(), caisson.run_directory()];
    let ours = |line: &&str| {
        let mut folders = folders.iter();
        folders.any(|folder| line.contains(&*folder.to_string_lossy()))
    };
    assert_eq!(mounts.lines().find(ours), None);
}

#[test]
fn two_hundred_containers_one_after_another_leave_no_trace() {
    let caisson = Caisson::new();
    let mut times = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        caisson.ok(["run", "--rm", "busybox", "true"]);
        times.push(begin.elapsed());
    }
    report("200 containers one after another", &mut times);
    expect_no_trace(&caisson);
}

#[test]
fn two_hundred_containers_eight_at_a_time_leave_no_trace() {
    let caisson = Caisson::new();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let caisson = &caisson;
                scope.spawn(move || {
                    let run = |number: usize| {
                        let begin = Instant::now();
                        let word = format!("{worker}.{number}");
                        assert_eq!(
                            caisson.ok(["run", "--rm", "busybox", "echo", &word]),
                            format!("{word}\n")
                        );
                        begin.elapsed()
                    };
                    (0..25).map(run).collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker"))
            .collect()
    });
    report("200 containers eight at a time", &mut times);
    expect_no_trace(&caisson);
}

/// A small file system, there until the end of a test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &std::ffi::CStr) -> Self {
        std::fs::create_dir_all(&path).expect("a folder");
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(size))
            .expect("root may mount");
        Self(path)
    }

    fn used(&self) -> u64 {
        let file_system = rustix::fs::statvfs(&self.0).expect("a file system");
        (file_system.f_blocks - file_system.f_bfree) * file_system.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).expect("unmounted");
    }
}

#[test]
fn a_full_disk_leaves_no_half_image() {
    let caisson = Caisson::without_images();
    let disk = SmallDisk::mount(caisson.root(), c"size=16m");
    let images = caisson.folder("images");
    let (large, small) = (images.join("large.tar"), images.join("small.tar"));
    // Nothing that could be compressed away.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(24 << 20)
    .collect();
    Image::on_busybox("large:1")
        .layer(Layer::new().bytes("noise", 0o644, &noise))
        .save_as_docker(&large);
    Image::on_busybox("small:1").save_as_docker(&small);
    caisson.ok(["images"]);
    let before = disk.used();
    let error = caisson.fails(125, ["load", "-q", "-i", &large.to_string_lossy()]);
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(caisson.ok(["images", "-q"]), "");
    assert!(
        disk.used() <= before + (64 << 10),
        "{} bytes are left",
        disk.used() - before
    );
    // As it arrives through a pipe, it is kept for a while; that is not left either.
    let archive = std::fs::read(&large).expect("an archive");
    assert_eq!(
        caisson
            .run_with_input(["load", "-q"], &archive)
            .status
            .code(),
        Some(125)
    );
    assert!(
        disk.used() <= before + (64 << 10),
        "{} bytes are left",
        disk.used() - before
    );
    // What fits still does.
    caisson.ok(["load", "-q", "-i", &small.to_string_lossy()]);
    assert_eq!(
        caisson.ok(["run", "--rm", "small:1", "echo", "fits"]),
        "fits\n"
    );
}
