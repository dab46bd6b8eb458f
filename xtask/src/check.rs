//! `make test`: everything that must hold before a change lands.

use std::env;

use anyhow::Result;

use crate::step::{command, run, step};

/// The cargo that runs us, so that a toolchain override holds for the checks too.
fn cargo(arguments: &[&str]) -> std::process::Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

/// Formatting, lints and documentation first, as they are quick to fail; the
/// tests last, so that their result ends the output.
pub fn test() -> Result<()> {
    step("format", || run(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("clippy", || {
        run(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("documentation", || {
        run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("tests", || run(&mut cargo(&["test", "--workspace"])))
}
