//! Checkpoints through three releases of containerd: that a copy goes on where the
//! container was, open files included, and what is refused.

mod api;

use std::fs;

use caisson_end_to_end::engine::{Containerd, Release};
use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{eventually, text};

caisson_end_to_end::each_release![
    a_container_may_end_with_its_checkpoint,
    a_copy_goes_on,
    a_copy_has_the_mounts_and_the_network_that_there_are,
    some_cannot_be_copied,
];

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

fn a_container_may_end_with_its_checkpoint(release: Release) {
    let engine = Containerd::start(release);
    let started = engine.container(&["-d"], "first", &["sh", "-c", COUNTER], b"");
    assert!(started.status.success(), "{started:?}");
    goes_on(&engine, "first", 3);
    let made = api::checkpoint_and_exit(&engine, "first");
    eventually("the engine is told in the right order", || {
        let log = engine.log();
        // The ends of processes that were executed come before.
        let after = log.split_once("/tasks/checkpointed");
        after.is_some_and(|(_, after)| after.contains("/tasks/exit"))
    });
    eventually("it has ended", || {
        engine.status("first").as_deref() == Some("STOPPED")
    });
    // The whole of it is there, and the description of the container.
    let types: Vec<_> = made.iter().map(|part| part.media_type.as_str()).collect();
    assert!(
        types.contains(&"application/vnd.containerd.container.criu.checkpoint.criu.tar"),
        "{types:?}"
    );
    let content = engine.run(&["content", "get", &made[0].digest], b"");
    let mut archive = tar::Archive::new(&content.stdout[..]);
    let names: Vec<_> = archive
        .entries()
        .expect("an archive")
        .map(|entry| {
            let entry = entry.expect("an entry");
            entry.path().expect("a path").display().to_string()
        })
        .collect();
    assert!(names.contains(&"checkpoint.json".to_owned()), "{names:?}");
    let removed = engine.run(&["task", "rm", "first"], b"");
    assert!(text(&removed.stderr).contains("137"), "{removed:?}");
    engine.ok(&["container", "rm", "first"]);
    engine.shows("a checkpoint that ends its container");
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
    let restore = |name: &str, from: &str| {
        engine.run(&["container", "restore", "--rw", "--live", name, from], b"")
    };
    let third = if release == Release::Newest {
        restore("third", again)
    } else {
        // These do not write down a specification that they have, and the rest with it.
        let refused = restore("none", again);
        let said = text(&refused.stderr);
        assert!(said.contains("media type not found"), "{refused:?}");
        let images = [REFERENCE, again, "example.test/counter:3"];
        for image in images {
            engine.ok(&["image", "rm", "--sync", image]);
        }
        let made = checkpoint(&engine, "first", again);
        assert!(made.status.success(), "{made:?}");
        restore("third", again)
    };
    assert!(third.status.success(), "{third:?}");
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
    assert_eq!(files("third"), "/first\n");

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

/// An interface of a namespace, and what it is there.
fn interface(netns: &Netns, address: &str) -> String {
    netns.ip("link add eth0 type veth peer name outer");
    netns.ip(&format!("addr add {address} dev eth0"));
    netns.ip("link set outer up");
    netns.ip("link set eth0 up");
    netns.mac("eth0")
}

fn a_copy_has_the_mounts_and_the_network_that_there_are(release: Release) {
    const REFERENCE: &str = "example.test/mounted:1";
    let netns = Netns::new("copied");
    let engine = Containerd::start(release);
    let mac = interface(&netns, "10.66.0.2/24");
    let (volume, files) = (engine.folder("volume"), engine.folder("files"));
    let (hosts, aside) = (files.join("hosts"), engine.folder("aside"));
    fs::write(&hosts, "10.66.0.9 first\n").expect("written");
    fs::write(volume.join("read"), "once\n").expect("written");
    let mounts = [
        format!(
            "type=bind,src={},dst=/etc/hosts,options=rbind:ro",
            hosts.display()
        ),
        format!(
            "type=bind,src={},dst=/volume,options=rbind:rw",
            volume.display()
        ),
    ];
    let network = netns.flag();
    let flags = [
        "-d",
        "--with-ns",
        &network,
        "--mount",
        &mounts[0],
        "--mount",
        &mounts[1],
    ];
    // The hook is there before the engine can ask for a checkpoint.
    let script = format!(
        "mkdir -p /run/caisson; printf '#!/bin/sh\\nhostname >>/volume/hooked\\n' \
         >/run/caisson/on-fork; chmod +x /run/caisson/on-fork; cat /volume/read /etc/hosts; {}",
        COUNTER.replace("/count", "/volume/count")
    );
    let started = engine.container(&flags, "first", &["sh", "-c", &script], b"");
    assert!(started.status.success(), "{started:?}");
    let counted = || {
        let noted = fs::read_to_string(volume.join("count")).unwrap_or_default();
        let last = noted.lines().last().and_then(|line| line.parse().ok());
        last.unwrap_or(0_u64)
    };
    eventually("it counts", || counted() > 3);
    let made = checkpoint(&engine, "first", REFERENCE);
    assert!(made.status.success(), "{made:?}");
    let before = counted();
    eventually("the first one counts on", || counted() > before);
    assert!(!volume.join("hooked").exists(), "it is no copy");
    let boot_id = says(&engine, "first", "cat /proc/sys/kernel/random/boot_id");
    remove(&engine, "first");

    // The same places, and others in them: what nobody has open need not be there.
    fs::rename(&volume, aside.join("volume")).expect("moved");
    fs::rename(&hosts, aside.join("hosts")).expect("moved");
    fs::create_dir(&volume).expect("a folder");
    fs::write(&hosts, "10.77.0.9 another, with a longer name\n").expect("written");
    let restore = |name: &str| {
        engine.run(
            &["container", "restore", "--rw", "--live", name, REFERENCE],
            b"",
        )
    };
    let refused = |name: &str, reason: &str| {
        let output = restore(name);
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(reason),
            "{output:?}"
        );
        engine.ok(&["container", "rm", name]);
    };
    refused("opened", "count: No such file");
    fs::write(volume.join("count"), "0\n").expect("written");
    fs::rename(&hosts, aside.join("new")).expect("moved");
    fs::create_dir(&hosts).expect("a folder");
    refused("folder", "a file in the checkpoint cannot become a folder");
    fs::remove_dir(&hosts).expect("removed");
    fs::rename(aside.join("new"), &hosts).expect("moved");

    let first_noted = || fs::read_to_string(aside.join("volume/count")).expect("numbers");
    let before = first_noted();
    netns.ip("link del eth0");
    let other_mac = interface(&netns, "10.77.0.2/24");
    assert_ne!(mac, other_mac);
    let restored = restore("second");
    assert!(restored.status.success(), "{restored:?}");
    eventually("the copy counts on in its own volume", || counted() > 3);
    let noted = fs::read_to_string(volume.join("count")).expect("numbers");
    let second: u64 = noted
        .lines()
        .nth(1)
        .expect("one")
        .parse()
        .expect("a number");
    assert!(second > 3, "it goes on where the first one was: {noted}");
    let hooked = fs::read_to_string(volume.join("hooked")).expect("the hook has run");
    assert_eq!(hooked.lines().count(), 1, "once: {hooked}");
    let seen = says(
        &engine,
        "second",
        "cat /etc/hosts /proc/sys/kernel/random/boot_id; ip addr show eth0; ls /volume",
    );
    assert!(
        seen.starts_with("10.77.0.9 another, with a longer name\n"),
        "{seen}"
    );
    assert!(!seen.contains(boot_id.trim()), "{seen}");
    assert!(
        seen.contains(&other_mac) && seen.contains("inet 10.77.0.2/24"),
        "{seen}"
    );
    assert!(!seen.contains("10.66.0.2"), "{seen}");
    assert!(seen.ends_with("count\nhooked\n"), "{seen}");
    assert_eq!(first_noted(), before, "the first one's file is nobody's");
    remove(&engine, "second");
    engine.shows("checkpoint and restore, with bind mounts and a network");
}

fn some_cannot_be_copied(release: Release) {
    let engine = Containerd::start(release);
    let refused = |script: &str, reason: &str| {
        let started = engine.container(&["-d"], "job", &["sh", "-c", script], b"");
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
    let deleted = format!("exec 3>/gone; rm /gone; {ready}");
    refused(&deleted, "cannot be opened again");
}
