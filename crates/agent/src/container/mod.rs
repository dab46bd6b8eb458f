//! Containers: their files, their cgroup and their processes.

mod first;
mod freeze;
mod process;
mod rootfs;
mod spare;

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use caisson_protocol::agent::{ContainerDescription, CreateContainerRequest, ExecRequest};
use protobuf::Message;

use crate::boot::realtime_ns;
use crate::cgroup::Cgroup;
use crate::child::{
    self, Child, Namespaces, PremadeMounts, Program, Report, Reporter, Reports, StandardStreams,
};
use crate::disks::Disks;
use crate::error::{Error, Result};
use crate::reaper::{self, Exit, ExitWatch, Reaper};
use crate::stdio::{self, Connections};
use crate::streams::Streams;

use first::First;
pub use process::Process;
use rootfs::Rootfs;
pub use spare::Spare;
use spare::{Waiting, Wanted};

/// How long a process that has ended can still be waited for: whoever asks may have been
/// on the way when it ended. Nanoseconds.
const ENDED_KEPT_NS: i64 = 60_000_000_000;

/// A container, or the mounted files of one that does not run.
#[derive(Debug)]
pub struct Container {
    /// What the host has asked for.
    request: CreateContainerRequest,
    description: ContainerDescription,
    files: Vec<(PathBuf, PathBuf)>,
    rootfs: Mutex<Rootfs>,
    running: Option<Running>,
}

/// What a container has that was started.
#[derive(Debug)]
struct Running {
    cgroup: Cgroup,
    init: Arc<Process>,
    /// Of the first process, until it is let go.
    waiting: tokio::sync::Mutex<Option<Reports>>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    /// Its first process is the one that waited for it.
    was_spare: bool,
}

impl Container {
    /// Mounts a container's files and starts nothing.
    pub fn mount(request: CreateContainerRequest, disks: &Disks) -> Result<Self> {
        let description = description(&request)?;
        let mut rootfs = Rootfs::mount(&request.id, &request.rootfs, disks)?;
        let files = rootfs
            .write_files(&request.files)
            .inspect_err(|_| rootfs.unmount())?;
        Ok(Self {
            request,
            description,
            files,
            rootfs: Mutex::new(rootfs),
            running: None,
        })
    }

    /// Makes a container whose first process waits for [`Container::start`].
    pub async fn create(
        request: CreateContainerRequest,
        disks: &Disks,
        streams: &Streams,
        spare: &Spare,
        reaper: &Reaper,
    ) -> Result<Self> {
        let mut container = Self::mount(request, disks)?;
        match container.prepare(streams, spare, reaper).await {
            Ok(running) => {
                container.running = Some(running);
                Ok(container)
            }
            Err(error) => {
                container.unmount();
                Err(error)
            }
        }
    }

    async fn prepare(&self, streams: &Streams, spare: &Spare, reaper: &Reaper) -> Result<Running> {
        let request = &self.request;
        let (connections, standard) = stdio::connect(streams, &request.stdio).await?;
        let namespaces = new_namespaces(&self.description)?;
        let spare = spare.take(namespaces).await?;
        let was_spare = spare.is_some();
        let cgroup = Cgroup::create(&request.id, &self.description.resources)?;
        let started = async {
            if let Some(spare) = spare {
                return self.take_spare(spare, standard, connections).await;
            }
            let program = program(&self.description, request, standard)?;
            let directory = cgroup.open()?;
            let child = child::spawn(
                Namespaces::New(namespaces),
                Some(directory.as_fd()),
                |reporter| self.in_view(|first| first.execute(&program, reporter)),
            )?;
            let exit = reaper.expect(child.pid);
            // Its ends of the pipes are its own: ours would keep them open.
            drop(program);
            prepared(child, exit, connections).await
        };
        match started.await {
            Ok((init, reports)) => Ok(Running {
                cgroup,
                init: Arc::new(init),
                waiting: tokio::sync::Mutex::new(Some(reports)),
                execs: Mutex::default(),
                was_spare,
            }),
            Err(error) => {
                if let Err(left) = cgroup.remove().await {
                    eprintln!("agent: {left}");
                }
                if was_spare {
                    PremadeMounts::remove();
                }
                Err(error)
            }
        }
    }

