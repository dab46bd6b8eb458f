//! A question that is the same wherever it is asked.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::error::Result;
use crate::model::{Difference, Row, Subject, Value};
use crate::runtime::Container;

/// Lines of an answer that a report shows.
const LINES: usize = 10;

/// A question and what its answer means.
pub struct Question {
    /// Id of its row.
    pub id: &'static str,
    /// Its title.
    pub title: &'static str,
    /// A shell script.
    pub script: &'static str,
    /// What the row shows.
    pub shows: &'static str,
    /// What it must not be taken for.
    pub does_not_show: &'static str,
}

/// Whole answers, of those that gave one.
pub type Answers = BTreeMap<Subject, String>;

impl Question {
    /// Asks every runtime, in a container that `change` has the last word on.
    pub fn ask(
        &self,
        context: &Context<'_>,
        change: impl Fn(&mut Container),
    ) -> Result<(Row, Answers)> {
        let mut row = Row::new(self.id, self.title);
        row.command = self.script.to_owned();
        row.shows = self.shows.to_owned();
        row.does_not_show = self.does_not_show.to_owned();
        let mut answers = Answers::new();
        let mut container = Container::shell(context.image, self.script);
        change(&mut container);
        for runtime in &context.runtimes.present {
            let mut answer = context.ask(self.id, runtime, &container)?;
            if let Some(outcome) = &answer.outcome {
                let text = outcome.text();
                answer.cell.value = Value::Text {
                    text: shortened(&text),
                };
                answers.insert(runtime.kind.into(), text);
            }
            row.cells.insert(runtime.kind.into(), answer.cell);
        }
        context.name_absent(&mut row);
        Ok((row, answers))
    }

    /// Asks the host as well, outside of any container.
    pub fn ask_host(
        &self,
        context: &Context<'_>,
        row: &mut Row,
        answers: &mut Answers,
    ) -> Result<()> {
        let mut outcome = context.host(&["sh", "-c", self.script])?;
        outcome.command = self.script.to_owned();
        let mut cell = context.cell(self.id, Subject::Host, &outcome)?;
        if outcome.success() {
            let text = outcome.text();
            cell.value = Value::Text {
                text: shortened(&text),
            };
            answers.insert(Subject::Host, text);
        }
        row.cells.insert(Subject::Host, cell);
        Ok(())
    }
}

/// What differs between runc and Caisson, if both have answered. Never between host and guest:
/// a container of any kind differs from its host.
pub fn difference(answers: &Answers) -> Option<Difference> {
    let between = [Subject::Runc, Subject::Caisson];
    let first = answers.get(&between[0])?;
    Some(Difference::of(between, first, answers.get(&between[1])?))
}

/// The first lines, and how many there are.
fn shortened(text: &str) -> String {
    let count = text.lines().count();
    if count <= LINES {
        return text.to_owned();
    }
    let begin: Vec<_> = text.lines().take(LINES - 2).collect();
    format!("{}\n... ({count} lines in all)", begin.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_shortened() {
        assert_eq!(shortened("a\nb"), "a\nb");
        let long: String = (1..=50).map(|number| format!("{number}\n")).collect();
        let short = shortened(&long);
        assert_eq!(short.lines().count(), LINES - 1);
        assert!(short.ends_with("8\n... (50 lines in all)"), "{short}");
    }

    #[test]
    fn there_is_no_difference_to_one_that_did_not_answer() {
        let mut answers = Answers::from([(Subject::Runc, "a\nb".to_owned())]);
        assert_eq!(difference(&answers), None);
        answers.insert(Subject::Host, "x".to_owned());
        assert_eq!(difference(&answers), None);
        answers.insert(Subject::Caisson, "b\nc".to_owned());
        let difference = difference(&answers).expect("both answered");
        assert_eq!(difference.only_second, ["c"]);
    }
}
