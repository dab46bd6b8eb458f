//! The benchmark of networks still measures all that it says.

use std::process::Command;

use caisson_end_to_end::text;

#[test]
fn every_network_is_measured() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_network-speed"));
    command.args(["compare", "1", "1", "2"]);
    // It has a deadline for each of its commands.
    let output = command.output().expect("it starts");
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for column in [
        "ctr, runc",
        "ctr, caisson",
        "caisson, bridge",
        "caisson, user",
    ] {
        assert!(shown.contains(column), "{shown}");
    }
    for measured in [
        "to answer",
        "requests/s",
        "to the container",
        "from the container",
    ] {
        let line = shown.lines().find(|line| line.contains(measured));
        let line = line.unwrap_or_else(|| panic!("{measured}: {shown}"));
        let numbers: Vec<&str> = line.split_ascii_whitespace().rev().take(8).collect();
        assert!(
            numbers.iter().all(|number| number.parse::<f64>().is_ok()),
            "{line}"
        );
        let (first, itself) = (numbers[7], numbers[6]);
        assert_ne!(first.parse(), Ok(0.0), "{line}");
        assert_eq!(itself.parse(), Ok(1.0), "{line}");
    }
}
