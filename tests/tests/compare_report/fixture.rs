//! A report with everything that a report can hold, and with hostile outputs.

use std::path::Path;

use caisson_compare::model::{
    Cell, Difference, Engine, Environment, Hardware, Hypervisor, Presence, Report, Row, Runtime,
    SCHEMA, Section, Settings, Statement, Subject, Tool, Unit, Verdict,
};
use caisson_compare::raw::{RawFolder, Transcript};
use caisson_compare::report::findings;

/// Ends the cell, the script and the table; colours, moves and reverses.
pub const HOSTILE: &str = "</pre></td></table><script>pwned=1</script><img src=http://example.org/x onerror=pwned=1>\n\
    \x1b[2J\x1b[31mred\x07 ``` | **bold** \u{202e}desrever\u{202c} \0 &amp; \"quoted' \r!\n";

/// Writes the raw outputs into the folder and returns the report.
pub fn report(folder: &Path) -> Report {
    let raw = RawFolder::create(folder).expect("a folder");
    let mut report = Report {
        schema: SCHEMA,
        made_at: "2026-11-24T11:02:33Z".to_owned(),
        took_seconds: 372.4,
        settings: Settings {
            command: "caisson compare --runtime runc,crun,runsc,caisson --out report".to_owned(),
            image: "busybox:latest".to_owned(),
            sections: ["kernel", "isolation", "escapes", "start-up", "web", "work"]
                .map(str::to_owned)
                .to_vec(),
            runs: 20,
            allow_unsafe: false,
        },
        environment: environment(),
        runtimes: runtimes(),
        findings: Vec::new(),
        sections: vec![
            kernel(&raw),
            isolation(),
            escapes(),
            start_up(),
            web(),
            work(),
        ],
        advice: vec![Statement {
            sentence: "Take Caisson where the code is not yours: it has a kernel of its own. A volume that is \
                       shared for writing is shared with it as well."
                .to_owned(),
            cites: vec!["kernel/version".to_owned(), "escapes/volume".to_owned()],
        }],
    };
    report.findings = findings(&report);
    report
}

fn environment() -> Environment {
    Environment {
        hardware: Hardware {
            processor: "AMD EPYC 7B13 64-Core Processor".to_owned(),
            processors: 4,
            memory: 25_769_803_776,
            kind: Some("virtual machine (KVM)".to_owned()),
        },
        kernel: "6.18.5 #1 SMP PREEMPT_DYNAMIC".to_owned(),
        distribution: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        cgroup_mode: "hybrid (v1 controllers)".to_owned(),
        engine: Engine {
            name: "containerd".to_owned(),
            version: "1.6.20".to_owned(),
            reason: "the same engine starts every runtime".to_owned(),
        },
        hypervisor: Hypervisor {
            name: "QEMU 7.2.22, TCG".to_owned(),
            reason: "a probe of /dev/kvm took 140 ms for 100,000 iterations".to_owned(),
            hardware_virtualisation: false,
        },
        tools: vec![
            Tool {
                name: "ctr".to_owned(),
                version: Some("1.6.20~ds1".to_owned()),
            },
            Tool {
                name: "docker".to_owned(),
                version: None,
            },
        ],
    }
}

fn runtimes() -> Vec<Runtime> {
    let installed = |subject, version: &str| Runtime {
        subject,
        presence: Presence::Installed {
            version: version.to_owned(),
        },
    };
    vec![
        installed(Subject::Host, "6.18.5"),
        installed(Subject::Runc, "runc version 1.1.5"),
        installed(Subject::Crun, "crun version 1.8.1"),
        Runtime {
            subject: Subject::Runsc,
            presence: Presence::Absent {
                reason: "runsc is not in PATH".to_owned(),
                install: Some("https://gvisor.dev/docs/user_guide/install/".to_owned()),
            },
        },
        installed(Subject::Caisson, "0.1.0"),
    ]
}

fn section(id: &str, title: &str, intro: &str, rows: Vec<Row>) -> Section {
    Section {
        id: id.to_owned(),
        title: title.to_owned(),
        intro: intro.to_owned(),
        rows,
    }
}

