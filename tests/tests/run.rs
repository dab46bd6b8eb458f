//! `caisson run`, as a Docker user knows it.

use caisson_end_to_end::{Caisson, text};

#[test]
fn the_kernel_is_not_the_hosts() {
    let caisson = Caisson::new();
    let guest = caisson.ok(["run", "--rm", "busybox", "uname", "-r"]);
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the host's release");
    assert!(guest.starts_with("6.12."), "{guest}");
    assert_ne!(guest, host);
}

#[test]
fn exit_codes_are_dockers() {
    let caisson = Caisson::new();
    caisson.fails(7, ["run", "--rm", "busybox", "sh", "-c", "exit 7"]);
    let error = caisson.fails(127, ["run", "--rm", "busybox", "no-such-program"]);
    assert!(error.contains("no-such-program"), "{error}");
    let error = caisson.fails(126, ["run", "--rm", "busybox", "/etc/passwd"]);
    assert!(error.contains("/etc/passwd"), "{error}");
    let error = caisson.fails(126, ["run", "--rm", "busybox", "/etc"]);
    assert!(error.contains("/etc"), "{error}");
    // The first process of a pid namespace cannot kill itself; a shell tells of its child.
    let script = "sh -c 'kill -9 $$'; exit $?";
    caisson.fails(137, ["run", "--rm", "busybox", "sh", "-c", script]);
}

#[test]
fn our_own_failures_are_125() {
    let caisson = Caisson::new();
    let error = caisson.fails(
        125,
        [
            "run",
            "--rm",
            "--pull=never",
            "no-such-image:at-all",
            "true",
        ],
    );
    assert!(error.contains("no-such-image:at-all"), "{error}");
    assert!(error.contains("caisson pull"), "{error}");
    let error = caisson.fails(125, ["run", "--rm", "--no-such-flag", "busybox"]);
    assert!(error.contains("--no-such-flag"), "{error}");
    let error = caisson.fails(
        125,
        ["run", "--rm", "--kernel", "/no/kernel", "busybox", "true"],
    );
    assert!(error.contains("/no/kernel"), "{error}");
    assert_eq!(caisson.ok(["ps", "-a", "-q"]), "");
}

#[test]
fn a_users_mistake_brings_no_backtrace() {
    let caisson = Caisson::new();
    for arguments in [
        &["run", "--rm", "busybox", "no-such-program"][..],
        &["run", "--rm", "--pull=never", "no-such-image"],
        &["run", "-v", "relative:x", "busybox"],
        &["start", "no-such-container"],
    ] {
        let output = caisson
            .command(arguments)
            .env("RUST_BACKTRACE", "1")
            .output()
            .expect("a command");
        let error = text(&output.stderr);
        assert!(!output.status.success() && !error.is_empty());
        assert!(
            !error.contains("backtrace") && !error.contains("panicked"),
            "{error}"
        );
    }
}

#[test]
fn a_container_has_name_host_name_and_files_of_its_own() {
    let caisson = Caisson::new();
    let printed = caisson.shell(
        &[
            "--name",
            "first",
            "--hostname",
            "web.example",
            "--add-host",
            "db:10.0.0.2",
        ],
        "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/resolv.conf",
    );
    assert!(
        printed.starts_with("web.example\nweb.example\n"),
        "{printed}"
    );
    assert!(printed.contains("127.0.0.1\tlocalhost"), "{printed}");
    assert!(printed.contains("10.0.0.2\tdb\n"), "{printed}");
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(printed.ends_with(&resolver), "{printed}");
}

#[test]
fn without_a_name_the_host_is_called_as_the_container() {
    let caisson = Caisson::new();
    let file = caisson.folder("ids").join("id");
    let flags = ["--cidfile", &file.to_string_lossy()];
    // Not by a pipe: who reads it may be there when `ls` looks, or not yet.
    let script = "hostname; ls -A /proc > /tmp/names; grep -c '^[0-9]' /tmp/names; echo $$";
    let printed = caisson.shell(&flags, script);
    let id = std::fs::read_to_string(&file).expect("an id");
    assert_eq!(id.len(), 64);
    // The shell and `ls` are all there is.
    assert_eq!(printed, format!("{}\n2\n1\n", &id[..12]));
    let error = caisson.fails(
        125,
        ["run", "--cidfile", &file.to_string_lossy(), "busybox"],
    );
    assert!(error.contains("--cidfile"), "{error}");
}

