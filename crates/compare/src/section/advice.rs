//! Section 8: what to use when, from the rows.

use crate::model::{Report, Statement};

/// What to use when, each sentence with the rows that it rests on.
pub fn advice(_report: &Report) -> Vec<Statement> {
    Vec::new()
}