fn row(id: &str, title: &str, command: &str, cells: Vec<(Subject, Cell)>) -> Row {
    let mut row = Row::new(id, title);
    row.command = command.to_owned();
    row.shows = "Whose kernel answers the container's system calls.".to_owned();
    row.does_not_show = "How well that kernel is protected.".to_owned();
    row.cells = cells.into_iter().collect();
    row.relate_to(Subject::Runc);
    row
}

fn crun_failure() -> Cell {
    Cell::failed(
        Some(1),
        "error executing hook: drop all controllers from cgroupv2",
    )
}

fn runsc_absent() -> Cell {
    Cell::not_installed("https://gvisor.dev/docs/user_guide/install/")
}

fn kernel(raw: &RawFolder) -> Section {
    let host =
        "Linux version 6.18.5 (builder@machine) (gcc 14.2.0, GNU ld 2.44) #1 SMP PREEMPT_DYNAMIC";
    let guest =
        "Linux version 6.12.117 (caisson@build) (gcc 12.2.0, GNU ld 2.40) #1 SMP PREEMPT_DYNAMIC";
    let name = raw
        .append(
            "kernel/hostile",
            Subject::Caisson,
            Transcript {
                command: "caisson run --rm evil",
                stdout: HOSTILE.as_bytes(),
                stderr: b"\xff\xfe not text\n",
                ending: "exit status 3 after 1.2 s",
            },
        )
        .expect("a raw file");
    let version = row(
        "kernel/version",
        "Kernel version",
        "cat /proc/version",
        vec![
            (Subject::Host, Cell::text(host)),
            (
                Subject::Runc,
                Cell::text(host).with_command("ctr run --rm busybox v cat /proc/version"),
            ),
            (Subject::Crun, crun_failure()),
            (Subject::Runsc, runsc_absent()),
            (
                Subject::Caisson,
                Cell::text(guest).with_note("another kernel"),
            ),
        ],
    );
    let hostile = row(
        "kernel/hostile",
        "A container that wants out of the report",
        "cat /evil",
        vec![
            (Subject::Runc, Cell::text(HOSTILE)),
            (
                Subject::Caisson,
                Cell::failed(Some(3), HOSTILE).with_raw(name),
            ),
        ],
    );
    let flags: Vec<String> = (0..40).map(|flag| format!("flag{flag}")).collect();
    let long = row(
        "kernel/flags",
        "Processor flags",
        "grep -m1 flags /proc/cpuinfo",
        vec![
            (Subject::Host, Cell::text(flags.join("\n"))),
            (Subject::Runc, Cell::text(flags.join("\n"))),
            (Subject::Caisson, Cell::text("x".repeat(600))),
        ],
    );
    section(
        "kernel",
        "Kernel and CPU",
        "The same question to each.\n\nA second paragraph.",
        vec![version, hostile, long],
    )
}

fn isolation() -> Section {
    let devices = "console\nfull\nnull\nptmx\nrandom\ntty\nurandom\nzero";
    let mut row = row(
        "isolation/devices",
        "Devices",
        "ls /dev",
        vec![
            (Subject::Runc, Cell::text(devices)),
            (Subject::Crun, crun_failure()),
            (Subject::Runsc, runsc_absent()),
            (Subject::Caisson, Cell::text("full\nnull\nvsock\nzero")),
        ],
    );
    row.difference = Some(Difference::of(
        [Subject::Runc, Subject::Caisson],
        &format!("{devices}\n{HOSTILE}"),
        "full\nnull\nvsock\nzero",
    ));
    section(
        "isolation",
        "Isolation",
        "Differences between runc and Caisson.",
        vec![row],
    )
}

