//! Section 1: what takes part, and that it works at all.

use super::question::Question;
use crate::context::Context;
use crate::error::Result;
use crate::model::{Cell, Row, Section, Subject};
use crate::runtime::{EngineName, Kind, Program};

const HELLO: Question = Question {
    id: "setup/hello",
    title: "Hello, world",
    script: "echo hello from $(uname -sr)",
    shows: "That each runtime runs a container here at all. What fails here explains every later failure of that runtime.",
    does_not_show: "Anything else.",
};

/// Makes the section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let (hello, _) = HELLO.ask(context, |_| {})?;
    let rows = vec![
        versions(context)?,
        engine(context)?,
        block(context),
        hypervisor(context)?,
        hello,
    ];
    Ok(Section {
        id: "setup".to_owned(),
        title: "Set-up".to_owned(),
        intro: format!(
            "The programs that take part, and one container under each runtime. Engine: {}.",
            match context.runtimes.engine().name() {
                EngineName::Containerd =>
                    "a containerd that the comparison has started for itself, with folders and a socket of its own; it is gone afterwards. Every runtime gets the same `ctr run`",
                EngineName::Docker =>
                    "the host's Docker Engine. Every runtime gets the same `docker run`",
                EngineName::Caisson =>
                    "none. `caisson run` makes an image's disk, the network and the logs itself; the other runtimes are given a bundle that is ready, and do less. Compare times with that in mind",
            }
        ),
        rows,
    })
}

fn versions(context: &Context<'_>) -> Result<Row> {
    let mut row = Row::new("setup/versions", "Versions of the runtimes");
    row.shows = "Which version of each runtime was compared.".to_owned();
    row.does_not_show = "That it is the newest one.".to_owned();
    row.command = "runc --version; containerd-shim-caisson-v2 -v".to_owned();
    for runtime in &context.runtimes.present {
        let outcome = match runtime.kind {
            Kind::Caisson => {
                let shim = Program::shim(&context.options.caisson);
                match shim {
                    Some(shim) if context.runtimes.engine().name() != EngineName::Caisson => {
                        let mut outcome = context.host(&[&shim.to_string_lossy(), "-v"])?;
                        outcome.command = "containerd-shim-caisson-v2 -v".to_owned();
                        outcome
                    }
                    _ => {
                        let caisson = context.options.caisson.to_string_lossy();
                        let mut outcome = context.host(&[&caisson, "version"])?;
                        outcome.command = "caisson version".to_owned();
                        outcome
                    }
                }
            }
            kind => context.host(&[kind.as_str(), "--version"])?,
        };
        let cell = context.cell(&row.id, runtime.kind.into(), &outcome)?;
        row.cells.insert(runtime.kind.into(), cell);
    }
    context.name_absent(&mut row);
    Ok(row)
}

fn engine(context: &Context<'_>) -> Result<Row> {
    let engine = context.runtimes.engine();
    let mut row = Row::new("setup/engine", "Engine");
    row.command = match engine.name() {
        EngineName::Containerd => "containerd --version",
        EngineName::Docker => "docker version",
        EngineName::Caisson => "caisson version",
    }
    .to_owned();
    row.shows = "Who started the containers: the same for all runtimes.".to_owned();
    row.does_not_show = "What another engine would add to each start.".to_owned();
    row.cells.insert(
        Subject::Host,
        Cell::text(format!("{} {}", engine.name(), engine.version())),
    );
    Ok(row)
}

fn block(context: &Context<'_>) -> Row {
    let engine = context.runtimes.engine();
    let mut row = Row::new("setup/configuration", "Engine's configuration");
    row.command = match engine.name() {
        EngineName::Docker => "caisson setup docker --dry-run",
        _ => "caisson setup containerd --dry-run",
    }
    .to_owned();
    row.shows = "How the engine knows the runtimes.".to_owned();
    row.does_not_show =
        "The configuration of the host's own containerd, which is not read.".to_owned();
    row.cells
        .insert(Subject::Host, Cell::text(engine.configuration()));
    row
}

fn hypervisor(context: &Context<'_>) -> Result<Row> {
    let mut row = Row::new("setup/hypervisor", "What Caisson's machines need");
    row.command = "caisson doctor".to_owned();
    row.shows =
        "Which hypervisor makes the machines and why, and that every part is there.".to_owned();
    row.does_not_show = "How fast a machine is.".to_owned();
    let folder = context.folder("doctor")?;
    let root = folder.to_string_lossy();
    let caisson = context.options.caisson.to_string_lossy();
    let mut outcome = context.host(&[
        &caisson,
        "--root",
        &root,
        "--run-directory",
        &format!("{root}/run"),
        "doctor",
    ])?;
    outcome.command = "caisson doctor".to_owned();
    let cell = context.cell(&row.id, Subject::Host, &outcome)?;
    row.cells.insert(Subject::Host, cell);
    Ok(row)
}
