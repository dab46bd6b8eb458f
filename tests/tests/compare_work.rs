//! What `caisson compare` measures: work, memory and a web application.

use std::net::{Ipv4Addr, TcpListener};

use caisson_end_to_end::Caisson;
use caisson_end_to_end::comparison::Comparison;
use caisson_end_to_end::programs;

/// A port that is free, and stays so: it is below those that the kernel gives to whoever asks for
/// any.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).expect("small");
    (first..first + 100)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}

#[test]
fn work_is_measured_everywhere_and_related_to_runc() {
    let caisson = Caisson::without_images();
    let comparison = Comparison::run(&caisson, &["--only", "work", "--runs", "1"]);
    let mut measured = 0;
    for row in comparison.rows() {
        let id = row["id"].as_str().expect("an id");
        for subject in ["host", "runc", "caisson"] {
            if (id, subject) == ("work/overhead", "host") {
                assert_eq!(row["cells"]["host"]["value"]["kind"], "skipped");
                continue;
            }
            let samples = comparison.samples(id, subject);
            assert!(
                samples.iter().all(|sample| *sample > 0.0),
                "{id}: {samples:?}"
            );
            measured += 1;
        }
        let relation = &row["cells"]["caisson"]["value"]["relation"];
        assert_eq!(relation["baseline"], "runc", "{row}");
    }
    assert_eq!(measured, 3 * 13 + 2);
    // A machine has the memory of a kernel more than a process has.
    let memory = |subject| comparison.samples("work/overhead", subject)[0];
    assert!(memory("caisson") > memory("runc") && memory("runc") > 1e6);
    let note = comparison.cell("work/overhead", "caisson")["note"].to_string();
    assert!(
        note.contains("qemu-system") && note.contains("MiB"),
        "{note}"
    );
}

#[test]
fn a_web_application_answers_under_each_runtime() {
    let caisson = Caisson::without_images();
    let port = free_port().to_string();
    // The command finds it by itself.
    programs::packed_image("web");
    let arguments = ["--only", "web", "--runs", "1", "--port", &port];
    let comparison = Comparison::run(&caisson, &arguments);
    for subject in ["runc", "caisson"] {
        assert_eq!(comparison.samples("web/first-answer", subject).len(), 1);
        assert_eq!(comparison.samples("web/latency", subject).len(), 50);
        let rate = comparison.samples("web/requests", subject);
        assert!(rate.len() == 1 && rate[0] > 0.0, "{rate:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_a_failure_and_no_latency() {
    let caisson = Caisson::without_images();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let image = programs::packed_image("web");
    let image = image.to_string_lossy();
    let arguments = [
        "--only", "web", "--runs", "1", "--engine", "caisson", "--port", &port, "--image", &image,
    ];
    let comparison = Comparison::run(&caisson, &arguments);
    for row in ["web/first-answer", "web/latency", "web/requests"] {
        let cell = comparison.cell(row, "caisson");
        assert_eq!(cell["value"]["kind"], "failed", "{cell}");
        assert!(
            cell["value"]["output"].to_string().contains(&port),
            "{cell}"
        );
        // It has an address of its own.
        assert!(!comparison.samples(row, "runc").is_empty());
    }
}
