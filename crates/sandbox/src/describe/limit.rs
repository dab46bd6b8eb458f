//! Limits of a container, as files of its cgroup (OCI runtime-spec, config-linux, and the
//! kernel's cgroup-v2 documentation).

use caisson_protocol::agent::CgroupLimit;
use caisson_protocol::{LIMIT_FILES, SWAP_LIMIT_FILE};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

/// What is written for those limits that are named.
pub(super) fn limits(resources: &LinuxResources) -> Vec<CgroupLimit> {
    let mut limits = Vec::new();
    if let Some(memory) = resources.memory() {
        add_memory(&mut limits, memory);
    }
    if let Some(cpu) = resources.cpu() {
        add_cpu(&mut limits, cpu);
    }
    if let Some(pids) = resources.pids() {
        let limit = match pids.limit() {
            ..=0 => -1,
            limit => limit,
        };
        limits.push(file("pids.max", amount(limit)));
    }
    for (key, value) in resources.unified().iter().flatten() {
        if LIMIT_FILES.contains(&key.as_str()) {
            limits.push(file(key, value.clone()));
        }
    }
    limits
}

fn add_memory(limits: &mut Vec<CgroupLimit>, memory: &LinuxMemory) {
    if let Some(limit) = memory.limit() {
        limits.push(file("memory.max", amount(limit)));
    }
    if let Some(low) = memory.reservation() {
        limits.push(file("memory.low", amount(low)));
    }
    if let Some(both) = memory.swap() {
        // OCI counts memory and swap together, cgroup v2 swap alone.
        let swap = match memory.limit() {
            Some(limit) if both >= 0 => both.saturating_sub(limit).max(0),
            _ => both,
        };
        limits.push(file(SWAP_LIMIT_FILE, amount(swap)));
    }
}

fn add_cpu(limits: &mut Vec<CgroupLimit>, cpu: &LinuxCpu) {
    if let Some(quota) = cpu.quota() {
        let period = cpu.period().unwrap_or(100_000);
        limits.push(file("cpu.max", format!("{} {period}", amount(quota))));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares >= 2) {
        // 2 to 262144 onto 1 to 10000, as every runtime does it.
        let weight = 1 + (shares.min(262_144) - 2) * 9999 / 262_142;
        limits.push(file("cpu.weight", weight.to_string()));
    }
}

fn file(name: &str, value: String) -> CgroupLimit {
    CgroupLimit {
        file: name.to_owned(),
        value,
        ..Default::default()
    }
}

fn amount(value: i64) -> String {
    match value {
        ..=-1 => "max".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Vec<(String, String)> {
        let limits = limits(&serde_json::from_str(json).expect("resources"));
        let limits = limits.into_iter();
        limits.map(|limit| (limit.file, limit.value)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let expected = expected.iter();
        expected
            .map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn limits_become_files() {
        let written = written(
            r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 800},
                "cpu": {"quota": 50000, "period": 100000, "shares": 1024},
                "pids": {"limit": 0}}"#,
        );
        let expected = [
            ("memory.max", "1000"),
            ("memory.low", "800"),
            ("memory.swap.max", "500"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "39"),
            ("pids.max", "max"),
        ];
        assert_eq!(written, pairs(&expected));
        let files = expected.map(|(file, _)| file);
        assert!(files.iter().all(|file| LIMIT_FILES.contains(file)));
    }

    #[test]
    fn no_limit_is_one_too() {
        let written = written(
            r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "shares": 0},
                "pids": {"limit": 9}}"#,
        );
        let expected = [
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("cpu.max", "max 100000"),
            ("pids.max", "9"),
        ];
        assert_eq!(written, pairs(&expected));
        assert!(limits(&LinuxResources::default()).is_empty());
    }

    #[test]
    fn files_by_name_are_those_of_limits() {
        let written = written(r#"{"unified": {"memory.high": "5M", "cgroup.kill": "1"}}"#);
        assert_eq!(written, pairs(&[("memory.high", "5M")]));
    }
}
