//! Which subjects get a column in a section's table.

use std::collections::BTreeMap;

use crate::model::{Row, Section, Subject, Value};

/// The subjects of a section.
pub struct Columns<'a> {
    /// Those that answered something, if only that they failed.
    pub present: Vec<Subject>,
    /// Those that are not installed, and what installs them: named once, they need
    /// no column.
    pub absent: BTreeMap<Subject, &'a str>,
}

impl<'a> Columns<'a> {
    /// The subjects of all rows.
    pub fn of(section: &'a Section) -> Self {
        let mut present = Vec::new();
        let mut absent = BTreeMap::new();
        for subject in Subject::ALL {
            let cells = section
                .rows
                .iter()
                .filter_map(|row| row.cells.get(&subject));
            for cell in cells {
                if let Value::NotInstalled { install } = &cell.value {
                    absent.insert(subject, install.as_str());
                } else if !present.contains(&subject) {
                    present.push(subject);
                }
            }
        }
        absent.retain(|subject, _| !present.contains(subject));
        Self { present, absent }
    }

    /// The only one of these subjects that a row asked, if there is just one.
    pub fn only(&self, row: &Row) -> Option<Subject> {
        let mut asked = self
            .present
            .iter()
            .filter(|subject| row.cells.contains_key(subject));
        let first = asked.next().copied();
        first.filter(|_| asked.next().is_none())
    }
}
