//! The process that holds a running container.
//!
//! There is no daemon: each container has a supervisor of its own, which made
//! its sandbox, keeps its log, relays its streams and answers later commands on
//! a socket. It ends with its container; if it is killed, the kernel ends the
//! machine with it.

pub mod control;
mod files;
pub mod log;
pub mod machine;
mod network;
mod relay;
mod session;
mod snapshot;
mod stats;

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use caisson_hypervisor::template::Recipe;
use caisson_network::Condition;
use caisson_sandbox::timing::Timing;
use caisson_sandbox::{self as sandbox, Exit, Process, Sandbox};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::config::Settings;
use crate::container::{Container, ContainerStore, State, Status, lease};
use control::{Connection, Listener, Request, Response, Streams};
use log::{LogWriter, Source};
use relay::{Audience, SharedLog};
use snapshot::Ties;

/// Number of the inherited descriptor that is connected to the starting command.
pub const CONTROL_DESCRIPTOR: i32 = 3;

/// Silence after which the output of an ended container is taken to be complete.
/// Its pipes close with its pid namespace; only a hostile guest holds them longer.
/// A reader on our side may be as slow as it likes.
const SILENCE: Duration = Duration::from_secs(10);

/// How long commands have to take the news of the container's end.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// A container that runs.
pub(crate) struct Live {
    container: Container,
    guest: sandbox::Container,
    sandbox: Sandbox,
    state: RefCell<State>,
    stdin: Rc<Mutex<Option<OwnedWriteHalf>>>,
    stdout: Rc<Audience>,
    stderr: Rc<Audience>,
    ties: Ties,
    /// On what a copy of the machine would depend; none if there can be none.
    recipe: Option<Recipe>,
    /// Folder of the installation.
    root: PathBuf,
    timing: Timing,
    ended: watch::Sender<Option<Ending>>,
}

/// How a container ended, for those who wait.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    code: u8,
    error: Option<String>,
}

/// Cuts the ties to the command that started us, its terminal and whatever
/// descriptors it was given by others. To be called before anything is opened.
pub fn leave_command() -> Result<()> {
    rustix::process::setsid().context("cannot leave the terminal")?;
    let first = CONTROL_DESCRIPTOR.unsigned_abs() + 1;
    // SAFETY: nothing of this process uses a descriptor above the inherited ones yet.
    if unsafe { libc::close_range(first, libc::c_uint::MAX, 0) } < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot close inherited descriptors");
    }
    Ok(())
}

/// Runs the supervisor of one container until the container has ended.
pub fn run(id: &str, settings: &Settings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, supervise(id, settings))
}

async fn supervise(id: &str, settings: &Settings) -> Result<()> {
    // SAFETY: the command that executed us placed the descriptor there for us alone,
    // and this function, the only one that takes it, runs once.
    let control = Connection::new(unsafe { OwnedFd::from_raw_fd(CONTROL_DESCRIPTOR) })?;
    let (request, descriptors) = control
        .receive::<Request>()
        .await?
        .context("the starting command has gone")?;

    let store = ContainerStore::open(&settings.root, &settings.run)?;
    let container = store.find(id)?;
    let lock = match container.hold() {
        Ok(lock) => lock,
        Err(error) => return refuse(&control, &error.into()).await,
    };
    let (attach, elapsed_us) = match request {
        Request::Start { attach, elapsed_us } => (attach, elapsed_us),
        Request::Open => {
            return match files::hold(&container, settings, &control).await {
                Ok(()) => Ok(()),
                Err(error) => refuse(&control, &error).await,
            };
        }
        other => bail!("the first request was {other:?}"),
    };
    let timing = Timing::started(Duration::from_micros(elapsed_us));
    match start(container.clone(), settings, attach, descriptors, &timing).await {
        Ok((live, listener, relays)) => live.keep(control, listener, relays, lock).await,
        Err(error) => {
            let state = State {
                status: Status::Exited,
                exit_code: exit_code(&error),
                error: Some(format!("{error:#}")),
                finished_at: Some(now()),
                stages: timing.stages(),
                ..State::default()
            };
            finish(&container, &state, lock);
            refuse(&control, &error).await
        }
    }
}

