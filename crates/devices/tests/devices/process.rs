//! Starting a device process and looking at it from outside.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};

/// A process that ends at the latest with the test.
pub struct Device {
    child: Child,
}

/// A listening socket with a connection in it.
pub fn connection() -> (OwnedFd, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = UnixStream::connect(&path).unwrap();
    (listener.into(), connection)
}

impl Device {
    /// Starts one; the descriptors get the numbers from 3. As another user, if one is
    /// named.
    pub fn start(arguments: Vec<OsString>, descriptors: Vec<OwnedFd>, user: Option<u32>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caisson-devices"));
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mappings = descriptors
            .into_iter()
            .zip(3..)
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        let child = command
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .fd_mappings(mappings)
            .unwrap()
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Its folder in /proc.
    pub fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.child.id()))
    }

    /// A field of its status.
    pub fn status(&self, field: &str) -> String {
        let status = std::fs::read_to_string(self.proc().join("status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    /// The names in its root.
    pub fn root(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.proc().join("root"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Waits for the next line that it says.
    pub fn line(&mut self) -> String {
        let pipe = self.child.stderr.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') && pipe.read(&mut byte).unwrap() > 0 {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    /// Waits for its end; returns its last words as well.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut words = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut words).unwrap();
        (self.child.wait().unwrap(), words)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
