//! `caisson template`: the machines from which others are forked.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use caisson_hypervisor::template::{self, Description};
use caisson_hypervisor::{Hypervisor, NetworkBackend, NetworkInterface, VmConfig};
use caisson_network::{Guest, passt};
use clap::{Args, Subcommand};
use serde_json::json;

use super::block_on;
use super::ps::ago;
use super::stats::bytes;
use crate::config::Settings;
use crate::spec::limit;
use crate::supervisor::machine;
use crate::table::Table;

/// `caisson template`.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List templates
    #[command(visible_alias = "list")]
    Ls {
        /// Print one JSON object a line
        #[arg(long, value_parser = ["table", "json"], default_value = "table")]
        format: String,
    },
    /// Make a template ahead, so that the first container of its kind does not wait for it
    Build(BuildFlags),
    /// Remove templates; machines that were forked of them run on
    Rm {
        /// Remove all of them, and what is known of those that could not be made
        #[arg(long, conflicts_with = "keys")]
        all: bool,
        /// Keys, or how they begin
        #[arg(required_unless_present = "all")]
        keys: Vec<String>,
    },
}

/// The machines that shall be forked.
#[derive(Debug, Args)]
pub struct BuildFlags {
    /// Virtual CPUs
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=128))]
    cpus: Option<u32>,
    /// Memory limit of the containers, as `run` is told
    #[arg(short, long, value_name = "SIZE", value_parser = limit::memory)]
    memory: Option<u64>,
}

/// Carries out the command.
pub fn template(command: &TemplateCommand, settings: &Settings) -> Result<()> {
    match command {
        TemplateCommand::Ls { format } => list(format, settings),
        TemplateCommand::Build(flags) => build(flags, settings),
        TemplateCommand::Rm { all, keys } => remove(*all, keys, settings),
    }
}

fn list(format: &str, settings: &Settings) -> Result<()> {
    let templates = settings
        .templates()
        .list()
        .context("cannot list templates")?;
    if format == "json" {
        for template in &templates {
            println!("{}", serde_json::to_string(&shown(template))?);
        }
        return Ok(());
    }
    let mut table = Table::new([
        "KEY", "CREATED", "CPUS", "MEMORY", "DEVICES", "FORKS", "ON DISK", "KERNEL",
    ]);
    for template in &templates {
        let kind = &template.recipe.kind;
        table.row([
            template::short(&template.key),
            &ago(&created(template)),
            &kind.cpus.to_string(),
            &bytes(kind.memory),
            devices(template),
            forks(template),
            &bytes(template.disk),
            &kind.kernel.display().to_string(),
        ]);
    }
    print!("{table}");
    Ok(())
}

fn shown(template: &Description) -> serde_json::Value {
    let kind = &template.recipe.kind;
    json!({
        "key": template.key,
        "created": created(template),
        "hypervisor": kind.driver,
        "cpus": kind.cpus,
        "memory": kind.memory,
        "disks": kind.disks,
        "network": kind.network,
        "forks": forks(template),
        "diskBytes": template.disk,
        "kernel": kind.kernel,
        "initramfs": kind.initramfs,
    })
}

/// What its forks need not look for when they wake up.
fn devices(template: &Description) -> &'static str {
    match (template.recipe.kind.disks, template.recipe.kind.network) {
        (true, true) => "disks, network",
        (true, false) => "disks",
        (false, _) => "none",
    }
}

/// What its forks begin as.
fn forks(template: &Description) -> &'static str {
    match template.has_process() {
        true => "process copies",
        false => "states",
    }
}

fn created(template: &Description) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(template.created);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn build(flags: &BuildFlags, settings: &Settings) -> Result<()> {
    let memory = match flags.memory.filter(|limit| *limit != 0) {
        Some(limit) => caisson_sandbox::guest_memory(limit).context("--memory is too large")?,
        None => settings.memory,
    };
    let (hypervisor, _) = settings.select_hypervisor(None)?;
    let network = (settings.network == "user").then(passt::expected_guest);
    let config = VmConfig {
        name: "template".to_owned(),
        kernel: settings.kernel.clone(),
        initramfs: settings.initramfs.clone(),
        kernel_parameters: Vec::new(),
        template_parameters: network.iter().map(expected).collect::<Result<_>>()?,
        rehearsal: Some(caisson_sandbox::rehearsal(network.as_ref())),
        cpus: flags.cpus.unwrap_or(settings.cpus),
        memory,
        disks: machine::new_disks(settings)?,
        share: None,
        interfaces: network.iter().map(interface).collect::<Result<_>>()?,
        network_namespace: None,
        host_ports: Vec::new(),
        cid: 0,
        console: "/dev/null".into(),
        run_directory: settings.run.clone(),
    };
    let deadline = Duration::from_secs(settings.boot_deadline);
    let hypervisor: &dyn Hypervisor = hypervisor.as_ref();
    let template = block_on(async {
        let store = settings.templates();
        Ok(store.build(hypervisor, &config, deadline).await?)
    })?;
    println!("{}", template.key);
    Ok(())
}

/// The interface of machines in the network that containers have by default, as their
/// template has to know it: what it is, not where it leads.
fn interface(_: &Guest) -> Result<NetworkInterface> {
    let nowhere = File::open("/dev/null").context("cannot open /dev/null")?;
    Ok(NetworkInterface {
        mac: [0; 6],
        backend: NetworkBackend::Stream(Arc::new(nowhere.into())),
    })
}

fn expected(guest: &Guest) -> Result<String> {
    Ok(caisson_sandbox::template_parameter(guest)?)
}

fn remove(all: bool, keys: &[String], settings: &Settings) -> Result<()> {
    let store = settings.templates();
    let every = [String::new()];
    for key in if all { &every } else { keys } {
        if key.is_empty() && !all {
            bail!("a key has at least one digit; --all removes every template");
        }
        let removed = store.remove(key).context("cannot remove templates")?;
        if removed.is_empty() && !all {
            bail!("there is no template {key}; `caisson template ls` shows those that are there");
        }
        for key in removed {
            println!("{key}");
        }
    }
    Ok(())
}
