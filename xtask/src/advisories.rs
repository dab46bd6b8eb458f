//! cargo-deny: licences, duplicate and banned crates, sources; and the RustSec
//! advisories where their database can be had.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cache;
use crate::step::{cargo, root, run};

const VERSION: &str = "0.20.2";

/// Installs cargo-deny into the cache, and gives its path.
pub fn install() -> Result<PathBuf> {
    let entry = cache::entry("tools", &format!("cargo-deny-{VERSION}"), |folder| {
        eprintln!("    cargo-deny {VERSION} is compiled once for this machine");
        run(
            cargo(&["install", "--quiet", "--locked", "--version", VERSION])
                .arg("--root")
                .arg(folder)
                // Not the workspace's target folder: the clone goes, the tool stays.
                .env_remove("CARGO_TARGET_DIR")
                .arg("cargo-deny"),
        )
    })?;
    Ok(entry.join("bin/cargo-deny"))
}

/// Runs the checks of `deny.toml`. Without the advisory database the others
/// are made all the same, and what was left out is said aloud.
pub fn check() -> Result<()> {
    let deny = install()?;
    let database = Command::new(&deny)
        .current_dir(root())
        .args(["fetch", "db"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start cargo-deny")?;
    let mut check = Command::new(&deny);
    check
        .current_dir(root())
        .args(["--log-level", "warn", "check"]);
    if database.success() {
        run(check.args(["advisories", "licenses", "bans", "sources"]))?;
        eprintln!("    checked: advisories, licences, bans, sources");
    } else {
        run(check.args(["licenses", "bans", "sources"]))?;
        eprintln!("    checked: licences, bans, sources");
        eprintln!(
            "    NOT CHECKED: advisories, as the RustSec database cannot be fetched from here"
        );
    }
    Ok(())
}
