//! Our terminal while the machine's shell has it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::step::{output, run};

/// The terminal passes every key on, until this is dropped.
pub struct Raw {
    before: String,
}

impl Raw {
    /// Makes it so.
    pub fn begin() -> Result<Self> {
        let before = output(stty().arg("-g"))?;
        run(stty().args(["raw", "-echo"]))?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nothing else to try.
        let _ = run(stty().arg(&self.before));
    }
}

fn stty() -> Command {
    let mut stty = Command::new("stty");
    stty.stdin(Stdio::inherit());
    stty
}
