//! The `caisson` command.
//!
//! A front door: it translates flags into calls of the sandbox library and
//! knows nothing of how a machine is made.

mod client;
mod command;
mod config;
mod container;
mod doctor;
mod flags;
mod names;
mod progress;
mod refuse;
mod signal;
mod snapshot;
mod spec;
mod supervisor;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal};

use command::{
    bench, compare, copy, exec, images, inspect, lifecycle, logs, port, ps, run, setup, stats,
    template,
};
use container::ContainerStore;

/// Exit code for failures of ours, as Docker has it.
const OWN_FAILURE: u8 = 125;

/// Containers in microVMs: each has a Linux kernel of its own.
#[derive(Debug, Parser)]
#[command(
    name = "caisson",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    /// Folder of images and containers
    #[arg(long, global = true)]
    root: Option<PathBuf>,
    /// Folder of sockets
    #[arg(long, global = true, hide = true)]
    run_directory: Option<PathBuf>,
    /// How much to say on standard error: error, warn, info, debug, trace
    #[arg(long, global = true)]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program in a new container
    Run(Box<flags::RunFlags>),
    /// Make a container and leave it stopped
    Create(Box<flags::CreateFlags>),
    /// Start containers
    Start(lifecycle::StartFlags),
    /// Run a program in a running container
    Exec(flags::ExecFlags),
    /// List containers
    #[command(visible_alias = "list")]
    Ps(ps::PsFlags),
    /// Show where the ports of a container are published
    Port(port::PortFlags),
    /// Show what a container wrote
    Logs(logs::LogsFlags),
    /// Stop containers
    Stop(lifecycle::StopFlags),
    /// Send a signal to containers
    Kill(lifecycle::KillFlags),
    /// Remove containers
    Rm(lifecycle::RemoveFlags),
    /// Wait for containers and print their exit codes
    Wait(lifecycle::Names),
    /// Show everything about containers, as JSON
    Inspect {
        /// Names or ids of containers
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Show what containers use
    Stats(stats::StatsFlags),
    /// Freeze containers
    Pause(lifecycle::Names),
    /// Let frozen containers run
    Unpause(lifecycle::Names),
    /// Copy files between a container and the host
    Cp(copy::CopyFlags),
    /// Fetch an image from a registry
    Pull(images::PullFlags),
    /// Load images from an archive
    Load(images::LoadFlags),
    /// List images
    Images(images::ImagesFlags),
    /// Remove images
    Rmi(images::RemoveImageFlags),
    /// Freeze a running container to start copies of it
    Snapshot(command::snapshot::SnapshotFlags),
    /// Work with the machines from which others are forked
    Template {
        #[command(subcommand)]
        command: template::TemplateCommand,
    },
    /// Measure, as ratios within one run
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Show what the virtual machine gives and costs, beside runc and others
    Compare(compare::CompareFlags),
    /// Say whether containers can run here, and what is missing
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Work with the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make a container engine know Caisson as a runtime
    Setup {
        #[command(subcommand)]
        command: setup::SetupCommand,
    },
    /// Print a script that completes commands and flags in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
    /// Hold a container
    #[command(hide = true)]
    Supervise {
        /// Id of the container
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// A whole start against a machine that only powers off
    Start(bench::StartFlags),
    /// A copy of a snapshot against a start of the same program
    Snapshot(bench::SnapshotFlags),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print what is in force and where each value came from
    Show,
}

impl Command {
    /// Whether there is nothing left to do once nobody reads what is printed.
    fn only_prints(&self) -> bool {
        matches!(
            self,
            Self::Ps(_)
                | Self::Port(_)
                | Self::Inspect { .. }
                | Self::Stats(_)
                | Self::Images(_)
                | Self::Doctor { .. }
                | Self::Config { .. }
                | Self::Completions { .. }
                | Self::Version
        )
    }
}

/// `caisson ps | head -1` ends quietly, as with any other command.
fn end_with_reader() {
    // SAFETY: the default disposition runs no code of ours.
    let restored = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    if let Err(error) = restored {
        tracing::debug!(%error, "SIGPIPE stays ignored");
    }
}

impl Cli {
    /// What the flags say about the configuration.
    fn overrides(&self) -> Vec<config::Override> {
        let path = |path: &Option<PathBuf>| {
            path.as_ref()
                .map(|path| path.to_string_lossy().into_owned())
        };
        [
            ("root", "--root", path(&self.root)),
            ("run", "--run-directory", path(&self.run_directory)),
            ("log_level", "--log-level", self.log_level.clone()),
        ]
        .into_iter()
        .filter_map(|(key, flag, value)| {
            Some(config::Override {
                key,
                flag,
                value: value?,
            })
        })
        .collect()
    }
}

fn main() -> ExitCode {
    let begin = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The terminal may be gone; there is nobody else to tell.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(OWN_FAILURE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(&cli, begin) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("caisson: {error:#}");
            ExitCode::from(failure_code(&error))
        }
    }
}

