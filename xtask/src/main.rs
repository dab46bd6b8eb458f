//! What `make` calls: set-up, builds, checks and the demo.

mod check;
mod step;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: xtask test";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => check::test(),
        _ => bail!("{USAGE}"),
    }
}
