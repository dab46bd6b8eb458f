//! Commands of the host, run in a network namespace.

use std::process::Command;

use caisson_network::Namespace;

/// Runs a command that must succeed and returns what it printed.
pub fn run(namespace: &Namespace, command: &str) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", namespace.path().display()))
        .args(command.split_ascii_whitespace())
        .output()
        .expect("nsenter of util-linux");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
