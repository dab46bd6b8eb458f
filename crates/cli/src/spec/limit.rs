//! Limits of processes and of the whole container, and the machine that fits them.

use oci_spec::runtime::{
    LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType,
};

use super::{Error, Result, size};
use crate::config::Settings;
use crate::flags::CreateFlags;

/// Billionths of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NanoCpus(u64);

const NANO: u64 = 1_000_000_000;

/// Docker's smallest share of a CPU: the kernel takes no quota below 1 ms.
const LEAST_CPU: NanoCpus = NanoCpus(NANO / 100);

/// Period of the CPU quota in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Docker's smallest memory limit.
const LEAST_MEMORY: u64 = 6 << 20;

/// Descriptors of a process, soft and hard: what services of a host get.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Reads a number of CPUs.
pub fn cpus(text: &str) -> std::result::Result<NanoCpus, String> {
    let expected = || "expected a number of CPUs of at least 0.01, such as 0.5 or 2".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if !digits(whole)
        || !digits(fraction)
        || fraction.len() > 9
        || (whole.is_empty() && fraction.is_empty())
    {
        return Err(expected());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| expected())?
    };
    let nano: u64 = format!("{fraction:0<9}").parse().map_err(|_| expected())?;
    let cpus = whole
        .checked_mul(NANO)
        .and_then(|whole| whole.checked_add(nano))
        .map(NanoCpus)
        .ok_or_else(expected)?;
    if cpus < LEAST_CPU {
        Err(expected())
    } else {
        Ok(cpus)
    }
}

/// Reads a memory limit; 0 is none.
pub fn memory(text: &str) -> std::result::Result<u64, String> {
    match size::parse(text)? {
        bytes @ 1..LEAST_MEMORY => Err(format!("{bytes} bytes are too few; expected at least 6m")),
        bytes => Ok(bytes),
    }
}

/// Reads `NAME=SOFT[:HARD]`; -1 is no limit.
pub fn ulimit(text: &str) -> std::result::Result<PosixRlimit, String> {
    let expected =
        || "expected NAME=SOFT[:HARD], such as nofile=1024:4096 (-1 is no limit)".to_owned();
    let (name, values) = text.split_once('=').ok_or_else(expected)?;
    let typ: PosixRlimitType = format!("RLIMIT_{}", name.to_ascii_uppercase())
        .parse()
        .map_err(|_| {
            format!(
                "{name} is not the name of a limit; nofile, nproc, core, memlock and stack are some"
            )
        })?;
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| expected()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(format!(
            "the soft limit of {name} must not be above the hard one"
        ));
    }
    Ok(rlimit(typ, soft, hard))
}

fn rlimit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(soft)
        .hard(hard)
        .build()
        .expect("every field is set")
}

/// Reads a number of seconds; -1 is for ever.
pub fn stop_timeout(text: &str) -> std::result::Result<u64, String> {
    match text {
        "-1" => Ok(u64::MAX),
        text => text
            .parse()
            .map_err(|_| "expected a number of seconds, or -1 to wait for ever".to_owned()),
    }
}

/// Limits of each process. The last flag for a limit counts.
pub(super) fn rlimits(flags: &CreateFlags) -> Vec<PosixRlimit> {
    let mut limits = vec![rlimit(
        PosixRlimitType::RlimitNofile,
        OPEN_FILES.0,
        OPEN_FILES.1,
    )];
    for limit in &flags.ulimit {
        match limits.iter_mut().find(|other| other.typ() == limit.typ()) {
            Some(other) => *other = *limit,
            None => limits.push(*limit),
        }
    }
    limits
}

/// Limits of the container's cgroup in the guest.
pub(super) fn resources(flags: &CreateFlags) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    if let Some(limit) = memory_limit(flags) {
        let limit = i64::try_from(limit).map_err(|_| too_large("--memory", limit))?;
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit));
        // The specification counts memory and swap together, and there is no swap.
        memory.set_swap(Some(limit));
        resources.set_memory(Some(memory));
    }
    if let Some(NanoCpus(nano)) = flags.cpus {
        let quota = nano / (NANO / CPU_PERIOD);
        let mut cpu = LinuxCpu::default();
        cpu.set_period(Some(CPU_PERIOD));
        cpu.set_quota(Some(
            i64::try_from(quota).map_err(|_| too_large("--cpus", nano / NANO))?,
        ));
        resources.set_cpu(Some(cpu));
    }
    // Zero and less mean no limit, as with Docker.
    if let Some(limit @ 1..) = flags.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

fn memory_limit(flags: &CreateFlags) -> Option<u64> {
    flags.memory.filter(|limit| *limit != 0)
}

fn too_large(flag: &'static str, value: u64) -> Error {
    Error::Flag {
        flag,
        value: value.to_string(),
        reason: "it is too large".to_owned(),
    }
}