#[test]
fn variables_come_from_flags_files_and_here() {
    let caisson = Caisson::new();
    let file = caisson.folder("env").join("file");
    std::fs::write(&file, "# a comment\nFROM_FILE=f\nBOTH=file\nINHERITED\n").expect("written");
    let output = caisson
        .command(["run", "--rm", "--env-file", &file.to_string_lossy()])
        .args([
            "-e",
            "BOTH=flag",
            "-e",
            "GIVEN=a b",
            "-e",
            "HERE",
            "-e",
            "NOT_HERE",
        ])
        .args(["busybox", "env"])
        .env("HERE", "yes")
        .env("INHERITED", "too")
        .env_remove("NOT_HERE")
        .output()
        .expect("a command");
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    for line in [
        "FROM_FILE=f",
        "BOTH=flag",
        "GIVEN=a b",
        "HERE=yes",
        "INHERITED=too",
        "HOME=/root",
    ] {
        assert!(lines.contains(&line), "{line}: {printed}");
    }
    assert!(
        !printed.contains("NOT_HERE") && !printed.contains("BOTH=file"),
        "{printed}"
    );
}

#[test]
fn the_entrypoint_and_the_folder_can_be_replaced() {
    let caisson = Caisson::new();
    let printed = caisson.ok([
        "run",
        "--rm",
        "--workdir",
        "/new/folder",
        "--entrypoint",
        "pwd",
        "busybox",
    ]);
    assert_eq!(printed, "/new/folder\n");
}

#[test]
fn an_init_of_ours_reaps_and_forwards() {
    let caisson = Caisson::new();
    // An orphan that nobody reaps would have its place in /proc for ever.
    let script = "cat /proc/1/comm; echo $$; sh -c 'sleep 0.1 & echo $! > /tmp/orphan'; \
        while [ -e /proc/$(cat /tmp/orphan) ]; do sleep 0.1; done; echo reaped";
    let printed = caisson.shell(&["--init"], script);
    let lines: Vec<_> = printed.lines().collect();
    assert_ne!(lines[0], "sh", "{printed}");
    assert_ne!(lines[1], "1", "{printed}");
    assert_eq!(lines[2], "reaped", "{printed}");
    caisson.fails(
        9,
        ["run", "--rm", "--init", "busybox", "sh", "-c", "exit 9"],
    );
}

#[test]
fn timing_shows_where_a_start_goes() {
    let caisson = Caisson::new();
    let output = caisson.run(["run", "--rm", "--timing", "busybox", "echo", "hello"]);
    assert_eq!(text(&output.stdout), "hello\n");
    let table = text(&output.stderr);
    assert!(
        table
            .lines()
            .next()
            .is_some_and(|line| line.contains("qemu")),
        "{table}"
    );
    for stage in ["STAGE", "container", "program", "teardown", "whole command"] {
        assert!(table.contains(stage), "{stage}: {table}");
    }
}

#[test]
fn a_start_that_fails_says_where_to_look() {
    let caisson = Caisson::new();
    let file = caisson.folder("kernel").join("vmlinux");
    std::fs::copy("/bin/true", &file).expect("an executable that is no kernel");
    let error = caisson.fails(
        125,
        [
            "run",
            "--rm",
            "--kernel",
            &file.to_string_lossy(),
            "busybox",
            "true",
        ],
    );
    assert!(error.starts_with("caisson: "), "{error}");
    assert!(error.len() > "caisson: ".len() + 20, "{error}");
    assert_eq!(caisson.ok(["ps", "-a", "-q"]), "");
}

#[test]
fn version_and_completions_are_there() {
    let caisson = Caisson::without_images();
    assert!(caisson.ok(["version"]).starts_with("caisson "));
    for shell in ["bash", "zsh", "fish"] {
        let script = caisson.ok(["completions", shell]);
        assert!(
            script.contains("caisson") && script.contains("unpause"),
            "{shell}"
        );
    }
}