/// Makes the sandbox and starts the container in it.
async fn start(
    container: Container,
    settings: &Settings,
    attach: Option<Streams>,
    descriptors: Vec<OwnedFd>,
    timing: &Timing,
) -> Result<(Rc<Live>, Listener, JoinSet<()>)> {
    let mut state = State {
        status: Status::Starting,
        supervisor_pid: std::process::id(),
        started_at: Some(now()),
        ..State::default()
    };
    container.make_run_directory()?;
    let listener = Listener::bind(&container.control_socket())
        .with_context(|| format!("cannot listen on {}", container.control_socket().display()))?;
    // Whoever sees that it is starting can already connect.
    container.set_state(&state)?;

    let mut machine = machine::prepare(&container, settings, timing)?;
    // Before the machine is there: what is on the disk may change under it.
    let recipe = machine::recipe(&machine).ok();
    machine.sandbox.snapshot = machine::snapshot(&container, settings, recipe.as_ref())?;
    let network = network::attach(&container, settings, timing)?;
    machine.sandbox.network = network.attachment.clone();
    let sandbox = Sandbox::start(machine.hypervisor.as_ref(), machine.sandbox, timing).await?;
    state.hypervisor = format!("{}; {}", sandbox.origin(), machine.reason);
    state.machine_pids = sandbox.processes();
    state.network = Some(network.state.clone());

    let stage = timing.stage("container");
    let terminal = attach.and_then(|streams| streams.terminal);
    let (guest, streams) = match &container.record.copy_of {
        Some(copy) => {
            let config = machine::copy(&container, copy, &network, terminal)?;
            sandbox.copy_container(config).await?
        }
        None => {
            let config = machine::container(&container, Some(&network), terminal)?;
            sandbox.create_container(config).await?
        }
    };
    let live = Rc::new(Live {
        stdin: Rc::default(),
        stdout: Rc::default(),
        stderr: Rc::default(),
        state: RefCell::new(state),
        ties: Ties::default(),
        recipe,
        root: settings.root.clone(),
        timing: timing.clone(),
        ended: watch::Sender::new(None),
        container,
        guest,
        sandbox,
    });
    if let Some(streams) = attach {
        live.attach(streams, descriptors).await?;
    }
    let log = LogWriter::open(&live.container.output_log(), settings.log_max_size)
        .with_context(|| format!("cannot write {}", live.container.output_log().display()))?;
    let relays = live.relay(streams, Rc::new(RefCell::new(Some(log)))).await;
    // A copy goes on by itself.
    if live.container.record.copy_of.is_none() {
        live.guest.start().await?;
    }
    drop(stage);
    live.update(|state| state.status = Status::Running)?;
    Ok((live, listener, relays))
}

