//! Engines when there is much, when something is killed, and when the guest fails.

use std::process::{Child, Stdio};

use caisson_end_to_end::engine::{Containerd, IMAGE, RUNTIME, Release};
use caisson_end_to_end::{eventually, finish, kill, text};

caisson_end_to_end::each_release![
    cycles_leave_nothing,
    nothing_of_much_is_lost,
    many_at_once,
    killed_at_each_stage,
    killed_devices,
    guests_that_fail,
];

/// With each release.
const CYCLES: u32 = 100;

/// Of which so many at once.
const AT_ONCE: u32 = 4;

fn cycles_leave_nothing(release: Release) {
    let engine = Containerd::start(release);
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let engine = &engine;
            scope.spawn(move || {
                for number in (first..CYCLES).step_by(AT_ONCE as usize) {
                    let name = format!("cycle-{number}");
                    let output = engine.container(&["--rm"], &name, &["true"], b"");
                    assert!(output.status.success(), "{output:?}");
                }
            });
        }
    });
    eventually("nothing is left", || engine.left().is_empty());
    engine.shows("100 cycles leave nothing");
}

fn nothing_of_much_is_lost(release: Release) {
    let engine = Containerd::start(release);
    for size in [64 << 10, 1 << 20, 100 << 20] {
        // No two words of it are alike, so that a loss or an exchange is seen.
        let input: Vec<u8> = (0..size / 4).flat_map(u32::to_le_bytes).collect();
        let cat = engine.container(&["--rm"], "cat", &["cat"], &input);
        assert!(
            cat.stdout == input,
            "{} of {size} bytes came back: {}",
            cat.stdout.len(),
            text(&cat.stderr)
        );
    }
    engine.shows("64 KiB to 100 MiB each way, none lost");
}

fn many_at_once(release: Release) {
    let engine = Containerd::start(release);
    let said = |output: std::process::Output, word: &str| {
        assert_eq!(text(&output.stdout), format!("{word}\n"), "{output:?}");
    };
    engine.detached("job");
    std::thread::scope(|scope| {
        for number in 0..20 {
            let engine = &engine;
            scope.spawn(move || {
                let word = format!("exec-{number}");
                let exec = ["task", "exec", "--exec-id", &word, "job", "echo", &word];
                said(engine.run(&exec, b""), &word);
            });
        }
    });
    engine.remove("job");
    engine.shows("exec, 20 at once");
    std::thread::scope(|scope| {
        for number in 0..10 {
            let engine = &engine;
            scope.spawn(move || {
                let word = format!("container-{number}");
                said(
                    engine.container(&["--rm"], &word, &["echo", &word], b""),
                    &word,
                );
            });
        }
    });
    engine.shows("10 containers at once");
}

/// What is going on when something is killed.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Create,
    Start,
    Exec,
    Delete,
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Shim,
    Machine,
    Engine,
}

fn killed_at_each_stage(release: Release) {
    let mut engine = Containerd::start(release);
    for stage in [Stage::Create, Stage::Start, Stage::Exec, Stage::Delete] {
        for victim in [Victim::Shim, Victim::Machine, Victim::Engine] {
            eprintln!("{victim:?} is killed during {stage:?}");
            kill_during(&mut engine, stage, victim);
            engine.remove("victim");
            eventually("nothing is left", || engine.left().is_empty());
        }
    }
    engine.shows("kill -9 of shim, QEMU, engine during create, start, exec, delete");
}

fn kill_during(engine: &mut Containerd, stage: Stage, victim: Victim) {
    if matches!(stage, Stage::Exec | Stage::Delete) {
        engine.detached("victim");
    }
    let before = engine.log().len();
    let told = |engine: &Containerd, event: &str| {
        let log = engine.log();
        log[before..].contains(&format!("topic=\"/tasks/{event}\""))
    };
    let words: &[&str] = match victim {
        Victim::Machine => &["qemu-system"],
        Victim::Shim | Victim::Engine => &["containerd-shim-caisson-v2"],
    };
    let run = [
        "run",
        "-d",
        "--runtime",
        RUNTIME,
        IMAGE,
        "victim",
        "sleep",
        "1000",
    ];
    let command: &[&str] = match stage {
        Stage::Create | Stage::Start => &run,
        // It needs nobody to end: word that there is no more input may be lost with the engine,
        // and ctr waits for the output's end if the engine did not answer.
        Stage::Exec => &["task", "exec", "--exec-id", "one", "victim", "sleep", "1"],
        Stage::Delete => &["task", "rm", "-f", "victim"],
    };
    let child = spawn(engine, command);
    eventually("the stage is reached", || match stage {
        Stage::Create => !engine.processes(words).is_empty(),
        Stage::Start => told(engine, "create"),
        Stage::Exec => told(engine, "exec-added"),
        Stage::Delete => told(engine, "exit"),
    });
    if victim == Victim::Engine {
        engine.restart();
    } else {
        for pid in engine.processes(words) {
            // It may be about to end by itself.
            kill_if_there(pid);
        }
    }
    // However it ends, it does.
    finish(child);
}

fn spawn(engine: &Containerd, arguments: &[&str]) -> Child {
    engine
        .command(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ctr starts")
}

fn kill_if_there(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot kill {pid:?}: {error}"),
    }
}

fn killed_devices(release: Release) {
    let engine = Containerd::start(release);
    for words in [["caisson-devices", " vsock "], ["caisson-devices", " fs "]] {
        engine.detached("victim");
        let found = engine.processes(&words);
        assert_eq!(found.len(), 1, "{words:?}: {found:?}");
        kill(found[0], "KILL");
        eventually("the engine notices", || {
            engine.status("victim").as_deref() == Some("STOPPED")
        });
        engine.remove("victim");
        eventually("nothing is left", || engine.left().is_empty());
    }
    engine.shows("kill -9 of device processes");
}

fn guests_that_fail(release: Release) {
    let engine = Containerd::start(release);
    let ended = |name: &str, code: &str| {
        eventually("the engine notices", || {
            engine.status(name).as_deref() == Some("STOPPED")
        });
        let removed = engine.run(&["task", "rm", name], b"");
        assert!(text(&removed.stderr).contains(code), "{removed:?}");
        engine.ok(&["container", "rm", name]);
    };

    // A container that takes more than it may.
    let limit = (64 << 20).to_string();
    let hungry = ["tail", "/dev/zero"];
    let started = engine.container(&["-d", "--memory-limit", &limit], "hungry", &hungry, b"");
    assert!(started.status.success(), "{started:?}");
    ended("hungry", "137");
    eventually("it is said to be out of memory", || {
        engine.log().contains("topic=\"/tasks/oom\"")
    });
    engine.shows("a container out of memory is told");

    let script = "echo 2 >/proc/sys/vm/panic_on_oom; tail /dev/zero";
    let panics = ["sh", "-c", script];
    let started = engine.container(
        &["-d", "--privileged", "--memory-limit", &limit],
        "panics",
        &panics,
        b"",
    );
    assert!(started.status.success(), "{started:?}");
    ended("panics", "137");
    eventually("the log says why", || {
        engine.log().contains("kernel panic: ")
    });
    engine.shows("a guest that panics is told");

    // A machine that is stopped stands for a guest that does nothing any more.
    engine.detached("hangs");
    let machine = engine.processes(&["qemu-system"])[0];
    kill(machine, "STOP");
    engine.ok(&["task", "kill", "--signal", "KILL", "hangs"]);
    ended("hangs", "137");
    eventually("the log says why", || {
        engine.log().contains("the guest does not answer")
    });
    engine.shows("a guest that hangs is told, and can be killed");
}
