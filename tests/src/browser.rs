//! A browser without a screen, driven over the DevTools protocol.
//!
//! The protocol runs over a pair of pipes (`--remote-debugging-pipe`), a JSON
//! message and a zero byte each way: no port that another test could take.
//! <https://chromedevtools.github.io/devtools-protocol/>

mod page;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};

pub use page::{Page, Theme};

/// Descriptors of the browser's side of the pipes.
const REQUESTS: i32 = 3;
const ANSWERS: i32 = 4;

/// How long one call may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Chromium, with a profile of its own that goes with it.
pub struct Browser {
    child: Child,
    requests: std::io::PipeWriter,
    answers: Receiver<Value>,
    events: Vec<Value>,
    calls: u64,
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// If Debian's chromium is missing: `make test` installs it.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a scratch folder");
        let (its_requests, requests) = std::io::pipe().expect("a pipe");
        let (answers, its_answers) = std::io::pipe().expect("a pipe");
        let mapping = |parent_fd: OwnedFd, child_fd| FdMapping {
            parent_fd,
            child_fd,
        };
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless",
                // Its sandbox refuses to run as root.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                // Nothing of it may use the network.
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--no-default-browser-check",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // It writes caches and a crash handler's files below its home.
            .env("HOME", profile.path())
            .env("XDG_CONFIG_HOME", profile.path().join("config"))
            .env("XDG_CACHE_HOME", profile.path().join("cache"))
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
            .fd_mappings(vec![
                mapping(its_requests.into(), REQUESTS),
                mapping(its_answers.into(), ANSWERS),
            ])
            .expect("two descriptors");
        let child = command
            .spawn()
            .expect("chromium starts: `make setup` installs it");
        // The command holds our copies of the browser's ends: with them the end
        // of the browser would not be seen.
        drop(command);
        let (send, received) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).expect("JSON of the protocol");
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            requests,
            answers: received,
            events: Vec::new(),
            calls: 0,
            profile,
        }
    }

    /// Calls a method and waits for its result; events that come before it are kept.
    ///
    /// # Panics
    /// If the browser refuses it, or does not answer.
    fn call(&mut self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.requests
            .write_all(&bytes)
            .unwrap_or_else(|error| panic!("{method}: the browser has ended: {error}"));
        let begin = Instant::now();
        loop {
            let mut message = self.next(method, begin);
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// Waits for an event, unless it has come already.
    fn wait_for(&mut self, method: &str) {
        let begin = Instant::now();
        while !self.events.iter().any(|event| event["method"] == method) {
            let message = self.next(method, begin);
            self.events.push(message);
        }
    }

    fn next(&mut self, what: &str, begin: Instant) -> Value {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        self.answers
            .recv_timeout(left)
            .unwrap_or_else(|error| panic!("{what}: the browser does not answer: {error}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It takes its children along when it closes; killed, it could not.
        let _ = self
            .requests
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let begin = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            let mark = self.profile.path().to_string_lossy().into_owned();
            crate::eventually("no process of the browser is left", || !is_used(&mark));
        }
    }
}

/// Whether a process has this among its arguments.
fn is_used(mark: &str) -> bool {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|arguments| crate::text(&arguments).contains(mark))
}
