//! `caisson compare` with real runtimes: its report says what is so, and nothing is left.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use caisson_end_to_end::docker::Docker;
use caisson_end_to_end::{Caisson, eventually, kill, legibility, schema};
use serde_json::Value;

/// A comparison is many commands.
const DEADLINE: Duration = Duration::from_secs(600);

/// What the broken runtime says.
const BROKEN: &str = "broken on purpose";

/// A comparison, with a runtime that is broken (crun) and one that is not installed (runsc).
struct Comparison {
    caisson: Caisson,
    scratch: PathBuf,
    out: PathBuf,
}

impl Comparison {
    fn new() -> Self {
        let caisson = Caisson::without_images();
        Self {
            scratch: caisson.folder("tmp"),
            out: caisson.folder("out"),
            caisson,
        }
    }

    /// Programs of this machine without the runtimes that it may have, and a broken one.
    fn programs(&self) -> PathBuf {
        let folder = self.caisson.folder("programs");
        for name in ["/usr/bin", "/usr/sbin"] {
            for entry in std::fs::read_dir(name).expect("programs").flatten() {
                let name = entry.file_name();
                let theirs = ["crun", "runsc", "containerd-shim-runsc-v1"];
                if theirs.iter().all(|program| name != *program) {
                    let _ = symlink(entry.path(), folder.join(name));
                }
            }
        }
        let crun = folder.join("crun");
        std::fs::write(&crun, format!("#!/bin/sh\necho {BROKEN} >&2\nexit 7\n")).expect("written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&crun, executable).expect("executable");
        folder
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.start_with(arguments, |_| {})
    }

    /// As [`Self::start`], of a command that is changed first.
    fn start_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Child {
        let log = |name: &str| File::create(self.caisson.folder("log").join(name)).expect("a log");
        let mut command: Command = self.caisson.command(["compare"]);
        command
            .args(arguments)
            .arg("--out")
            .arg(&self.out)
            .env("PATH", self.programs())
            .env("TMPDIR", &self.scratch)
            .stdin(Stdio::null())
            .stdout(log("stdout"))
            .stderr(log("stderr"));
        change(&mut command);
        command.spawn().expect("it starts")
    }

    fn said(&self, stream: &str) -> String {
        std::fs::read_to_string(self.caisson.folder("log").join(stream)).expect("a log")
    }

    fn report(&self) -> Value {
        let text = std::fs::read(self.out.join("report.json")).expect("a report");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Whatever a comparison of this process could have left.
    fn nothing_is_left(&self, pid: u32) {
        let prefixes = [format!("caisson-compare-{pid}"), format!("compare-{pid}-")];
        let ours = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        eventually("nothing of the comparison is left", || {
            let places = [
                "/sys/fs/cgroup",
                "/run/netns",
                "/run/containerd/runc",
                "/run/containerd/fifo",
            ];
            let in_places = places
                .iter()
                .flat_map(|place| below(Path::new(place)))
                .filter(|path| ours(path));
            let left: Vec<_> = in_places.chain(below(&self.scratch)).collect();
            left.is_empty() && self.caisson.processes().is_empty()
        });
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let own = self.scratch.to_string_lossy().into_owned();
        assert!(!mounts.contains(&own), "a mount is left");
    }
}

/// Entries of a folder and of its folders.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut all = entries(folder);
    let deeper: Vec<_> = all.iter().flat_map(|path| entries(path)).collect();
    all.extend(deeper);
    all
}

fn wait(mut child: Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if begin.elapsed() > DEADLINE {
            kill(child.id(), "TERM");
            child.wait().expect("ended");
            panic!("a comparison did not end within {DEADLINE:?}");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn row<'a>(report: &'a Value, id: &str) -> &'a Value {
    let sections = report["sections"].as_array().expect("sections");
    let mut rows = sections
        .iter()
        .flat_map(|section| section["rows"].as_array().expect("rows"));
    rows.find(|row| row["id"] == id)
        .unwrap_or_else(|| panic!("there is no row {id}"))
}

fn cell<'a>(report: &'a Value, id: &str, subject: &str) -> &'a Value {
    let cell = &row(report, id)["cells"][subject];
    assert!(cell.is_object(), "{id} has no cell for {subject}");
    cell
}

