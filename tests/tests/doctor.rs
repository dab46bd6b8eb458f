//! `caisson doctor`.

use caisson_end_to_end::{Caisson, output, text};
use serde_json::Value;

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn a_host_where_containers_run_is_told_so() {
    let caisson = Caisson::without_images();
    let text = caisson.ok(["doctor"]);
    assert!(text.contains("containers can run here"), "{text}");
    let report: Value = serde_json::from_str(&caisson.ok(["doctor", "--json"])).expect("JSON");
    assert_eq!(report["ready"], true);
    for name in [
        "root",
        "run",
        "space",
        "memory",
        "kvm",
        "hypervisor",
        "qemu",
        "devices",
        "kernel",
        "initramfs",
    ] {
        assert_ne!(check(&report, name)["verdict"], "fail", "{name}");
    }
    // Which hypervisor and why; of KVM one plain sentence.
    let chosen = check(&report, "hypervisor")["found"]
        .as_str()
        .expect("words")
        .to_owned();
    assert!(
        chosen.contains("qemu") && chosen.contains("KVM") || chosen.contains("kvm"),
        "{chosen}"
    );
    assert!(
        !check(&report, "kvm")["found"]
            .as_str()
            .expect("words")
            .contains('\n')
    );
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let caisson = Caisson::without_images();
    for (variable, value, name, remedy) in [
        ("CAISSON_KERNEL", "/no/vmlinux", "kernel", "make build"),
        ("CAISSON_KERNEL", "/bin/sh.not", "kernel", "make build"),
        (
            "CAISSON_INITRAMFS",
            "/no/initramfs",
            "initramfs",
            "make build",
        ),
        ("CAISSON_DEVICES", "/no/devices", "devices", "make build"),
        (
            "CAISSON_QEMU",
            "no-such-qemu",
            "qemu",
            "apt-get install qemu-system-x86",
        ),
        (
            "CAISSON_QEMU",
            "/bin/true",
            "qemu",
            "apt-get install qemu-system-x86",
        ),
    ] {
        let mut command = caisson.command(["doctor", "--json"]);
        command.env(variable, value);
        let told = output(command, b"");
        assert!(!told.status.success(), "{variable}={value}");
        let report: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        assert_eq!(report["ready"], false);
        let check = check(&report, name);
        assert_eq!(check["verdict"], "fail", "{variable}={value}: {report}");
        assert!(
            check["remedy"]
                .as_str()
                .is_some_and(|text| text.contains(remedy)),
            "{check}"
        );
        let mut command = caisson.command(["doctor"]);
        command.env(variable, value);
        let told = output(command, b"");
        assert!(!told.status.success());
        assert!(
            text(&told.stdout).contains("containers cannot run here"),
            "{}",
            text(&told.stdout)
        );
    }
}

#[test]
fn its_exit_status_says_whether_run_works() {
    let caisson = Caisson::new();
    for (variable, value) in [
        ("CAISSON_QEMU", "/bin/false"),
        ("CAISSON_DEVICES", "/bin/false"),
    ] {
        let mut command = caisson.command(["run", "--rm", "busybox", "true"]);
        command.env(variable, value);
        let run = output(command, b"");
        let mut command = caisson.command(["doctor"]);
        command.env(variable, value);
        assert_eq!(run.status.code(), Some(125), "{}", text(&run.stderr));
        assert!(!output(command, b"").status.success());
    }
}
