//! What containers on a bridge leave behind, however they end. A network namespace stands for
//! the host, so that all that is found there is these tests' own.
//!
//! Two hundred places on a bridge are taken and given back by the tests of `caisson-network`,
//! without machines; here are fewer of them, with all that belongs to a container.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{Caisson, eventually, kill, programs, wait};

/// Who starts containers at once.
const WORKERS: usize = 8;

/// How many each of them starts, one after the other.
const CONTAINERS: usize = 5;

fn installation(host: &Netns) -> Caisson {
    let caisson = Caisson::inside(host);
    let image = programs::demo_image();
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
    caisson
}

/// Ids of the containers there are.
fn ids(caisson: &Caisson) -> Vec<String> {
    let folder = std::fs::read_dir(caisson.root().join("containers"));
    let names = folder.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn containers_on_a_bridge_eight_at_a_time_leave_no_trace() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    let started = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for _ in 0..CONTAINERS {
                    let id = caisson.ok(["create", "--network", "bridge", "busybox", "true"]);
                    let id = id.trim().to_owned();
                    caisson.ok(["start", "-a", &id]);
                    caisson.ok(["rm", &id]);
                    started.lock().expect("no panic").push(id);
                }
            });
        }
    });
    let started = started.into_inner().expect("no panic");
    assert_eq!(started.len(), WORKERS * CONTAINERS);
    eventually("nothing is left", || {
        host.left_on_bridge(&started).is_empty()
    });
    eventually("no process is left", || caisson.processes().is_empty());
}

/// How far the network of a container has come when its supervisor is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The lease is noted, and plugins run.
    Asked,
    /// All plugins have answered.
    Given,
    /// Interface and tap are joined: the machine is there.
    Joined,
    /// The container runs.
    Running,
}

impl Stage {
    fn reached(self, caisson: &Caisson, lease: &std::path::Path, id: &str) -> bool {
        let text = std::fs::read_to_string(lease).unwrap_or_default();
        match self {
            Self::Asked => !text.is_empty(),
            Self::Given => text.contains("\"ips\""),
            Self::Joined => machine(caisson),
            Self::Running => caisson.inspect(id)["State"]["Status"] == "running",
        }
    }
}

fn machine(caisson: &Caisson) -> bool {
    let names = caisson.processes().into_iter().map(name);
    names
        .into_iter()
        .any(|name| name.starts_with("qemu-system"))
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim().to_owned()
}

/// The process that holds the container: it is executed as `/proc/self/exe`.
fn supervisor(caisson: &Caisson) -> Option<u32> {
    caisson
        .processes()
        .into_iter()
        .find(|pid| name(*pid) == "exe")
}

fn start(caisson: &Caisson) -> (Child, String, PathBuf) {
    let flags = [
        "run",
        "--name",
        "box",
        "--network",
        "bridge",
        "-p",
        "8081:80",
    ];
    let child = caisson
        .command(flags.iter().chain(&["busybox", "sleep", "1000"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a command");
    let mut found = Vec::new();
    eventually("the container is noted", || {
        found = ids(caisson);
        !found.is_empty()
    });
    let id = found.remove(0);
    let lease = caisson.root().join("containers").join(&id);
    (child, id, lease.join("network.json"))
}

#[test]
fn a_supervisor_on_a_bridge_can_be_killed_at_any_stage() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    for stage in [Stage::Asked, Stage::Given, Stage::Joined, Stage::Running] {
        let (child, id, lease) = start(&caisson);
        eventually(&format!("{stage:?}"), || {
            stage.reached(&caisson, &lease, &id)
        });
        let supervisor = supervisor(&caisson).expect("a supervisor");
        let was_there = host.left_on_bridge(std::slice::from_ref(&id));
        kill(supervisor, "KILL");
        assert!(!wait(child).success(), "{stage:?}");
        // A plugin that was being run comes to its end.
        eventually(&format!("nothing runs: {stage:?}"), || {
            caisson.processes().is_empty()
        });
        if stage != Stage::Asked {
            assert!(!was_there.is_empty(), "{stage:?}");
        }
        caisson.ok(["rm", "-f", "box"]);
        eventually(&format!("nothing is left: {stage:?}"), || {
            host.left_on_bridge(std::slice::from_ref(&id)).is_empty()
        });
    }
}
