//! `caisson doctor`: whether containers can run here, and what is missing.

mod check;
mod host;
mod parts;

use anyhow::Result;
use caisson_hypervisor::Selected;
use serde::Serialize;

use crate::config::Settings;
use check::{Check, Verdict};

/// Exit status when `run` would not work.
const NOT_READY: u8 = 1;

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether `run` would work.
    ready: bool,
    version: &'static str,
    /// Which hypervisor makes the machines and why, if one can.
    hypervisor: Option<String>,
    checks: Vec<Check>,
}

/// Prints every prerequisite and the command that mends it. The exit status says
/// whether `run` would work.
pub fn run(settings: &Settings, json: bool) -> Result<u8> {
    let report = examine(settings);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(if report.ready { 0 } else { NOT_READY })
}

fn examine(settings: &Settings) -> Report {
    let mut checks = vec![
        host::folder("root", &settings.root),
        host::folder("run", &settings.run),
        host::space(&settings.root),
        host::memory(settings.memory),
    ];
    let selected = settings.select(None);
    checks.extend(kvm(&selected));
    let hypervisor = match selected {
        Ok(selected) => {
            checks.push(Check::good("hypervisor", selected.reason.clone()));
            Some(selected.reason)
        }
        Err(error) => {
            let remedy = "see `caisson config show`";
            checks.push(Check::bad("hypervisor", error.to_string(), remedy));
            None
        }
    };
    checks.extend([
        parts::qemu(&settings.qemu),
        parts::devices(&settings.devices),
        parts::kernel(&settings.kernel),
        parts::initramfs(&settings.initramfs),
        parts::mkfs(),
        parts::passt(settings),
        parts::templates(settings),
    ]);
    Report {
        ready: checks.iter().all(|check| check.verdict != Verdict::Bad),
        version: env!("CARGO_PKG_VERSION"),
        hypervisor,
        checks,
    }
}

/// What the probe saw. It is no obstacle by itself: there is a translator.
fn kvm(selected: &caisson_hypervisor::Result<Selected>) -> Option<Check> {
    let probe = match selected {
        Ok(selected) => &selected.host.kvm,
        Err(caisson_hypervisor::Error::KvmUnusable(probe)) => probe,
        // Nothing was measured.
        Err(_) => return None,
    };
    Some(if probe.usable() {
        Check::good("kvm", probe.to_string())
    } else {
        Check::poor(
            "kvm",
            probe.to_string(),
            "nothing needs to be done; machines are faster on a host with hardware virtualisation",
        )
    })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let width = report
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for check in &report.checks {
        let mark = match check.verdict {
            Verdict::Good => "ok  ",
            Verdict::Poor => "note",
            Verdict::Bad => "FAIL",
        };
        text.push_str(&format!("{mark}  {:width$}  {}\n", check.name, check.found));
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("      {:width$}  -> {remedy}\n", ""));
        }
    }
    text.push_str(if report.ready {
        "\ncontainers can run here\n"
    } else {
        "\ncontainers cannot run here until what failed is mended\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_fails_and_says_what_to_do() {
        let root = tempfile::tempdir().expect("a folder");
        let mut settings = crate::config::tests::settings(root.path());
        settings.run = root.path().join("run");
        settings.kernel = root.path().join("no-kernel");
        let report = examine(&settings);
        assert!(!report.ready);
        let kernel = report
            .checks
            .iter()
            .find(|check| check.name == "kernel")
            .expect("a check");
        assert_eq!(kernel.verdict, Verdict::Bad);
        let text = text(&report);
        assert!(
            text.contains("no-kernel") && text.contains("make build"),
            "{text}"
        );
        assert!(text.contains("containers cannot run here"), "{text}");
        assert!(
            report
                .checks
                .iter()
                .any(|check| check.name == "kvm" && check.found.starts_with("/dev/kvm "))
        );
    }

    #[test]
    fn a_note_does_not_stand_in_the_way() {
        let check = Check::poor("kvm", "slow".to_owned(), "nothing");
        let report = Report {
            ready: true,
            version: "0",
            hypervisor: None,
            checks: vec![check],
        };
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            json["checks"][0],
            serde_json::json!({"name": "kvm", "verdict": "note", "found": "slow", "remedy": "nothing"})
        );
        assert!(text(&report).starts_with("note  kvm  slow\n"));
    }
}
