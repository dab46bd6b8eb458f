//! A process with threads, handlers and memory of all kinds is written, goes on, and has
//! copies that go on by themselves. As root: to read a process's filters takes it.

mod counter;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use caisson_checkpoint::{Copy, Error, Given, Image, TUNABLES, freeze};

use self::counter::{MEMORY, SLACK, SOCKET};

/// What this program is to be, and numbers of descriptors of a copy.
const ROLE: &str = "CAISSON_CHECKPOINT_ROLE";
const IMAGE: RawFd = 600;
const PAGES: RawFd = 601;

/// Above all of them.
const ASIDE: RawFd = 700;

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("counter") => counter::run(),
        Ok(copy) => become_copy(copy == "private"),
        Err(_) => {
            let tests: [(&str, fn()); 8] = [
                ("copies_go_on_by_themselves", copies_go_on_by_themselves),
                ("a_copy_has_copies", a_copy_has_copies),
                (
                    "memory_is_written_by_somebody_else_if_wanted",
                    memory_is_written_by_somebody_else_if_wanted,
                ),
                ("memory_is_shared_if_wanted", memory_is_shared_if_wanted),
                ("threads_are_waited_for", threads_are_waited_for),
                (
                    "what_cannot_be_copied_is_told",
                    what_cannot_be_copied_is_told,
                ),
                ("a_changed_file_is_noticed", a_changed_file_is_noticed),
                ("another_host_is_noticed", another_host_is_noticed),
            ];
            for (name, test) in tests {
                test();
                println!("test {name} ... ok");
            }
        }
    }
}