fn text(report: &Value, id: &str, subject: &str) -> String {
    let cell = cell(report, id, subject);
    let text = cell["value"]["text"].as_str();
    text.unwrap_or_else(|| panic!("{id}, {subject}: {cell}"))
        .to_owned()
}

/// What must be so under any engine; `broken` is what the broken runtime's rows show, if the
/// engine can be told to use it.
fn check(comparison: &Comparison, report: &Value, broken: Option<&str>) {
    assert_eq!(schema::fault(report), None);
    assert_eq!(schema::broken_references(report), Vec::<String>::new());

    for id in ["kernel/version", "kernel/boot-id", "kernel/cmdline"] {
        let host = text(report, id, "host");
        assert_eq!(text(report, id, "runc"), host, "{id}: one kernel");
        assert_ne!(text(report, id, "caisson"), host, "{id}: another kernel");
    }
    let version = std::fs::read_to_string("/proc/version").expect("a version");
    assert_eq!(text(report, "kernel/version", "host"), version.trim_end());
    assert!(text(report, "kernel/version", "caisson").starts_with("Linux version 6.12."));
    for (subject, note) in [("runc", "as the host's"), ("caisson", "not the host's")] {
        assert_eq!(cell(report, "kernel/uname", subject)["note"], note);
    }

    let modules = row(report, "isolation/modules");
    assert_eq!(
        modules["difference"]["between"],
        serde_json::json!(["runc", "caisson"])
    );
    assert!(
        modules["cells"]["host"].is_null(),
        "never host against guest"
    );
    // With this capability each reads the log of its own kernel.
    let log = |subject: &str| text(report, "isolation/dmesg-syslog", subject);
    assert!(log("caisson").contains("6.12.") && !log("runc").contains("6.12."));

    for subject in ["runc", "caisson"] {
        let value = &cell(report, "startup/true", subject)["value"];
        assert_eq!(
            value["samples"].as_array().map(Vec::len),
            Some(3),
            "{value}"
        );
    }
    let relation = &cell(report, "startup/true", "caisson")["value"]["relation"];
    assert_eq!(relation["baseline"], "runc");
    let stages = text(report, "startup/stages", "caisson");
    for stage in ["guest wake-up", "guest boot", "program"] {
        assert!(stages.contains(stage), "{stages}");
    }

    let sections = report["sections"].as_array().expect("sections");
    assert_eq!(sections.len(), 3);
    for section in sections {
        for row in section["rows"].as_array().expect("rows") {
            if !row["cells"]["runc"].is_object() {
                continue;
            }
            let mut all_absent = vec!["runsc"];
            match broken {
                Some(broken) => {
                    let failed = &row["cells"]["crun"]["value"];
                    assert_eq!(failed["kind"], "failed", "{row}");
                    assert!(failed["output"].to_string().contains(broken), "{failed}");
                }
                None => all_absent.push("crun"),
            }
            for name in all_absent {
                let absent = &row["cells"][name]["value"];
                assert_eq!(absent["kind"], "not-installed", "{row}");
                assert!(absent["install"].to_string().contains(name), "{absent}");
            }
            for cell in row["cells"].as_object().expect("cells").values() {
                if let Some(raw) = cell["raw"].as_str() {
                    assert!(comparison.out.join(raw).is_file(), "{raw}");
                }
            }
        }
    }

    let said = comparison.said("stdout");
    assert!(
        said.contains("runsc") && said.contains("report.html"),
        "{said}"
    );
    assert!(said.contains("crun"), "{said}");
}

