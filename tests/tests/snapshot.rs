//! Snapshots of containers that run: that copies go on where the container was, that each
//! is somebody else, and that nothing is left of one that was not finished.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use caisson_end_to_end::{Caisson, eventually, finish, kill, output, programs, text, wait};

/// A program that counts in its memory: it says the number, and says the next one when it
/// is told anything.
const COUNTER: &str = "n=0; echo ready; while read word; do n=$((n+1)); echo $word $n; done";

/// A container that says who it is whenever it is asked.
const WHO: &str = "echo ready; t=0; \
    while ! [ -e /ask ]; do t=$((t+1)); echo $t > /tick; sleep 0.05; done; \
    cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; hostname; \
    cat /etc/machine-id /etc/hostname; cat /sys/class/net/eth0/address; date +%s";

fn started(caisson: &Caisson, flags: &[&str], script: &str) {
    let command = ["run", "-d"].iter().chain(flags);
    caisson.ok(command.chain(&["busybox", "sh", "-c", script]));
}

/// Folders of the snapshots of an installation, whole or not.
fn folders(caisson: &Caisson) -> Vec<PathBuf> {
    fs::read_dir(caisson.root().join("snapshots"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// A process that goes on with its input when it is told.
struct Talk(std::process::Child);

impl Talk {
    fn begin(caisson: &Caisson, arguments: &[&str]) -> Self {
        let child = caisson
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.expect("it starts"))
    }

    fn say(&mut self, word: &str) {
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{word}").expect("written");
    }

    /// The next line of the program.
    fn line(&mut self) -> String {
        let stdout = self.0.stdout.as_mut().expect("a pipe");
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).expect("read") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        text(&line)
    }

    /// Ends its input; what it says from here on.
    fn end(self) -> String {
        let output = finish(self.0);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }
}

#[test]
fn copies_count_on_each_for_itself() {
    let caisson = Caisson::new();
    let mut first = Talk::begin(
        &caisson,
        &[
            "run", "-i", "--rm", "--name", "first", "busybox", "sh", "-c", COUNTER,
        ],
    );
    assert_eq!(first.line(), "ready");
    first.say("a");
    first.say("b");
    assert_eq!((first.line(), first.line()), ("a 1".into(), "b 2".into()));
    caisson.ok(["snapshot", "first", "counted"]);

    let copy = || Talk::begin(&caisson, &["run", "--rm", "-i", "--from", "counted"]);
    let (mut one, mut two) = (copy(), copy());
    one.say("x");
    one.say("y");
    two.say("z");
    first.say("c");
    // What the first one had said before comes from nobody else.
    assert_eq!(one.end(), "x 3\ny 4\n");
    assert_eq!(two.end(), "z 3\n");
    assert_eq!(first.end(), "c 3\n");
    // Without -i, the program sees the end of its input.
    let output = caisson.run(["run", "--rm", "--timing", "--from", "counted"]);
    assert_eq!(text(&output.stdout), "");
    let said = text(&output.stderr);
    assert!(
        said.starts_with("forked from snapshot counted:latest; "),
        "{said}"
    );
}

#[test]
fn each_copy_is_somebody_else() {
    let caisson = Caisson::new();
    started(&caisson, &["--name", "first"], WHO);
    let hook = "echo forked >> /hooked; hostname >> /hooked; a=$(cat /tick); sleep 0.3; \
        [ \"$a\" = \"$(cat /tick)\" ] && echo still >> /hooked";
    let set_up = format!(
        "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; mkdir -p /run/caisson; \
         printf '#!/bin/sh\\n%s\\nexit 0\\n' '{hook}' > /run/caisson/on-fork; \
         chmod +x /run/caisson/on-fork; cat /proc/sys/kernel/random/boot_id"
    );
    caisson.ok(["exec", "first", "sh", "-ec", &set_up]);
    caisson.ok(["snapshot", "first", "who"]);
    for name in ["one", "two"] {
        caisson.ok(["run", "-d", "--name", name, "--from", "who"]);
    }
    let mut seen = BTreeSet::new();
    for name in ["first", "one", "two"] {
        let hooked = caisson.run(["exec", name, "cat", "/hooked"]);
        let id = caisson.inspect(name)["Id"].as_str().expect("an id")[..12].to_owned();
        if name == "first" {
            assert!(!hooked.status.success(), "it is no copy");
        } else {
            assert_eq!(
                text(&hooked.stdout),
                format!("forked\n{id}\nstill\n"),
                "once, and first"
            );
        }
        // It may be ended with the container, which ends once it has answered.
        caisson.run(["exec", name, "touch", "/ask"]);
        caisson.ok(["wait", name]);
        let said = caisson.ok(["logs", name]);
        let lines: Vec<_> = said.lines().skip_while(|line| *line == "ready").collect();
        assert_eq!(lines.len(), 7, "{said}");
        assert_eq!((lines[2], lines[4]), (&*id, &*id));
        for identity in [&lines[..4], &lines[5..6]].concat() {
            assert!(seen.insert(identity.to_owned()), "{identity} came twice");
        }
        let said: u64 = lines[6].parse().expect("seconds");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("now")
            .as_secs();
        assert!(said <= now + 2 && said + 600 > now, "{said}");
    }
}

#[test]
fn a_hook_that_fails_keeps_the_copy_from_running() {
    let caisson = Caisson::new();
    started(&caisson, &["--name", "first"], "echo ready; sleep 1000");
    caisson.says("first", "ready");
    let set_up = "mkdir -p /run/caisson; printf '#!/bin/sh\\necho no key >&2\\nexit 3\\n' \
        > /run/caisson/on-fork; chmod +x /run/caisson/on-fork";
    caisson.ok(["exec", "first", "sh", "-ec", set_up]);
    caisson.ok(["snapshot", "first", "locked"]);
    let said = caisson.fails(125, ["run", "--rm", "--from", "locked"]);
    assert!(
        said.contains("/run/caisson/on-fork ended with 3: no key"),
        "{said}"
    );
    assert!(
        caisson.inspect("first")["State"]["Running"]
            .as_bool()
            .expect("a flag")
    );
}

#[test]
fn a_copy_is_a_container_like_any_other() {
    let caisson = Caisson::new();
    let script = "echo warm > /tmp/warm; trap 'exit 7' TERM; echo ready; \
        while :; do sleep 0.1; done";
    started(&caisson, &["--name", "first"], script);
    caisson.says("first", "ready");
    caisson.ok(["snapshot", "first", "team/warm:1"]);
    let listed = caisson.ok(["snapshot", "ls", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one snapshot");
    assert_eq!(listed["name"], "team/warm:1");
    assert!(listed["diskBytes"].as_u64().expect("a size") > 1 << 20);

    caisson.ok(["run", "-d", "--name", "copy", "--from", "team/warm:1"]);
    assert_eq!(caisson.ok(["exec", "copy", "cat", "/tmp/warm"]), "warm\n");
    assert_eq!(
        caisson.ok(["logs", "copy"]),
        "",
        "it has said nothing itself"
    );
    caisson.ok(["exec", "copy", "sh", "-c", "echo cold > /tmp/warm"]);
    assert_eq!(caisson.ok(["exec", "first", "cat", "/tmp/warm"]), "warm\n");
    // A copy can be copied.
    caisson.ok(["snapshot", "copy", "second"]);
    caisson.ok(["run", "-d", "--name", "grandchild", "--from", "second"]);
    assert_eq!(
        caisson.ok(["exec", "grandchild", "cat", "/tmp/warm"]),
        "cold\n"
    );

    let busy = caisson.fails(125, ["rmi", "busybox"]);
    assert!(busy.contains("snapshot"), "{busy}");
    caisson.ok(["snapshot", "rm", "team/warm:1", "second"]);
    assert_eq!(folders(&caisson), [] as [PathBuf; 0]);
    caisson.ok(["stop", "--time", "1000", "copy"]);
    assert_eq!(caisson.inspect("copy")["State"]["ExitCode"], 7);
    let again = caisson.fails(125, ["start", "copy"]);
    assert!(again.contains("caisson run --from team/warm:1"), "{again}");
    caisson.ok(["kill", "grandchild"]);
    assert_eq!(caisson.ok(["wait", "grandchild"]), "137\n");
    caisson.ok(["stop", "--time", "1000", "first"]);
    assert_eq!(caisson.inspect("first")["State"]["ExitCode"], 7);
}

#[test]
fn connections_of_the_first_are_reset_in_a_copy() {
    let caisson = Caisson::new();
    let script = "nc -l -p 7000 -e sh -c 'echo hello; cat >/dev/null; echo ended $? >/end'; \
        echo after; sleep 1000";
    // The user network does not lead to the host's loopback: the host connects, by a port.
    let publish = ["--name", "first", "-p", "127.0.0.1::7000"];
    started(&caisson, &publish, script);
    let address = caisson.ok(["port", "first", "7000"]);
    let mut stream = None;
    eventually("the container answers", || {
        let Ok(mut found) = TcpStream::connect(address.trim()) else {
            return false;
        };
        let mut hello = [0; 6];
        // passt of 2023 sends nothing before it has something to deliver.
        let asked = found.write_all(b"x");
        let answered = asked.is_ok() && found.read_exact(&mut hello).is_ok();
        stream = answered.then_some(found);
        answered
    });
    let mut stream = stream.expect("a connection");
    caisson.ok(["snapshot", "first", "connected"]);
    caisson.ok(["run", "-d", "--name", "copy", "--from", "connected"]);
    let ended = |container: &str| caisson.file(container, "/end").is_some();
    eventually("the copy's end of the connection is reset", || {
        ended("copy")
    });
    assert!(!ended("first"), "its connection stays");
    stream.write_all(b"x").expect("written");
    drop(stream);
    eventually("the first one's connection ends as it should", || {
        ended("first")
    });
}

#[test]
fn a_connection_that_waits_to_be_accepted_is_ended_in_a_copy() {
    let caisson = Caisson::new();
    let script = "nc -l -p 7000 -e sh -c 'cat >/got 2>/error; echo ended >/end' & \
        while ! grep -q :1B58 /proc/net/tcp*; do sleep 0.02; done; \
        kill -STOP $!; echo ready; wait; sleep 1000";
    started(
        &caisson,
        &["--name", "first", "-p", "127.0.0.1::7000"],
        script,
    );
    caisson.says("first", "ready");
    let address = caisson.ok(["port", "first", "7000"]);
    let mut stream = TcpStream::connect(address.trim()).expect("the host takes it");
    stream.write_all(b"before").expect("written");
    eventually("the guest has what was sent", || {
        // The only one that is established (01), with 6 bytes to be read.
        let connections = caisson.ok(["exec", "first", "cat", "/proc/net/tcp6"]);
        connections.contains(" 01 00000000:00000006 ")
    });
    caisson.ok(["snapshot", "first", "waiting"]);
    caisson.ok(["run", "-d", "--name", "copy", "--from", "waiting"]);
    let goes_on = |container: &str| {
        caisson.ok(["exec", container, "sh", "-c", "kill -CONT $(pidof nc)"]);
    };
    goes_on("copy");
    eventually("the copy's end of the connection is told", || {
        caisson.file("copy", "/end").is_some()
    });
    let error = caisson.file("copy", "/error").expect("its last words");
    assert!(
        error.contains("Software caused connection abort"),
        "{error}"
    );
    // What had come before the snapshot is in the copy as well.
    assert_eq!(caisson.file("copy", "/got").as_deref(), Some("before"));
    goes_on("first");
    stream.write_all(b", after").expect("written");
    eventually("the first one goes on", || {
        caisson.file("first", "/got").as_deref() == Some("before, after")
    });
    assert_eq!(caisson.file("first", "/end"), None);
    drop(stream);
    eventually("its connection ends as it should", || {
        caisson.file("first", "/end").is_some()
    });
    assert_eq!(caisson.file("first", "/error").as_deref(), Some(""));
}

#[test]
fn what_cannot_be_is_refused() {
    let caisson = Caisson::new();
    let volume = format!("{}:/v", caisson.folder("volume").display());
    started(&caisson, &["--name", "shared", "-v", &volume], "sleep 1000");
    let said = caisson.fails(125, ["snapshot", "shared", "s"]);
    assert!(
        said.contains("volume") && said.contains("caisson cp"),
        "{said}"
    );
    started(&caisson, &["--name", "first"], "echo ready; sleep 1000");
    caisson.says("first", "ready");
    caisson.ok(["pause", "first"]);
    let said = caisson.fails(125, ["snapshot", "first", "s"]);
    assert!(said.contains("caisson unpause"), "{said}");
    caisson.ok(["unpause", "first"]);
    let other = "echo $$ > /other; exec sleep 1000";
    caisson.ok(["exec", "-d", "first", "sh", "-c", other]);
    let said = caisson.fails(125, ["snapshot", "first", "s"]);
    assert!(said.contains("exec"), "{said}");
    assert_eq!(folders(&caisson), [] as [PathBuf; 0]);
    eventually("the other process can be ended", || {
        let end = "kill $(cat /other)";
        caisson
            .run(["exec", "first", "sh", "-c", end])
            .status
            .success()
    });
    eventually("the exec has ended", || {
        caisson.run(["snapshot", "first", "s"]).status.success()
    });
    let said = caisson.fails(125, ["snapshot", "first", "s"]);
    assert!(said.contains("snapshot rm s:latest"), "{said}");

    for (flags, word) in [
        (&["-e", "A=1"][..], "--env"),
        (&["-v", "/a:/b"], "--volume"),
        (&["-i"], "-i"),
        (&["-t"], "-t"),
    ] {
        let command = ["run", "--rm", "--from", "s"].iter().chain(flags);
        let said = caisson.fails(125, command);
        assert!(said.contains(word), "{said}");
    }
    let said = caisson.fails(125, ["run", "--from", "s", "busybox", "true"]);
    assert!(said.contains("an image or a command"), "{said}");
    let said = caisson.fails(125, ["run", "--from", "none"]);
    assert!(said.contains("snapshot ls"), "{said}");

    let folder = folders(&caisson).pop().expect("a snapshot");
    for name in ["state", "scratch.img", "memory"] {
        let path = folder.join(name);
        let file = fs::File::options().append(true).open(&path).expect(name);
        { &file }.write_all(b"x").expect("written");
        let said = caisson.fails(125, ["run", "--rm", "--from", "s"]);
        assert!(said.contains("s:latest is damaged"), "{name}: {said}");
        file.set_len(file.metadata().expect(name).len() - 1)
            .expect(name);
    }
    assert_eq!(folders(&caisson).len(), 1, "it is for its owner to remove");
}

#[test]
fn a_snapshot_fits_what_it_was_made_with() {
    let caisson = Caisson::new();
    let initramfs = caisson.folder("other").join("initramfs");
    let ours = programs::initramfs();
    fs::copy(&ours, &initramfs).expect("copied");
    let with_it = |arguments: &[&str]| {
        let mut command = caisson.command(arguments);
        command.env("CAISSON_INITRAMFS", &initramfs);
        output(command, b"")
    };
    let script = "echo ready; sleep 1000";
    let run = with_it(&[
        "run", "-d", "--name", "first", "busybox", "sh", "-c", script,
    ]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    caisson.says("first", "ready");
    caisson.ok(["snapshot", "first", "s"]);
    fs::copy(&ours, &initramfs).expect("copied");
    let said = caisson.fails(125, ["run", "--rm", "--from", "s"]);
    let expected = "the initramfs with the guest agent changed since it was made";
    assert!(said.contains(expected), "{said}");
    assert_eq!(folders(&caisson).len(), 1);
}

#[test]
fn a_maker_that_is_killed_leaves_nothing() {
    let caisson = Caisson::new();
    started(&caisson, &["--name", "first"], "echo ready; sleep 1000");
    caisson.says("first", "ready");
    let found = caisson.inspect("first");
    let supervisor = found["SupervisorPid"].as_u64().expect("a pid");
    let supervisor = u32::try_from(supervisor).expect("a pid");
    let id = found["Id"].as_str().expect("an id");
    // The writable layer is copied last. The machine has it open; whoever opens it anew finds a
    // pipe that nobody writes to, and waits: the maker comes no further.
    let scratch = caisson
        .root()
        .join("containers")
        .join(id)
        .join("scratch.img");
    fs::remove_file(&scratch).expect("the writable layer");
    let made = Command::new("mkfifo").arg(&scratch).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    let child = caisson
        .command(["snapshot", "first", "half"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let has_content = |path: PathBuf| path.metadata().is_ok_and(|found| found.len() > 0);
    eventually("half of a snapshot is there", || {
        let mut folders = folders(&caisson).into_iter();
        folders.any(|folder| has_content(folder.join("state")))
    });
    kill(supervisor, "KILL");
    assert!(!wait(child).success());
    // Its lock goes with it, a moment after the connection on which the command waits.
    eventually("the maker has ended", || {
        !caisson.processes().contains(&supervisor)
    });
    assert!(!folders(&caisson).is_empty(), "it was killed in the middle");
    assert_eq!(caisson.ok(["snapshot", "ls", "--format", "json"]), "");
    assert_eq!(folders(&caisson), [] as [PathBuf; 0]);
    let said = output(caisson.command(["run", "--from", "half"]), b"");
    assert_eq!(said.status.code(), Some(125));
}
