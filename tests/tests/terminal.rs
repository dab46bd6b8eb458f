//! `-t`: a container with a terminal.

use caisson_end_to_end::terminal::Terminal;
use caisson_end_to_end::{Caisson, text};

#[test]
fn the_program_has_a_terminal_of_the_users_size() {
    let caisson = Caisson::new();
    let command = caisson.command(["run", "--rm", "-it", "-e", "PS1=ready> ", "busybox", "sh"]);
    let mut terminal = Terminal::start(&command, 33, 101);
    terminal.expect("ready> ");
    terminal.write("tty; stty size; echo TERM=$TERM\r");
    terminal.expect("/dev/pts/0");
    terminal.expect("33 101");
    terminal.expect("TERM=xterm");
    terminal.resize(44, 122);
    // The size arrives a moment later.
    terminal.write("until stty size | grep '44 122'; do :; done; echo resized\r");
    terminal.expect("\nresized");
    terminal.write("exit 42\r");
    terminal.expect_end(42);
}

#[test]
fn the_users_terminal_is_raw_meanwhile_and_restored_afterwards() {
    let caisson = Caisson::new();
    for ending in ["exit 0\r", "kill -9 $PPID; exit 3\r"] {
        let command = caisson.command(["run", "--rm", "-it", "busybox", "sh"]);
        let mut terminal = Terminal::start(&command, 24, 80);
        terminal.expect_raw_mode();
        terminal.expect("# ");
        terminal.write(ending);
        terminal.end();
        assert!(terminal.is_as_before());
    }
    // Also when the container was never started.
    let command = caisson.command(["run", "--rm", "-it", "busybox", "no-such-program"]);
    let mut terminal = Terminal::start(&command, 24, 80);
    terminal.expect_end(127);
    assert!(terminal.is_as_before());
    terminal.expect("no-such-program");
}

#[test]
fn control_c_interrupts_the_program_in_front() {
    let caisson = Caisson::new();
    let command = caisson.command(["run", "--rm", "-it", "-e", "PS1=ready> ", "busybox", "sh"]);
    let mut terminal = Terminal::start(&command, 24, 80);
    terminal.expect("ready> ");
    terminal.write("sh -c 'echo begun; exec sleep 1000'; echo went on\r");
    // Earlier, the key would be the line editor's.
    terminal.expect("\nbegun");
    terminal.write("\x03");
    terminal.expect_times(2, "ready> ");
    terminal.write("trap 'echo caught; exit 6' INT; echo set; while :; do sleep 1; done\r");
    terminal.expect("\nset");
    terminal.write("\x03");
    terminal.expect("caught\r\n");
    terminal.expect_end(6);
}

#[test]
fn control_z_stops_the_containers_job_and_not_us() {
    let caisson = Caisson::new();
    let command = caisson.command(["run", "--rm", "-it", "-e", "PS1=ready> ", "busybox", "sh"]);
    let mut terminal = Terminal::start(&command, 24, 80);
    terminal.expect("ready> ");
    terminal.write("sh -c 'echo begun; exec sleep 1000'\r");
    terminal.expect("\nbegun");
    terminal.write("\x1a");
    terminal.expect("Stopped");
    let state =
        std::fs::read_to_string(format!("/proc/{}/stat", terminal.pid())).expect("a process");
    assert!(!state.contains(") T "), "{state}");
    // A shell with a stopped job wants to be told twice.
    terminal.write("exit 8\rexit 8\r");
    terminal.expect_end(8);
}

#[test]
fn the_end_of_input_is_a_key() {
    let caisson = Caisson::new();
    let command = caisson.command(["run", "--rm", "-it", "busybox", "cat"]);
    let mut terminal = Terminal::start(&command, 24, 80);
    terminal.expect_raw_mode();
    terminal.write("one\r");
    // The echo of the guest's terminal, then what `cat` says.
    terminal.expect("one\r\none\r\n");
    terminal.write("\x04");
    terminal.expect_end(0);
}

#[test]
fn exec_gives_a_terminal_as_well() {
    let caisson = Caisson::new();
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let command = caisson.command(["exec", "-it", "-e", "PS1=ready> ", "box", "sh"]);
    let mut terminal = Terminal::start(&command, 30, 90);
    terminal.expect("ready> ");
    terminal.write("stty size; test -t 0 && test -t 2 && echo three\r");
    terminal.expect("30 90");
    terminal.expect("\nthree");
    terminal.resize(31, 91);
    terminal.write("until stty size | grep '31 91'; do :; done; exit 4\r");
    terminal.expect_end(4);
    assert!(terminal.is_as_before());
}

#[test]
fn a_terminal_without_one_to_type_at_is_refused() {
    let caisson = Caisson::new();
    let error = caisson.fails(125, ["run", "--rm", "-it", "busybox", "true"]);
    assert!(error.contains("not a terminal"), "{error}");
    // Output alone needs none; the guest's terminal ends lines in its own way.
    let output = caisson.run([
        "run",
        "--rm",
        "-t",
        "busybox",
        "sh",
        "-c",
        "test -t 1 && echo yes; echo no >&2",
    ]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("yes\r\nno\r\n".into(), String::new())
    );
}

#[test]
fn a_detached_container_with_a_terminal_can_be_attached_to() {
    let caisson = Caisson::new();
    caisson.ok([
        "run",
        "-dit",
        "--name",
        "shell",
        "-e",
        "PS1=ready> ",
        "busybox",
        "sh",
    ]);
    let mut terminal = Terminal::start(&caisson.command(["start", "-ai", "shell"]), 24, 80);
    terminal.expect_raw_mode();
    terminal.write("echo $((6 * 7)); exit 3\r");
    terminal.expect("42");
    terminal.expect_end(3);
}
