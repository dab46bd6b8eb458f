//! The user's terminal.

use std::io::{self, IsTerminal};

use rustix::termios::{OptionalActions, Termios};

/// Raw mode of the terminal on standard input, for as long as this lives: every
/// key, Ctrl-C and Ctrl-Z too, goes to the container.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Enters raw mode; none if standard input is not a terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let entered = Self {
            before: rustix::termios::tcgetattr(&stdin)?,
        };
        entered.again()?;
        Ok(Some(entered))
    }

    /// Enters it again after somebody else has changed the terminal.
    pub fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(rustix::termios::tcsetattr(
            io::stdin(),
            OptionalActions::Now,
            &raw,
        )?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may have been closed.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Rows and columns of the terminal on standard output, else of the one on
/// standard input; zeroes if there is none.
pub fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stdin()))
        .map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
