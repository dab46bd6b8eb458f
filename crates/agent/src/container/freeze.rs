//! A container in a machine of which a snapshot is made, and in the copies of it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caisson_protocol::ON_FORK;
use caisson_protocol::agent::{ProcessDescription, Renewal as RenewalRequest, ThawRequest};
use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Container, Running, executed, prepared};
use crate::cgroup::Cgroup;
use crate::child::{
    self, HOOK, Namespaces, Program, Renewal, StandardStreams, TerminalSize, nothing,
};
use crate::error::{Error, Result};
use crate::reaper::{self, Reaper};
use crate::relay::new_pipe;
use crate::stdio::Connections;
use crate::streams::Streams;

/// How long the kernel may take to stop a container's processes.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

/// How long the hook of a copy may take.
const HOOK_DEADLINE: Duration = Duration::from_secs(30);

/// Most bytes of what a hook says that are shown.
const HOOK_WORDS: usize = 512;

impl Container {
    /// Stops every process, or none.
    pub async fn freeze(&self) -> Result<()> {
        let running = self.running()?;
        if running.waiting.lock().await.is_some() || running.init.exit().borrow().is_some() {
            return Err(Error::Invalid("the container does not run".to_owned()));
        }
        let others = running.execs().values().any(|process| {
            let exit = *process.exit().borrow();
            exit.is_none()
        });
        if others {
            return Err(Error::Invalid(
                "a process that was started by `exec` runs in the container; its streams cannot \
                 be in a snapshot: end it first"
                    .to_owned(),
            ));
        }
        let frozen = tokio::time::timeout(FREEZE_DEADLINE, running.cgroup.freeze(true)).await;
        if let Ok(frozen) = frozen {
            frozen?;
            self.forget_files();
            return Ok(());
        }
        running.cgroup.freeze(false).await?;
        Err(Error::Invalid(
            "a process of the container cannot be stopped now".to_owned(),
        ))
    }

    /// Has the kernel forget what it remembers of files of the host that nobody uses: a copy
    /// need not have them.
    fn forget_files(&self) {
        let rootfs = self.rootfs.lock().unwrap_or_else(PoisonError::into_inner);
        // Pages, then names and attributes (Documentation/admin-guide/sysctl/vm.rst).
        if rootfs.is_share()
            && let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3")
        {
            eprintln!("agent: what is remembered of files cannot be dropped: {error}");
        }
    }

    /// Ends the streams of a container that is frozen. The result tells when all that the
    /// host has sent has been taken.
    pub async fn leave(&self) -> Result<Option<oneshot::Receiver<()>>> {
        self.running()?.init.relays().leave().await
    }

    /// Gives a container its streams, a copy its identity, and lets its processes go on
    /// unless they are to stand still.
    pub async fn thaw(
        &self,
        request: &ThawRequest,
        streams: &Streams,
        reaper: &Reaper,
    ) -> Result<u32> {
        let running = self.running()?;
        if let Some(renewal) = request.renewal.as_ref() {
            self.renew(running, renewal, reaper).await?;
        }
        running.init.relays().join(streams, &request.stdio).await?;
        if let (true, Ok(rows @ 1..), Ok(columns)) = (
            request.stdio.terminal,
            u16::try_from(request.stdio.rows),
            u16::try_from(request.stdio.columns),
        ) {
            running.init.resize(TerminalSize { rows, columns })?;
        }
        if !request.paused {
            running.cgroup.freeze(false).await?;
        }
        Ok(running.init.pid())
    }

    async fn renew(
        &self,
        running: &Running,
        request: &RenewalRequest,
        reaper: &Reaper,
    ) -> Result<()> {
        for file in &request.files {
            let known = self
                .files
                .iter()
                .find(|(_, path)| path == Path::new(&file.path));
            if let Some((source, _)) = known {
                fs::write(source, &file.content).map_err(Error::path("write", source))?;
            }
        }
        let renewal = Renewal {
            hostname: request.hostname.clone(),
            boot_id: self.mountable("boot_id", &format!("{}\n", uuid()?))?,
            machine_id: self.mountable("machine-id", &format!("{}\n", hexadecimal(&random()?)))?,
        };
        let found = self
            .in_files(reaper, |reporter| renewal.execute(reporter))
            .await?;
        if found == HOOK {
            self.run_hook(running, reaper).await?;
        }
        Ok(())
    }

