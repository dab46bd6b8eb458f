//! Machines on a real KVM: that it is found and used, and that what works without it works
//! with it. `make kvm` runs this in a machine that has one; so can whoever has one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use caisson_end_to_end::{Caisson, eventually, output, text};

/// How the machine of a `run --timing` began.
fn origin(output: &Output) -> String {
    let said = text(&output.stderr);
    let line = said.lines().find(|line| line.contains("; qemu with "));
    line.unwrap_or_else(|| panic!("no line tells how the machine began: {said}"))
        .to_owned()
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// One installation and one template for all of it: where this runs, both take seconds.
#[test]
#[ignore = "needs a KVM: `make kvm` runs it in a machine that has one"]
fn containers_run_on_kvm() {
    let caisson = Caisson::new();
    kvm_is_chosen(&caisson);
    forks_are_themselves(&caisson);
    a_boot_has_the_processors_and_the_memory_it_was_given(&caisson);
    a_volume_is_shared(&caisson);
    a_copy_goes_on_where_its_snapshot_was(&caisson);
}

fn kvm_is_chosen(caisson: &Caisson) {
    let said = caisson.ok(["doctor"]);
    let chosen = said.lines().find(|line| line.contains("  hypervisor  "));
    let chosen = chosen.unwrap_or_else(|| panic!("no hypervisor: {said}"));
    assert!(chosen.contains("qemu with KVM: /dev/kvm runs"), "{chosen}");
}

fn forks_are_themselves(caisson: &Caisson) {
    let script = "cat /proc/sys/kernel/random/boot_id; hostname; \
        head -c 16 /dev/urandom | od -An -tx1; date +%s; \
        cat /sys/devices/system/clocksource/clocksource0/current_clocksource; exit 3";
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let began = now();
        let output = caisson.run(["run", "--rm", "--timing", "busybox", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        let origin = origin(&output);
        assert!(
            origin.starts_with("forked from template ") && origin.contains("; qemu with KVM: "),
            "{origin}"
        );
        let said = text(&output.stdout);
        let lines: Vec<_> = said.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 5, "{said}");
        for identity in &lines[..3] {
            assert!(seen.insert(identity.to_string()), "{identity} came twice");
        }
        let date: u64 = lines[3].parse().expect("seconds");
        assert!(date + 2 >= began && date <= now() + 2, "{date}");
        assert_eq!(lines[4], "kvm-clock");
    }
}

fn a_boot_has_the_processors_and_the_memory_it_was_given(caisson: &Caisson) {
    let mut command = caisson.command([
        "run",
        "--rm",
        "--timing",
        "--network=none",
        "--cpus=2",
        "--memory=300m",
        "busybox",
        "sh",
        "-ec",
        "nproc; cat /sys/fs/cgroup/memory.max",
    ]);
    command.env("CAISSON_TEMPLATE", "off");
    let output = output(command, b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let origin = origin(&output);
    assert!(
        origin.starts_with("booted: templates are off; qemu with KVM: "),
        "{origin}"
    );
    let expected = format!("2\n{}\n", 300 << 20);
    assert_eq!(text(&output.stdout), expected);
}

fn a_volume_is_shared(caisson: &Caisson) {
    let folder = caisson.folder("volume");
    fs::write(folder.join("question"), "from the host\n").expect("written");
    let mount = format!("{}:/v", folder.display());
    let script = "cat /v/question; echo from the guest > /v/answer";
    let said = caisson.shell(&["--network=none", "-v", &mount], script);
    assert_eq!(said, "from the host\n");
    let answer = fs::read_to_string(folder.join("answer")).expect("an answer");
    assert_eq!(answer, "from the guest\n");
}

/// Also: the network, a published port, `exec`.
fn a_copy_goes_on_where_its_snapshot_was(caisson: &Caisson) {
    // The shell's variable is nowhere but in its memory.
    let script = "word=$(cat /proc/sys/kernel/random/uuid); echo $word > /word; \
        httpd -p 80 -h / && touch /ready; while ! [ -e /ask ]; do sleep 0.1; done; \
        echo $word > /answer; sleep 100000";
    let port = ["-p", "127.0.0.1:8080:80"];
    let flags = ["run", "-d", "--name=first"].into_iter().chain(port);
    caisson.ok(flags.chain(["busybox", "sh", "-c", script]));
    eventually("the program is ready", || {
        let there = caisson.run(["exec", "first", "test", "-e", "/ready"]);
        there.status.success()
    });
    let word = caisson.ok(["exec", "first", "cat", "/word"]);
    assert_eq!(fetch("/word"), Some(word.clone()));

    caisson.ok(["snapshot", "first", "frozen"]);
    let asks = |container: &str| {
        caisson.ok(["exec", container, "touch", "/ask"]);
        eventually("the program answers", || {
            caisson.run(["exec", container, "cat", "/answer"]).stdout == word.as_bytes()
        });
    };
    asks("first");
    caisson.ok(["rm", "-f", "first"]);
    let flags = ["run", "-d", "--name=second"].into_iter().chain(port);
    caisson.ok(flags.chain(["--from", "frozen"]));
    assert_eq!(fetch("/answer"), None, "the copy was not asked yet");
    asks("second");
    assert_eq!(fetch("/answer"), Some(word.clone()));
    caisson.fails(5, ["exec", "second", "sh", "-c", "exit 5"]);
    caisson.ok(["rm", "-f", "second"]);
    caisson.ok(["snapshot", "rm", "frozen"]);
}

/// A file by HTTP; none if the server has no such file.
fn fetch(path: &str) -> Option<String> {
    let mut answer = String::new();
    eventually("the server answers", || {
        answer.clear();
        let Ok(mut stream) = TcpStream::connect("127.0.0.1:8080") else {
            return false;
        };
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.")
    });
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    head.contains(" 200 ").then(|| body.to_owned())
}
