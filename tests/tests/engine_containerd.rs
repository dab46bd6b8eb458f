//! Three releases of containerd with our shim: what their users do all day.

use caisson_end_to_end::engine::{Containerd, IMAGE, RUNTIME, Release};
use caisson_end_to_end::terminal::Terminal;
use caisson_end_to_end::{eventually, kill, programs, resident, text};

caisson_end_to_end::each_release![
    run_and_its_streams,
    exec_kill_pause_and_figures,
    shares_of_the_host,
    a_pod_is_one_machine,
    the_host_counts_the_machine,
    the_engine_restarts,
    a_terminal_outlives_the_engine,
    a_program_keeps_the_output,
];

fn run_and_its_streams(release: Release) {
    let engine = Containerd::start(release);
    assert!(engine.ok(&["version"]).contains(release.version()));

    let uname = engine.container(&["--rm"], "uname", &["uname", "-r"], b"");
    assert!(text(&uname.stdout).starts_with("6.12."), "{uname:?}");
    assert_eq!(text(&uname.stderr), "", "not a single warning");
    let shims: Vec<_> = engine
        .log()
        .lines()
        .filter(|line| line.contains(RUNTIME) && line.contains("level=warn"))
        .map(str::to_owned)
        .collect();
    assert!(shims.is_empty(), "{shims:?}");
    engine.shows("run, the guest's kernel, not a warning line");

    let exit = engine.container(
        &["--rm"],
        "exit",
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
        b"",
    );
    assert_eq!(exit.status.code(), Some(7));
    assert_eq!(
        (text(&exit.stdout), text(&exit.stderr)),
        ("out\n".into(), "err\n".into())
    );

    let missing = engine.container(&["--rm"], "missing", &["no-such-program"], b"");
    assert!(!missing.status.success());
    let error = text(&missing.stderr);
    assert!(
        error.contains("\"no-such-program\": executable file not found"),
        "{error}"
    );

    let input: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let cat = engine.container(&["--rm"], "cat", &["cat"], &input);
    assert!(
        cat.stdout == input,
        "{} of {} bytes came back",
        cat.stdout.len(),
        input.len()
    );

    let lines = engine.container(&["--rm"], "lines", &["seq", "300000"], b"");
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(
        text(&lines.stdout) == expected,
        "{} bytes",
        lines.stdout.len()
    );

    let shell = engine.command(&[
        "run",
        "--rm",
        "-t",
        "--runtime",
        RUNTIME,
        IMAGE,
        "tty",
        "sh",
    ]);
    use_shell(Terminal::start(&shell, 33, 99));
    engine.shows("terminal and its size");
}

/// Types to the shell of a container, and ends it.
fn use_shell(mut terminal: Terminal) {
    // Earlier, the keys would be the line discipline's of this terminal.
    terminal.expect_raw_mode();
    terminal.write("echo $((40+2)) && tty\r");
    terminal.expect("42");
    terminal.expect("/dev/pts/0");
    terminal.write("exit 5\r");
    terminal.expect_end(5);
}

fn exec_kill_pause_and_figures(release: Release) {
    let engine = Containerd::start(release);
    engine.detached("job");
    assert_eq!(engine.status("job").as_deref(), Some("RUNNING"));

    let held = resident(engine.processes(&["containerd-shim-caisson-v2"])[0]);
    let limit = if programs::are_for_debugging() {
        24
    } else {
        12
    };
    assert!(held < limit << 10, "the shim holds {held} KiB");
    engine.shows("the shim holds less than 12 MiB");

    let exec = |id: &str, program: &[&str], input: &[u8]| {
        let mut arguments = vec!["task", "exec", "--exec-id", id, "job"];
        arguments.extend(program);
        engine.run(&arguments, input)
    };
    let shell = exec(
        "first",
        &["sh", "-c", "echo out; echo err >&2; exit 3"],
        b"",
    );
    assert_eq!(shell.status.code(), Some(3));
    assert_eq!(
        (text(&shell.stdout), text(&shell.stderr)),
        ("out\n".into(), "err\n".into())
    );
    assert_eq!(exec("second", &["cat"], b"through").stdout, b"through");
    let missing = exec("third", &["no-such-program"], b"");
    assert!(
        text(&missing.stderr).contains("executable file not found"),
        "{missing:?}"
    );
    engine.shows("exec and its streams");
    for number in 0..20 {
        let word = number.to_string();
        let again = exec("again", &["echo", &word], b"");
        assert_eq!(text(&again.stdout), format!("{word}\n"), "{again:?}");
    }
    engine.shows("exec, the same id again at once");

    engine.ok(&["task", "pause", "job"]);
    assert_eq!(engine.status("job").as_deref(), Some("PAUSED"));
    engine.ok(&["task", "resume", "job"]);
    assert_eq!(engine.status("job").as_deref(), Some("RUNNING"));

    let figures = engine.ok(&["task", "metrics", "job"]);
    let usage = figures
        .lines()
        .find_map(|line| line.strip_prefix("memory.usage "))
        .and_then(|number| number.trim().parse::<u64>().ok());
    assert!(usage.is_some_and(|bytes| bytes > 0), "{figures}");
    engine.shows("figures");
    assert_eq!(engine.ok(&["task", "ps", "job"]).lines().count(), 2);

    // The first process, as that of a pid namespace, does not heed it.
    let lasting = ["task", "exec", "-d", "--exec-id", "lasting", "job"];
    engine.ok(&[&lasting[..], &["sleep", "1000"]].concat());
    let asleep = || {
        let found = exec("looks", &["pidof", "sleep"], b"");
        text(&found.stdout).split_whitespace().count()
    };
    eventually("both are asleep", || asleep() == 2);
    engine.ok(&["task", "kill", "--all", "--signal", "TERM", "job"]);
    eventually("all others have ended", || asleep() == 1);
    assert_eq!(engine.status("job").as_deref(), Some("RUNNING"));

    engine.ok(&["task", "kill", "--signal", "KILL", "job"]);
    eventually("the killed task has stopped", || {
        engine.status("job").as_deref() == Some("STOPPED")
    });
    let removed = engine.run(&["task", "rm", "job"], b"");
    assert!(text(&removed.stderr).contains("137"), "{removed:?}");
    engine.ok(&["container", "rm", "job"]);
    engine.shows("kill, pause, resume");
}

