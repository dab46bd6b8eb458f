//! The sections of a report.

pub mod advice;
mod escape;
mod isolation;
mod kernel;
mod probe;
mod question;
mod setup;
mod startup;
mod web;
mod work;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::model::{Cell, Row, Section, Subject};

/// A section and what makes it.
pub struct Maker {
    /// Its id, as `--only` takes it.
    pub id: &'static str,
    /// What the progress line says.
    pub title: &'static str,
    make: fn(&Context<'_>) -> Result<Section>,
}

/// All sections, in the order of the report.
pub const SECTIONS: &[Maker] = &[
    Maker {
        id: "setup",
        title: "Set-up",
        make: setup::section,
    },
    Maker {
        id: "kernel",
        title: "Kernel and CPU",
        make: kernel::section,
    },
    Maker {
        id: "isolation",
        title: "Isolation",
        make: isolation::section,
    },
    Maker {
        id: escape::ID,
        title: "Escapes",
        make: escape::section,
    },
    Maker {
        id: "startup",
        title: "Start-up",
        make: startup::section,
    },
    Maker {
        id: web::ID,
        title: "A web application",
        make: web::section,
    },
    Maker {
        id: work::ID,
        title: "Work",
        make: work::section,
    },
];

impl Maker {
    /// Makes it. If that fails, the section says so: the others are still worth having.
    pub fn run(&self, context: &Context<'_>) -> Result<Section> {
        match (self.make)(context) {
            Err(error) if !matches!(error, Error::Interrupted) => {
                (context.progress)(&format!("    failed: {error}"));
                let mut row = Row::new(format!("{}/failed", self.id), "The section failed");
                row.shows = "That this section could not be made, and why.".to_owned();
                row.does_not_show = "Anything about a runtime.".to_owned();
                row.cells
                    .insert(Subject::Host, Cell::failed(None, error.to_string()));
                Ok(Section {
                    id: self.id.to_owned(),
                    title: self.title.to_owned(),
                    intro: "This section could not be made.".to_owned(),
                    rows: vec![row],
                })
            }
            done => done,
        }
    }
}

/// The sections of these ids, in the order of the report; all if there are none.
pub fn chosen(only: &[String]) -> Result<Vec<&'static Maker>> {
    let unknown = only
        .iter()
        .find(|id| SECTIONS.iter().all(|maker| maker.id != **id));
    if let Some(id) = unknown {
        return Err(Error::Section {
            id: id.clone(),
            all: SECTIONS
                .iter()
                .map(|maker| maker.id)
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    let wanted = |maker: &&Maker| only.is_empty() || only.iter().any(|id| id == maker.id);
    Ok(SECTIONS.iter().filter(wanted).collect())
}
