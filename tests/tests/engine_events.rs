//! What engines are told of containers, and in which order.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use caisson_end_to_end::engine::{Containerd, Release};
use caisson_end_to_end::{eventually, kill, text};

caisson_end_to_end::each_release![all_is_told_in_order, a_reason_is_the_engines_error];

/// `ctr events`, which writes what happens to a file.
struct Events {
    follower: Child,
    file: PathBuf,
}

impl Events {
    fn follow(engine: &Containerd) -> Self {
        let file = engine.folder("events").join("log");
        let log = File::create(&file).expect("a file");
        let follower = engine
            .command(&["events"])
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("ctr starts");
        let events = Self { follower, file };
        eventually("events come", || {
            engine.ok(&["namespaces", "label", "default", "followed=yes"]);
            events.text().contains("/namespaces/update")
        });
        events
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).expect("a log")
    }

    /// What was said of a container's tasks: the events' names, and of which process.
    fn of(&self, container: &str) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter_map(|line| {
            let (_, event) = line.split_once(" /tasks/")?;
            let (name, fields) = event.split_once(' ')?;
            let fields: serde_json::Value = serde_json::from_str(fields).ok()?;
            if fields["container_id"] != container {
                return None;
            }
            let process = fields["exec_id"].as_str().or(fields["id"].as_str());
            let process = process.filter(|process| !process.is_empty());
            Some(format!("{name} {}", process.unwrap_or(container)))
        });
        lines.collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        kill(self.follower.id(), "KILL");
        // It has done its work.
        let _ = self.follower.wait();
    }
}

fn all_is_told_in_order(release: Release) {
    let engine = Containerd::start(release);
    let events = Events::follow(&engine);
    engine.detached("job");
    engine.ok(&["task", "exec", "--exec-id", "more", "job", "true"]);
    engine.ok(&["task", "pause", "job"]);
    engine.ok(&["task", "resume", "job"]);
    engine.ok(&["task", "kill", "--signal", "KILL", "job"]);
    let said = [
        "create job",
        "start job",
        "exec-added more",
        "exec-started more",
        "exit more",
        "paused job",
        "resumed job",
        "exit job",
        "delete job",
    ];
    eventually("its end is told", || {
        events.of("job").last().map(String::as_str) == Some("exit job")
    });
    engine.run(&["task", "rm", "job"], b"");
    engine.ok(&["container", "rm", "job"]);
    eventually("its deletion is told", || {
        events.of("job").last().map(String::as_str) == Some("delete job")
    });
    assert_eq!(events.of("job"), said);

    let limit = (64 << 20).to_string();
    let flags = ["--rm", "--memory-limit", &limit];
    let killed = engine.container(&flags, "hungry", &["tail", "/dev/zero"], b"");
    assert_eq!(killed.status.code(), Some(137), "{killed:?}");
    let said = ["create", "start", "oom", "exit", "delete"].map(|name| format!("{name} hungry"));
    eventually("all is told", || events.of("hungry").len() >= said.len());
    assert_eq!(events.of("hungry"), said);
    engine.shows("events, in order");
}

fn a_reason_is_the_engines_error(release: Release) {
    let engine = Containerd::start(release);
    engine.configure("colour = \"red\"\n");
    let failed = engine.container(&["--rm"], "failed", &["true"], b"");
    let error = text(&failed.stderr);
    assert!(
        !failed.status.success() && error.contains("there is no key \"colour\""),
        "{error}"
    );
    engine.configure("");
    let again = engine.container(&["--rm"], "failed", &["echo", "again"], b"");
    assert_eq!(text(&again.stdout), "again\n", "{again:?}");
    engine.shows("a shim that does not start says why");
}
