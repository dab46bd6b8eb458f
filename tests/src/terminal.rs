//! A pseudo-terminal with a command in it, and somebody who types and reads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize};

use crate::{text, wait};

/// A terminal whose session leader is a command.
pub struct Terminal {
    master: File,
    /// Held open, so that settings can be read after the command has ended.
    line: OwnedFd,
    /// Read before the command was started, which changes them when it likes.
    before: Termios,
    seen: Arc<Mutex<Vec<u8>>>,
    child: Option<Child>,
}

impl Terminal {
    /// Starts a command in a new terminal of that size.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let master =
            rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        rustix::pty::grantpt(&master).expect("granted");
        rustix::pty::unlockpt(&master).expect("unlocked");
        let path = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        let line: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(std::path::PathBuf::from(path.into_string().expect("UTF-8")))
            .expect("the other end")
            .into();
        let end = || line.try_clone().expect("a copy");
        // It becomes the leader of a session whose terminal this is, as in a terminal emulator.
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut terminal = Self {
            master: master.into(),
            before: rustix::termios::tcgetattr(&line).expect("settings"),
            line,
            seen: seen.clone(),
            child: None,
        };
        terminal.resize(rows, columns);
        let mut reader = terminal.master.try_clone().expect("a copy");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error when the last copy of the other end is closed.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                seen.lock()
                    .expect("a lock")
                    .extend_from_slice(&buffer[..length]);
            }
        });
        terminal.child = Some(session.spawn().expect("setsid of util-linux"));
        terminal
    }

    /// Types.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn write(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    /// Everything that was shown so far.
    ///
    /// # Panics
    /// If the reader has panicked.
    pub fn shown(&self) -> String {
        text(&self.seen.lock().expect("a lock"))
    }

    /// Waits until `words` have been shown.
    ///
    /// # Panics
    /// If they never are.
    pub fn expect(&self, words: &str) {
        self.expect_times(1, words);
    }

    /// Waits until `words` have been shown that often.
    ///
    /// # Panics
    /// If they never are.
    pub fn expect_times(&self, times: usize, words: &str) {
        self.eventually(&format!("{words:?} shown {times} times"), || {
            self.shown().matches(words).count() >= times
        });
    }

    /// Waits until the settings differ from the first ones: the command has entered raw mode.
    ///
    /// # Panics
    /// If it never does.
    pub fn expect_raw_mode(&self) {
        self.eventually("raw mode", || !self.is_as_before());
    }

    fn eventually(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        let begin = std::time::Instant::now();
        while !is_true() {
            assert!(
                begin.elapsed() < crate::PATIENCE,
                "no {what}, but: {:?}",
                self.shown()
            );
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).expect("a new size");
    }

    /// Whether the terminal is set as it was before the command was started.
    ///
    /// # Panics
    /// If its settings cannot be read.
    pub fn is_as_before(&self) -> bool {
        let settings = rustix::termios::tcgetattr(&self.line).expect("settings");
        alike(&settings, &self.before)
    }

    /// The pid of the command.
    ///
    /// # Panics
    /// After [`Self::end`].
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it has not ended").id()
    }

    /// Waits for the end of the command, which must be with that exit code.
    ///
    /// # Panics
    /// If it does not end, or in another way.
    pub fn expect_end(&mut self, code: i32) {
        let status = self.end();
        assert_eq!(status.code(), Some(code), "{status}: {:?}", self.shown());
    }

    /// Waits for the end of the command.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(&mut self) -> ExitStatus {
        wait(self.child.take().expect("it is ended once"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Of a test that failed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether two terminals are set alike.
fn alike(one: &Termios, other: &Termios) -> bool {
    (
        one.input_modes,
        one.output_modes,
        one.control_modes,
        one.local_modes,
    ) == (
        other.input_modes,
        other.output_modes,
        other.control_modes,
        other.local_modes,
    )
}