fn escapes() -> Section {
    let skipped = || Cell::skipped("it changes a parameter of the host's kernel: needs --unsafe");
    let rows = vec![
        row(
            "escapes/release-agent",
            "cgroup v1 release_agent (CVE-2022-0492)",
            "mount -t cgroup -o memory cgroup /mnt",
            vec![
                (
                    Subject::Runc,
                    Cell::verdict(
                        Verdict::HostAffected,
                        "the canary file was written by the host",
                    ),
                ),
                (Subject::Crun, crun_failure()),
                (Subject::Runsc, runsc_absent()),
                (
                    Subject::Caisson,
                    Cell::verdict(
                        Verdict::Contained,
                        "it ran in the guest; the canary is as it was",
                    ),
                ),
            ],
        ),
        row(
            "escapes/volume",
            "Write through a bind mount",
            "echo changed > /volume/canary",
            vec![
                (
                    Subject::Runc,
                    Cell::verdict(Verdict::SharedByDesign, "the canary file was changed"),
                ),
                (Subject::Crun, crun_failure()),
                (Subject::Runsc, runsc_absent()),
                (
                    Subject::Caisson,
                    Cell::verdict(Verdict::SharedByDesign, "the canary file was changed"),
                ),
            ],
        ),
        row(
            "escapes/core-pattern",
            "core_pattern",
            "echo '|/x' > /proc/sys/kernel/core_pattern",
            vec![
                (Subject::Runc, skipped()),
                (Subject::Caisson, skipped()),
                (
                    Subject::Crun,
                    Cell::verdict(Verdict::SetUpFailed, "crun did not start"),
                ),
            ],
        ),
    ];
    section(
        "escapes",
        "Escapes",
        "Verified from outside, against victims that were made for it.",
        rows,
    )
}

/// Samples with the shape of timings: near a floor, with a long tail.
fn timings(floor: f64) -> Vec<f64> {
    (0..20)
        .map(|index: u32| {
            let spread = f64::from((index * 7) % 20) / 20.0;
            floor * (1.0 + 0.15 * spread + 0.9 * spread.powi(12))
        })
        .collect()
}

fn start_up() -> Section {
    let start = row(
        "start-up/true",
        "Start and end of `true`",
        "time ctr run --rm busybox t true",
        vec![
            (Subject::Runc, Cell::measured(Unit::Seconds, timings(0.09))),
            (Subject::Crun, crun_failure()),
            (Subject::Runsc, Cell::measured(Unit::Seconds, timings(0.32))),
            (
                Subject::Caisson,
                Cell::measured(Unit::Seconds, timings(0.61)),
            ),
        ],
    );
    section(
        "start-up",
        "Start-up",
        "Interleaved; the first run of each is dropped.",
        vec![start],
    )
}

fn web() -> Section {
    let row = row(
        "web/latency",
        "Latency of a request",
        "curl http://127.0.0.1:3012/",
        vec![
            (
                Subject::Runc,
                Cell::measured(Unit::Seconds, timings(0.0008)),
            ),
            (
                Subject::Caisson,
                Cell::failed(None, "HTTP status 502 from request 7 of 50"),
            ),
        ],
    );
    section(
        "web",
        "A web application",
        "Every status is checked.",
        vec![row],
    )
}

fn work() -> Section {
    let cells = |unit, runc: f64, crun: f64, caisson: f64| {
        vec![
            (Subject::Runc, Cell::measured(unit, timings(runc))),
            (Subject::Crun, Cell::measured(unit, timings(crun))),
            (Subject::Caisson, Cell::measured(unit, timings(caisson))),
        ]
    };
    let rate = Unit::OperationsPerSecond;
    let rows = vec![
        row(
            "work/hash",
            "A fixed hash",
            "probe hash",
            cells(rate, 120.0, 121.0, 14.0),
        ),
        row(
            "work/memory-bandwidth",
            "Memory bandwidth",
            "probe memory",
            cells(Unit::BytesPerSecond, 9.1e9, 9.0e9, 1.2e9),
        ),
        row(
            "work/system-calls",
            "System calls",
            "probe calls",
            cells(rate, 2.1e6, 2.0e6, 3.1e6),
        ),
        row(
            "work/memory",
            "Memory that the runtime keeps",
            "cat /proc/PID/smaps_rollup",
            vec![
                (Subject::Runc, Cell::measured(Unit::Bytes, vec![9.5e6])),
                (Subject::Caisson, Cell::measured(Unit::Bytes, vec![96.4e6])),
            ],
        ),
    ];
    section("work", "Work", "Ratios are to runc.", rows)
}