const QUESTIONS: [&str; 4] = ["--only", "kernel,isolation,startup", "--runs", "3"];

#[test]
fn under_a_containerd_of_its_own() {
    let comparison = Comparison::new();
    let child = comparison.start(&QUESTIONS);
    let pid = child.id();
    let status = wait(child);
    assert!(status.success(), "{status}: {}", comparison.said("stderr"));
    comparison.nothing_is_left(pid);
    let report = comparison.report();
    assert_eq!(report["environment"]["engine"]["name"], "containerd");
    // What a runtime says is lost on the way through the engine.
    check(&comparison, &report, Some("exit status 7"));
    legibility::check(
        &comparison.out.join("report.html"),
        &comparison.caisson.folder("pictures"),
    );
}

#[test]
fn without_an_engine() {
    let comparison = Comparison::new();
    let child = comparison.start(&[&QUESTIONS[..], &["--engine", "caisson"]].concat());
    let pid = child.id();
    let status = wait(child);
    assert!(status.success(), "{status}: {}", comparison.said("stderr"));
    comparison.nothing_is_left(pid);
    let report = comparison.report();
    assert_eq!(report["environment"]["engine"]["name"], "caisson");
    check(&comparison, &report, Some(BROKEN));
}

#[test]
fn under_docker() {
    let docker = Docker::start();
    let images = docker.ok(&["images", "--all", "--quiet"]);
    let comparison = Comparison::new();
    let client = comparison.programs().join("docker");
    // This machine may have one.
    let _ = std::fs::remove_file(&client);
    symlink(Docker::client(), &client).expect("a link");
    let questions = [&QUESTIONS[..], &["--engine", "docker"]].concat();
    let child = comparison.start_with(&questions, |command| {
        command.env("DOCKER_HOST", docker.address());
    });
    let pid = child.id();
    let status = wait(child);
    assert!(status.success(), "{status}: {}", comparison.said("stderr"));
    comparison.nothing_is_left(pid);
    assert_eq!(docker.ok(&["ps", "--all", "--quiet"]), "");
    assert_eq!(docker.ok(&["images", "--all", "--quiet"]), images);
    let report = comparison.report();
    assert_eq!(report["environment"]["engine"]["name"], "docker");
    check(&comparison, &report, None);
}

#[test]
fn an_interrupted_comparison_leaves_nothing() {
    let comparison = Comparison::new();
    let child = comparison.start(&["--only", "startup", "--runs", "60000"]);
    let pid = child.id();
    // In the middle of it: containers have run and others follow.
    eventually("the first containers have run", || {
        comparison.out.join("raw/startup-true-caisson.txt").exists()
    });
    kill(pid, "INT");
    let status = wait(child);
    assert_eq!(status.code(), Some(125));
    assert!(comparison.said("stderr").contains("interrupted"));
    assert!(!comparison.out.join("report.json").exists());
    comparison.nothing_is_left(pid);
}

#[test]
fn what_cannot_be_compared_is_said_at_once() {
    let caisson = Caisson::without_images();
    let out = caisson.folder("out").to_string_lossy().into_owned();
    let compare = |arguments: &[&str]| {
        let all = [&["compare", "--out", &out], arguments].concat();
        caisson.fails(125, all)
    };
    let error = compare(&["--image", "./no-such-image.tar"]);
    assert!(error.contains("./no-such-image.tar"), "{error}");
    assert!(compare(&["--only", "magic"]).contains("isolation"));
    assert!(compare(&["--runtime", "kata"]).contains("kata"));
    assert!(compare(&["--engine", "podman"]).contains("containerd"));
    let docker = caisson.command(["compare", "--engine", "docker", "--out", &out]);
    let mut docker = docker;
    docker.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let output = caisson_end_to_end::output(docker, b"");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(
        error.contains("docker") && error.contains("apt-get install"),
        "{error}"
    );
}
