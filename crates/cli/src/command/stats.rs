//! `caisson stats`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::block_on;
use crate::client;
use crate::container::{Container, ContainerStore};
use crate::supervisor::control::{Request, Response, Stats};
use crate::table::Table;

/// Between two measurements, from which the processor's share is computed.
const INTERVAL: Duration = Duration::from_secs(1);

/// `caisson stats`.
#[derive(Debug, Args)]
pub struct StatsFlags {
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// Print one JSON object a line
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// Names or ids of containers; all that run, if none is named
    containers: Vec<String>,
}

/// Shows what containers use, by their guests' account, and what their
/// sandboxes hold of the host's memory.
pub fn stats(flags: &StatsFlags, store: &ContainerStore) -> Result<()> {
    loop {
        let containers = running(flags, store)?;
        let begin = Instant::now();
        let before = containers.iter().map(ask).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(INTERVAL);
        let mut table = Table::new([
            "CONTAINER ID",
            "NAME",
            "CPU %",
            "MEM USAGE / LIMIT",
            "HOST PSS",
            "NET I/O",
            "BLOCK I/O",
            "PIDS",
        ]);
        for (container, before) in containers.iter().zip(before) {
            let Ok(now) = ask(container) else { continue };
            let used = Duration::from_micros(now.cpu_usage_us.saturating_sub(before.cpu_usage_us));
            let share = 100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64();
            if flags.format == "json" {
                println!(
                    "{}",
                    serde_json::json!({
                        "ID": container.short_id(), "Name": container.record.name, "CPUPerc": share, "Stats": now,
                    })
                );
                continue;
            }
            table.row([
                container.short_id(),
                &container.record.name,
                &format!("{share:.2}%"),
                &format!(
                    "{} / {}",
                    bytes(now.memory_bytes),
                    bytes(now.memory_limit_bytes)
                ),
                &bytes(now.host_pss_bytes),
                &format!("{} / {}", bytes(now.received_bytes), bytes(now.sent_bytes)),
                &format!("{} / {}", bytes(now.read_bytes), bytes(now.write_bytes)),
                &now.pids.to_string(),
            ]);
        }
        if flags.format == "table" {
            if !flags.no_stream {
                // Home and clear, as `top` does.
                print!("\x1b[H\x1b[2J");
            }
            print!("{table}");
        }
        if flags.no_stream {
            return Ok(());
        }
    }
}

fn running(flags: &StatsFlags, store: &ContainerStore) -> Result<Vec<Container>> {
    if !flags.containers.is_empty() {
        return flags
            .containers
            .iter()
            .map(|name| Ok(store.find(name)?))
            .collect();
    }
    let mut running = Vec::new();
    for container in store.list()? {
        if container.state()?.status.is_live() {
            running.push(container);
        }
    }
    Ok(running)
}

fn ask(container: &Container) -> Result<Stats> {
    match block_on(client::ask(container, &Request::Stats))? {
        Response::Stats(stats) => Ok(stats),
        other => bail!("the supervisor answered {other:?} to a question for statistics"),
    }
}

/// Bytes with a binary unit.
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{count}B")
    } else {
        format!("{value:.1}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_units() {
        assert_eq!(
            (bytes(0), bytes(1023), bytes(1536), bytes(1 << 30)),
            (
                "0B".into(),
                "1023B".into(),
                "1.5KiB".into(),
                "1.0GiB".into()
            )
        );
    }
}