fn shares_of_the_host(release: Release) {
    let engine = Containerd::start(release);
    let folder = engine.folder("volume");
    std::fs::write(folder.join("from-host"), "host\n").expect("written");
    let writable = format!(
        "type=bind,src={},dst=/rw,options=rbind:rw",
        folder.display()
    );
    let read_only = format!(
        "type=bind,src={},dst=/ro,options=rbind:ro",
        folder.display()
    );
    let file = format!(
        "type=bind,src={},dst=/etc/motd,options=bind:ro",
        folder.join("from-host").display()
    );
    let script = "cat /rw/from-host /etc/motd; echo guest > /rw/from-guest; \
                  (echo x > /ro/y) 2>/dev/null || echo refused; cat /ro/from-guest";
    let output = engine.container(
        &[
            "--rm", "--mount", &writable, "--mount", &read_only, "--mount", &file,
        ],
        "mounts",
        &["sh", "-c", script],
        b"",
    );
    assert_eq!(
        text(&output.stdout),
        "host\nhost\nrefused\nguest\n",
        "{output:?}"
    );
    let written = std::fs::read_to_string(folder.join("from-guest")).expect("written by the guest");
    assert_eq!(written, "guest\n");
    engine.shows("bind mounts, writable and not, folders and files");

    let device = "type=bind,src=/dev/null,dst=/x,options=rbind:ro";
    let refused = engine.container(&["--rm", "--mount", device], "refused", &["true"], b"");
    let error = text(&refused.stderr);
    assert!(
        !refused.status.success() && error.contains("(/x)"),
        "{error}"
    );

    let rootfs = engine.folder("rootfs");
    std::fs::create_dir(rootfs.join("bin")).expect("a folder");
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
    let rootfs = rootfs.to_string_lossy().into_owned();
    let uname = engine.ok(&[
        "run",
        "--rm",
        "--runtime",
        RUNTIME,
        "--rootfs",
        &rootfs,
        "plain",
        "/bin/busybox",
        "uname",
        "-r",
    ]);
    assert!(uname.starts_with("6.12."), "{uname}");
    engine.shows("--rootfs");
}

/// Names of the annotations with a container's kind and the pod's id.
const PODS: [(&str, &str); 2] = [
    (
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    ),
    (
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.cri-o.SandboxID",
    ),
];

fn a_pod_is_one_machine(release: Release) {
    let engine = Containerd::start(release);
    for (kind, pod) in PODS {
        let kind = |value: &str| format!("{kind}={value}");
        let (sandbox, member) = (kind("sandbox"), kind("container"));
        let pod = format!("{pod}=pod");
        let start = |flags: &[&str], kind: &str, name: &str, script: &str| {
            let mut all = vec!["--annotation", kind, "--annotation", &pod];
            all.extend(flags);
            engine.container(&all, name, &["sh", "-c", script], b"")
        };
        let run = |flags: &[&str], kind: &str, name: &str, script: &str| {
            let output = start(flags, kind, name, script);
            assert!(output.status.success(), "{name}: {output:?}");
            text(&output.stdout)
        };
        let lost = start(&["--rm"], &member, "lost", "true");
        let error = text(&lost.stderr);
        assert!(
            error.contains("the pod pod has no running sandbox"),
            "{error}"
        );
        run(&["-d"], &sandbox, "pod", "never run");
        run(
            &["-d"],
            &member,
            "server",
            "while true; do echo served | nc -l -p 7000; done",
        );
        let script = "until nc 127.0.0.1 7000 < /dev/null; do usleep 20000; done";
        assert_eq!(run(&["--rm"], &member, "client", script), "served\n");
        assert_eq!(engine.processes(&["qemu-system"]).len(), 1, "one machine");

        for name in ["server", "pod"] {
            engine.ok(&["task", "kill", "--signal", "KILL", name]);
            eventually("it has stopped", || {
                engine.status(name).as_deref() == Some("STOPPED")
            });
            engine.run(&["task", "rm", name], b"");
            engine.ok(&["container", "rm", name]);
        }
        eventually("the machine ends with its pod", || {
            engine.processes(&["qemu-system"]).is_empty()
        });
    }
    engine.shows("pods by annotations: one machine, one localhost");
}