impl Live {
    /// Serves commands until the container has ended, and cleans up.
    async fn keep(
        self: Rc<Self>,
        starter: Connection,
        listener: Listener,
        mut relays: JoinSet<()>,
        lock: File,
    ) -> Result<()> {
        // The starter may have gone; that is its own affair.
        let _ = starter.send(&Response::Started, &[]).await;
        let mut sessions = JoinSet::new();
        sessions.spawn_local(session::serve(self.clone(), starter, true));
        let begin = Instant::now();
        let init = self.guest.init().clone();
        let mut network = self.sandbox.network_condition();
        if let Some(network) = &mut network {
            // It may have changed while the container was being made.
            network.mark_changed();
        }
        let exit = self
            .serve_until(init.wait(), &listener, &mut sessions, &mut network)
            .await;
        self.timing.add("program", begin, begin.elapsed());

        let begin = Instant::now();
        let end = async {
            relay::drain(
                &mut relays,
                &[self.stdout.clone(), self.stderr.clone()],
                SILENCE,
            )
            .await;
            self.tear_down(exit).await
        };
        // Whoever comes now is still told how it ended.
        let ending = self
            .serve_until(end, &listener, &mut sessions, &mut None)
            .await;
        self.timing.add("teardown", begin, begin.elapsed());
        self.state.borrow_mut().stages = self.timing.stages();
        let state = self.state.borrow().clone();
        finish(&self.container, &state, lock);
        self.ended.send_replace(Some(ending));
        let _ = tokio::time::timeout(FAREWELL_DEADLINE, async {
            while sessions.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    }

    /// Serves commands until something is done.
    async fn serve_until<T>(
        self: &Rc<Self>,
        done: impl Future<Output = T>,
        listener: &Listener,
        sessions: &mut JoinSet<()>,
        network: &mut Option<watch::Receiver<Condition>>,
    ) -> T {
        tokio::pin!(done);
        loop {
            tokio::select! {
                result = &mut done => return result,
                connection = listener.accept() => {
                    sessions.spawn_local(session::serve(self.clone(), connection, false));
                }
                Some(_) = sessions.join_next() => {}
                () = changed(network) => self.note_processes(),
            }
        }
    }

    async fn tear_down(&self, exit: sandbox::Result<Exit>) -> Ending {
        let ending = match exit {
            Ok(exit) => {
                // What the container has written must be on its disk, if that disk is kept.
                if !self.container.record.auto_remove
                    && let Err(error) = self.guest.delete().await
                {
                    tracing::warn!(%error, "the container's files were not synchronised");
                }
                let mut state = self.state.borrow_mut();
                state.status = Status::Exited;
                state.exit_code = exit.code;
                state.oom_killed = exit.oom_killed;
                Ending {
                    code: exit.code,
                    error: None,
                }
            }
            Err(error) => {
                let mut state = self.state.borrow_mut();
                state.status = Status::Dead;
                state.exit_code = 137;
                state.error = Some(error.to_string());
                Ending {
                    code: 137,
                    error: Some(error.to_string()),
                }
            }
        };
        if let Err(error) = self.sandbox.kill().await {
            tracing::warn!(%error, "the machine could not be ended");
        }
        let mut state = self.state.borrow_mut();
        state.finished_at = Some(now());
        state.machine_pids.clear();
        state.network = None;
        ending
    }

    /// Connects a command's pipes.
    async fn attach(&self, streams: Streams, descriptors: Vec<OwnedFd>) -> Result<()> {
        let mut descriptors = descriptors.into_iter();
        let mut take = |wanted: bool| -> Result<Option<OwnedFd>> {
            if !wanted {
                return Ok(None);
            }
            descriptors
                .next()
                .map(Some)
                .ok_or_else(|| anyhow!("a descriptor is missing in the request"))
        };
        let (stdin, stdout, stderr) = (
            take(streams.stdin)?,
            take(streams.stdout)?,
            take(streams.stderr)?,
        );
        if let Some(stdout) = stdout {
            self.stdout.join(stdout).await?;
        }
        if let Some(stderr) = stderr {
            self.stderr.join(stderr).await?;
        }
        if let Some(stdin) = stdin {
            let keep_open = streams.terminal.is_some();
            tokio::task::spawn_local(relay::input(stdin, self.stdin.clone(), keep_open));
        }
        Ok(())
    }

    async fn relay(&self, streams: sandbox::ProcessStreams, log: SharedLog) -> JoinSet<()> {
        let mut relays = JoinSet::new();
        if let Some(stdin) = streams.stdin {
            let (from, to) = stdin.into_split();
            *self.stdin.lock().await = Some(to);
            // With a terminal, output comes back on the same stream.
            if streams.stdout.is_none() {
                relays.spawn_local(self.output(Box::new(from), Source::Output, &log));
            }
        }
        if let Some(stdout) = streams.stdout {
            relays.spawn_local(self.output(Box::new(stdout), Source::Output, &log));
        }
        if let Some(stderr) = streams.stderr {
            relays.spawn_local(self.output(Box::new(stderr), Source::Error, &log));
        }
        relays
    }

    fn output(
        &self,
        from: relay::Guest,
        source: Source,
        log: &SharedLog,
    ) -> impl Future<Output = ()> + use<> {
        let audience = match source {
            Source::Output => self.stdout.clone(),
            Source::Error => self.stderr.clone(),
        };
        let again = self.ties.tie(source);
        relay::output(from, source, log.clone(), audience, Some(again))
    }

    fn has_terminal(&self) -> bool {
        let process = self.container.record.spec.process().as_ref();
        process
            .and_then(|process| process.terminal())
            .unwrap_or(false)
    }

    fn update(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        change(&mut self.state.borrow_mut());
        self.container.set_state(&self.state.borrow())?;
        Ok(())
    }

    /// Writes down what the machine's processes are by now, for `inspect`.
    fn note_processes(&self) {
        let processes = self.sandbox.processes();
        if self.state.borrow().machine_pids == processes {
            return;
        }
        if let Err(error) = self.update(|state| state.machine_pids = processes) {
            tracing::warn!("the machine's processes are not written down: {error:#}");
        }
    }

    fn audience(&self, source: Source) -> &Audience {
        match source {
            Source::Output => &self.stdout,
            Source::Error => &self.stderr,
        }
    }

    fn init(&self) -> &Process {
        self.guest.init()
    }

    /// The end of the container, with everything cleaned up.
    async fn ending(&self) -> Ending {
        let mut receiver = self.ended.subscribe();
        loop {
            if let Some(ending) = receiver.borrow_and_update().clone() {
                return ending;
            }
            if receiver.changed().await.is_err() {
                return Ending {
                    code: 137,
                    error: Some("the supervisor has ended".to_owned()),
                };
            }
        }
    }
}

/// Waits for another condition of the network; for ever, if there is none to come.
async fn changed(network: &mut Option<watch::Receiver<Condition>>) {
    if let Some(receiver) = network
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Writes down how it ended, or removes everything for `--rm`.
fn finish(container: &Container, state: &State, lock: File) {
    if let Err(error) = lease::release(container) {
        tracing::error!("a place in a network is not given back: {error:#}");
    }
    let done = if container.record.auto_remove {
        container.remove(lock)
    } else {
        container
            .set_state(state)
            .and_then(|()| container.remove_run_directory())
    };
    if let Err(error) = done {
        tracing::error!(%error, container = container.short_id(), "something is left; `caisson rm` removes it");
    }
}

async fn refuse(control: &Connection, error: &anyhow::Error) -> Result<()> {
    tracing::error!(
        error = format!("{error:#}"),
        "the container was not started"
    );
    let response = Response::Failed {
        message: format!("{error:#}"),
        code: exit_code(error),
    };
    Ok(control.send(&response, &[]).await?)
}

/// Docker's exit codes for what went wrong before the program ran.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<sandbox::Error>() {
        Some(sandbox::Error::ProgramNotFound(_)) => 127,
        Some(sandbox::Error::ProgramNotExecutable(_)) => 126,
        _ => 125,
    }
}

fn now() -> String {
    humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}
