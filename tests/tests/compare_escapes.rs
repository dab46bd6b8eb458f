//! The escapes of `caisson compare`, with real attacks on victims of their own.

use std::path::Path;
use std::sync::LazyLock;

use caisson_end_to_end::comparison::Comparison;
use caisson_end_to_end::{Caisson, eventually, text};

/// Grade on the host, under runc and in Caisson.
const GRADES: [(&str, [&str; 3]); 13] = [
    ("shared-folder", ["shared-by-design"; 3]),
    (
        "read-only-folder",
        ["host-affected", "host-affected", "contained"],
    ),
    ("no-folder", ["host-affected", "contained", "contained"]),
    (
        "release-agent",
        ["host-affected", "host-affected", "contained"],
    ),
    (
        "release-agent-default",
        ["host-affected", "contained", "contained"],
    ),
    (
        "kernel-parameter",
        ["host-affected", "host-affected", "contained"],
    ),
    (
        "kernel-parameter-default",
        ["host-affected", "contained", "contained"],
    ),
    ("disk", ["host-affected", "host-affected", "contained"]),
    ("disk-default", ["host-affected", "contained", "contained"]),
    ("signal", ["host-affected", "host-affected", "contained"]),
    ("descriptor", ["host-affected", "contained", "contained"]),
    ("fork-bomb", ["host-affected", "contained", "contained"]),
    ("memory-bomb", ["host-affected", "contained", "contained"]),
];

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What no comparison may change or leave.
struct Host {
    core_pattern: String,
    lease_break_time: String,
}

/// As it is before any comparison of these tests, which run side by side: during one of them,
/// a parameter is for a moment what the attack makes it.
static HOST: LazyLock<Host> = LazyLock::new(|| Host {
    core_pattern: file("/proc/sys/kernel/core_pattern"),
    lease_break_time: file("/proc/sys/fs/lease-break-time"),
});

impl Host {
    fn is_as_before(&self, caisson: &Caisson) {
        assert_eq!(file("/proc/sys/kernel/core_pattern"), self.core_pattern);
        let time = file("/proc/sys/fs/lease-break-time");
        // Another comparison may be at it right now.
        assert!(time == self.lease_break_time || time == "46\n", "{time}");
        let scratch = caisson.folder("tmp");
        let left = std::fs::read_dir(&scratch).expect("listed").count();
        assert_eq!(left, 0, "files are left in {}", scratch.display());
        // Whoever has one open keeps it.
        eventually("no loop device is left", || {
            let loops = std::process::Command::new("losetup").arg("--list").output();
            let loops = text(&loops.expect("losetup").stdout);
            !loops.contains(&*scratch.to_string_lossy())
        });
    }
}

fn check(engine: &str) {
    let host = &*HOST;
    let caisson = Caisson::without_images();
    let arguments = ["--only", "escapes", "--engine", engine];
    let comparison = Comparison::run(&caisson, &arguments);
    host.is_as_before(&caisson);
    let mut wrong = Vec::new();
    for (row, grades) in GRADES {
        let row = format!("escapes/{row}");
        for (subject, grade) in ["host", "runc", "caisson"].into_iter().zip(grades) {
            if comparison.verdict(&row, subject) != grade {
                wrong.push(format!("{row}: {}", comparison.cell(&row, subject)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Where an attack cannot succeed without a container, nothing is proved by its failure in one.
    for (row, exists) in [
        ("sysrq", "/proc/sysrq-trigger"),
        ("kernel-module", "/proc/modules"),
    ] {
        let grades = if Path::new(exists).exists() {
            ["host-affected", "host-affected", "contained"]
        } else {
            ["set-up-failed"; 3]
        };
        for (subject, grade) in ["host", "runc", "caisson"].into_iter().zip(grades) {
            let row = format!("escapes/{row}");
            let found = comparison.verdict(&row, subject);
            assert_eq!(found, grade, "{}", comparison.cell(&row, subject));
        }
    }

    // Only `caisson run` has overlays.
    let overlay = "escapes/overlay-folder";
    assert_eq!(comparison.verdict(overlay, "host"), "host-affected");
    for subject in ["runc", "caisson"] {
        if (engine, subject) == ("caisson", "caisson") {
            assert_eq!(comparison.verdict(overlay, subject), "contained");
        } else {
            let skipped = comparison.cell(overlay, subject);
            assert_eq!(skipped["value"]["kind"], "skipped", "{skipped}");
        }
    }

    // The host's kernel has nothing of a bomb in a machine, and all of runc's.
    let note = |subject| comparison.cell("escapes/fork-bomb", subject)["note"].to_string();
    assert!(
        note("caisson").contains("at most 0 of its processes"),
        "{}",
        note("caisson")
    );
    assert!(
        !note("runc").contains("at most 0 of its processes"),
        "{}",
        note("runc")
    );
    for subject in ["host", "runc", "caisson"] {
        let skipped = comparison.cell("escapes/core-pattern", subject);
        assert_eq!(skipped["value"]["kind"], "skipped");
        let reason = skipped["value"]["reason"].to_string();
        assert!(reason.contains("--unsafe"), "{reason}");
    }
}

#[test]
fn grades_under_a_containerd_of_its_own() {
    check("containerd");
}

#[test]
fn grades_without_an_engine() {
    check("caisson");
}
