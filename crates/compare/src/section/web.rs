//! Section 6: a web application under each runtime, as its users meet it.

mod client;
mod measure;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::context::{Context, failed};
use crate::error::{Error, Result};
use crate::image;
use crate::model::{Cell, Row, Section, Subject, Unit};
use crate::runtime::{Container, EngineName, Image, Kind, Publish, Runtime, Runtimes};
use measure::{first_answer, latencies, throughput};

/// The section's id.
pub const ID: &str = "web";

/// Port of the application in the container.
const PORT: u16 = 3000;

/// What is asked of the shop: routing, and a list as JSON.
const SHOP_PATH: &str = "/products";

/// Starts of each runtime.
const MOST_STARTS: usize = 2;

/// Time for the application to come up.
const START: Duration = Duration::from_secs(120);

/// What was measured under one runtime, or how it failed.
#[derive(Default)]
struct Measured {
    first: Vec<f64>,
    latencies: Vec<f64>,
    rates: Vec<f64>,
    command: String,
    raw: String,
    failure: Option<Cell>,
}

/// Makes the section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let own;
    let (runtimes, of_engine) = if context.runtimes.engine().name() == EngineName::Caisson {
        (context.runtimes, "")
    } else {
        own = without_engine(context)?;
        (
            &own,
            " Whatever engine the other sections use, this one has none in front of the runtimes: \
             they are given a bundle, and Caisson an image by `caisson run`.",
        )
    };
    let named = context.options.image.is_some() && context.image.exposes(PORT);
    let (archive, path) = if named {
        (Some(context.archive.to_owned()), "/")
    } else {
        (image::packed("web", &context.options.caisson), SHOP_PATH)
    };
    let mut measured: BTreeMap<Subject, Measured> = BTreeMap::new();
    if let Some(archive) = &archive {
        let image = runtimes.load(archive)?;
        for _ in 0..context.options.runs.clamp(1, MOST_STARTS) {
            for runtime in &runtimes.present {
                let of_runtime = measured.entry(runtime.kind.into()).or_default();
                if of_runtime.failure.is_none() {
                    run(context, runtime, &image, path, of_runtime)?;
                }
            }
        }
    }
    let rows = rows(context, runtimes, &measured, path);
    Ok(Section {
        id: ID.to_owned(),
        title: "A web application".to_owned(),
        intro: format!(
            "{} listens on port {PORT} in the container. Caisson publishes it on port {} of \
             127.0.0.1; the other runtimes are reached at the address of a network namespace, \
             through a pair of interfaces. Each answer must have status 200 and come whole: a single \
             one that does not is a failure of the row, and never a latency.{of_engine}",
            if named {
                "The image that --image names"
            } else {
                "A shop, an API in Express on Node.js (`xtask image web`),"
            },
            context.options.port
        ),
        rows,
    })
}

/// The same runtimes without an engine: neither a machine's network under an engine nor `ctr`
/// publishes ports.
fn without_engine(context: &Context<'_>) -> Result<Runtimes> {
    let kinds: Vec<Kind> = context
        .runtimes
        .present
        .iter()
        .map(|runtime| runtime.kind)
        .collect();
    Runtimes::open(
        EngineName::Caisson,
        &kinds,
        &context.options.caisson,
        &context.folder(ID)?,
        &context.options.interrupt,
    )
}

/// Starts the application and measures it.
fn run(
    context: &Context<'_>,
    runtime: &Runtime,
    image: &Image,
    path: &str,
    measured: &mut Measured,
) -> Result<()> {
    let mut container = Container::new(image, std::iter::empty::<String>());
    container.publish = Some(Publish {
        host: context.options.port,
        container: PORT,
    });
    container.deadline = START;
    let subject = runtime.kind.into();
    let begin = Instant::now();
    let running = match runtime.start(&container) {
        Ok(running) => running,
        Err(Error::NotStarted { outcome, .. }) => {
            measured.raw = context.keep("web/start", subject, &outcome)?;
            measured.failure = Some(failed(&outcome));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if let Some(outcome) = running.outcome() {
        measured.raw = context.keep("web/start", subject, outcome)?;
        measured.command.clone_from(&outcome.command);
    }
    let interrupt = &context.options.interrupt;
    let done = running
        .address()
        .ok_or_else(|| "it has no address".to_owned())
        .and_then(|address| {
            let first = first_answer(address, path, begin, START, interrupt)?;
            measured.first.push(first);
            measured.latencies.extend(latencies(address, path)?);
            measured.rates.push(throughput(address, path)?);
            Ok(())
        });
    if interrupt.is_set() {
        return Err(Error::Interrupted);
    }
    if let Err(reason) = done {
        measured.failure = Some(Cell::failed(None, reason));
    }
    Ok(())
}

fn rows(
    context: &Context<'_>,
    runtimes: &Runtimes,
    measured: &BTreeMap<Subject, Measured>,
    path: &str,
) -> Vec<Row> {
    type Pick = fn(&Measured) -> &Vec<f64>;
    let kinds: [(&str, &str, Unit, Pick, &str, &str); 3] = [
        (
            "first-answer",
            "From the command to the first answer with status 200",
            Unit::Seconds,
            |measured| &measured.first,
            "What a user waits for after a deployment: the runtime's start and the application's.",
            "The runtime's share of it: that is the section on start-up.",
        ),
        (
            "latency",
            "Latency of an answer, on a connection that is kept",
            Unit::Seconds,
            |measured| &measured.latencies,
            "Fifty requests one after the other, after a warm-up: the application's work and the \
             way through the network.",
            "Latency under load.",
        ),
        (
            "requests",
            "Answers a second to four clients",
            Unit::RequestsPerSecond,
            |measured| &measured.rates,
            "What the application can do, with its client on the same host.",
            "The network of a data centre. Clients and server share the processors of this host.",
        ),
    ];
    let make = |(id, title, unit, pick, shows, does_not_show): (_, _, _, Pick, &str, &str)| {
        let mut row = Row::new(format!("{ID}/{id}"), title);
        row.command = format!(
            "caisson run --rm --publish 127.0.0.1:{port}:{PORT} web; curl http://127.0.0.1:{port}{path}",
            port = context.options.port
        );
        row.shows = shows.to_owned();
        row.does_not_show = does_not_show.to_owned();
        let host = Cell::skipped("the application is in an image only");
        row.cells.insert(Subject::Host, host);
        context.name_absent(&mut row);
        for runtime in &runtimes.present {
            let subject = runtime.kind.into();
            let cell = match measured.get(&subject) {
                None => Cell::skipped(
                    "the shop's image is not there: `cargo run -p xtask -- image web` packs it, or \
                     --image names one that listens on port 3000",
                ),
                Some(of_runtime) => {
                    let cell = match &of_runtime.failure {
                        Some(failure) => failure.clone(),
                        None => Cell::measured(unit, pick(of_runtime).clone()),
                    };
                    cell.with_command(&of_runtime.command)
                        .with_raw(&of_runtime.raw)
                }
            };
            row.cells.insert(subject, cell);
        }
        row.relate_to(Subject::Runc);
        row
    };
    kinds.into_iter().map(make).collect()
}
