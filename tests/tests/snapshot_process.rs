//! Copies of snapshots that begin as copies of the process that ran the machine, and those that
//! cannot.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use caisson_end_to_end::{Caisson, eventually, text};

/// What QEMU is executed as in a copy of a process, and where it loads a state.
const COPIED: &str = "caisson-devices";
const EXECUTED: &str = "qemu-system-x86_64";

/// A container that says a number, the next one each time.
const COUNTER: &str = "n=0; echo ready; \
    while :; do if [ -e /ask ]; then rm /ask; n=$((n+1)); echo $n > /said; fi; sleep 0.02; done";

fn counter(caisson: &Caisson) {
    caisson.ok([
        "run", "-d", "--name", "first", "busybox", "sh", "-c", COUNTER,
    ]);
    caisson.says("first", "ready");
}

fn count(caisson: &Caisson, container: &str) -> String {
    let ask = "rm -f /said; touch /ask; while ! [ -s /said ]; do sleep 0.02; done; cat /said";
    caisson
        .ok(["exec", container, "sh", "-c", ask])
        .trim()
        .to_owned()
}

/// Starts a copy of a snapshot; what QEMU is executed as in it.
fn copy(caisson: &Caisson, snapshot: &str, name: &str, template: &str) -> String {
    let mut command = caisson.command(["run", "-d", "--name", name, "--from", snapshot]);
    let output = command.env("CAISSON_TEMPLATE", template).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    caisson.qemu(name).0
}

/// The folder of the only snapshot.
fn folder(caisson: &Caisson) -> PathBuf {
    let entries = fs::read_dir(caisson.root().join("snapshots")).expect("snapshots");
    let mut folders = entries.map(|entry| entry.expect("listed").path());
    folders.find(|path| path.is_dir()).expect("a snapshot")
}

#[test]
fn copies_begin_as_copies_of_a_process_unless_that_is_not_wanted() {
    let caisson = Caisson::new();
    counter(&caisson);
    assert_eq!(count(&caisson, "first"), "1");
    caisson.ok(["snapshot", "first", "one"]);
    assert_eq!(copy(&caisson, "one", "copy-a", "auto"), COPIED);
    assert_eq!(copy(&caisson, "one", "copy-b", "state"), EXECUTED);
    for name in ["copy-a", "copy-b", "first"] {
        assert_eq!(count(&caisson, name), "2", "{name}");
    }
    // Copies have copies, also of another that is no more.
    let mut before = "copy-a".to_owned();
    for number in 3..6 {
        let (snapshot, name) = (format!("s{number}"), format!("c{number}"));
        caisson.ok(["snapshot", &before, &snapshot]);
        caisson.ok(["rm", "-f", &before]);
        assert_eq!(copy(&caisson, &snapshot, &name, "auto"), COPIED);
        caisson.ok(["snapshot", "rm", &snapshot]);
        assert_eq!(count(&caisson, &name), number.to_string());
        before = name;
    }
    // One whose state was loaded has no process that could be copied.
    caisson.ok(["snapshot", "copy-b", "state"]);
    assert_eq!(copy(&caisson, "state", "copy-d", "auto"), EXECUTED);
    assert_eq!(count(&caisson, "copy-d"), "3");
}

#[test]
fn a_snapshot_is_of_use_without_its_process() {
    let caisson = Caisson::new();
    counter(&caisson);
    caisson.ok(["snapshot", "first", "s"]);
    let folder = folder(&caisson);
    let remove = |name: &str| caisson.ok(["rm", "-f", name]);
    for name in ["process.json", "given.json", "pages"] {
        assert_eq!(copy(&caisson, "s", "whole", "auto"), COPIED);
        remove("whole");
        let path = folder.join(name);
        let before = fs::read(&path).expect("read");
        fs::write(&path, "[]").expect("written");
        assert_eq!(copy(&caisson, "s", "damaged", "auto"), EXECUTED, "{name}");
        assert_eq!(count(&caisson, "damaged"), "1");
        remove("damaged");
        fs::write(&path, before).expect("written");
    }
    // What is too much to be read each time is told by when it was written.
    assert_eq!(copy(&caisson, "s", "rewritten", "auto"), EXECUTED);
}

/// A container that counts what is sent to it.
const SINK: &str = "echo ready; while :; do nc -l -p 7000 -e sh -c 'wc -c >> /counts'; done";

/// More than fits into one frame, so that one may be on its way in part.
const PIECE: usize = 1 << 20;

/// How long a container may take to take what it is sent: it may stand still meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to a container by its published port, as soon as it listens.
fn connect(caisson: &Caisson, container: &str) -> TcpStream {
    let address = caisson.ok(["port", container, "7000"]);
    let stream = TcpStream::connect(address.trim()).expect("passt takes it");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Sends to a container until it is enough, and counts.
fn flood(caisson: &Caisson, container: &str, sent: &AtomicU64, done: &AtomicBool) {
    let piece = vec![7; PIECE];
    while !done.load(Ordering::SeqCst) {
        let mut stream = connect(caisson, container);
        while !done.load(Ordering::SeqCst)
            && let Ok(taken @ 1..) = stream.write(&piece)
        {
            sent.fetch_add(taken as u64, Ordering::SeqCst);
        }
    }
}

/// Whoever sends is to end, also when a test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_copy_of_a_machine_that_is_sent_much_has_a_network() {
    let caisson = Caisson::new();
    let publish = ["run", "-d", "-p", "127.0.0.1::7000"];
    let first = ["--name", "first", "busybox", "sh", "-c", SINK];
    caisson.ok(publish.iter().chain(&first));
    caisson.says("first", "ready");
    let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&caisson, "first", &sent, &done));
        let _done = SetOnDrop(&done);
        for number in 0..3 {
            let (snapshot, name) = (format!("s{number}"), format!("c{number}"));
            let before = sent.load(Ordering::SeqCst);
            eventually("much is on its way", || {
                sent.load(Ordering::SeqCst) - before > 4 * PIECE as u64
            });
            caisson.ok(["snapshot", "first", &snapshot]);
            let from = ["--name", &name, "--from", &snapshot];
            caisson.ok(publish.iter().chain(&from));
            assert_eq!(caisson.qemu(&name).0, COPIED);
            eventually("the copy takes all of what it is sent", || {
                let mut stream = connect(&caisson, &name);
                let sent = stream.write_all(&vec![7; PIECE]);
                let _ = sent.and_then(|()| stream.shutdown(std::net::Shutdown::Write));
                // Until it has read all, or nothing listens yet.
                let _ = stream.read(&mut [0]);
                let counts = caisson.run(["exec", &name, "cat", "/counts"]);
                let counts = text(&counts.stdout);
                counts.lines().any(|line| line.trim() == PIECE.to_string())
            });
            caisson.ok(["rm", "-f", &name]);
        }
    });
}
