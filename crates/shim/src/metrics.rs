//! What a container uses, as containerd's clients read it: the message of cgroup v2, with
//! the figures of the guest's kernel.

use caisson_protocol::agent::{InterfaceStats, StatsResponse};
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, NetworkStat, PidsStat,
};
use protobuf::MessageField;

/// No limit, as cgroup libraries write it.
const NONE: u64 = u64::MAX;

/// Translates the agent's figures.
pub fn from_guest(stats: &StatsResponse) -> Metrics {
    let limit = match stats.memory_limit_bytes {
        // What the guest has is the limit then.
        0 => stats.memory_total_bytes,
        limit => limit,
    };
    Metrics {
        pids: MessageField::some(PidsStat {
            current: stats.pids,
            limit: if stats.pids_limit == 0 {
                NONE
            } else {
                stats.pids_limit
            },
            ..Default::default()
        }),
        cpu: MessageField::some(CPUStat {
            usage_usec: stats.cpu_usage_us,
            user_usec: stats.cpu_user_us,
            system_usec: stats.cpu_system_us,
            nr_periods: stats.cpu_periods,
            nr_throttled: stats.cpu_throttled,
            throttled_usec: stats.cpu_throttled_us,
            ..Default::default()
        }),
        memory: MessageField::some(MemoryStat {
            usage: stats.memory_bytes,
            usage_limit: limit,
            anon: stats.memory_anonymous_bytes,
            file: stats.memory_file_bytes,
            inactive_file: stats.memory_inactive_file_bytes,
            active_file: stats
                .memory_file_bytes
                .saturating_sub(stats.memory_inactive_file_bytes),
            pgfault: stats.page_faults,
            pgmajfault: stats.major_page_faults,
            ..Default::default()
        }),
        memory_events: MessageField::some(MemoryEvents {
            oom: stats.oom_kills,
            oom_kill: stats.oom_kills,
            ..Default::default()
        }),
        io: MessageField::some(IOStat {
            usage: vec![IOEntry {
                rbytes: stats.read_bytes,
                wbytes: stats.write_bytes,
                ..Default::default()
            }],
            ..Default::default()
        }),
        network: stats.interfaces.iter().map(interface).collect(),
        ..Default::default()
    }
}

fn interface(stats: &InterfaceStats) -> NetworkStat {
    NetworkStat {
        name: stats.name.clone(),
        rx_bytes: stats.received_bytes,
        rx_packets: stats.received_packets,
        rx_errors: stats.received_errors,
        rx_dropped: stats.received_dropped,
        tx_bytes: stats.sent_bytes,
        tx_packets: stats.sent_packets,
        tx_errors: stats.sent_errors,
        tx_dropped: stats.sent_dropped,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_has_its_figures() {
        let stats = StatsResponse {
            interfaces: vec![InterfaceStats {
                name: "eth0".to_owned(),
                received_bytes: 1,
                sent_packets: 2,
                ..Default::default()
            }],
            ..Default::default()
        };
        let metrics = from_guest(&stats);
        let [network] = metrics.network.as_slice() else {
            panic!("{metrics}");
        };
        assert_eq!(network.name, "eth0");
        assert_eq!((network.rx_bytes, network.tx_packets), (1, 2));
    }
}
