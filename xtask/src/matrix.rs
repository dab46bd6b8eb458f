//! What each engine has shown in this run of the tests, beside what `docs/engines.md` says.
//!
//! The tests write a line for each feature that held. The table in the documentation is the
//! list of what must hold: a cell of it that was not seen fails, and so does one that was
//! seen and is not in it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::step::{root, target};

/// First cell of the table's head.
const HEAD: &str = "| feature |";

/// What stands in a cell of a feature that an engine has.
const YES: &str = "yes";

/// Where the tests write, which is also what `caisson_end_to_end::engine` knows.
fn seen_path() -> PathBuf {
    target().join("engines-seen.tsv")
}

/// Forgets what an earlier run has seen.
pub fn clear() -> Result<()> {
    let path = seen_path();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Prints what was seen, and compares it with the documentation.
pub fn check() -> Result<()> {
    let documentation = root().join("docs/engines.md");
    let text = fs::read_to_string(&documentation)
        .with_context(|| format!("cannot read {}", documentation.display()))?;
    let seen = fs::read_to_string(seen_path()).unwrap_or_default();
    let table = Table::read(&text).context("docs/engines.md has no table of features")?;
    let seen = cells(&seen);
    print!("{}", table.with(&seen));
    table.compare(&seen)
}

/// Feature and engine.
type Cell = (String, String);

/// Lines of the tests: engine, tab, feature.
fn cells(text: &str) -> BTreeSet<Cell> {
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(engine, feature)| (feature.to_owned(), engine.to_owned()))
        .collect()
}

struct Table {
    engines: Vec<String>,
    features: Vec<String>,
    /// Those with a yes.
    cells: BTreeSet<Cell>,
}

impl Table {
    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(HEAD));
        let engines = words(lines.next()?).skip(1).collect::<Vec<_>>();
        let mut table = Self {
            engines,
            features: Vec::new(),
            cells: BTreeSet::new(),
        };
        // The line below the head only separates.
        for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
            let mut words = words(line);
            let feature = words.next()?;
            for (engine, word) in table.engines.iter().zip(words) {
                if word == YES {
                    table.cells.insert((feature.clone(), engine.clone()));
                }
            }
            table.features.push(feature);
        }
        Some(table)
    }

    /// The table with what was seen in its cells.
    fn with(&self, seen: &BTreeSet<Cell>) -> String {
        let width = self.features.iter().map(String::len).max().unwrap_or(0);
        let mut text = format!("{:width$}", "FEATURE");
        for engine in &self.engines {
            text.push_str(&format!("  {engine}"));
        }
        for feature in &self.features {
            text.push_str(&format!("\n{feature:width$}"));
            for engine in &self.engines {
                let holds = seen.contains(&(feature.clone(), engine.clone()));
                let (word, width) = (if holds { YES } else { "-" }, engine.len());
                text.push_str(&format!("  {word:width$}"));
            }
        }
        text.push('\n');
        text
    }

    fn compare(&self, seen: &BTreeSet<Cell>) -> Result<()> {
        let differences: Vec<_> = self
            .cells
            .difference(seen)
            .map(|(feature, engine)| format!("{engine} did not show: {feature}"))
            .chain(seen.difference(&self.cells).map(|(feature, engine)| {
                format!("docs/engines.md does not say that {engine} has: {feature}")
            }))
            .collect();
        if !differences.is_empty() {
            bail!("{}", differences.join("\n"));
        }
        Ok(())
    }
}

/// Cells of a line.
fn words(line: &str) -> impl Iterator<Item = String> {
    line.trim_matches('|')
        .split('|')
        .map(|word| word.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTATION: &str = "\
# Engines

| feature | one | two |
|---|---|---|
| runs | yes | yes |
| stops, twice | - | yes |

More.
| not | of the table |
";

    #[test]
    fn what_is_documented_must_be_seen_and_the_other_way_round() {
        let table = Table::read(DOCUMENTATION).expect("a table");
        let all = "one\truns\ntwo\truns\ntwo\tstops, twice\n";
        assert!(table.compare(&cells(all)).is_ok());
        let error = |seen: &str| {
            table
                .compare(&cells(seen))
                .expect_err("differs")
                .to_string()
        };
        assert_eq!(
            error("one\truns\ntwo\truns\n"),
            "two did not show: stops, twice"
        );
        assert_eq!(
            error(&format!("{all}one\tstops, twice\n")),
            "docs/engines.md does not say that one has: stops, twice"
        );
        assert!(Table::read("no table").is_none());
    }

    #[test]
    fn the_table_shows_what_was_seen() {
        let table = Table::read(DOCUMENTATION).expect("a table");
        assert_eq!(
            table.with(&cells("one\truns\n")),
            "FEATURE       one  two\nruns          yes  -  \nstops, twice  -    -  \n"
        );
    }
}
