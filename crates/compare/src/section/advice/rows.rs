//! Rows by their ids.

use crate::model::{Cell, Measurement, Report, Row, Subject, Value};

/// The rows of a report.
pub struct Rows<'a>(pub &'a Report);

impl<'a> Rows<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Row> + use<'a> {
        let sections = self.0.sections.iter();
        sections.flat_map(|section| section.rows.iter())
    }

    /// Whether software played the processor of Caisson's machines.
    pub fn emulated(&self) -> bool {
        !self.0.environment.hypervisor.hardware_virtualisation
    }

    /// A row's cell.
    pub fn cell(&self, id: &str, subject: Subject) -> Option<&'a Cell> {
        self.all().find(|row| row.id == id)?.cells.get(&subject)
    }

    /// The text of a cell, if it has one.
    pub fn text(&self, id: &str, subject: Subject) -> Option<&'a str> {
        match &self.cell(id, subject)?.value {
            Value::Text { text } => Some(text),
            _ => None,
        }
    }

    /// The measurement of a cell, if it is one.
    pub fn measurement(&self, id: &str, subject: Subject) -> Option<&'a Measurement> {
        self.cell(id, subject)?.measurement()
    }

    /// Rows of a section, for a subject's cells that are such.
    pub fn with(
        &self,
        section: &str,
        subject: Subject,
        is: impl Fn(&Cell) -> bool,
    ) -> Vec<&'a str> {
        self.of(section)
            .filter(|row| row.cells.get(&subject).is_some_and(&is))
            .map(|row| row.id.as_str())
            .collect()
    }

    /// The rows of a section.
    pub fn of(&self, section: &str) -> impl Iterator<Item = &'a Row> + use<'a> {
        let sections = self.0.sections.iter();
        let section = section.to_owned();
        sections
            .filter(move |one| one.id == section)
            .flat_map(|one| one.rows.iter())
    }

    /// All rows in which a subject was measured.
    pub fn measured(&self, subject: Subject) -> Vec<&'a str> {
        let rows = self.all().filter(|row| {
            let cell = row.cells.get(&subject);
            cell.is_some_and(|cell| cell.measurement().is_some())
        });
        rows.map(|row| row.id.as_str()).collect()
    }

    /// Those of some rows that there are.
    pub fn present<'b>(&self, ids: &[&'b str]) -> Vec<&'b str> {
        let there = |id: &&&'b str| self.all().any(|row| row.id == **id);
        ids.iter().filter(there).copied().collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{Engine, Environment, Hardware, Hypervisor, SCHEMA, Section, Settings};

    /// A report without rows.
    pub fn report() -> Report {
        let text = String::new;
        Report {
            schema: SCHEMA,
            made_at: text(),
            took_seconds: 0.0,
            settings: Settings {
                command: text(),
                image: text(),
                sections: Vec::new(),
                runs: 0,
                allow_unsafe: false,
            },
            environment: Environment {
                hardware: Hardware {
                    processor: text(),
                    processors: 1,
                    memory: 0,
                    kind: None,
                },
                kernel: text(),
                distribution: text(),
                cgroup_mode: text(),
                engine: Engine {
                    name: text(),
                    version: text(),
                    reason: text(),
                },
                hypervisor: Hypervisor {
                    name: text(),
                    reason: text(),
                    hardware_virtualisation: true,
                },
                tools: Vec::new(),
            },
            runtimes: Vec::new(),
            findings: Vec::new(),
            sections: Vec::new(),
            advice: Vec::new(),
        }
    }

    /// Adds or replaces a cell, and what it is in.
    pub fn with_cell(report: &mut Report, id: &str, subject: Subject, cell: Cell) {
        let name = id.split('/').next().expect("a section");
        let place = report
            .sections
            .iter()
            .position(|section| section.id == name);
        let place = place.unwrap_or_else(|| {
            report.sections.push(Section {
                id: name.to_owned(),
                title: name.to_owned(),
                intro: String::new(),
                rows: Vec::new(),
            });
            report.sections.len() - 1
        });
        let rows = &mut report.sections[place].rows;
        let place = rows.iter().position(|row| row.id == id);
        let place = place.unwrap_or_else(|| {
            rows.push(Row::new(id, id));
            rows.len() - 1
        });
        rows[place].cells.insert(subject, cell);
        rows[place].relate_to(Subject::Runc);
    }
}
