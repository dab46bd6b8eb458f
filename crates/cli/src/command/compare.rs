//! `caisson compare`: the same probes in the host, in other runtimes and in Caisson.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use caisson_compare::runtime::{EngineName, Interrupt, Kind};
use caisson_compare::{Options, SECTIONS, report};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

/// `caisson compare`.
#[derive(Debug, Args)]
pub struct CompareFlags {
    /// Archive of an image, or its name in a registry; without it, busybox
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Runtimes: runc, crun, runsc, caisson
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "runc,crun,runsc,caisson"
    )]
    runtime: Vec<Kind>,
    /// Who runs the containers: containerd (one of its own), docker (the host's), or caisson
    /// for no engine at all
    #[arg(long, value_name = "NAME")]
    engine: Option<EngineName>,
    /// Only these sections: setup, kernel, isolation...
    #[arg(long, value_name = "SECTIONS", value_delimiter = ',', value_parser = section())]
    only: Vec<String>,
    /// Measurements of each start
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Try the escapes that could disturb this host
    #[arg(long = "unsafe")]
    allow_unsafe: bool,
    /// Port of the host for the web application
    #[arg(long, value_name = "PORT", default_value_t = 3012)]
    port: u16,
    /// Folder of the report; without it, a new one here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn section() -> clap::builder::PossibleValuesParser {
    SECTIONS
        .iter()
        .map(|maker| maker.id)
        .collect::<Vec<_>>()
        .into()
}

/// Makes a comparison, writes its report and prints a summary.
pub fn compare(flags: &CompareFlags) -> Result<()> {
    let out = match &flags.out {
        Some(folder) => folder.clone(),
        None => default_folder(),
    };
    let interrupt = Interrupt::default();
    end_with_signal(interrupt.clone())?;
    let options = Options {
        command: command_line(),
        image: flags.image.clone(),
        runtimes: flags.runtime.clone(),
        engine: flags.engine,
        only: flags.only.clone(),
        runs: usize::from(flags.runs),
        allow_unsafe: flags.allow_unsafe,
        port: flags.port,
        out: out.clone(),
        caisson: std::env::current_exe().context("cannot find the caisson command itself")?,
        interrupt,
    };
    let report = caisson_compare::run(&options, &|line| {
        // The terminal may be gone; the report is still written.
        let _ = writeln!(std::io::stderr(), "{line}");
    })?;
    report::write(&report, &out)?;
    print!("{}", report::summary(&report, &out));
    Ok(())
}

/// A name that sorts by time.
fn default_folder() -> PathBuf {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    PathBuf::from(format!("compare-{}", now.replace(':', "")))
}

/// As it was typed, for the report.
fn command_line() -> String {
    let words = std::env::args().skip(1);
    let quoted = words.map(|word| {
        if word.contains(char::is_whitespace) {
            format!("'{word}'")
        } else {
            word
        }
    });
    std::iter::once("caisson".to_owned())
        .chain(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Ctrl-C and a request to end take down what was started before we end.
fn end_with_signal(interrupt: Interrupt) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupted, mut terminated) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
        });
        interrupt.set();
        let _ = writeln!(std::io::stderr(), "ending; what was started is taken down");
    });
    Ok(())
}
