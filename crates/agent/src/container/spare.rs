//! A process that waits to be the first of a container, since before its template was
//! frozen: it is in namespaces of its own, and has mounted what most containers want.
//!
//! It shares the agent's descriptors and mounts until it is told what to become, so that it
//! is given numbers and paths.

use std::convert::Infallible;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use caisson_protocol::agent::CreateContainerRequest;
use protobuf::Message;
use rustix::thread::UnshareFlags;

use super::first::First;
use super::rootfs::files_of;
use super::{description, program};
use crate::cgroup::Cgroup;
use crate::child::{
    self, Child, Namespaces, PremadeMounts, Report, Reporter, StandardStreams, TerminalSize,
};
use crate::error::{Error, Result};
use crate::reaper::{self, ExitWatch, Reaper};

/// Its namespaces: those that nearly every container has. That of its mounts it makes when
/// the container's files are mounted.
const NAMESPACES: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Longest description of a container: what fits into a message of the host's.
const LIMIT: usize = 4 << 20;

/// The one of this machine, until a container is made.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Option<Waiting>>);

/// A process that waits.
#[derive(Debug)]
pub struct Waiting {
    pub child: Child,
    pub exit: ExitWatch,
    /// Its end of the connection, as long as it shares the agent's descriptors.
    pub reporter: Reporter,
}

/// What it is to become.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub request: &'a CreateContainerRequest,
    pub rootfs: &'a Path,
    pub layer: Option<&'a Path>,
    pub streams: &'a StandardStreams,
}

impl Spare {
    /// Makes it, in the cgroup of the first container. It is ready when this returns.
    pub async fn prepare(&self, cgroup: &Cgroup, reaper: &Reaper) -> Result<()> {
        let directory = cgroup.open()?;
        let namespaces = Namespaces::New(NAMESPACES as u64);
        let cgroup = Some(directory.as_fd());
        let (mut child, reporter) = child::spawn_sharing(namespaces, cgroup, wait)?;
        let exit = reaper.expect(child.pid);
        let Report::Ready { .. } = child.reports.next().await? else {
            return Err(Error::Child("a child ended without a word".to_owned()));
        };
        *self.lock() = Some(Waiting {
            child,
            exit,
            reporter,
        });
        Ok(())
    }