fn the_host_counts_the_machine(release: Release) {
    let engine = Containerd::start(release);
    let start = |name: &str, cgroup: &str| {
        let flags = ["-d", "--cgroup", cgroup];
        let started = engine.container(&flags, name, &["sleep", "1000"], b"");
        assert!(started.status.success(), "{started:?}");
    };
    let counted_in = |place: &str| {
        let found = engine.cgroups();
        assert!(!found.is_empty(), "there is a cgroup");
        let machine = engine.processes(&["qemu-system"])[0].to_string();
        for folder in found {
            let list = folder.join(place).join("cgroup.procs");
            let processes = std::fs::read_to_string(list).expect("a list");
            assert!(
                processes.lines().any(|pid| pid == machine),
                "{folder:?}: {processes}"
            );
        }
    };
    let gone_with = |what: &str| {
        eventually(&format!("the cgroups go with the {what}"), || {
            engine.cgroups().is_empty()
        });
    };
    let remove = |name: &str| {
        engine.remove(name);
        gone_with("container");
    };
    let cgroup = format!("/{}/one", engine.cgroup_name());
    start("counted", &cgroup);
    counted_in("one");
    remove("counted");

    start("killed", &cgroup);
    kill(engine.processes(&["containerd-shim"])[0], "KILL");
    eventually("the engine notices", || engine.status("killed").is_none());
    engine.ok(&["container", "rm", "killed"]);
    gone_with("shim");
    engine.shows("the cgroup of the host that was named");

    let slice = engine.slice_name();
    start("sliced", &format!("{slice}:cri-containerd:one"));
    counted_in("cri-containerd-one.scope");
    remove("sliced");
    engine.shows("the cgroup of the host that was named as systemd names it");
}

fn the_engine_restarts(release: Release) {
    let mut engine = Containerd::start(release);
    let log = engine.folder("log").join("output");
    let uri = format!("file://{}", log.display());
    let script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); usleep 5000; done; sleep 1000";
    let output = engine.container(
        &["-d", "--log-uri", &uri],
        "lasting",
        &["sh", "-c", script],
        b"",
    );
    assert!(output.status.success(), "{output:?}");
    engine.restart();
    let expected: String = (0..400).map(|number| format!("{number}\n")).collect();
    eventually("all output has come", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text == expected)
    });
    assert_eq!(engine.status("lasting").as_deref(), Some("RUNNING"));
    let exec = engine.ok(&[
        "task",
        "exec",
        "--exec-id",
        "after",
        "lasting",
        "echo",
        "here",
    ]);
    assert_eq!(exec, "here\n");
    engine.shows("file:// log, engine restarts meanwhile");
    engine.remove("lasting");
}

fn a_terminal_outlives_the_engine(release: Release) {
    let mut engine = Containerd::start(release);
    let run = ["run", "-d", "-t", "--runtime", RUNTIME, IMAGE, "tty", "sh"];
    Terminal::start(&engine.command(&run), 33, 99).expect_end(0);
    engine.restart();
    let attach = engine.command(&["task", "attach", "tty"]);
    use_shell(Terminal::start(&attach, 44, 111));
    engine.shows("a terminal, attached after the engine was restarted");
    engine.remove("tty");
}

fn a_program_keeps_the_output(release: Release) {
    let engine = Containerd::start(release);
    let folder = engine.folder("logger");
    let program = folder.join("program");
    // As containerd's documentation has it: outputs at 3 and 4, and 5 is closed when all is ready.
    let script = "#!/bin/sh\nfolder=$2\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $1\" >$folder/who\n\
                  exec 5>&-\ncat <&3 >$folder/out &\ncat <&4 >$folder/err\nwait\n";
    std::fs::write(&program, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("executable");
    let uri = format!("binary://{}?folder={}", program.display(), folder.display());
    let started = engine.container(
        &["-d", "--log-uri", &uri],
        "kept",
        &["sh", "-c", "seq 20000; echo err >&2"],
        b"",
    );
    assert!(started.status.success(), "{started:?}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    eventually("all output has come", || {
        read("out") == expected && read("err") == "err\n"
    });
    assert_eq!(read("who"), "default kept folder\n");
    eventually("the container has stopped", || {
        engine.status("kept").as_deref() == Some("STOPPED")
    });
    engine.ok(&["task", "rm", "kept"]);
    engine.ok(&["container", "rm", "kept"]);
    engine.shows("binary:// log");
}
