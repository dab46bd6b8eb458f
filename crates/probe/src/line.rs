//! What the probe says: a word, then what it is about, on one line.
//!
//! | word | meaning |
//! |---|---|
//! | `try` | what comes next; the last line, if the probe did not survive it |
//! | `done` | the kernel accepted it |
//! | `refused` | it did not, and why |
//! | `inside` | proof that the mechanism worked within the probe's own boundary |
//! | `sample` | a measurement: its name and a number |
//! | `end` | everything was tried |

use std::fmt::Display;
use std::io::Write;

/// Announces an attempt.
pub fn attempt(what: impl Display) {
    say("try", what);
}

/// Something was accepted.
pub fn done(what: impl Display) {
    say("done", what);
}

/// Something was not.
pub fn refused(what: impl Display, why: impl Display) {
    say("refused", format_args!("{what}: {why}"));
}

/// It worked within the own boundary.
pub fn inside(what: impl Display) {
    say("inside", what);
}

/// A measurement.
pub fn sample(name: &str, value: f64) {
    say("sample", format_args!("{name} {value}"));
}

/// Everything was tried.
pub fn end() {
    say("end", "");
}

/// Says how an attempt went, and whether it went well.
pub fn outcome<T, E: Display>(what: impl Display, result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => {
            done(what);
            Some(value)
        }
        Err(error) => {
            refused(what, error);
            None
        }
    }
}

/// At once: the next step may be the last.
fn say(word: &str, text: impl Display) {
    let line = format!("{word} {text}").replace('\n', " ");
    let mut stdout = std::io::stdout().lock();
    // Nobody may be reading any more; the attempt goes on.
    let _ = writeln!(stdout, "{}", line.trim_end()).and_then(|()| stdout.flush());
}