    /// Takes it for a container whose first process has these namespaces (`CLONE_NEW*`). If
    /// it has others, there is none from then on: it is in the first container's cgroup.
    pub async fn take(&self, namespaces: u64) -> Result<Option<Waiting>> {
        let Some(waiting) = self.lock().take() else {
            return Ok(None);
        };
        let has_ended = waiting.exit.borrow().is_some();
        if !has_ended && namespaces == (NAMESPACES | libc::CLONE_NEWNS) as u64 {
            return Ok(Some(waiting));
        }
        if !has_ended {
            let killed = rustix::process::pidfd_send_signal(
                &waiting.child.pidfd,
                rustix::process::Signal::KILL,
            );
            killed.map_err(Error::system("end a process"))?;
            reaper::ended(&waiting.exit).await;
        }
        PremadeMounts::remove();
        Ok(None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Tells it what to become. It has descriptors of its own when it reports that it is
    /// ready; until then the streams have to stay open.
    pub async fn become_first(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let message = wanted.encode()?;
        self.child.reports.tell(&message).await
    }
}

/// What the process does: it mounts what it can, and waits.
fn wait(reporter: &Reporter) -> Result<Infallible> {
    let premade = PremadeMounts::prepare()?;
    reporter.done("")?;
    let mut length = [0; 4];
    let mut message = Vec::new();
    let read = |bytes: &mut [u8]| reporter.stream().read_exact(bytes);
    let told = read(&mut length).and_then(|()| {
        let length = u32::from_le_bytes(length) as usize;
        if length > LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        message.resize(length, 0);
        read(&mut message)
    });
    told.map_err(Error::system("wait for the agent"))?;
    // SAFETY: the process has one thread. It has no descriptor that it takes for its own
    // but those that it opened, which stay open in its own table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES | UnshareFlags::NEWNS) }
        .map_err(Error::system("leave the agent's mounts"))?;
    let told = Told::decode(&message)?;
    let files = files_of(&told.rootfs, &told.request.files);
    let description = description(&told.request)?;
    let program = program(&description, &told.request, told.streams)?;
    First {
        description: &description,
        rootfs: &told.rootfs,
        layer: told.layer.as_deref(),
        files: &files,
        premade: &premade,
    }
    .execute(&program, reporter)
}

/// What a process was told.
struct Told {
    request: CreateContainerRequest,
    rootfs: PathBuf,
    layer: Option<PathBuf>,
    streams: StandardStreams,
}

/// Numbers before the texts: kind of the streams, three numbers of them.
const HEADER: usize = 16;

const DESCRIPTORS: i32 = 0;
const TERMINAL: i32 = 1;

impl Wanted<'_> {
    fn encode(&self) -> Result<Vec<u8>> {
        let numbers = match self.streams {
            StandardStreams::Descriptors([stdin, stdout, stderr]) => [
                DESCRIPTORS,
                stdin.as_raw_fd(),
                stdout.as_raw_fd(),
                stderr.as_raw_fd(),
            ],
            StandardStreams::Terminal(size) => [TERMINAL, size.rows.into(), size.columns.into(), 0],
        };
        let mut message = Vec::new();
        for number in numbers {
            message.extend(number.to_le_bytes());
        }
        for path in [self.rootfs, self.layer.unwrap_or(Path::new(""))] {
            message.extend(path.as_os_str().as_encoded_bytes());
            message.push(0);
        }
        let failed = |error| Error::Invalid(format!("a container cannot be described: {error}"));
        self.request.write_to_vec(&mut message).map_err(failed)?;
        Ok(message)
    }
}

impl Told {
    fn decode(message: &[u8]) -> Result<Self> {
        let failed = || Error::Invalid("the agent makes no sense".to_owned());
        let (numbers, rest) = message.split_at_checked(HEADER).ok_or_else(failed)?;
        let (numbers, _) = numbers.as_chunks();
        let numbers: Vec<_> = numbers
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes))
            .collect();
        let mut parts = rest.splitn(3, |byte| *byte == 0);
        let mut path = || {
            let text = std::str::from_utf8(parts.next()?).ok()?;
            Some(PathBuf::from(text))
        };
        let (rootfs, layer) = path().zip(path()).ok_or_else(failed)?;
        let request = parts.next().ok_or_else(failed)?;
        let size = |number: i32| u16::try_from(number).unwrap_or(0);
        let streams = match numbers[..] {
            [DESCRIPTORS, stdin, stdout, stderr] => {
                StandardStreams::Descriptors([stdin, stdout, stderr].map(own))
            }
            [TERMINAL, rows, columns, _] => StandardStreams::Terminal(TerminalSize {
                rows: size(rows),
                columns: size(columns),
            }),
            _ => return Err(failed()),
        };
        Ok(Self {
            request: CreateContainerRequest::parse_from_bytes(request)
                .map_err(|error| Error::Invalid(error.to_string()))?,
            rootfs,
            layer: (!layer.as_os_str().is_empty()).then_some(layer),
            streams,
        })
    }
}

/// A descriptor that the agent has opened for this process.
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the agent keeps it open until this process, whose table is a copy by now,
    // has said that it is ready, and nothing else of this process knows of it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_told() {
        let request = CreateContainerRequest {
            id: "one".to_owned(),
            description: vec![0, 1, 2],
            ..Default::default()
        };
        let streams = StandardStreams::Terminal(TerminalSize {
            rows: 24,
            columns: 80,
        });
        for layer in [None, Some(Path::new("/run/layer"))] {
            let wanted = Wanted {
                request: &request,
                rootfs: Path::new("/run/rootfs"),
                layer,
                streams: &streams,
            };
            let message = wanted.encode().expect("encoded");
            let told = Told::decode(&message).expect("decoded");
            assert_eq!(told.request, request);
            assert_eq!(told.rootfs, wanted.rootfs);
            assert_eq!(told.layer.as_deref(), layer);
            let StandardStreams::Terminal(size) = told.streams else {
                panic!("not a terminal");
            };
            assert_eq!((size.rows, size.columns), (24, 80));
        }
    }

    #[test]
    fn what_is_cut_is_refused() {
        assert!(Told::decode(&[0; HEADER - 1]).is_err());
        assert!(Told::decode(&[0; HEADER]).is_err());
    }
}