    /// Has a process that waits become the first one.
    async fn take_spare(
        &self,
        mut spare: Waiting,
        standard: StandardStreams,
        connections: Connections,
    ) -> Result<(Process, Reports)> {
        let (rootfs, layer) = self.places();
        let wanted = Wanted {
            request: &self.request,
            rootfs: &rootfs,
            layer: layer.as_deref(),
            streams: &standard,
        };
        spare.become_first(&wanted).await?;
        let exit = spare.exit.clone();
        let started = tokio::select! {
            biased;
            started = prepared(spare.child, spare.exit, connections) => started,
            _ = reaper::ended(&exit) => Err(Error::Child(
                "the process ended before its program began".to_owned(),
            )),
        };
        // It has its own copies by now; ours would keep the pipes and the connection open.
        drop((standard, spare.reporter));
        started
    }

    /// Where the agent has mounted the container's files, and what it writes.
    fn places(&self) -> (PathBuf, Option<PathBuf>) {
        let rootfs = self.rootfs.lock().unwrap_or_else(PoisonError::into_inner);
        (rootfs.path(), rootfs.layer())
    }

    /// For a child in a mount namespace of its own.
    fn in_view<T>(&self, work: impl FnOnce(First<'_>) -> T) -> T {
        let (rootfs, layer) = self.places();
        work(First {
            description: &self.description,
            rootfs: &rootfs,
            layer: layer.as_deref(),
            files: &self.files,
            premade: &PremadeMounts::default(),
        })
    }

    /// Lets the first process run.
    pub async fn start(&self) -> Result<()> {
        let mut waiting = self.running()?.waiting.lock().await;
        let mut reports = waiting
            .take()
            .ok_or_else(|| Error::Invalid("the container has been started".to_owned()))?;
        executed(&mut reports).await
    }

    /// Starts one more process.
    pub async fn exec(
        &self,
        request: &ExecRequest,
        streams: &Streams,
        reaper: &Reaper,
    ) -> Result<u32> {
        let running = self.running()?;
        let now = realtime_ns();
        running.execs().retain(|_, process| {
            let exit = *process.exit().borrow();
            exit.is_none_or(|exit| now - exit.at_ns < ENDED_KEPT_NS)
        });
        // The name of one that has ended is free: engines use theirs again.
        let taken = running
            .execs()
            .get(&request.exec_id)
            .is_some_and(|process| process.exit().borrow().is_none());
        if request.exec_id.is_empty() || taken {
            return Err(Error::Invalid(format!(
                "{:?} is no name for another process",
                request.exec_id
            )));
        }
        let (connections, standard) = stdio::connect(streams, &request.stdio).await?;
        let program = Program::new(&request.process, &request.seccomp_bpf, standard)?;
        let directory = running.cgroup.open()?;
        let init = running.init.pidfd().as_fd();
        let child = child::spawn(Namespaces::Of(init), Some(directory.as_fd()), |reporter| {
            program.leave_agent()?;
            child::join(init)?;
            program.execute(reporter)
        })?;
        let exit = reaper.expect(child.pid);
        // Its ends of the pipes are its own: ours would keep them open.
        drop(program);
        let (process, mut reports) = prepared(child, exit, connections).await?;
        executed(&mut reports).await?;
        let number = process.pid();
        running
            .execs()
            .insert(request.exec_id.clone(), Arc::new(process));
        Ok(number)
    }

    /// Runs `work` in a child that has the container's files as its root, with what is
    /// mounted there, and waits for its result.
    pub async fn in_files(
        &self,
        reaper: &Reaper,
        work: impl FnOnce(&Reporter) -> Result<Infallible>,
    ) -> Result<String> {
        let child = match &self.running {
            Some(running) if running.init.exit().borrow().is_none() => {
                let init = running.init.pidfd().as_fd();
                child::spawn(Namespaces::Of(init), None, |reporter| {
                    child::join(init)?;
                    work(reporter)
                })?
            }
            _ => child::spawn(
                Namespaces::New(libc::CLONE_NEWNS as u64),
                None,
                |reporter| {
                    self.in_view(|first| first.enter_view())?;
                    work(reporter)
                },
            )?,
        };
        // So that nobody else's end is taken for its.
        let exit = reaper.expect(child.pid);
        let Child { mut reports, .. } = child;
        let Report::Ready { text, .. } = reports.next().await? else {
            return Err(Error::Child("a child ended without a word".to_owned()));
        };
        reaper::ended(&exit).await;
        Ok(text)
    }

    /// The first process, or another one.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        let running = self.running()?;
        if exec_id.is_empty() {
            return Ok(Arc::clone(&running.init));
        }
        let process = running.execs().get(exec_id).cloned();
        process.ok_or_else(|| Error::Missing(format!("process {exec_id:?}")))
    }

