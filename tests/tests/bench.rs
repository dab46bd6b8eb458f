//! `caisson bench`: that it measures, not what.

use std::sync::{Mutex, MutexGuard, PoisonError};

use caisson_end_to_end::Caisson;

/// One at a time: they would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static MEASURING: Mutex<()> = Mutex::new(());
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn figures(caisson: &Caisson, arguments: &[&str]) -> serde_json::Value {
    let said = caisson.ok(["bench"].iter().chain(arguments));
    serde_json::from_str(&said).expect("JSON")
}

fn positive(figures: &serde_json::Value, name: &str) -> f64 {
    let value = figures[name].as_f64();
    let value = value.unwrap_or_else(|| panic!("no {name} in {figures}"));
    assert!(value > 0.0, "{name} in {figures}");
    value
}

#[test]
fn starts_are_measured_alone_and_side_by_side() {
    let _alone = alone();
    let caisson = Caisson::new();
    let all = figures(
        &caisson,
        &["start", "--runs", "1", "--at-once", "2", "--json"],
    );
    for name in ["floorMs", "bootedMs", "forkedMs", "idleSandboxPssBytes"] {
        positive(&all, name);
    }
    let ratio = positive(&all, "forkedMs") / positive(&all, "bootedMs");
    assert!((ratio - positive(&all, "forkToBoot")).abs() < 1e-9, "{all}");
    let many = &all["many"];
    assert_eq!(many["number"], 2);
    let ratio = positive(many, "forkedAtOnceMs") / positive(many, "bootedInTurnMs");
    assert!(
        (ratio - positive(many, "forkedToBootedTime")).abs() < 1e-9,
        "{many}"
    );
    // Two hold more than one of them does.
    let alone = positive(&all, "idleSandboxPssBytes");
    assert!(positive(many, "bootedPssBytes") > alone, "{all}");
    assert!(caisson.ok(["ps", "-aq"]).is_empty());
}

/// What forks are for. With KVM, a fork loads a state, which is to take less than a boot.
#[test]
fn a_fork_takes_a_third_of_a_boot_at_most() {
    let _alone = alone();
    let caisson = Caisson::new();
    let measure = || {
        let runs = ["start", "--runs", "5", "--at-once", "2", "--json"];
        positive(&figures(&caisson, &runs), "forkToBoot")
    };
    let first = measure();
    let listed = caisson.ok(["template", "ls", "--format", "json"]);
    let longest = match listed.contains("process copies") {
        true => 0.35,
        false => 1.0,
    };
    // What else the host does adds to both alike, and so to the ratio. It is not there each time.
    let again = std::iter::repeat_with(measure).take(2);
    let found = std::iter::once(first)
        .chain(again)
        .find(|ratio| *ratio <= longest);
    assert!(found.is_some(), "thrice; the first time {first}");
}

#[test]
fn copies_are_measured() {
    let _alone = alone();
    let caisson = Caisson::new();
    let all = figures(&caisson, &["snapshot", "--runs", "1", "--json"]);
    let ratio = positive(&all, "copiedMs") / positive(&all, "startedMs");
    assert!(
        (ratio - positive(&all, "copyToStart")).abs() < 1e-9,
        "{all}"
    );
    assert!(caisson.ok(["ps", "-aq"]).is_empty());
    assert!(
        caisson
            .ok(["snapshot", "ls", "--format", "json"])
            .is_empty()
    );
}
