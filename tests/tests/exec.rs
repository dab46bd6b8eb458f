//! `caisson exec`.

use caisson_end_to_end::{Caisson, eventually, text};

fn idle(caisson: &Caisson, flags: &[&str]) {
    let begin = ["run", "-d", "--name", "box"].iter().chain(flags);
    caisson.ok(begin.chain(&["busybox", "sleep", "1000"]));
}

#[test]
fn a_second_program_shares_the_containers_world() {
    let caisson = Caisson::new();
    idle(
        &caisson,
        &["-e", "FROM_RUN=1", "-w", "/tmp", "--hostname", "shared"],
    );
    let script = "hostname; pwd; echo $FROM_RUN; cat /proc/1/comm; echo data > file";
    let printed = caisson.ok(["exec", "box", "sh", "-c", script]);
    assert_eq!(printed, "shared\n/tmp\n1\nsleep\n");
    assert_eq!(caisson.ok(["exec", "box", "cat", "/tmp/file"]), "data\n");
    // It is counted against the same limits.
    let cgroups = caisson.ok(["exec", "box", "cat", "/proc/self/cgroup", "/proc/1/cgroup"]);
    let lines: Vec<_> = cgroups.lines().collect();
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn flags_change_folder_variables_and_user() {
    let caisson = Caisson::new();
    idle(&caisson, &["-e", "A=run", "-e", "B=run"]);
    let script = "pwd; echo $A $B; id -u; id -g";
    let printed = caisson.ok([
        "exec", "-w", "/usr/bin", "-e", "A=exec", "-u", "nobody:0", "box", "sh", "-c", script,
    ]);
    assert_eq!(printed, "/usr/bin\nexec run\n65534\n0\n");
}

#[test]
fn exit_codes_and_streams_are_those_of_the_program() {
    let caisson = Caisson::new();
    idle(&caisson, &[]);
    caisson.fails(3, ["exec", "box", "sh", "-c", "exit 3"]);
    caisson.fails(137, ["exec", "box", "sh", "-c", "kill -9 $$"]);
    let error = caisson.fails(127, ["exec", "box", "no-such-program"]);
    assert!(error.contains("no-such-program"), "{error}");
    caisson.fails(126, ["exec", "box", "/etc/passwd"]);
    let output = caisson.run(["exec", "box", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("out\n".into(), "err\n".into())
    );
    let bytes: Vec<u8> = (0..4 << 20).map(|n: u32| (n >> 3) as u8).collect();
    let output = caisson.run_with_input(["exec", "-i", "box", "cat"], &bytes);
    assert!(output.stdout == bytes, "{} bytes", output.stdout.len());
    let output = caisson.run_with_input(["exec", "box", "cat"], b"not read");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn a_detached_program_goes_on_alone() {
    let caisson = Caisson::new();
    idle(&caisson, &[]);
    caisson.ok([
        "exec",
        "-d",
        "box",
        "sh",
        "-c",
        "echo done > /tmp/mark; sleep 1000",
    ]);
    eventually("its mark", || {
        caisson.run(["exec", "box", "cat", "/tmp/mark"]).stdout == b"done\n"
    });
    // The shell becomes `sleep`; in the middle of that it has no arguments to show.
    eventually("it goes on", || {
        let processes = caisson.ok(["exec", "box", "ps"]);
        processes.matches("sleep 1000").count() == 2
    });
}

#[test]
fn a_program_has_no_more_rights_than_the_container() {
    let caisson = Caisson::new();
    idle(&caisson, &[]);
    let rights = "grep -E 'CapEff|Seccomp:' /proc/self/status";
    let printed = caisson.ok(["exec", "box", "sh", "-c", rights]);
    assert_eq!(printed, "CapEff:\t00000000a80425fb\nSeccomp:\t2\n");
    let printed = caisson.ok(["exec", "--privileged", "box", "sh", "-c", rights]);
    assert_eq!(printed, "CapEff:\t000001ffffffffff\nSeccomp:\t0\n");
    let printed = caisson.ok(["exec", "-u", "nobody", "box", "sh", "-c", rights]);
    assert_eq!(printed, "CapEff:\t0000000000000000\nSeccomp:\t2\n");
}

#[test]
fn many_programs_run_side_by_side() {
    let caisson = Caisson::new();
    idle(&caisson, &[]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let caisson = &caisson;
            scope.spawn(move || {
                let script = format!("sleep 1; echo {number}");
                assert_eq!(
                    caisson.ok(["exec", "box", "sh", "-c", &script]),
                    format!("{number}\n")
                );
            });
        }
    });
    // None is left behind.
    assert!(!caisson.ok(["exec", "box", "ps"]).contains("sleep 1\n"));
}

#[test]
fn what_does_not_run_cannot_be_joined() {
    let caisson = Caisson::new();
    let error = caisson.fails(125, ["exec", "nobody", "true"]);
    assert!(error.contains("no such container: nobody"), "{error}");
    caisson.ok(["create", "--name", "box", "busybox", "sleep", "1000"]);
    let error = caisson.fails(125, ["exec", "box", "true"]);
    assert!(error.contains("box is not running (created)"), "{error}");
    caisson.ok(["start", "box"]);
    caisson.ok(["pause", "box"]);
    let error = caisson.fails(125, ["exec", "box", "true"]);
    assert!(error.contains("caisson unpause"), "{error}");
    caisson.ok(["kill", "box"]);
}

#[test]
fn the_end_of_the_container_ends_its_programs() {
    let caisson = Caisson::new();
    idle(&caisson, &[]);
    let child = caisson
        .command(["exec", "box", "sleep", "1000"])
        .spawn()
        .expect("a command");
    eventually("it runs", || {
        caisson
            .ok(["exec", "box", "ps"])
            .matches("sleep 1000")
            .count()
            == 2
    });
    caisson.ok(["kill", "box"]);
    assert_eq!(caisson_end_to_end::wait(child).code(), Some(137));
}