fn failure_code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<client::Refused>()
        .map_or(OWN_FAILURE, |refused| refused.code)
}

fn dispatch(cli: &Cli, begin: Instant) -> Result<u8> {
    let supervise = matches!(cli.command, Command::Supervise { .. });
    if supervise {
        // Before anything else: a Ctrl-C of the terminal we were started from is not for us.
        supervisor::leave_command()?;
    }
    let settings = config::Settings::load(&cli.overrides())?;
    if supervise {
        // Relative paths of the environment have been read; no folder shall be kept busy.
        std::env::set_current_dir("/")?;
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&settings.log_level)?)
        .with_writer(std::io::stderr)
        .init();
    if cli.command.only_prints() {
        end_with_reader();
    }
    let store = || ContainerStore::open(&settings.root, &settings.run);
    match &cli.command {
        Command::Run(flags) => return run::run(flags, &store()?, &settings, begin),
        Command::Create(flags) => run::create(flags, &store()?, &settings)?,
        Command::Start(flags) => return lifecycle::start(flags, &store()?, &settings),
        Command::Exec(flags) => return exec::exec(flags, &store()?),
        Command::Ps(flags) => ps::ps(flags, &store()?)?,
        Command::Port(flags) => port::port(flags, &store()?)?,
        Command::Logs(flags) => logs::logs(flags, &store()?)?,
        Command::Stop(flags) => lifecycle::stop(flags, &store()?)?,
        Command::Kill(flags) => lifecycle::kill(flags, &store()?)?,
        Command::Rm(flags) => lifecycle::remove(flags, &store()?)?,
        Command::Wait(flags) => lifecycle::wait(flags, &store()?)?,
        Command::Inspect { containers } => inspect::inspect(containers, &store()?)?,
        Command::Stats(flags) => stats::stats(flags, &store()?)?,
        Command::Pause(flags) => lifecycle::pause(flags, &store()?)?,
        Command::Unpause(flags) => lifecycle::unpause(flags, &store()?)?,
        Command::Cp(flags) => copy::copy(flags, &store()?, &settings)?,
        Command::Pull(flags) => images::pull(flags, &settings)?,
        Command::Load(flags) => images::load(flags, &settings)?,
        Command::Images(flags) => images::images(flags, &settings)?,
        Command::Rmi(flags) => images::remove(flags, &store()?, &settings)?,
        Command::Snapshot(flags) => command::snapshot::snapshot(flags, &store()?, &settings)?,
        Command::Template { command } => template::template(command, &settings)?,
        Command::Bench {
            command: BenchCommand::Start(flags),
        } => bench::start(flags, &store()?, &settings)?,
        Command::Bench {
            command: BenchCommand::Snapshot(flags),
        } => bench::snapshot(flags, &settings)?,
        Command::Compare(flags) => compare::compare(flags)?,
        Command::Doctor { json } => return doctor::run(&settings, *json),
        Command::Config {
            command: ConfigCommand::Show,
        } => print!("{}", settings.show()),
        Command::Setup { command } => setup::setup(command)?,
        Command::Completions { shell } => {
            clap_complete::generate(
                *shell,
                &mut Cli::command(),
                "caisson",
                &mut std::io::stdout(),
            );
        }
        Command::Version => println!("caisson {}", env!("CARGO_PKG_VERSION")),
        Command::Supervise { id } => supervisor::run(id, &settings)?,
    }
    Ok(0)
}
