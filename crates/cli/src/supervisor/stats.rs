//! What a container uses.

use anyhow::Result;
use caisson_protocol::agent as api;

use super::Live;
use super::control::{InterfaceStats, Stats};

/// The guest's counters, and what the sandbox costs the host.
pub(super) async fn read(live: &Live) -> Result<Stats> {
    let guest = live.guest.stats().await?;
    let limit = guest.memory_limit_bytes;
    Ok(Stats {
        cpu_usage_us: guest.cpu_usage_us,
        memory_bytes: guest.memory_bytes,
        memory_limit_bytes: if limit == 0 {
            guest.memory_total_bytes
        } else {
            limit
        },
        pids: guest.pids,
        read_bytes: guest.read_bytes,
        write_bytes: guest.write_bytes,
        received_bytes: sum(&guest.interfaces, |interface| interface.received_bytes),
        sent_bytes: sum(&guest.interfaces, |interface| interface.sent_bytes),
        interfaces: guest.interfaces.iter().map(interface).collect(),
        agent_rss_bytes: guest.agent_rss_bytes,
        host_pss_bytes: live
            .sandbox
            .processes()
            .into_iter()
            .chain([std::process::id()])
            .filter_map(pss)
            .sum(),
    })
}

/// A sum of what the guest says, which may be anything.
fn sum(interfaces: &[api::InterfaceStats], part: impl Fn(&api::InterfaceStats) -> u64) -> u64 {
    interfaces.iter().map(part).fold(0, u64::saturating_add)
}

fn interface(guest: &api::InterfaceStats) -> InterfaceStats {
    InterfaceStats {
        name: guest.name.chars().filter(|c| !c.is_control()).collect(),
        received_bytes: guest.received_bytes,
        received_packets: guest.received_packets,
        received_lost: guest.received_errors.saturating_add(guest.received_dropped),
        sent_bytes: guest.sent_bytes,
        sent_packets: guest.sent_packets,
        sent_lost: guest.sent_errors.saturating_add(guest.sent_dropped),
    }
}

/// Proportional set size of a process in bytes; none if it has ended.
fn pss(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
