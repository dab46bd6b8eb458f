//! One command's conversation with the supervisor.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use caisson_sandbox::{Exit, Process, ProcessStreams, StreamRequest, TerminalSize};
use oci_spec::runtime::Process as ProcessSpec;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::control::{Connection, Request, Response, Streams};
use super::log::Source;
use super::{Live, exit_code, files, relay, snapshot, stats};
use crate::container::Status;
use crate::snapshot::SnapshotStore;

/// Numbers the execs of this container.
static NEXT_EXEC: AtomicU64 = AtomicU64::new(1);

/// Silence after which the output of an ended process is taken to be complete,
/// although something it left behind holds the pipe.
const LATE_OUTPUT: Duration = Duration::from_millis(500);

/// How long killed processes may take to be gone before the machine is ended.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// One connection.
struct Session {
    live: Rc<Live>,
    /// Its process, if it is not the container's own.
    exec: Option<Target>,
    /// Its last answer, kept across requests: each new wait would be one more in the guest.
    last_answer: Pin<Box<dyn Future<Output = Response>>>,
}

/// What requests about an exec go to.
struct Target {
    process: Process,
    audiences: Vec<Rc<relay::Audience>>,
}

/// A process and the relays of its output.
struct Exec {
    process: Process,
    relays: JoinSet<()>,
    audiences: Vec<Rc<relay::Audience>>,
}

/// Answers requests until the command goes away or has got its last answer.
pub(super) async fn serve(live: Rc<Live>, connection: Connection, starter: bool) {
    let mut session = Session {
        live,
        exec: None,
        last_answer: Box::pin(std::future::pending()),
    };
    if starter {
        session.wait_for_container();
    }
    loop {
        let response = tokio::select! {
            received = connection.receive::<Request>() => match received {
                Ok(Some((request, descriptors))) => {
                    match session.handle(request, descriptors).await {
                        Ok(Some(response)) => response,
                        Ok(None) => continue,
                        Err(error) => Response::Failed { message: format!("{error:#}"), code: exit_code(&error) },
                    }
                }
                _ => return,
            },
            response = &mut session.last_answer => {
                let _ = connection.send(&response, &[]).await;
                return;
            }
        };
        if connection.send(&response, &[]).await.is_err() {
            return;
        }
    }
}

/// The end of the container.
async fn container_end(live: Rc<Live>) -> Response {
    let ending = live.ending().await;
    let state = live.state.borrow();
    Response::Exited {
        code: ending.code,
        error: ending.error,
        stages: state.stages.clone(),
        hypervisor: state.hypervisor.clone(),
    }
}

impl Session {
    fn wait_for_container(&mut self) {
        self.exec = None;
        self.last_answer = Box::pin(container_end(Rc::clone(&self.live)));
    }

    fn wait_for_exec(&mut self, exec: Exec) {
        self.exec = Some(Target {
            process: exec.process.clone(),
            audiences: exec.audiences.clone(),
        });
        self.last_answer = Box::pin(exec.end());
    }