    /// A file of the agent's that can be mounted in another mount namespace.
    fn mountable(&self, name: &str, content: &str) -> Result<OwnedFd> {
        let path = self
            .rootfs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .file(name);
        fs::write(&path, content).map_err(Error::path("write", &path))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(CWD, &path, flags).map_err(Error::path("open", &path))
    }

    /// Runs the application's own hook as the container's program is run, beside its
    /// processes, which stand still.
    async fn run_hook(&self, running: &Running, reaper: &Reaper) -> Result<()> {
        let mut process = ProcessDescription::clone(&self.description.process);
        process.arguments = vec![ON_FORK.to_owned()];
        let (read, write) = new_pipe()?;
        let error = write
            .try_clone()
            .map_err(Error::system("make a pipe for the hook"))?;
        let streams = StandardStreams::Descriptors([nothing()?, write, error]);
        let program = Program::new(&process, &self.request.seccomp_bpf, streams)?;
        let cgroup = Cgroup::create("on-fork", &self.description.resources)?;
        let ran = async {
            let directory = cgroup.open()?;
            let init = running.init.pidfd().as_fd();
            let child = child::spawn(Namespaces::Of(init), Some(directory.as_fd()), |reporter| {
                program.leave_agent()?;
                child::join(init)?;
                program.execute(reporter)
            })?;
            let exit = reaper.expect(child.pid);
            drop(program);
            let connections = Connections::none();
            let (process, mut reports) = prepared(child, exit, connections).await?;
            executed(&mut reports).await?;
            let words = Words::begin(read)?;
            let ended = tokio::time::timeout(HOOK_DEADLINE, reaper::ended(process.exit())).await;
            let words = words.end().await;
            match ended {
                Ok(exit) if exit.code == 0 => Ok(()),
                Ok(exit) => Err(Error::Invalid(format!(
                    "the hook {ON_FORK} ended with {}{words}",
                    exit.code
                ))),
                Err(_) => Err(Error::Invalid(format!(
                    "the hook {ON_FORK} did not end within {} s{words}",
                    HOOK_DEADLINE.as_secs()
                ))),
            }
        };
        let ran = ran.await;
        // What it has left running ends with it.
        let removed = cgroup.remove().await;
        ran.and(removed)
    }
}

/// The last words of a hook.
struct Words(JoinHandle<()>, Arc<Mutex<Vec<u8>>>);

impl Words {
    fn begin(from: OwnedFd) -> Result<Self> {
        let mut from =
            pipe::Receiver::from_owned_fd(from).map_err(Error::system("listen to the hook"))?;
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let words = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                words.extend_from_slice(&buffer[..length]);
                let surplus = words.len().saturating_sub(HOOK_WORDS);
                words.drain(..surplus);
            }
        });
        Ok(Self(reader, kept))
    }

    /// As the rest of a sentence; something that the hook has left may hold the pipe.
    async fn end(mut self) -> String {
        let _ = tokio::time::timeout(Duration::from_millis(100), &mut self.0).await;
        self.0.abort();
        let words = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&words);
        match words.trim() {
            "" => String::new(),
            words => format!(": {words}"),
        }
    }
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(Error::system("draw random bytes"))?;
    Ok(bytes)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random one (RFC 9562, 5.4).
fn uuid() -> Result<String> {
    let mut bytes = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hexadecimal(&bytes);
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_says_that_it_is_random() {
        let uuid = super::uuid().expect("a uuid");
        let parts: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]));
        assert_ne!(uuid, super::uuid().expect("a uuid"));
    }
}
