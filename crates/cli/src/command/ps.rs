//! `caisson ps`.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;

use super::port::hosts;
use crate::container::{Container, ContainerStore, State, Status};
use crate::table::Table;

/// `caisson ps`.
#[derive(Debug, Args)]
pub struct PsFlags {
    /// Show containers that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Only print ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Print one JSON object a line
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
}

/// Lists containers.
pub fn ps(flags: &PsFlags, store: &ContainerStore) -> Result<()> {
    let mut table = Table::new([
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]);
    for container in store.list()? {
        let state = container.state()?;
        if !flags.all && !state.status.is_live() {
            continue;
        }
        let id = if flags.no_trunc {
            &container.record.id
        } else {
            container.short_id()
        };
        let command = command(&container, flags.no_trunc);
        if flags.quiet {
            println!("{id}");
        } else if flags.format == "json" {
            let row = serde_json::json!({
                "ID": id, "Names": container.record.name, "Image": container.record.image, "Command": command,
                "CreatedAt": container.record.created, "State": state.status, "Status": status(&state), "Ports": ports(&state),
            });
            println!("{row}");
        } else {
            let created = ago(&container.record.created);
            table.row([
                id,
                &container.record.image,
                &command,
                &created,
                &status(&state),
                &ports(&state),
                &container.record.name,
            ]);
        }
    }
    if !flags.quiet && flags.format == "table" {
        print!("{table}");
    }
    Ok(())
}

fn command(container: &Container, whole: bool) -> String {
    let process = container.record.spec.process().as_ref();
    let mut text = process
        .and_then(|process| process.args().as_ref())
        .map(|args| args.join(" "))
        .unwrap_or_default();
    if !whole && text.chars().count() > 20 {
        text = text.chars().take(19).chain(['…']).collect();
    }
    // The arguments are the user's or the image's: no control characters on a terminal.
    format!("\"{}\"", text.escape_debug())
}

fn ports(state: &State) -> String {
    let ports = state.network.iter().flat_map(|network| &network.ports);
    let shown: Vec<_> = ports
        .flat_map(|port| {
            hosts(port)
                .into_iter()
                .map(|host| format!("{host}->{}/{}", port.container, port.protocol))
        })
        .collect();
    shown.join(", ")
}

fn status(state: &State) -> String {
    let started = || since(state.started_at.as_deref().unwrap_or_default()).unwrap_or_default();
    let finished = || ago(state.finished_at.as_deref().unwrap_or_default());
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Starting => "Starting".to_owned(),
        Status::Running => format!("Up {}", started()),
        Status::Paused => format!("Up {} (Paused)", started()),
        Status::Exited => format!("Exited ({}) {}", state.exit_code, finished()),
        Status::Dead => "Dead".to_owned(),
    }
}

/// The time since an RFC 3339 date, in words; the date itself if it cannot be read.
pub fn ago(date: &str) -> String {
    since(date).map_or_else(|| date.to_owned(), |words| format!("{words} ago"))
}

fn since(date: &str) -> Option<String> {
    let then = humantime::parse_rfc3339_weak(date).ok()?;
    Some(in_words(
        SystemTime::now().duration_since(then).unwrap_or_default(),
    ))
}

fn in_words(time: Duration) -> String {
    let (amount, unit) = match time.as_secs() {
        0 => return "less than a second".to_owned(),
        seconds @ 1..60 => (seconds, "second"),
        seconds @ 60..3_600 => (seconds / 60, "minute"),
        seconds @ 3_600..86_400 => (seconds / 3_600, "hour"),
        seconds @ 86_400..1_209_600 => (seconds / 86_400, "day"),
        seconds @ 1_209_600..5_184_000 => (seconds / 604_800, "week"),
        seconds @ 5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        seconds => (seconds / 31_536_000, "year"),
    };
    format!("{amount} {unit}{}", if amount == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_words() {
        for (seconds, words) in [
            (0, "less than a second"),
            (1, "1 second"),
            (119, "1 minute"),
            (90_000, "1 day"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }
}
