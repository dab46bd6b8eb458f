//! `caisson logs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use super::block_on;
use crate::client;
use crate::container::{Container, ContainerStore};
use crate::supervisor::control::Request;
use crate::supervisor::log::{Chunk, LogReader, Source};

/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// `caisson logs`.
#[derive(Debug, Args)]
pub struct LogsFlags {
    /// Go on as the container writes
    #[arg(short, long)]
    follow: bool,
    /// Number of lines from the end, or `all`
    #[arg(short = 'n', long, value_parser = tail, default_value = "all")]
    tail: Tail,
    /// Only what was written since then: RFC 3339, or how long ago (`10m`)
    #[arg(long, value_parser = since)]
    since: Option<SystemTime>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// What the guest's kernel and agent said instead of what the container wrote
    #[arg(long, conflicts_with_all = ["since", "timestamps", "follow"])]
    boot: bool,
    /// Name or id of a container
    container: String,
}

/// How many lines from the end.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => number
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| "a number of lines, or `all`".to_owned()),
    }
}

fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now()
            .checked_sub(ago)
            .ok_or_else(|| "that is too long ago".to_owned());
    }
    if let Ok(seconds) = text.parse::<f64>()
        && let Ok(after_epoch) = Duration::try_from_secs_f64(seconds)
    {
        return Ok(UNIX_EPOCH + after_epoch);
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "a date as 2026-01-31T12:00:00Z, or a duration as 10m".to_owned())
}

/// Shows what a container wrote.
pub fn logs(flags: &LogsFlags, store: &ContainerStore) -> Result<()> {
    let container = store.find(&flags.container)?;
    let done = if flags.boot {
        boot(&container)
    } else {
        output(flags, &container)
    };
    match done {
        // The reader has seen enough.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn boot(container: &Container) -> Result<()> {
    for path in [container.console_log(), container.guest_log()] {
        match File::open(&path) {
            Ok(mut file) => drop(io::copy(&mut file, &mut io::stdout())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
    Ok(())
}

fn output(flags: &LogsFlags, container: &Container) -> Result<()> {
    let path = container.output_log();
    let mut reader =
        LogReader::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let earliest = flags
        .since
        .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    let mut lines = Lines::new(flags.timestamps);
    let mut kept = VecDeque::new();
    while let Some(chunk) = reader.next().context("cannot read the log")? {
        if u128::from(chunk.nanoseconds) < earliest {
            continue;
        }
        for line in lines.split(&chunk) {
            kept.push_back(line);
            match flags.tail.0 {
                Some(limit) if kept.len() > limit => drop(kept.pop_front()),
                Some(_) => {}
                None => kept.drain(..).try_for_each(|line| line.print())?,
            }
        }
    }
    if !flags.follow {
        kept.extend(lines.rest());
        if let Some(limit) = flags.tail.0 {
            kept.drain(..kept.len().saturating_sub(limit));
        }
    }
    kept.drain(..).try_for_each(|line| line.print())?;
    if flags.follow {
        follow(container, reader, lines)
    } else {
        Ok(())
    }
}

fn follow(container: &Container, mut reader: LogReader, mut lines: Lines) -> Result<()> {
    block_on(async {
        let ended = async {
            if let Ok(connection) = client::connect(container)
                && connection.send(&Request::Wait, &[]).await.is_ok()
            {
                let _ = client::answer(container, &connection).await;
            }
        };
        tokio::pin!(ended);
        let mut last_look = false;
        loop {
            while let Some(chunk) = reader.next().context("cannot read the log")? {
                lines
                    .split(&chunk)
                    .into_iter()
                    .try_for_each(|line| line.print())?;
            }
            if last_look {
                lines.rest().into_iter().try_for_each(|line| line.print())?;
                return Ok(());
            }
            tokio::select! {
                () = &mut ended => last_look = true,
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            }
        }
    })
}

/// A line, ready to be printed.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    source: Source,
    bytes: Vec<u8>,
}

impl Line {
    fn print(&self) -> Result<()> {
        match self.source {
            Source::Output => {
                io::stdout().write_all(&self.bytes)?;
                Ok(io::stdout().flush()?)
            }
            Source::Error => Ok(io::stderr().write_all(&self.bytes)?),
        }
    }
}

/// Makes lines of chunks, for each stream on its own.
#[derive(Debug)]
struct Lines {
    timestamps: bool,
    partial: [Vec<u8>; 2],
}

/// A line without an end is printed in pieces of this size.
const LINE_LIMIT: usize = 1 << 20;

impl Lines {
    fn new(timestamps: bool) -> Self {
        Self {
            timestamps,
            partial: Default::default(),
        }
    }

    fn split(&mut self, chunk: &Chunk) -> Vec<Line> {
        let mut lines = Vec::new();
        let partial = &mut self.partial[usize::from(chunk.source == Source::Error)];
        for piece in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
            if partial.is_empty() && self.timestamps {
                let time = UNIX_EPOCH + Duration::from_nanos(chunk.nanoseconds);
                partial.extend_from_slice(
                    format!("{} ", humantime::format_rfc3339_nanos(time)).as_bytes(),
                );
            }
            partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || partial.len() >= LINE_LIMIT {
                lines.push(Line {
                    source: chunk.source,
                    bytes: std::mem::take(partial),
                });
            }
        }
        lines
    }

    fn rest(&mut self) -> Vec<Line> {
        let sources = [Source::Output, Source::Error];
        let rest = sources.into_iter().zip(&mut self.partial);
        rest.filter(|(_, bytes)| !bytes.is_empty())
            .map(|(source, bytes)| Line {
                source,
                bytes: std::mem::take(bytes),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_for_each_stream() {
        let chunk = |source, bytes: &[u8]| Chunk {
            source,
            nanoseconds: 0,
            bytes: bytes.to_vec(),
        };
        let line = |source, bytes: &[u8]| Line {
            source,
            bytes: bytes.to_vec(),
        };
        let mut lines = Lines::new(false);
        assert_eq!(
            lines.split(&chunk(Source::Output, b"one\ntw")),
            [line(Source::Output, b"one\n")]
        );
        assert_eq!(
            lines.split(&chunk(Source::Error, b"oops\n")),
            [line(Source::Error, b"oops\n")]
        );
        assert_eq!(
            lines.split(&chunk(Source::Output, b"o\n")),
            [line(Source::Output, b"two\n")]
        );
        assert_eq!(lines.split(&chunk(Source::Output, b"end")), []);
        assert_eq!(lines.rest(), [line(Source::Output, b"end")]);
    }

    #[test]
    fn timestamps_begin_lines_not_chunks() {
        let mut lines = Lines::new(true);
        let mut text = Vec::new();
        for bytes in [&b"a"[..], b"b\nc\n"] {
            let chunk = Chunk {
                source: Source::Output,
                nanoseconds: 1,
                bytes: bytes.to_vec(),
            };
            text.extend(lines.split(&chunk).into_iter().flat_map(|line| line.bytes));
        }
        assert_eq!(
            String::from_utf8_lossy(&text),
            "1970-01-01T00:00:00.000000001Z ab\n1970-01-01T00:00:00.000000001Z c\n"
        );
    }
}