/// Virtual CPUs: as many as the limit touches. More than the host has would
/// only take turns, so that they are refused, as by Docker.
pub(super) fn virtual_cpus(flags: &CreateFlags, settings: &Settings, host: u64) -> Result<u32> {
    let Some(NanoCpus(nano)) = flags.cpus else {
        return Ok(settings.cpus);
    };
    if nano > host * NANO {
        let value = format!("{}", nano as f64 / NANO as f64);
        let reason = format!("this host has {host} CPUs; expected 0.01 to {host}");
        return Err(Error::Flag {
            flag: "--cpus",
            value,
            reason,
        });
    }
    let cpus = nano.div_ceil(NANO);
    u32::try_from(cpus).map_err(|_| too_large("--cpus", cpus))
}

/// Memory of the guest: with a limit, so much more than it that the container
/// meets its own limit before the guest's kernel runs out.
pub(super) fn guest_memory(flags: &CreateFlags, settings: &Settings) -> Result<u64> {
    let Some(limit) = memory_limit(flags) else {
        return Ok(settings.memory);
    };
    caisson_sandbox::guest_memory(limit).ok_or_else(|| too_large("--memory", limit))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flags, settings};
    use super::*;

    #[test]
    fn cpus_are_decimal() {
        for (text, nano) in [
            ("1", NANO),
            ("0.5", NANO / 2),
            (".25", NANO / 4),
            ("2.", 2 * NANO),
            ("1.000000001", NANO + 1),
        ] {
            assert_eq!(cpus(text), Ok(NanoCpus(nano)), "{text}");
        }
        for text in [
            "",
            ".",
            "0",
            "0.009",
            "-1",
            "1e3",
            "1.0000000001",
            "one",
            "99999999999999999999",
            "+1",
        ] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_least_value() {
        assert_eq!(memory("6m"), Ok(6 << 20));
        assert_eq!(memory("0"), Ok(0));
        assert!(memory("5m").expect_err("too small").contains("6m"));
    }

    #[test]
    fn ulimits_have_a_name_and_values() {
        for (text, typ, soft, hard) in [
            (
                "nofile=1024:4096",
                PosixRlimitType::RlimitNofile,
                1024,
                4096,
            ),
            ("core=0", PosixRlimitType::RlimitCore, 0, 0),
            (
                "memlock=-1:-1",
                PosixRlimitType::RlimitMemlock,
                u64::MAX,
                u64::MAX,
            ),
            (
                "stack=8192:-1",
                PosixRlimitType::RlimitStack,
                8192,
                u64::MAX,
            ),
        ] {
            let limit = ulimit(text).expect(text);
            assert_eq!(
                (limit.typ(), limit.soft(), limit.hard()),
                (typ, soft, hard),
                "{text}"
            );
        }
        for (text, words) in [
            ("nofile", "expected NAME"),
            ("nofile=", "expected NAME"),
            ("nofile=2:1", "must not be above"),
            ("nofile=-1:1", "must not be above"),
            ("files=1", "not the name"),
            ("nofile=-2", "expected NAME"),
        ] {
            let error = ulimit(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_last_ulimit_counts() {
        let limits = rlimits(&flags(
            "--ulimit nofile=5 --ulimit core=0 --ulimit nofile=7:8 busybox",
        ));
        let shown: Vec<_> = limits
            .iter()
            .map(|limit| (limit.typ(), limit.soft(), limit.hard()))
            .collect();
        assert_eq!(
            shown,
            [
                (PosixRlimitType::RlimitNofile, 7, 8),
                (PosixRlimitType::RlimitCore, 0, 0)
            ]
        );
    }

    #[test]
    fn flags_become_cgroup_limits() {
        let resources =
            resources(&flags("--cpus 1.5 -m 128m --pids-limit 9 busybox")).expect("good");
        let json = serde_json::to_value(&resources).expect("JSON");
        let expected = serde_json::json!({
            "cpu": {"quota": 150_000, "period": 100_000},
            "memory": {"limit": 128 << 20, "swap": 128 << 20},
            "pids": {"limit": 9},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn no_flags_are_no_limits() {
        for line in [
            "busybox",
            "--pids-limit -1 -m 0 busybox",
            "--pids-limit 0 busybox",
        ] {
            let resources = resources(&flags(line)).expect(line);
            assert_eq!(
                serde_json::to_value(&resources).expect("JSON"),
                serde_json::json!({}),
                "{line}"
            );
        }
    }

    #[test]
    fn the_machine_fits_the_limits() {
        let settings = settings();
        let memory = |line: &str| guest_memory(&flags(line), &settings).expect(line);
        assert_eq!(memory("busybox"), settings.memory);
        assert_eq!(memory("-m 64m busybox"), 256 << 20);
        assert_eq!(memory("-m 400m busybox"), 512 << 20);
        assert_eq!(memory("-m 1g busybox"), 2048 << 20);
        let cpus = |line: &str| virtual_cpus(&flags(line), &settings, 4);
        assert_eq!(cpus("busybox").expect("default"), settings.cpus);
        assert_eq!(cpus("--cpus 0.5 busybox").expect("half"), 1);
        assert_eq!(cpus("--cpus 1.01 busybox").expect("more than one"), 2);
        assert_eq!(cpus("--cpus 4 busybox").expect("all"), 4);
        let error = cpus("--cpus 4.5 busybox")
            .expect_err("too many")
            .to_string();
        assert!(
            error.contains("--cpus 4.5") && error.contains("0.01 to 4"),
            "{error}"
        );
    }
}