    /// Waits for a process. The first one's end also says whether memory ran out.
    pub async fn wait(&self, exec_id: &str) -> Result<(Exit, bool)> {
        let process = self.process(exec_id)?;
        let exit = reaper::ended(process.exit()).await;
        let out_of_memory = exec_id.is_empty() && self.cgroup()?.oom_kills() > 0;
        Ok((exit, out_of_memory))
    }

    /// Sends a signal to every process.
    pub fn signal_all(&self, signal: u32) -> Result<()> {
        let cgroup = self.cgroup()?;
        if i32::try_from(signal) == Ok(libc::SIGKILL) {
            return cgroup.kill();
        }
        let signal = libc::c_int::try_from(signal)
            .map_err(|_| Error::Invalid(format!("{signal} is no signal")))?;
        for pid in cgroup.processes() {
            // SAFETY: numbers only. The process may have ended since it was listed.
            unsafe { libc::kill(pid.cast_signed(), signal) };
        }
        Ok(())
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> Result<&Cgroup> {
        Ok(&self.running()?.cgroup)
    }

    /// Ends every process and lets go of the files. Can be called again.
    pub async fn delete(&self) -> Result<()> {
        if let Some(running) = &self.running {
            running.cgroup.remove().await?;
            reaper::ended(running.init.exit()).await;
            if running.was_spare {
                PremadeMounts::remove();
            }
        }
        self.unmount();
        Ok(())
    }

    fn unmount(&self) {
        self.rootfs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unmount();
    }

    fn running(&self) -> Result<&Running> {
        self.running
            .as_ref()
            .ok_or_else(|| Error::Missing("process: only the files are mounted".to_owned()))
    }
}

impl Running {
    fn execs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a container is to be.
fn description(request: &CreateContainerRequest) -> Result<ContainerDescription> {
    ContainerDescription::parse_from_bytes(&request.description)
        .map_err(|error| Error::Invalid(format!("a container cannot be understood: {error}")))
}

/// The program of a container's first process.
fn program<'a>(
    description: &'a ContainerDescription,
    request: &CreateContainerRequest,
    streams: StandardStreams,
) -> Result<Program<'a>> {
    let process = description
        .process
        .as_ref()
        .ok_or_else(|| Error::Invalid("the container has no process".to_owned()))?;
    Ok(Program::new(process, &request.seccomp_bpf, streams)?.first(request.init))
}

/// Waits until a child is about to become its program, and joins its terminal to the
/// host's stream.
async fn prepared(
    child: Child,
    exit: ExitWatch,
    connections: Connections,
) -> Result<(Process, Reports)> {
    let mut reports = child.reports;
    let Report::Ready { terminal, .. } = reports.next().await? else {
        return Err(Error::Child(
            "the process ended before its program began".to_owned(),
        ));
    };
    let relays = connections.join(terminal.as_ref())?;
    let process = Process::new(child.pid, child.pidfd, exit, terminal, relays);
    Ok((process, reports))
}

/// Lets a child become its program and waits until it has.
async fn executed(reports: &mut Reports) -> Result<()> {
    reports.go().await?;
    match reports.next().await? {
        Report::Closed => Ok(()),
        Report::Ready { .. } => Err(Error::Child("the process is confused".to_owned())),
    }
}

/// The namespaces of a container that are new if the host says so. That of its cgroup is made
/// by the child itself.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// `CLONE_NEW*` for a child. The mount namespace is always new, the network is the guest's:
/// it is there for its containers alone.
fn new_namespaces(description: &ContainerDescription) -> Result<u64> {
    let asked = description.namespaces;
    if asked & !(NAMESPACES as u64) != 0 {
        return Err(Error::Invalid(format!(
            "{asked:#x} are no namespaces of a container"
        )));
    }
    Ok(asked & !(libc::CLONE_NEWCGROUP as u64) | libc::CLONE_NEWNS as u64)
}

/// Whether a path may name something in a container.
pub fn absolute(path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Error::Invalid(format!(
        "{} is no absolute path",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_a_container_are_made() {
        let new = |flags: libc::c_int| {
            new_namespaces(&ContainerDescription {
                namespaces: flags as u64,
                ..Default::default()
            })
        };
        let of_child = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        assert_eq!(
            new(libc::CLONE_NEWPID | libc::CLONE_NEWCGROUP).expect("namespaces"),
            of_child as u64
        );
        assert_eq!(new(0).expect("namespaces"), libc::CLONE_NEWNS as u64);
        for other in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_FILES] {
            assert!(new(other).is_err(), "{other:#x}");
        }
    }
}