    async fn handle(
        &mut self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<Response>> {
        let live = &self.live;
        let target = self.exec.as_ref();
        let process = target.map_or(live.init(), |exec| &exec.process);
        match request {
            Request::Start { .. } | Request::Open => {
                return Err(anyhow!("the container runs already"));
            }
            Request::Attach(streams) => {
                live.attach(streams, descriptors).await?;
                self.wait_for_container();
            }
            Request::Wait => {
                self.wait_for_container();
                return Ok(None);
            }
            Request::Exec {
                process,
                privileged,
                streams,
            } => {
                let exec = exec(live, &process, privileged, streams, descriptors).await?;
                if streams.is_some() {
                    self.wait_for_exec(exec);
                } else {
                    tokio::task::spawn_local(async move {
                        let mut exec = exec;
                        while exec.relays.join_next().await.is_some() {}
                    });
                }
                return Ok(Some(Response::Started));
            }
            // A process that has just ended is no error of whoever signals it.
            Request::Signal(signal) => {
                let signal = u32::try_from(signal).context("a signal's number is positive")?;
                process.signal(signal, false).await?;
            }
            Request::CloseOutput(source) => match target {
                Some(exec) => exec.close_output(source),
                None => live.audience(source).close(),
            },
            Request::Resize { rows, columns } => {
                process.resize(TerminalSize { rows, columns }).await?;
            }
            Request::Stop { signal, timeout } => stop(live, signal, timeout).await?,
            Request::Pause => {
                live.guest.pause().await?;
                live.update(|state| state.status = Status::Paused)?;
            }
            Request::Unpause => unpause(live).await?,
            Request::Snapshot(name) => {
                let store = SnapshotStore::new(&live.root);
                snapshot::snapshot(live, &name, &store).await?;
            }
            Request::Stats => return Ok(Some(Response::Stats(stats::read(live).await?))),
            copy @ (Request::CopyOut { .. } | Request::CopyIn { .. }) => {
                files::copy(&live.guest, copy, descriptors).await?;
            }
        }
        Ok(Some(Response::Done))
    }
}

impl Target {
    fn close_output(&self, source: Source) {
        // A terminal has no standard error.
        if let Some(audience) = self.audiences.get(usize::from(source == Source::Error)) {
            audience.close();
        }
    }
}

async fn exec(
    live: &Live,
    spec: &ProcessSpec,
    privileged: bool,
    streams: Option<Streams>,
    descriptors: Vec<OwnedFd>,
) -> Result<Exec> {
    let wanted = streams.unwrap_or_default();
    let request = StreamRequest {
        stdin: wanted.stdin,
        terminal: wanted
            .terminal
            .map(|(rows, columns)| TerminalSize { rows, columns }),
    };
    let id = format!("exec-{}", NEXT_EXEC.fetch_add(1, Ordering::Relaxed));
    let (process, guest) = live.guest.exec(&id, spec, !privileged, request).await?;
    let mut exec = Exec {
        process,
        relays: JoinSet::new(),
        audiences: Vec::new(),
    };
    let mut descriptors = descriptors.into_iter();
    let mut take = |wanted: bool| wanted.then(|| descriptors.next()).flatten();
    let (stdin, stdout, stderr) = (take(wanted.stdin), take(wanted.stdout), take(wanted.stderr));
    exec.connect(guest, stdin, stdout, stderr).await?;
    Ok(exec)
}

impl Exec {
    async fn connect(
        &mut self,
        guest: ProcessStreams,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<()> {
        let terminal = guest.stdout.is_none();
        let mut stdout = stdout;
        if let Some(stream) = guest.stdin {
            let (from, to) = stream.into_split();
            let to = Rc::new(Mutex::new(Some(to)));
            if terminal {
                self.output(from, stdout.take()).await?;
            }
            if let Some(stdin) = stdin {
                tokio::task::spawn_local(relay::input(stdin, to, terminal));
            } else if terminal {
                // The terminal must not hang up because nobody types.
                tokio::task::spawn_local(async move {
                    let _open = to;
                    std::future::pending::<()>().await;
                });
            }
        }
        if let Some(from) = guest.stdout {
            self.output(from, stdout).await?;
        }
        if let Some(from) = guest.stderr {
            self.output(from, stderr).await?;
        }
        Ok(())
    }

    /// Waits for its end, and until the command has been given all of its output.
    async fn end(mut self) -> Response {
        let (code, error) = match self.process.wait().await {
            Ok(Exit { code, .. }) => (code, None),
            Err(error) => (137, Some(error.to_string())),
        };
        if !relay::drain(&mut self.relays, &self.audiences, LATE_OUTPUT).await {
            // Or the guest is slow, and what the process wrote is on its way: an answer of the
            // guest's comes after it, by the same device.
            let _ = tokio::time::timeout(super::SILENCE, self.process.wait()).await;
            relay::drain(&mut self.relays, &self.audiences, LATE_OUTPUT).await;
        }
        // Closes the command's pipes, so that it sees the end of the output.
        self.relays.abort_all();
        while self.relays.join_next().await.is_some() {}
        for audience in &self.audiences {
            audience.dismiss().await;
        }
        Response::Exited {
            code,
            error,
            stages: Vec::new(),
            hypervisor: String::new(),
        }
    }

    /// Output with nobody to take it is read all the same, so that the process
    /// does not block.
    async fn output(
        &mut self,
        from: impl tokio::io::AsyncRead + Unpin + 'static,
        to: Option<OwnedFd>,
    ) -> Result<()> {
        let audience = Rc::new(relay::Audience::default());
        if let Some(to) = to {
            audience.join(to).await?;
        }
        self.relays.spawn_local(relay::output(
            Box::new(from),
            Source::Output,
            Rc::default(),
            audience.clone(),
            None,
        ));
        self.audiences.push(audience);
        Ok(())
    }
}

async fn stop(live: &Live, signal: Option<i32>, timeout: Option<u64>) -> Result<()> {
    let record = &live.container.record;
    let signal = u32::try_from(signal.unwrap_or(record.stop_signal))
        .context("a signal's number is positive")?;
    let timeout = Duration::from_secs(timeout.unwrap_or(record.stop_timeout));
    // What is frozen gets no signal.
    if live.state.borrow().status == Status::Paused {
        unpause(live).await?;
    }
    let ended_within = async |time| tokio::time::timeout(time, live.ending()).await.is_ok();
    // A guest that does not take a signal is not waited for, but it may just have ended.
    let signalled = live.init().signal(signal, false).await;
    let timeout = if signalled.is_ok() {
        timeout
    } else {
        KILL_DEADLINE.min(timeout)
    };
    if ended_within(timeout).await {
        return Ok(());
    }
    let killed = live.init().signal(libc::SIGKILL.unsigned_abs(), true).await;
    if killed.is_ok() && ended_within(KILL_DEADLINE).await {
        return Ok(());
    }
    tracing::warn!("the guest does not end its processes; its machine is ended");
    live.sandbox.kill().await?;
    live.ending().await;
    Ok(())
}

async fn unpause(live: &Live) -> Result<()> {
    live.guest.resume().await?;
    live.update(|state| state.status = Status::Running)
}
