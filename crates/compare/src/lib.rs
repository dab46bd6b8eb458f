//! The same probes in the host, in other runtimes and in Caisson, and a report
//! that a person can read and hand in.
//!
//! Everything is asked of programs that a user has too: `caisson`, `ctr`, `docker`, `runc`,
//! `crun`, `runsc`. So whatever the report says can be seen by hand.

mod context;
mod environment;
mod error;
mod image;
pub mod model;
mod options;
pub mod raw;
pub mod report;
pub mod runtime;
mod section;
pub mod statistics;

use std::cell::RefCell;
use std::time::{Instant, SystemTime};

use model::{Presence, Report, Subject};
use runtime::Runtimes;

pub use context::Context;
pub use error::{Error, Result};
pub use options::Options;
pub use section::SECTIONS;

use error::At;

/// Makes a comparison. `progress` takes a line about what is being done.
///
/// A runtime or a section that fails is part of the report; an error is what leaves nothing to
/// report.
pub fn run(options: &Options, progress: &dyn Fn(&str)) -> Result<Report> {
    let begin = Instant::now();
    let made_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let makers = section::chosen(&options.only)?;
    std::fs::create_dir_all(&options.out).at(&options.out)?;
    let raw = raw::RawFolder::create(&options.out).at(&options.out)?;
    let scratch = tempfile::Builder::new()
        .prefix("caisson-compare.")
        .tempdir()
        .at(std::env::temp_dir())?;
    let interrupt = &options.interrupt;
    let archive = image::archive(
        options.image.as_deref(),
        &options.caisson,
        scratch.path(),
        interrupt,
    )?;
    let (engine, reason) = match options.engine {
        Some(engine) => (engine, "--engine names it"),
        None => Runtimes::best_engine(),
    };
    progress(&format!("engine: {engine} ({reason})"));
    // Declared after the scratch folder: it is gone before the folder is.
    let runtimes = Runtimes::open(
        engine,
        &options.runtimes,
        &options.caisson,
        scratch.path(),
        interrupt,
    )?;
    let image = runtimes.load(&archive)?;
    let environment = environment::environment(
        &runtimes,
        reason,
        &options.caisson,
        scratch.path(),
        interrupt,
    );
    let context = Context {
        options,
        runtimes: &runtimes,
        image: &image,
        archive: &archive,
        raw: &raw,
        scratch: scratch.path(),
        progress,
        hung: RefCell::default(),
    };
    let mut report = Report {
        schema: model::SCHEMA,
        made_at,
        took_seconds: 0.0,
        settings: model::Settings {
            command: options.command.clone(),
            image: options.image.clone().unwrap_or_else(|| image.name.clone()),
            sections: makers.iter().map(|maker| maker.id.to_owned()).collect(),
            runs: options.runs,
            allow_unsafe: options.allow_unsafe,
        },
        runtimes: columns(&runtimes, options),
        environment,
        findings: Vec::new(),
        sections: Vec::new(),
        advice: Vec::new(),
    };
    for (number, maker) in makers.iter().enumerate() {
        progress(&format!(
            "[{}/{}] {}",
            number + 1,
            makers.len(),
            maker.title
        ));
        report.sections.push(maker.run(&context)?);
    }
    report.advice = section::advice::advice(&report);
    report.findings = report::findings(&report);
    report.took_seconds = begin.elapsed().as_secs_f64();
    Ok(report)
}

/// The columns of the report, the absent ones with what installs them.
fn columns(runtimes: &Runtimes, options: &Options) -> Vec<model::Runtime> {
    let host = model::Runtime {
        subject: Subject::Host,
        presence: Presence::Installed {
            version: "no container".to_owned(),
        },
    };
    let column = |kind: &runtime::Kind| {
        let absent = runtimes.absent.iter().find(|absent| absent.kind == *kind);
        model::Runtime {
            subject: (*kind).into(),
            presence: match absent {
                Some(absent) => Presence::Absent {
                    reason: absent.reason.clone(),
                    install: Some(absent.remedy.clone()),
                },
                None => Presence::Installed {
                    version: environment::version(*kind, &options.caisson, &options.interrupt)
                        .unwrap_or_else(|| "unknown".to_owned()),
                },
            },
        }
    };
    std::iter::once(host)
        .chain(options.runtimes.iter().map(column))
        .collect()
}
