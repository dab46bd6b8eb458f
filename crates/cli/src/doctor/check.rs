//! One prerequisite and what was found of it.

use serde::Serialize;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// As it should be.
    #[serde(rename = "ok")]
    Good,
    /// Containers run, but it could be better.
    #[serde(rename = "note")]
    Poor,
    /// Containers do not run.
    #[serde(rename = "fail")]
    Bad,
}

/// One prerequisite.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Short name.
    pub name: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
    /// What to do about it: a command where one helps.
    pub remedy: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn good(name: &'static str, found: String) -> Self {
        Self {
            name,
            verdict: Verdict::Good,
            found,
            remedy: None,
        }
    }

    /// No obstacle, but worth knowing.
    pub fn poor(name: &'static str, found: String, remedy: &str) -> Self {
        Self {
            name,
            verdict: Verdict::Poor,
            found,
            remedy: Some(remedy.to_owned()),
        }
    }

    /// An obstacle.
    pub fn bad(name: &'static str, found: String, remedy: &str) -> Self {
        Self {
            name,
            verdict: Verdict::Bad,
            found,
            remedy: Some(remedy.to_owned()),
        }
    }
}
