//! `caisson inspect`.

mod network;

use anyhow::Result;
use oci_spec::runtime::{LinuxResources, Process};
use serde_json::{Value, json};

use crate::container::{Container, ContainerStore, State, Status};
use crate::signal;

/// Prints everything known of containers as a JSON array, in Docker's words
/// where it has them.
pub fn inspect(names: &[String], store: &ContainerStore) -> Result<()> {
    let found = names
        .iter()
        .map(|name| describe(&store.find(name)?))
        .collect::<Result<Vec<_>>>()?;
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(())
}

fn describe(container: &Container) -> Result<Value> {
    let record = &container.record;
    let state = container.state()?;
    let args = record
        .spec
        .process()
        .as_ref()
        .and_then(|process| process.args().clone())
        .unwrap_or_default();
    Ok(json!({
        "Id": record.id,
        "Name": record.name,
        "Created": record.created,
        "Image": record.image_id,
        "Path": args.first(),
        "Args": args.get(1..),
        "State": life(&state),
        "Config": config(container),
        "HostConfig": host_config(container),
        "Mounts": mounts(container),
        "NetworkSettings": network::settings(&state),
        "LogPath": container.output_log(),
        "Machine": record.machine,
        "Hypervisor": state.hypervisor,
        "CopyOf": record.copy_of,
        "SupervisorPid": state.supervisor_pid,
        "MachinePids": state.machine_pids,
        "Stages": state.stages,
        "Spec": record.spec,
    }))
}

fn life(state: &State) -> Value {
    json!({
        "Status": state.status,
        "Running": state.status.is_live(),
        "Paused": state.status == Status::Paused,
        "Restarting": false,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.machine_pids.first().unwrap_or(&0),
        "ExitCode": state.exit_code,
        "Error": state.error.clone().unwrap_or_default(),
        "StartedAt": state.started_at.as_deref().unwrap_or(NEVER),
        "FinishedAt": state.finished_at.as_deref().unwrap_or(NEVER),
    })
}

/// Docker's date for what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn config(container: &Container) -> Value {
    let record = &container.record;
    let process = record.spec.process().as_ref();
    json!({
        "Image": record.image,
        "Hostname": record.spec.hostname(),
        "User": process.and_then(|process| process.user().username().clone()).unwrap_or_default(),
        "Env": process.and_then(|process| process.env().clone()),
        "Entrypoint": record.entrypoint,
        "Cmd": record.command,
        "WorkingDir": process.map(Process::cwd),
        "Tty": process.and_then(Process::terminal).unwrap_or(false),
        "OpenStdin": record.interactive,
        "Labels": record.labels,
        "StopSignal": signal::name(record.stop_signal),
        "StopTimeout": record.stop_timeout,
    })
}

fn host_config(container: &Container) -> Value {
    let record = &container.record;
    let resources = record
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().clone())
        .unwrap_or_default();
    json!({
        "AutoRemove": record.auto_remove,
        "Init": record.init,
        "Privileged": record.privileged,
        "ReadonlyRootfs": record.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        "Memory": resources.memory().and_then(|memory| memory.limit()).unwrap_or(0),
        "NanoCpus": nano_cpus(&resources),
        "PidsLimit": resources.pids().as_ref().map(|pids| pids.limit()),
        "ExtraHosts": record.extra_hosts,
        "NetworkMode": record.network.mode.to_string(),
        "PortBindings": network::bindings(&record.network.ports),
        "Dns": record.network.dns.servers,
        "DnsSearch": record.network.dns.search,
        "DnsOptions": record.network.dns.options,
        "Runtime": "caisson",
    })
}

/// Billionths of a CPU; 0 is no limit, as with Docker.
fn nano_cpus(resources: &LinuxResources) -> i64 {
    let limit = resources
        .cpu()
        .as_ref()
        .and_then(|cpu| Some((cpu.quota()?, i64::try_from(cpu.period()?).ok()?)));
    limit.map_or(0, |(quota, period)| {
        quota.saturating_mul(1_000_000_000) / period.max(1)
    })
}

/// The mounts that the host has a part in.
fn mounts(container: &Container) -> Vec<Value> {
    let record = &container.record;
    let all = record.spec.mounts().as_deref().unwrap_or_default();
    let share = |name: &str| std::path::Path::new(caisson_protocol::SHARE_ROOT).join(name);
    record
        .shares
        .iter()
        .map(|shared| {
            let mount = all
                .iter()
                .find(|mount| mount.source().as_ref() == Some(&share(&shared.name)));
            json!({
                "Type": "bind",
                "Source": shared.source,
                "Destination": mount.map(|mount| mount.destination()),
                "RW": !shared.read_only,
            })
        })
        .collect()
}
