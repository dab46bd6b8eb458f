//! Checkpoints through three releases of containerd: that a copy goes on where the
//! container was, open files included, and what is refused.

use caisson_end_to_end::engine::{Containerd, Release};
use caisson_end_to_end::{eventually, text};

caisson_end_to_end::each_release![a_copy_goes_on, some_cannot_be_copied];

/// Counts in its memory, and notes each number in a file that it holds open.
const COUNTER: &str =
    "exec 3>>/count; n=0; while true; do n=$((n+1)); echo $n >&3; usleep 50000; done";

/// What a process in a container says.
fn says(engine: &Containerd, container: &str, script: &str) -> String {
    let arguments = [
        "task",
        "exec",
        "--exec-id",
        "asks",
        container,
        "sh",
        "-c",
        script,
    ];
    engine.ok(&arguments)
}

/// How far a counter is; no number may be missing or twice there.
fn count(engine: &Containerd, container: &str) -> usize {
    let noted = says(engine, container, "cat /count");
    let expected = (1..).map(|number: usize| number.to_string());
    for (line, number) in noted.lines().zip(expected) {
        assert_eq!(line, number, "{container}: {noted}");
    }
    noted.lines().count()
}

fn goes_on(engine: &Containerd, container: &str, from: usize) {
    eventually(&format!("{container} counts on"), || {
        count(engine, container) > from
    });
}

fn remove(engine: &Containerd, container: &str) {
    engine.ok(&["task", "kill", "--signal", "KILL", container]);
    eventually("it has stopped", || {
        engine.status(container).as_deref() == Some("STOPPED")
    });
    let removed = engine.run(&["task", "rm", container], b"");
    assert!(text(&removed.stderr).contains("137"), "{removed:?}");
    engine.ok(&["container", "rm", container]);
}

fn checkpoint(engine: &Containerd, container: &str, reference: &str) -> std::process::Output {
    let arguments = [
        "container",
        "checkpoint",
        "--task",
        "--rw",
        "--image",
        container,
        reference,
    ];
    engine.run(&arguments, b"")
}

fn a_copy_goes_on(release: Release) {
    const REFERENCE: &str = "example.test/counter:1";
    let engine = Containerd::start(release);
    let started = engine.container(&["-d"], "first", &["sh", "-c", COUNTER], b"");
    assert!(started.status.success(), "{started:?}");
    goes_on(&engine, "first", 3);
    let before = count(&engine, "first");
    let made = checkpoint(&engine, "first", REFERENCE);
    assert!(made.status.success(), "{made:?}");
    eventually("the engine is told", || {
        engine.log().contains("/tasks/checkpointed")
    });
    goes_on(&engine, "first", before);

    engine.ok(&[
        "container",
        "restore",
        "--rw",
        "--live",
        "second",
        REFERENCE,
    ]);
    assert_eq!(engine.status("second").as_deref(), Some("RUNNING"));
    goes_on(&engine, "second", before);
    says(&engine, "second", "echo only here > /second");

    // Another one of the same machine, and one of a copy's.
    says(&engine, "first", "echo of the first > /first");
    let again = "example.test/counter:2";
    for (container, reference) in [("first", again), ("second", "example.test/counter:3")] {
        let before = count(&engine, container);
        let made = checkpoint(&engine, container, reference);
        assert!(made.status.success(), "{made:?}");
        goes_on(&engine, container, before);
    }
    // ctr before 2.0 misses a part of a container's second checkpoint: "media type not found".
    let (from, expected) = match release {
        Release::Newest => (again, "/first\n"),
        Release::Installed | Release::Previous => (REFERENCE, ""),
    };
    engine.ok(&["container", "restore", "--rw", "--live", "third", from]);
    goes_on(&engine, "third", before);
    let files = |container| {
        says(
            &engine,
            container,
            "ls -d /first /second 2>/dev/null || true",
        )
    };
    assert_eq!(files("first"), "/first\n");
    assert_eq!(files("second"), "/second\n");
    assert_eq!(files("third"), expected);

    let who = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1";
    let mut all: Vec<String> = ["first", "second", "third"]
        .iter()
        .flat_map(|name| {
            let lines = says(&engine, name, who);
            lines.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(all.len(), 6, "{all:?}");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6, "each is somebody else: {all:?}");

    for name in ["first", "second", "third"] {
        remove(&engine, name);
    }
    engine.shows("checkpoint and restore, with files that are open");
}

fn some_cannot_be_copied(release: Release) {
    let engine = Containerd::start(release);
    let refused = |flags: &[&str], script: &str, reason: &str| {
        let mut all = vec!["-d"];
        all.extend(flags);
        let started = engine.container(&all, "job", &["sh", "-c", script], b"");
        assert!(started.status.success(), "{started:?}");
        eventually("it is at work", || {
            says(&engine, "job", "ls /tmp/ready 2>&1 || true") == "/tmp/ready\n"
        });
        let made = checkpoint(&engine, "job", "example.test/none:1");
        let error = text(&made.stderr);
        assert!(!made.status.success() && error.contains(reason), "{error}");
        assert_eq!(engine.status("job").as_deref(), Some("RUNNING"));
        assert_eq!(says(&engine, "job", "echo here"), "here\n");
        remove(&engine, "job");
    };
    let ready = "mkdir -p /tmp; touch /tmp/ready; sleep 1000";
    let folder = engine.folder("volume");
    let mount = format!(
        "type=bind,src={},dst=/volume,options=rbind:rw",
        folder.display()
    );
    refused(&["--mount", &mount], ready, "(/volume) is of the host");
    let deleted = format!("exec 3>/gone; rm /gone; {ready}");
    refused(&[], &deleted, "cannot be opened again");
}
