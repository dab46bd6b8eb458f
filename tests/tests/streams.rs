//! Standard input, output and error between the user and the container.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};

use caisson_end_to_end::{Caisson, eventually, text, wait};

/// Bytes that look like nothing, the same each time.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            // Marsaglia's xorshift64.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }

    fn bytes(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Self(88_172_645_463_325_252).fill(&mut bytes);
        bytes
    }
}

#[test]
fn binary_data_passes_unchanged_both_ways() {
    let caisson = Caisson::new();
    let bytes = Noise::bytes(64 << 20);
    let output = caisson.run_with_input(["run", "--rm", "-i", "busybox", "cat"], &bytes);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        output.stdout == bytes,
        "{} bytes came back of {}",
        output.stdout.len(),
        bytes.len()
    );
}

/// The name of a process and the most that it has had in memory, in bytes (`VmHWM`, proc(5));
/// nothing of one that has ended.
fn most_memory(pid: u32) -> Option<(String, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
    };
    let most: u64 = field("VmHWM:")?.parse().expect("a number");
    Some((field("Name:")?.to_owned(), most << 10))
}

fn write_noise(mut to: ChildStdin, length: u64) -> ChildStdin {
    let mut noise = Noise(1);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..length >> 20 {
        noise.fill(&mut buffer);
        to.write_all(&buffer).expect("written");
    }
    to
}

fn compare_noise(from: &mut ChildStdout, length: u64) {
    let mut noise = Noise(1);
    let (mut expected, mut found) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for part in 0..length >> 20 {
        noise.fill(&mut expected);
        from.read_exact(&mut found).expect("read");
        assert!(found == expected, "MiB {part} differs");
    }
}

#[test]
fn a_gibibyte_goes_through_with_bounded_memory() {
    const LENGTH: u64 = 1 << 30;
    let caisson = Caisson::new();
    let mut child = caisson
        .command([
            "run", "--rm", "-i", "-m", "64m", "--name", "pipe", "busybox", "cat",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a command");
    let stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    let writer = std::thread::spawn(move || write_noise(stdin, LENGTH));
    compare_noise(&mut stdout, LENGTH);
    let stdin = writer.join().expect("a writer");
    // All has gone through, and everybody is still there to be asked.
    let mut looked_at = Vec::new();
    for (name, most) in caisson.processes().into_iter().filter_map(most_memory) {
        let limit = if name.starts_with("qemu") {
            400 << 20
        } else {
            64 << 20
        };
        assert!(most < limit, "{name} had {} MiB", most >> 20);
        looked_at.push(name);
    }
    assert!(
        looked_at.len() >= 4,
        "command, supervisor, devices, QEMU: {looked_at:?}"
    );
    drop(stdin);
    assert!(wait(child).success());
    assert_eq!(stdout.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn the_end_of_input_arrives() {
    let caisson = Caisson::new();
    let output = caisson.run_with_input(["run", "--rm", "-i", "busybox", "wc", "-c"], b"12345");
    assert_eq!(text(&output.stdout), "5\n");
    // Without -i, there is nothing to read at all.
    let output = caisson.run_with_input(["run", "--rm", "busybox", "wc", "-c"], b"12345");
    assert_eq!(text(&output.stdout), "0\n");
}

#[test]
fn streams_are_told_apart() {
    let caisson = Caisson::new();
    let script = "echo out; echo err >&2";
    let output = caisson.run(["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn nothing_is_lost_when_both_streams_go_into_one_file() {
    let caisson = Caisson::new();
    let path = caisson.folder("output").join("both");
    let file = File::create(&path).expect("a file");
    let script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let child = caisson
        .command(["run", "--rm", "busybox", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a copy"))
        .stderr(file)
        .spawn()
        .expect("a command");
    assert!(wait(child).success());
    let written = std::fs::read_to_string(&path).expect("text");
    for stream in ["out", "err"] {
        let lines: Vec<_> = written
            .lines()
            .filter(|line| line.starts_with(stream))
            .collect();
        let expected: Vec<_> = (0..500)
            .map(|number| format!("{stream} {number}"))
            .collect();
        assert_eq!(lines, expected);
    }
    assert_eq!(written.lines().count(), 1000);
}

#[test]
fn the_last_words_of_a_program_are_not_lost() {
    let caisson = Caisson::new();
    let script = "head -c 3000000 /dev/zero; echo -n end";
    let output = caisson.run(["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(output.stdout.len(), 3_000_003);
    assert!(output.stdout.ends_with(b"end"));
}

#[test]
fn a_reader_that_leaves_early_ends_the_writer() {
    let caisson = Caisson::new();
    let mut child = caisson
        .command([
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "yes; echo yes: $? >&2",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a command");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut some = [0; 1024];
    stdout.read_exact(&mut some).expect("read");
    drop(stdout);
    let mut stderr = child.stderr.take().expect("a pipe");
    assert!(wait(child).success());
    // 141: as in a shell's pipeline, the writer is told by SIGPIPE.
    let mut error = String::new();
    stderr.read_to_string(&mut error).expect("read");
    assert_eq!(error, "yes: 141\n");
}

#[test]
fn a_program_that_reads_nothing_does_not_hold_up_the_writer() {
    let caisson = Caisson::new();
    let bytes = vec![b'x'; 4 << 20];
    let output = caisson.run_with_input(["run", "--rm", "-i", "busybox", "true"], &bytes);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn an_interactive_program_answers_line_by_line() {
    let caisson = Caisson::new();
    let mut child = caisson
        .command(["run", "--rm", "-i", "busybox", "sh"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a command");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    for number in 1..=3 {
        writeln!(stdin, "echo line $(({number} * 2))").expect("written");
        let expected = format!("line {}\n", number * 2);
        let mut line = vec![0; expected.len()];
        stdout.read_exact(&mut line).expect("read");
        assert_eq!(text(&line), expected);
    }
    writeln!(stdin, "exit 5").expect("written");
    assert_eq!(wait(child).code(), Some(5));
}

#[test]
fn a_command_without_streams_still_runs_a_container() {
    let caisson = Caisson::new();
    let output = std::process::Command::new("sh")
        .args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"])
        .arg(caisson.command(["x"]).get_program())
        .args(
            caisson
                .command(["run", "--name", "closed", "busybox", "echo", "hello"])
                .get_args(),
        )
        .envs(
            caisson
                .command(["x"])
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .status()
        .expect("a command");
    assert!(output.success(), "{output}");
    eventually("its output is in the log", || {
        caisson.ok(["logs", "closed"]) == "hello\n"
    });
}