fn become_copy(private: bool) {
    let file = |number| File::open(format!("/proc/self/fd/{number}")).expect("it was passed");
    let mut bytes = Vec::new();
    file(IMAGE).read_to_end(&mut bytes).expect("read");
    let image: Image = serde_json::from_slice(&bytes).expect("an image");
    let arguments = ["a copy".into(), "of a counter".into()];
    let copy = Copy::prepare(image, file(PAGES)).and_then(|copy| copy.begin(private, &arguments));
    match copy {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

/// A process that counts, or a copy of it.
struct Counter {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl Counter {
    fn new(program: &Path, memory: &File) -> Self {
        Self::spawn(program, "counter", &[(memory, MEMORY)])
    }

    fn copy(written: &Written, memory: &File, private: bool) -> Self {
        let role = if private { "private" } else { "shared" };
        let program = std::env::current_exe().expect("this program");
        let files = [
            (memory, MEMORY),
            (&written.image, IMAGE),
            (&written.pages, PAGES),
        ];
        Self::spawn(&program, role, &files)
    }

    fn spawn(program: &Path, role: &str, files: &[(&File, RawFd)]) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("set");
        let mut passed = vec![(theirs.as_raw_fd(), SOCKET)];
        let files = files.iter();
        passed.extend(files.map(|(file, number)| (file.as_raw_fd(), *number)));
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("GLIBC_TUNABLES", TUNABLES)
            .env(ROLE, role)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: only system calls are made before the program is executed.
        unsafe {
            command.pre_exec(move || {
                // Whoever runs the tests may have left some open.
                let (all, flag) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
                libc::syscall(libc::SYS_close_range, SOCKET, all, flag);
                // First all of them out of the way of the others.
                for (from, _) in &mut passed {
                    *from = libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, ASIDE);
                }
                match passed.iter().all(|(from, to)| libc::dup2(*from, *to) >= 0) {
                    true => Ok(()),
                    false => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().expect("it starts");
        Self {
            child,
            socket: BufReader::new(ours),
        }
    }

    /// Sends a line, and returns the answer's.
    fn ask(&mut self, line: &str) -> String {
        let sent = writeln!(self.socket.get_mut(), "{line}");
        let mut answer = String::new();
        let read = sent.and_then(|()| self.socket.read_line(&mut answer));
        if read.is_err() || answer.is_empty() {
            panic!("{line}: {read:?}; {}", self.last_words());
        }
        answer.trim_end().to_owned()
    }

    /// What it said at its end.
    fn last_words(&mut self) -> String {
        self.child.kill().expect("killed");
        let status = self.child.wait().expect("waited for");
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("read");
        format!("{status} {said}")
    }

    /// How a copy that does not come up says why.
    fn failure(mut self) -> String {
        assert!(!self.child.wait().expect("waited for").success());
        self.last_words()
    }

    fn write(&mut self) -> Result<Written, Error> {
        self.write_with(Given::default())
    }

    fn write_with(&mut self, given: Given<'_>) -> Result<Written, Error> {
        self.ask("add 0");
        let (mut image, pages) = (file(), file());
        let given = Given {
            descriptors: &[0, 1, 2, SOCKET, MEMORY],
            ..given
        };
        let written = freeze(self.child.id(), &given, &pages)?;
        serde_json::to_writer(&mut image, &written).expect("written");
        Ok(Written { image, pages })
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Written {
    image: File,
    pages: File,
}

fn file() -> File {
    tempfile::tempfile().expect("a file")
}

/// A file for memory that the process shares.
fn memory() -> File {
    let memory = file();
    memory.set_len(4096).expect("sized");
    memory
}

fn first_byte(memory: &File) -> u8 {
    let mut byte = [0];
    memory.read_exact_at(&mut byte, 0).expect("read");
    byte[0]
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program")
}

fn copies_go_on_by_themselves() {
    let memory = memory();
    let mut original = Counter::new(&this_program(), &memory);
    assert_eq!(original.ask("add 5"), "5");
    assert_eq!(original.ask("signal"), "1");
    assert_eq!(original.ask("events 3"), "3");
    assert_eq!(original.ask("wiped"), "1");
    let stack = original.ask("stack");
    let written = original.write().expect("written");
    let mut copies = [
        Counter::copy(&written, &memory, true),
        Counter::copy(&written, &memory, true),
    ];
    let arguments = |counter: &Counter| {
        std::fs::read(format!("/proc/{}/cmdline", counter.child.id())).expect("read")
    };
    for (index, copy) in copies.iter_mut().enumerate() {
        assert_eq!(
            copy.ask(&format!("add {}", index + 1)),
            (6 + index).to_string()
        );
        assert_eq!(copy.ask("signal"), "2", "its handlers are there");
        assert_eq!(copy.ask("events 1"), "4", "its event counter is there");
        let number = copy.child.id().to_string();
        assert_eq!(copy.ask("number"), number, "it is somebody else");
        assert_eq!(
            copy.ask("lock"),
            "ok",
            "threads have the numbers that they have"
        );
        assert_eq!(copy.ask("float"), "0.1", "registers of all kinds are there");
        assert_eq!(copy.ask("memory 7"), "7");
        assert_eq!(copy.ask("wiped"), "0", "as in a child");
        assert_eq!(copy.ask("stack"), stack, "its stack for signals is there");
        assert_eq!(copy.ask("forbidden"), "13", "its filters are there");
        assert_eq!(arguments(copy), b"a copy\0of a counter\0");
        let slack = std::fs::read_to_string(format!("/proc/{number}/timerslack_ns"));
        assert_eq!(slack.expect("read").trim_end(), SLACK.to_string());
    }
    // What one of them writes is its own.
    assert_eq!(original.ask("add 0"), "5");
    assert_eq!(first_byte(&memory), 0);
}

fn a_copy_has_copies() {
    let memory = memory();
    let mut original = Counter::new(&this_program(), &memory);
    assert_eq!(original.ask("add 5"), "5");
    let stack = original.ask("stack");
    let mut written = original.write().expect("written");
    // However often.
    for generation in 1..=20 {
        let mut copy = Counter::copy(&written, &memory, true);
        assert_eq!(copy.ask("add 1"), (5 + generation).to_string());
        assert_eq!(copy.ask("signal"), generation.to_string());
        assert_eq!(copy.ask("wiped"), "0", "as in a child");
        assert_eq!(copy.ask("wipe"), "ok");
        assert_eq!(copy.ask("lock"), "ok");
        assert_eq!(copy.ask("stack"), stack);
        assert_eq!(copy.ask("forbidden"), "13");
        assert_eq!(copy.ask("heap"), "ok", "its heap grows where it ends");
        let origin = Given {
            origin: Some(&written.pages),
            ..Given::default()
        };
        let next = copy.write_with(origin).expect("written");
        drop(copy);
        // Nothing is left of what it began with.
        written.pages.set_len(0).expect("truncated");
        written = next;
    }
}

fn memory_is_written_by_somebody_else_if_wanted() {
    let memory = memory();
    let mut original = Counter::new(&this_program(), &memory);
    let first = original.write().expect("written");
    let mut copy = Counter::copy(&first, &memory, true);
    assert_eq!(copy.ask("memory 7"), "7");
    let given = |number| Given {
        memory: number,
        origin: Some(&first.pages),
        ..Given::default()
    };
    let with = copy.write_with(given(None)).expect("written");
    let without = copy.write_with(given(Some(MEMORY))).expect("written");
    memory.write_all_at(&[9], 0).expect("written");
    assert_eq!(Counter::copy(&with, &memory, true).ask("peek"), "7");
    assert_eq!(Counter::copy(&without, &memory, true).ask("peek"), "9");
}

fn memory_is_shared_if_wanted() {
    let memory = memory();
    let mut original = Counter::new(&this_program(), &memory);
    let written = original.write().expect("written");
    let mut copy = Counter::copy(&written, &memory, false);
    assert_eq!(copy.ask("memory 9"), "9");
    assert_eq!(first_byte(&memory), 9);
}

fn threads_are_waited_for() {
    let mut original = Counter::new(&this_program(), &memory());
    assert_eq!(original.ask("busy 200"), "ok");
    let written = original.write().expect("written");
    assert_eq!(original.ask("add 1"), "1");
    let mut copy = Counter::copy(&written, &memory(), true);
    assert_eq!(copy.ask("add 2"), "2");
}

fn what_cannot_be_copied_is_told() {
    let cases = [
        ("pipe", "a descriptor of pipe:"),
        ("timer", "timers"),
        ("busy 1000000", "threads that do not wait"),
    ];
    for (does, expected) in cases {
        let mut original = Counter::new(&this_program(), &memory());
        assert_eq!(original.ask(does), "ok");
        let error = original.write().err().expect("it cannot be copied");
        let said = error.to_string();
        let begins = format!("a copy of the process could not have {expected}");
        assert!(said.starts_with(&begins), "{said}");
        assert_eq!(original.ask("add 1"), "1", "it goes on all the same");
    }
}

fn a_changed_file_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    std::fs::copy(this_program(), &program).expect("copied");
    let mut original = Counter::new(&program, &memory());
    let written = original.write().expect("written");
    drop(original);
    std::fs::remove_file(&program).expect("removed");
    std::fs::copy(this_program(), &program).expect("copied");
    let said = Counter::copy(&written, &memory(), true).failure();
    assert!(said.contains("is another file now"), "{said}");
    std::fs::remove_file(&program).expect("removed");
    let said = Counter::copy(&written, &memory(), true).failure();
    assert!(said.contains("cannot open "), "{said}");
}

fn another_host_is_noticed() {
    let mut original = Counter::new(&this_program(), &memory());
    let written = original.write().expect("written");
    let mut bytes = Vec::new();
    let mut image = File::open(format!("/proc/self/fd/{}", written.image.as_raw_fd()));
    let image = image.as_mut().expect("opened");
    image.read_to_end(&mut bytes).expect("read");
    let mut image: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    image["host"]["kernel"] = "another".into();
    let other = Written {
        image: file(),
        pages: written.pages,
    };
    serde_json::to_writer(&other.image, &image).expect("written");
    let said = Counter::copy(&other, &memory(), true).failure();
    assert!(said.contains("under another kernel"), "{said}");
}
