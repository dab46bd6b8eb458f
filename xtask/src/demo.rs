//! `make demo`: a container beside the host it runs on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::step::{command, output, run, shown, step, target};
use crate::{build, engines, image, packages};

/// Lines of a kernel's log that are shown.
const LOG_LINES: usize = 5;

/// From a bare machine to a container, and what is different in it.
pub fn demo() -> Result<()> {
    packages::install()?;
    build::build()?;
    step("image", || {
        let path = image::write()?;
        run(caisson(&["load", "--input"]).arg(path))
    })?;
    step("template", || run(&mut caisson(&["template", "build"])))?;

    compare(
        "kernel",
        &output(Command::new("uname").arg("-a"))?,
        &["uname", "-a"],
        &[],
    )?;
    compare(
        "kernel's log",
        // Reading it needs rights that the user of the host may not have.
        &host_log().unwrap_or_else(|error| format!("({error:#})")),
        &["dmesg"],
        &["--cap-add", "SYSLOG"],
    )?;
    compare(
        "CPU",
        &cpu_model(&read("/proc/cpuinfo")?),
        &["grep", "-m1", "model name", "/proc/cpuinfo"],
        &[],
    )?;
    compare(
        "kernel's command line",
        &read("/proc/cmdline")?,
        &["cat", "/proc/cmdline"],
        &[],
    )?;

    println!("\nWhere the time of a start goes:\n");
    let mut timed = caisson(&["run", "--rm", "--timing", image::REFERENCE, "true"]);
    println!("$ caisson {}", arguments(&timed));
    run(&mut timed)
}

/// `make bench`.
pub fn bench() -> Result<()> {
    packages::install()?;
    build::build()?;
    step("image", || {
        let path = image::write()?;
        run(caisson(&["load", "--input"]).arg(path))
    })?;
    run(&mut caisson(&["bench", "start"]))?;
    println!();
    engines::install()?;
    run(&mut command(target().join("release/engine-start")))?;
    image::write_named("network")?;
    let network = || command(target().join("release/network-speed"));
    for what in ["compare", "offloads"] {
        println!();
        run(network().arg(what))?;
    }
    Ok(())
}

/// Shows what the host says beside what the same question gives in a container.
fn compare(what: &str, host: &str, question: &[&str], options: &[&str]) -> Result<()> {
    let mut container = caisson(&["run", "--rm"]);
    container.args(options).arg(image::REFERENCE).args(question);
    println!("\n{what}: caisson {}", arguments(&container));
    let answer = output(&mut container)?;
    for (side, text) in [("host", host), ("container", &answer)] {
        for line in text.lines().take(LOG_LINES) {
            println!("  {side:9} | {line}");
        }
    }
    Ok(())
}

fn caisson(arguments: &[&str]) -> Command {
    let program: PathBuf = target().join("release/caisson");
    let mut caisson = command(program);
    caisson.args(arguments);
    caisson
}

/// The arguments of a command as one would type them.
fn arguments(command: &Command) -> String {
    let line = shown(command);
    line.split_once(' ')
        .map_or(String::new(), |(_, arguments)| arguments.to_owned())
}

fn host_log() -> Result<String> {
    output(&mut Command::new("dmesg"))
}

fn cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or("model name: unknown")
        .to_owned()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}
