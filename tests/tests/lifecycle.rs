//! A container's life: created, started, looked at, stopped, removed.

use std::io::Read;
use std::process::Stdio;

use caisson_end_to_end::{Caisson, eventually, finish, text, wait};
use serde_json::{Value, json};

#[test]
fn a_container_is_created_started_stopped_and_started_again() {
    let caisson = Caisson::new();
    let script = "date +%s%N >> /starts; wc -l < /starts; exit 3";
    let id = caisson.ok(["create", "--name", "box", "busybox", "sh", "-c", script]);
    assert_eq!(id.trim().len(), 64);
    assert_eq!(caisson.inspect("box")["State"]["Status"], "created");
    for number in 1..=3 {
        // What it wrote is still there.
        let output = caisson.run(["start", "-a", "box"]);
        assert_eq!(
            text(&output.stdout),
            format!("{number}\n"),
            "{}",
            text(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(3));
    }
    let state = &caisson.inspect(&id[..12])["State"];
    assert_eq!(
        (&state["Status"], &state["ExitCode"]),
        (&json!("exited"), &json!(3))
    );
    assert_eq!(caisson.ok(["rm", "box"]), "box\n");
    let error = caisson.fails(125, ["inspect", "box"]);
    assert!(error.contains("no such container: box"), "{error}");
    assert_eq!(
        std::fs::read_dir(caisson.root().join("containers"))
            .expect("a folder")
            .filter(|entry| {
                !entry
                    .as_ref()
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .starts_with('.')
            })
            .count(),
        0
    );
}

#[test]
fn names_are_unique_and_ids_may_be_short() {
    let caisson = Caisson::new();
    let id = caisson.ok(["create", "--name", "box", "busybox", "true"]);
    let error = caisson.fails(125, ["create", "--name", "box", "busybox", "true"]);
    assert!(
        error.contains("the name box is in use") && error.contains("caisson rm box"),
        "{error}"
    );
    let other = caisson.ok(["create", "busybox", "true"]);
    for name in ["box", id.trim(), &id[..12], &id[..6]] {
        assert_eq!(caisson.inspect(name)["Id"], id.trim());
    }
    assert_ne!(caisson.inspect(other.trim())["Name"], "");
    for bad in ["-x", "a b", "../x", "x"] {
        caisson.fails(125, ["create", "--name", bad, "busybox", "true"]);
    }
}

#[test]
fn ps_lists_what_runs_or_all() {
    let caisson = Caisson::new();
    caisson.ok(["create", "--name", "made", "busybox", "true"]);
    caisson.ok(["run", "--name", "ended", "busybox", "true"]);
    caisson.ok(["run", "-d", "--name", "runs", "busybox", "sleep", "1000"]);
    let table = caisson.ok(["ps"]);
    assert!(
        table.contains("runs") && table.contains("\"sleep 1000\"") && table.contains("Up "),
        "{table}"
    );
    assert!(
        !table.contains("made") && !table.contains("ended"),
        "{table}"
    );
    let table = caisson.ok(["ps", "-a"]);
    assert!(
        table.contains("Created") && table.contains("Exited (0)"),
        "{table}"
    );
    assert_eq!(caisson.ok(["ps", "-aq"]).lines().count(), 3);
    let rows: Vec<Value> = caisson
        .ok(["ps", "-a", "--format", "json", "--no-trunc"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let states: Vec<_> = rows
        .iter()
        .map(|row| (&row["Names"], &row["State"]))
        .collect();
    assert!(
        states.contains(&(&json!("made"), &json!("created"))),
        "{states:?}"
    );
    assert!(
        states.contains(&(&json!("runs"), &json!("running"))),
        "{states:?}"
    );
}

#[test]
fn inspect_tells_what_was_asked_for() {
    let caisson = Caisson::new();
    caisson.ok([
        "run",
        "-d",
        "--name",
        "box",
        "--label",
        "a=1",
        "--label",
        "b",
        "-e",
        "X=y",
        "-m",
        "96m",
        "--cpus",
        "0.5",
        "--read-only",
        "--pids-limit",
        "50",
        "busybox",
        "sleep",
        "1000",
    ]);
    let found = caisson.inspect("box");
    for (pointer, expected) in [
        ("/Name", json!("box")),
        ("/Path", json!("sleep")),
        ("/Args", json!(["1000"])),
        ("/Config/Image", json!("busybox")),
        ("/Config/Labels", json!({"a": "1", "b": ""})),
        ("/HostConfig/Memory", json!(96 << 20)),
        ("/HostConfig/NanoCpus", json!(500_000_000)),
        ("/HostConfig/PidsLimit", json!(50)),
        ("/HostConfig/ReadonlyRootfs", json!(true)),
        ("/State/Running", json!(true)),
        ("/State/OOMKilled", json!(false)),
    ] {
        assert_eq!(found.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert!(
        found["Hypervisor"]
            .as_str()
            .is_some_and(|text| text.contains("qemu")),
        "{found}"
    );
    assert!(
        found["Config"]["Env"]
            .as_array()
            .is_some_and(|env| env.contains(&json!("X=y")))
    );
    let pid = found["State"]["Pid"].as_u64().expect("a pid");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn wait_prints_the_exit_code() {
    let caisson = Caisson::new();
    caisson.ok([
        "run",
        "-d",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "sleep 1; exit 4",
    ]);
    caisson.ok(["run", "-d", "--name", "two", "busybox", "sleep", "1000"]);
    let waiting = caisson
        .command(["wait", "one", "two"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a command");
    caisson.ok(["kill", "two"]);
    let output = finish(waiting);
    assert_eq!(text(&output.stdout), "4\n137\n");
    assert_eq!(caisson.ok(["wait", "one"]), "4\n");
}

/// Whoever asks while the container is taken down is told as well.
#[test]
fn an_end_is_told_whenever_it_is_asked_for() {
    let caisson = Caisson::new();
    for number in 0..4 {
        let name = format!("box{number}");
        caisson.ok([
            "run", "-d", "--name", &name, "busybox", "sh", "-c", "exit 4",
        ]);
        let ask = |_| {
            let mut command = caisson.command(["wait", &name]);
            let (stdout, stderr) = (Stdio::piped(), Stdio::piped());
            command.stdout(stdout).stderr(stderr).spawn()
        };
        let asked: Vec<_> = (0..16).map(ask).collect();
        for child in asked {
            let output = finish(child.expect("a command"));
            assert_eq!(text(&output.stdout), "4\n", "{}", text(&output.stderr));
        }
        let mut command = caisson.command(["stop", &name]);
        assert!(command.status().expect("it runs").success());
    }
}

#[test]
fn a_running_container_is_removed_only_by_force() {
    let caisson = Caisson::new();
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let error = caisson.fails(125, ["rm", "box"]);
    assert!(error.contains("box is running"), "{error}");
    caisson.ok(["rm", "-f", "box"]);
    caisson.ok(["rm", "-f", "box"]);
    caisson.fails(125, ["rm", "box"]);
    // `--rm` does it by itself.
    caisson.ok([
        "run", "-d", "--rm", "--name", "box", "busybox", "sleep", "1000",
    ]);
    caisson.ok(["stop", "-t", "0", "box"]);
    assert_eq!(caisson.ok(["ps", "-aq"]), "");
}

#[test]
fn logs_keep_both_streams() {
    let caisson = Caisson::new();
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf unfinished";
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    caisson.ok(["wait", "box"]);
    let output = caisson.run(["logs", "box"]);
    assert_eq!(text(&output.stdout), "out 1\nout 2\nout 3\nunfinished");
    assert_eq!(text(&output.stderr), "err 1\nerr 2\nerr 3\n");
    let output = caisson.run(["logs", "--tail", "2", "box"]);
    assert_eq!(
        text(&output.stdout).lines().count() + text(&output.stderr).lines().count(),
        2
    );
    assert_eq!(caisson.ok(["logs", "--tail", "0", "box"]), "");
    let output = caisson.run(["logs", "--timestamps", "box"]);
    for line in text(&output.stdout).lines() {
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(
            time.starts_with("20") && time.ends_with('Z') && time.contains('T'),
            "{line}"
        );
        assert!(rest.starts_with("out") || rest == "unfinished", "{line}");
    }
}

#[test]
fn logs_can_be_of_a_time_only() {
    let caisson = Caisson::new();
    caisson.ok([
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo early; sleep 3; echo late",
    ]);
    caisson.ok(["wait", "box"]);
    let printed = caisson.ok(["logs", "-t", "box"]);
    let late = printed
        .lines()
        .find(|line| line.ends_with("late"))
        .expect("a line");
    let since = late.split(' ').next().expect("a time");
    assert_eq!(caisson.ok(["logs", "--since", since, "box"]), "late\n");
    assert_eq!(
        caisson.ok(["logs", "--since", "1h", "box"]),
        "early\nlate\n"
    );
    let error = caisson.fails(125, ["logs", "--since", "yesterday", "box"]);
    assert!(error.contains("--since"), "{error}");
}

#[test]
fn followed_logs_go_on_until_the_end() {
    let caisson = Caisson::new();
    let script = "echo one; until [ -e /go ]; do sleep 0.1; done; echo two";
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    let follower = caisson
        .command(["logs", "-f", "box"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a command");
    // It may be ended with the container, which ends as soon as the file is there.
    caisson.run(["exec", "box", "touch", "/go"]);
    let output = finish(follower);
    assert_eq!(text(&output.stdout), "one\ntwo\n");
    // Of what has ended, there is nothing to wait for.
    assert_eq!(caisson.ok(["logs", "-f", "box"]), "one\ntwo\n");
}

#[test]
fn the_guests_own_log_can_be_read() {
    let caisson = Caisson::new();
    caisson.ok(["run", "--name", "box", "busybox", "true"]);
    let log = caisson.ok(["logs", "--boot", "box"]);
    assert!(log.contains("Linux version 6.12."), "{log}");
    assert!(log.contains("Run /init as init process"), "{log}");
}

#[test]
fn a_paused_container_stands_still() {
    let caisson = Caisson::new();
    let script = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done";
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    eventually("it counts", || {
        caisson
            .run(["exec", "box", "test", "-s", "/count"])
            .status
            .success()
    });
    caisson.ok(["pause", "box"]);
    let state = &caisson.inspect("box")["State"];
    assert_eq!(
        (&state["Status"], &state["Paused"]),
        (&json!("paused"), &json!(true))
    );
    assert!(caisson.ok(["ps"]).contains("(Paused)"));
    let count = |name: &str| {
        let file = caisson.folder("counts").join(name);
        caisson.ok(["cp", "box:/count", &file.to_string_lossy()]);
        std::fs::read_to_string(file).expect("a number")
    };
    let (first, second) = (count("first"), count("second"));
    assert_eq!(first, second);
    caisson.ok(["unpause", "box"]);
    eventually("it counts again", || count("third") != first);
    // A frozen one can be ended.
    caisson.ok(["pause", "box"]);
    caisson.ok(["stop", "-t", "0", "box"]);
    assert_eq!(caisson.inspect("box")["State"]["Status"], "exited");
}

#[test]
fn stats_are_those_of_the_guest() {
    let caisson = Caisson::new();
    caisson.ok([
        "run",
        "-d",
        "--name",
        "box",
        "-m",
        "128m",
        "busybox",
        "sh",
        "-c",
        "sleep 1000 & while :; do :; done",
    ]);
    let mut row = Value::Null;
    // The shell may not have got to its loop yet.
    eventually("both processes are there, and one is busy", || {
        let line = caisson.ok(["stats", "--no-stream", "--format", "json", "box"]);
        row = serde_json::from_str(&line).expect("JSON");
        let busy = row["CPUPerc"].as_f64().is_some_and(|share| share > 20.0);
        busy && row["Stats"]["pids"] == 2
    });
    assert_eq!(row["Stats"]["memoryLimitBytes"], 128 << 20);
    assert!(
        row["Stats"]["hostPssBytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 16 << 20),
        "{row}"
    );
    assert!(
        row["Stats"]["agentRssBytes"]
            .as_u64()
            .is_some_and(|bytes| bytes < 10 << 20),
        "{row}"
    );
    let table = caisson.ok(["stats", "--no-stream"]);
    assert!(
        table.contains("128.0MiB") && table.contains("box"),
        "{table}"
    );
}

#[test]
fn several_containers_can_be_named_at_once() {
    let caisson = Caisson::new();
    for name in ["one", "two"] {
        caisson.ok(["create", "--name", name, "busybox", "sleep", "1000"]);
    }
    assert_eq!(caisson.ok(["start", "one", "two"]), "one\ntwo\n");
    let output = caisson.run(["stop", "-t", "0", "one", "none", "two"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stdout), "one\ntwo\n");
    assert!(text(&output.stderr).contains("no such container: none"));
}

#[test]
fn leaving_an_attachment_leaves_the_container_running() {
    let caisson = Caisson::new();
    let script = "while :; do echo tick; sleep 0.1; done";
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    let mut attached = caisson
        .command(["start", "-a", "box"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a command");
    // What it passes on tells that it is attached.
    let mut said = [0; 5];
    let stdout = attached.stdout.as_mut().expect("a pipe");
    stdout.read_exact(&mut said).expect("a line");
    caisson_end_to_end::kill(attached.id(), "KILL");
    assert!(!wait(attached).success());
    assert_eq!(caisson.inspect("box")["State"]["Running"], true);
    assert_eq!(caisson.ok(["exec", "box", "echo", "alive"]), "alive\n");
}
