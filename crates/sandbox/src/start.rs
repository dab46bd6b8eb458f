//! How a machine begins: as a fork of a template wherever that can be, else with a boot.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caisson_hypervisor::template::{self, Template};
use caisson_hypervisor::{Hypervisor, RunningVm, TemplateStore};

use crate::sandbox::{SandboxConfig, describe};
use crate::timing::Timing;
use crate::{Error, Result, console};

/// How a machine began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// As a copy of a template.
    Forked {
        /// The template's key.
        template: String,
    },
    /// As a copy of a container that ran.
    Copied {
        /// The snapshot's name.
        snapshot: String,
    },
    /// From its first instruction.
    Booted {
        /// Why it was not forked.
        reason: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forked { template: key } => {
                write!(f, "forked from template {}", template::short(key))
            }
            Self::Copied { snapshot } => write!(f, "forked from snapshot {snapshot}"),
            Self::Booted { reason } => write!(f, "booted: {reason}"),
        }
    }
}

/// A container that ran, frozen with its machine.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is called.
    pub name: String,
    /// Its machine.
    pub machine: Template,
}

/// A machine that has been started.
pub(crate) struct Started {
    pub(crate) vm: Box<dyn RunningVm>,
    /// The log of its agent.
    pub(crate) log: UnixStream,
    /// What the log begins with, if it did before the machine was frozen.
    pub(crate) logged: Option<PathBuf>,
    pub(crate) origin: Origin,
}

/// A copy of a container's machine. Nothing else would be one.
pub(crate) async fn copied(
    hypervisor: &dyn Hypervisor,
    snapshot: &Snapshot,
    config: &SandboxConfig,
    timing: &Timing,
) -> Result<Started> {
    let (vm, log) = fork(hypervisor, &snapshot.machine, config, timing).await?;
    let origin = Origin::Copied {
        snapshot: snapshot.name.clone(),
    };
    Ok(Started {
        vm,
        log,
        logged: None,
        origin,
    })
}

/// A machine that boots, and why it was not forked. Its agent is ready.
pub(crate) async fn booted(
    hypervisor: &dyn Hypervisor,
    config: &SandboxConfig,
    reason: String,
    timing: &Timing,
) -> Result<Started> {
    let vm = {
        let _stage = timing.stage("machine");
        hypervisor.boot(&config.vm).await?
    };
    let _stage = timing.stage("guest boot");
    let log = wait_for_agent(vm.as_ref(), &config.vm.console, config.boot_deadline).await?;
    let origin = Origin::Booted { reason };
    Ok(Started {
        vm,
        log,
        logged: None,
        origin,
    })
}

/// A fork, or why there is none. Whether its agent lives is seen when it is asked something:
/// it was connected before it was frozen.
pub(crate) async fn forked(
    hypervisor: &dyn Hypervisor,
    templates: &TemplateStore,
    config: &SandboxConfig,
    timing: &Timing,
) -> std::result::Result<(Started, Template), String> {
    let template = {
        let _stage = timing.stage("template");
        templates
            .obtain(hypervisor, &config.vm, config.boot_deadline)
            .await
            .map_err(|error| error.to_string())?
    };
    match fork(hypervisor, &template, config, timing).await {
        Ok((vm, log)) => {
            let key = template.key.clone();
            let started = Started {
                vm,
                log,
                logged: Some(template.log()),
                origin: Origin::Forked { template: key },
            };
            Ok((started, template))
        }
        Err(error) => Err(discard(templates, &template, &error)),
    }
}

/// Removes a template of which a fork did not come up. Returns the reason for what is done
/// instead.
pub(crate) fn discard(templates: &TemplateStore, template: &Template, error: &Error) -> String {
    tracing::warn!(
        %error,
        template = template.short_key(),
        "a fork did not come up; its template is removed and the machine boots"
    );
    templates.discard(template);
    format!("a fork did not come up: {error}")
}

async fn fork(
    hypervisor: &dyn Hypervisor,
    template: &Template,
    config: &SandboxConfig,
    timing: &Timing,
) -> Result<(Box<dyn RunningVm>, UnixStream)> {
    let deadline = fork_deadline(config);
    let vm = {
        let _stage = timing.stage("machine");
        tokio::time::timeout(deadline, hypervisor.fork(template, &config.vm))
            .await
            .map_err(|_| late(&config.vm.console, deadline))??
    };
    let _stage = timing.stage("guest wake-up");
    let log = wait_for_agent(vm.as_ref(), &config.vm.console, deadline).await?;
    Ok((vm, log))
}

/// How long each part of a fork's start may take: with what a boot may take, all together
/// stay within thrice the deadline.
pub(crate) fn fork_deadline(config: &SandboxConfig) -> Duration {
    config.boot_deadline / 2
}

pub(crate) fn late(console: &Path, deadline: Duration) -> Error {
    Error::BootDeadline {
        deadline,
        console: console::tail(console),
    }
}

/// Waits for the agent's connection to the log port.
pub(crate) async fn wait_for_agent(
    vm: &dyn RunningVm,
    console: &Path,
    deadline: Duration,
) -> Result<UnixStream> {
    let sign_of_life = async {
        match vm.accept().await {
            Ok((_port, stream)) => Ok(stream),
            Err(caisson_hypervisor::Error::Ended) => Err(Error::GuestEnded {
                doing: "the guest was starting",
                reason: describe(&vm.wait().await),
                console: console::tail(console),
            }),
            Err(error) => Err(error.into()),
        }
    };
    match tokio::time::timeout(deadline, sign_of_life).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let error = late(console, deadline);
            let _ = vm.kill().await;
            Err(error)
        }
    }
}
