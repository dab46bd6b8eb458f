//! How a machine begins: as a fork of a template wherever that can be, else with a boot.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
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

/// A machine, the log of its agent, which is ready, and how it began.
type Started = (Box<dyn RunningVm>, UnixStream, Origin);

/// Makes the machine and waits for its agent.
pub(crate) async fn machine(
    hypervisor: &dyn Hypervisor,
    config: &SandboxConfig,
    timing: &Timing,
) -> Result<Started> {
    if let Some(Snapshot { name, machine }) = &config.snapshot {
        // Nothing else would be a copy.
        let (vm, log) = fork(hypervisor, machine, config, timing).await?;
        let snapshot = name.clone();
        return Ok((vm, log, Origin::Copied { snapshot }));
    }
    let reason = match &config.templates {
        None => "templates are off".to_owned(),
        Some(templates) => match forked(hypervisor, templates, config, timing).await {
            Ok(started) => return Ok(started),
            Err(reason) => reason,
        },
    };
    let vm = {
        let _stage = timing.stage("machine");
        hypervisor.boot(&config.vm).await?
    };
    let _stage = timing.stage("guest boot");
    let log = wait_for_agent(vm.as_ref(), &config.vm.console, config.boot_deadline).await?;
    Ok((vm, log, Origin::Booted { reason }))
}

/// A fork, or why there is none.
async fn forked(
    hypervisor: &dyn Hypervisor,
    templates: &TemplateStore,
    config: &SandboxConfig,
    timing: &Timing,
) -> std::result::Result<Started, String> {
    let template = {
        let _stage = timing.stage("template");
        templates
            .obtain(hypervisor, &config.vm, config.boot_deadline)
            .await
            .map_err(|error| error.to_string())?
    };
    match fork(hypervisor, &template, config, timing).await {
        Ok((vm, log)) => {
            let template = template.key;
            Ok((vm, log, Origin::Forked { template }))
        }
        Err(error) => {
            tracing::warn!(
                %error,
                template = template.short_key(),
                "a fork did not come up; its template is removed and the machine boots"
            );
            templates.discard(&template);
            Err(format!("a fork did not come up: {error}"))
        }
    }
}

async fn fork(
    hypervisor: &dyn Hypervisor,
    template: &Template,
    config: &SandboxConfig,
    timing: &Timing,
) -> Result<(Box<dyn RunningVm>, UnixStream)> {
    // With what a boot may take, the two together stay within twice the deadline.
    let deadline = config.boot_deadline / 2;
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

fn late(console: &Path, deadline: Duration) -> Error {
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
