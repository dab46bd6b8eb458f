//! One line of progress for each thing that is built at the same time.
//!
//! On a terminal the lines stay in place and change; elsewhere (CI) each says
//! something now and then.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::step::shown;

/// How often a line is printed where it cannot be redrawn.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// How often the terminal is redrawn at most.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Lines of a failed command that are shown with its error.
const SHOWN_OF_LOG: usize = 40;

/// The line of one thing being built.
#[derive(Clone)]
pub struct Line {
    board: Arc<Mutex<Board>>,
    index: usize,
}

struct Board {
    terminal: bool,
    start: Instant,
    drawn: Option<Instant>,
    lines: Vec<State>,
}

struct State {
    name: &'static str,
    text: String,
    printed: Option<Instant>,
}

/// A line for each name, in this order.
pub fn lines<const N: usize>(names: [&'static str; N]) -> [Line; N] {
    let board = Arc::new(Mutex::new(Board {
        terminal: std::io::stderr().is_terminal(),
        start: Instant::now(),
        drawn: None,
        lines: names
            .iter()
            .map(|&name| State {
                name,
                text: "waits".into(),
                printed: None,
            })
            .collect(),
    }));
    std::array::from_fn(|index| Line {
        board: Arc::clone(&board),
        index,
    })
}

impl Line {
    /// A line on its own.
    pub fn single(name: &'static str) -> Self {
        let [line] = lines([name]);
        line
    }

    /// Replaces the text; it is shown when it is due.
    pub fn say(&self, text: impl Into<String>) {
        self.update(text.into(), false);
    }

    /// Replaces the text by one that must be seen: a result.
    pub fn conclude(&self, text: impl Into<String>) {
        self.update(text.into(), true);
    }

    fn update(&self, text: String, at_once: bool) {
        // A panic of another line's thread leaves only an old text behind.
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.lines[self.index].text = text;
        if board.terminal {
            board.redraw(at_once);
        } else {
            board.print(self.index, at_once);
        }
    }
}

impl Board {
    fn redraw(&mut self, at_once: bool) {
        let due = self
            .drawn
            .is_none_or(|drawn| drawn.elapsed() >= REDRAW_INTERVAL);
        if !due && !at_once {
            return;
        }
        let mut text = String::new();
        if self.drawn.is_some() {
            text.push_str(&format!("\x1b[{}A", self.lines.len()));
        }
        for line in &self.lines {
            // Cut rather than wrapped: a wrapped line would not be drawn over.
            let shown: String = line.text.chars().take(60).collect();
            text.push_str(&format!("\r\x1b[K    {:9} {shown}\n", line.name));
        }
        self.drawn = Some(Instant::now());
        // Progress that cannot be written is not worth stopping for.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn print(&mut self, index: usize, at_once: bool) {
        let elapsed = self.start.elapsed().as_secs();
        let line = &mut self.lines[index];
        let due = line
            .printed
            .is_none_or(|printed| printed.elapsed() >= PLAIN_INTERVAL);
        if due || at_once {
            eprintln!("    {:9} {} [{elapsed} s]", line.name, line.text);
            line.printed = Some(Instant::now());
        }
    }
}

/// Runs a command with all its output in `log`, and shows on `line` what
/// `describe` makes of each line of it.
pub fn watch(
    line: &Line,
    command: &mut Command,
    log: &Path,
    mut describe: impl FnMut(&str) -> Option<String>,
) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(writer.try_clone().context("cannot duplicate a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    // The command holds the other writing ends: while it does, the pipe has no end.
    command.stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());

    let mut file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut tail = std::collections::VecDeque::with_capacity(SHOWN_OF_LOG);
    for bytes in BufReader::new(reader).split(b'\n') {
        let bytes = bytes.with_context(|| format!("cannot read from {}", shown(command)))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        writeln!(file, "{text}").with_context(|| format!("cannot write {}", log.display()))?;
        if let Some(description) = describe(&text) {
            line.say(description);
        }
        if tail.len() == SHOWN_OF_LOG {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {}", shown(command)))?;
    if !status.success() {
        line.conclude("failed");
        bail!(
            "`{}` ended with {status}; the end of {}:\n{}",
            shown(command),
            log.display(),
            Vec::from(tail).join("\n")
        );
    }
    Ok(())
}
