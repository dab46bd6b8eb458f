//! Signals to a container, and what they do to its exit code.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use caisson_end_to_end::{Caisson, eventually, kill, wait};

/// Says which signals it gets; 15 ends it.
fn listener(signals: &[u32]) -> String {
    let traps: String = signals
        .iter()
        .map(|signal| format!("trap 'echo got {signal}' {signal}; "))
        .collect();
    format!("{traps} echo ready; while :; do sleep 1000 & wait; done")
}

fn start(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a command");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    assert_eq!(line(&mut lines), "ready");
    (child, lines)
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

#[test]
fn every_signal_that_can_be_caught_is_passed_on() {
    // Not passed on: what ends or stops a process whatever it wishes (9, 19); what a fault of
    // our own raises (4, 7, 8, 11); and what tells of our own children, pipes, sockets and
    // terminal (13, 17, 21, 22, 23, 28), as with Docker.
    let standard = (1..=31).filter(|n| ![4, 7, 8, 9, 11, 13, 17, 19, 21, 22, 23, 28].contains(n));
    let signals: Vec<u32> = standard.chain(34..=64).collect();
    let caisson = Caisson::new();
    let command = caisson.command(["run", "--rm", "busybox", "sh", "-c", &listener(&signals)]);
    let (child, mut lines) = start(command);
    for signal in signals {
        kill(child.id(), &signal.to_string());
        assert_eq!(line(&mut lines), format!("got {signal}"));
    }
    caisson.ok(["rm", "-f", caisson.ok(["ps", "-q"]).trim()]);
    assert_eq!(wait(child).code(), Some(137));
}

#[test]
fn kill_sends_any_signal_by_name_or_number() {
    let caisson = Caisson::new();
    let command = caisson.command([
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        &listener(&[1, 10, 28, 37]),
    ]);
    let (child, mut lines) = start(command);
    for (name, number) in [("HUP", 1), ("SIGUSR1", 10), ("28", 28), ("SIGRTMIN+3", 37)] {
        caisson.ok(["kill", "--signal", name, "box"]);
        assert_eq!(line(&mut lines), format!("got {number}"));
    }
    let error = caisson.fails(125, ["kill", "-s", "NOPE", "box"]);
    assert!(error.contains("NOPE"), "{error}");
    caisson.ok(["kill", "box"]);
    assert_eq!(wait(child).code(), Some(137));
    assert_eq!(caisson.inspect("box")["State"]["ExitCode"], 137);
    let error = caisson.fails(125, ["kill", "box"]);
    assert!(error.contains("not running"), "{error}");
}

#[test]
fn a_program_ended_by_a_signal_exits_with_128_and_its_number() {
    let caisson = Caisson::new();
    // A first process ignores what it has no handler for; behind an init it is an ordinary one.
    // Busybox's shell ignores SIGQUIT until it executes another program: this one says by itself
    // that it runs.
    for (signal, code) in [("TERM", 143), ("INT", 130), ("QUIT", 131), ("USR1", 138)] {
        let command = caisson.command([
            "run",
            "--rm",
            "--init",
            "--hostname",
            "ready",
            "busybox",
            "tail",
            "-f",
            "/etc/hostname",
        ]);
        let (child, _lines) = start(command);
        kill(child.id(), signal);
        assert_eq!(wait(child).code(), Some(code), "{signal}");
    }
}

#[test]
fn stop_is_polite_first() {
    let caisson = Caisson::new();
    let script = "trap 'exit 5' TERM; trap 'exit 6' USR1; while :; do sleep 1000 & wait; done";
    // Nobody is killed here because the machine is slow.
    caisson.ok([
        "run",
        "-d",
        "--name",
        "term",
        "--stop-timeout",
        "1000",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    caisson.ok([
        "run",
        "-d",
        "--name",
        "usr1",
        "--stop-timeout",
        "1000",
        "--stop-signal",
        "USR1",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    for (name, code) in [("term", 5), ("usr1", 6)] {
        // The trap must have been set.
        eventually("it waits", || caisson.has(name, "sleep"));
        assert_eq!(caisson.ok(["stop", name]), format!("{name}\n"));
        let state = &caisson.inspect(name)["State"];
        assert_eq!(
            (&state["ExitCode"], &state["Status"]),
            (&code.into(), &"exited".into())
        );
    }
    caisson.ok(["start", "term"]);
    eventually("it waits", || caisson.has("term", "sleep"));
    caisson.ok(["stop", "--signal", "SIGUSR1", "term"]);
    assert_eq!(caisson.inspect("term")["State"]["ExitCode"], 6);
}

#[test]
fn stop_kills_what_does_not_listen() {
    let caisson = Caisson::new();
    // As a first process without a handler, it ignores the signal.
    caisson.ok([
        "run",
        "-d",
        "--name",
        "one",
        "--stop-timeout",
        "1",
        "busybox",
        "sleep",
        "1000",
    ]);
    // Longer than any command may take: who waited for that would be found out.
    caisson.ok([
        "run",
        "-d",
        "--name",
        "two",
        "--stop-timeout",
        "1000",
        "busybox",
        "sleep",
        "1000",
    ]);
    for (name, timeout) in [("one", 1), ("two", 1000)] {
        assert_eq!(caisson.inspect(name)["Config"]["StopTimeout"], timeout);
    }
    let begin = Instant::now();
    caisson.ok(["stop", "one"]);
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    caisson.ok(["stop", "--time", "0", "two"]);
    for name in ["one", "two"] {
        assert_eq!(caisson.inspect(name)["State"]["ExitCode"], 137);
        // Once more is no mistake.
        caisson.ok(["stop", name]);
    }
}

#[test]
fn signals_reach_an_exec_and_not_the_container() {
    let caisson = Caisson::new();
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let command = caisson.command(["exec", "box", "sh", "-c", &listener(&[15])]);
    let (child, mut lines) = start(command);
    kill(child.id(), "TERM");
    assert_eq!(line(&mut lines), "got 15");
    kill(child.id(), "INT");
    assert_eq!(wait(child).code(), Some(130));
    assert_eq!(caisson.inspect("box")["State"]["Running"], true);
}
