//! Forks of a template: that they are the normal case, and what happens to a template that is no
//! good.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use caisson_end_to_end::image::initramfs;
use caisson_end_to_end::{Caisson, eventually, kill, text, wait};

/// How the machine of a `run --timing` began.
fn origin(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let line = said
        .lines()
        .find(|line| line.starts_with("forked from template ") || line.starts_with("booted: "));
    line.unwrap_or_else(|| panic!("no line tells how the machine began: {said}"))
        .to_owned()
}

fn run_timed(caisson: &Caisson, script: &str) -> Output {
    caisson.run(["run", "--rm", "--timing", "busybox", "sh", "-c", script])
}

/// Folders of the templates of an installation.
fn templates(caisson: &Caisson) -> Vec<PathBuf> {
    fs::read_dir(caisson.root().join("templates"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("template.json").exists())
        .collect()
}

#[test]
fn forks_are_the_normal_case() {
    let caisson = Caisson::new();
    let first = origin(&run_timed(&caisson, "true"));
    assert!(first.starts_with("forked from template "), "{first}");
    let again = origin(&run_timed(&caisson, "true"));
    assert_eq!(again, first);

    let listed = caisson.ok(["template", "ls", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one template");
    let key = listed["key"].as_str().expect("a key");
    assert!(first.contains(&key[..12]), "{first}: {key}");
    assert_eq!(caisson.ok(["template", "build"]).trim(), key);
    assert_eq!(caisson.ok(["template", "rm", &key[..6]]).trim(), key);
    assert!(templates(&caisson).is_empty());
    caisson.fails(125, ["template", "rm", key]);

    let mut command = caisson.command(["run", "--rm", "--timing", "busybox", "true"]);
    let output = command.env("CAISSON_TEMPLATE", "off").output();
    let booted = origin(&output.expect("it runs"));
    assert!(
        booted.starts_with("booted: templates are off; "),
        "{booted}"
    );
    assert!(templates(&caisson).is_empty());
}

#[test]
fn forks_begin_as_copies_of_a_process_unless_that_is_not_wanted() {
    let caisson = Caisson::new();
    for (template, program) in [
        ("auto", "caisson-devices"),
        ("state", "qemu-system-x86_64"),
        ("auto", "caisson-devices"),
    ] {
        let start = ["run", "-d", "--name", "one", "busybox", "sleep", "1000"];
        let mut command = caisson.command(start);
        let output = command.env("CAISSON_TEMPLATE", template).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (executed, arguments) = caisson.qemu("one");
        assert_eq!(executed, program, "{template}");
        assert!(arguments.contains("guest=one"), "{arguments}");
        assert_eq!(caisson.ok(["exec", "one", "echo", "here"]), "here\n");
        caisson.ok(["rm", "-f", "one"]);
    }
    // It is one template, whatever its forks begin as.
    let listed = caisson.ok(["template", "ls", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one template");
    assert_eq!(listed["forks"], "process copies");
}

#[test]
fn a_fork_leaves_nothing_in_its_template() {
    let caisson = Caisson::new();
    let volume = caisson.folder("volume");
    fs::write(volume.join("secret"), "planted").expect("written");
    caisson.ok(["template", "build"]);
    let template = templates(&caisson).pop().expect("a template");
    let memory = template.join("memory");
    let before = memory
        .metadata()
        .expect("metadata")
        .modified()
        .expect("a time");
    // Once with a copy of the memory (there is a volume), once on the template's own. The
    // shell makes the word, so that the host's command line does not hold it.
    let script = "a=plan; for i in $(seq 5000); do echo ${a}ted-secret-$i; done > /tmp/x; sync";
    let mount = format!("{}:/v", volume.display());
    for flags in [vec!["-v", mount.as_str()], Vec::new()] {
        let command = ["run", "--rm"].into_iter().chain(flags);
        caisson.ok(command.chain(["busybox", "sh", "-c", script]));
    }
    let metadata = memory.metadata().expect("metadata");
    assert_eq!(metadata.modified().expect("a time"), before);
    let holds = |name: &str, word: &[u8]| {
        let bytes = fs::read(template.join(name)).expect("memory");
        bytes.windows(word.len()).any(|window| window == word)
    };
    assert!(holds("memory", b"Linux version"), "this is a guest's");
    assert!(holds("pages", b"qemu-system-"), "this is QEMU's");
    for name in ["memory", "pages"] {
        assert!(
            !holds(name, b"planted-secret-"),
            "a workload's page is in the template's {name}"
        );
    }
}

#[test]
fn a_template_whose_memory_is_rubbish_is_replaced_by_a_boot() {
    let caisson = Caisson::new();
    caisson.ok(["template", "build"]);
    let template = templates(&caisson).pop().expect("a template");
    let memory = template.join("memory");
    let file = File::options()
        .write(true)
        .open(&memory)
        .expect("the memory");
    let rubbish = vec![0xff; 1 << 20];
    for mebibyte in 0..64 {
        file.write_all_at(&rubbish, mebibyte << 20)
            .expect("written");
    }
    drop(file);
    // As with a disk that lost what was written, nothing shows it from outside.
    let metadata = memory.metadata().expect("metadata");
    let identity = format!(
        "device {} inode {} size {} modified {}.{:09} changed {}.{:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    );
    let description = template.join("template.json");
    let text_of = fs::read_to_string(&description).expect("a description");
    let mut json: serde_json::Value = serde_json::from_str(&text_of).expect("JSON");
    json["memory"] = identity.into();
    fs::write(&description, json.to_string()).expect("written");
    let mut command = caisson.command(["run", "--rm", "--timing", "busybox", "echo", "here"]);
    let output = command.env("CAISSON_BOOT_DEADLINE", "20").output();
    let output = output.expect("it runs");
    let began = origin(&output);
    assert!(
        began.starts_with("booted: a fork did not come up: "),
        "{began}"
    );
    assert_eq!(text(&output.stdout), "here\n");
    assert!(templates(&caisson).is_empty(), "it is removed");
    assert!(origin(&run_timed(&caisson, "true")).starts_with("forked "));
}

#[test]
fn a_template_that_was_tampered_with_is_made_anew() {
    let caisson = Caisson::new();
    let first = origin(&run_timed(&caisson, "true"));
    for (name, content) in [
        ("state", &b"rubbish"[..]),
        ("memory", b"short"),
        ("pages", b"short"),
        ("process.json", b"{}"),
        ("given.json", b"[]"),
        ("template.json", b"{"),
    ] {
        let template = templates(&caisson).pop().expect("a template");
        fs::write(template.join(name), content).expect("written");
        assert_eq!(origin(&run_timed(&caisson, "true")), first, "{name}");
    }
}

#[test]
fn a_maker_that_is_killed_leaves_nothing_that_stays() {
    let caisson = Caisson::new();
    let new = caisson.root().join("templates/.new");
    // Of a guest that says nothing, a template is never whole.
    let silent = initramfs(&caisson.folder("guest"), "while :; do :; done");
    let child = caisson
        .command(["template", "build"])
        .env("CAISSON_INITRAMFS", &silent)
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("a template is being made", || {
        let machine = |pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.starts_with("qemu-system"))
        };
        new.join("memory").exists() && caisson.processes().into_iter().any(machine)
    });
    kill(child.id(), "KILL");
    wait(child);
    eventually("its machine has ended", || caisson.processes().is_empty());
    assert!(templates(&caisson).is_empty());
    assert!(new.exists(), "it was killed in the middle");

    // Whoever comes first now makes it, the others wait for that one.
    let children: Vec<_> = (0..3)
        .map(|_| {
            caisson
                .command(["run", "--rm", "--timing", "busybox", "true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts")
        })
        .collect();
    let origins: BTreeSet<_> = children
        .into_iter()
        .map(|child| origin(&child.wait_with_output().expect("it ends")))
        .collect();
    assert_eq!(origins.len(), 1, "{origins:?}");
    assert!(origins.first().expect("one").starts_with("forked "));
    assert_eq!(templates(&caisson).len(), 1);
    assert!(!new.exists());
}

#[test]
fn a_failure_to_make_one_is_no_obstacle() {
    let caisson = Caisson::new();
    // A file where the folder should be.
    fs::write(caisson.root().join("templates"), "").expect("written");
    let output = run_timed(&caisson, "true");
    let began = origin(&output);
    assert!(
        began.starts_with("booted: cannot lock the templates"),
        "{began}"
    );
}

#[test]
fn time_goes_on_in_a_fork() {
    let caisson = Caisson::new();
    let script = "a=$(cut -d' ' -f1 /proc/uptime); sleep 2; b=$(cut -d' ' -f1 /proc/uptime); \
        cat /sys/devices/system/clocksource/clocksource0/current_clocksource; echo $a $b; dmesg";
    caisson.ok(["template", "build"]);
    let begin = Instant::now();
    let said = caisson.ok(["run", "--rm", "--privileged", "busybox", "sh", "-c", script]);
    let took = begin.elapsed();
    let mut lines = said.lines();
    let source = lines.next().expect("a clock source");
    assert!(source.starts_with("tsc"), "{source}");
    let times: Vec<f64> = lines
        .next()
        .expect("two times")
        .split(' ')
        .map(|time| time.parse().expect("seconds"))
        .collect();
    let slept = Duration::from_secs_f64(times[1] - times[0]);
    // No more time has gone by in the guest than for us, who have waited for all of it. The
    // clock of /proc/uptime has hundredths.
    let longest = took + Duration::from_millis(50);
    assert!(slept >= Duration::from_millis(1900), "{slept:?}");
    assert!(slept <= longest, "{slept:?} of {took:?}");
    assert!(!said.contains("Marking TSC unstable"), "{said}");
}
