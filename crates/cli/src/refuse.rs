//! Flags of Docker that a virtual machine cannot honour.
//!
//! They are known, so that the refusal can say why and what to use instead; none
//! is ever ignored. A value that asks for what a container has anyway is accepted.

use clap::builder::ArgAction;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

const OWN_ADDRESS: &str = "the network chooses the addresses; a CNI network whose IPAM plugin is \
                           `static` gives one of your choice";
const NO_NAMES: &str = "containers are not found by name; name the other with --add-host";
const OWN_KERNEL: &str = "the container has a kernel of its own";
const ONE_CPU_SHARE: &str =
    "nothing else competes for CPU time in the container's virtual machine; limit it with --cpus";
const NO_THROTTLE: &str =
    "disks of the virtual machine are not throttled yet; limit the supervisor's cgroup on the host";
const NO_HEALTH: &str =
    "health checks are not run; use `caisson exec` from what watches the container";

/// A flag, and why it is refused.
struct Refused {
    long: &'static str,
    short: Option<char>,
    /// It takes no value.
    switch: bool,
    /// Values that ask for nothing special.
    accepted: &'static [&'static str],
    /// The beginning of a value and the reason to refuse it; the first that fits counts.
    reasons: &'static [(&'static str, &'static str)],
}

const fn value(
    long: &'static str,
    accepted: &'static [&'static str],
    reasons: &'static [(&'static str, &'static str)],
) -> Refused {
    Refused {
        long,
        short: None,
        switch: false,
        accepted,
        reasons,
    }
}

const fn switch(long: &'static str, reasons: &'static [(&'static str, &'static str)]) -> Refused {
    Refused {
        long,
        short: None,
        switch: true,
        accepted: &["false"],
        reasons,
    }
}

const fn short(short: char, refused: Refused) -> Refused {
    Refused {
        short: Some(short),
        ..refused
    }
}

#[rustfmt::skip]
static REFUSED: &[Refused] = &[
    // Namespaces: those of the host belong to another kernel.
    value("pid", &["", "private"], &[
        ("host", "the container has a kernel of its own, which does not know the host's processes; \
                  use a container runtime without virtual machines to see them"),
        ("", "the other container is in a virtual machine of its own, whose processes cannot be seen; use `caisson exec`"),
    ]),
    value("ipc", &["", "private", "shareable"], &[
        ("none", "`--ipc none` is not there; `--tmpfs /dev/shm:size=0` comes closest"),
        ("", "shared memory and semaphores of another kernel cannot be joined; share a file in a volume instead"),
    ]),
    value("uts", &[""], &[("", "the host name of another kernel cannot be shared; use --hostname")]),
    value("userns", &[""], &[("", "the guest's kernel and its root are apart from the host's already; leave --userns away")]),
    value("cgroupns", &["private"], &[("", "the host's cgroups belong to another kernel; leave --cgroupns away")]),
    value("cgroup-parent", &[], &[("", "the host's cgroups belong to another kernel; place the supervisor in a cgroup of the host instead")]),
    value("isolation", &["", "default"], &[("", "every container is in a virtual machine; leave --isolation away")]),
    value("runtime", &["", "caisson"], &[("", "this is the runtime; choose what makes the machine with --hypervisor")]),
    // Devices.
    value("device-cgroup-rule", &[], &[("", "devices of the host are not there to be allowed; leave it away")]),
    value("gpus", &[], &[("", "no GPU is passed into the virtual machine; run this container with another runtime")]),
    value("blkio-weight", &["0"], &[("", NO_THROTTLE)]),
    value("blkio-weight-device", &[], &[("", NO_THROTTLE)]),
    value("device-read-bps", &[], &[("", NO_THROTTLE)]),
    value("device-read-iops", &[], &[("", NO_THROTTLE)]),
    value("device-write-bps", &[], &[("", NO_THROTTLE)]),
    value("device-write-iops", &[], &[("", NO_THROTTLE)]),
    // Network.
    short('P', switch("publish-all", &[("", "what an image exposes is a note of its author; publish the ports that you need with --publish")])),
    value("expose", &[], &[("", "no list of ports is kept; publish what shall be reached with --publish")]),
    value("link", &[], &[("", "links between containers are a relic; name the other with --add-host")]),
    value("link-local-ip", &[], &[("", OWN_ADDRESS)]),
    value("network-alias", &[], &[("", NO_NAMES)]),
    value("net-alias", &[], &[("", NO_NAMES)]),
    value("ip", &[], &[("", OWN_ADDRESS)]),
    value("ip6", &[], &[("", OWN_ADDRESS)]),
    value("mac-address", &[], &[("", OWN_ADDRESS)]),
    value("domainname", &[""], &[("", "there is no NIS domain; give the full name with --hostname")]),
    // Volumes.
    value("volumes-from", &[], &[("", "name the volumes with --volume: each container has a virtual machine of its own \
                                       and sees what it was told to share")]),
    value("volume-driver", &["", "local"], &[("", "only volumes on the host's file system are there; mount others on the host \
                                                   and share the folder with --volume")]),
    value("storage-opt", &[], &[("", "set scratch_size in the configuration: it is the size of the writable layer")]),
    // Limits.
    short('c', value("cpu-shares", &["0"], &[("", ONE_CPU_SHARE)])),
    value("cpu-period", &["0"], &[("", "use --cpus")]),
    value("cpu-quota", &["0", "-1"], &[("", "use --cpus")]),
    value("cpu-rt-period", &["0"], &[("", "the guest's kernel has no limits for real-time tasks; use --cpus")]),
    value("cpu-rt-runtime", &["0"], &[("", "the guest's kernel has no limits for real-time tasks; use --cpus")]),
    value("cpu-count", &["0"], &[("", "use --cpus")]),
    value("cpu-percent", &["0"], &[("", "use --cpus")]),
    value("cpuset-cpus", &[""], &[("", "CPUs of the host are not those of the guest; use --cpus for their number, and \
                                        taskset on the command to bind the machine to CPUs of the host")]),
    value("cpuset-mems", &[""], &[("", "memory nodes of the host are not those of the guest; use numactl on the command")]),
    value("memory-reservation", &["0"], &[("", "nothing else competes for memory in the container's virtual machine; limit it with --memory")]),
    value("memory-swap", &["0"], &[("", "the guest has no swap, as if --memory-swap were equal to --memory; leave it away")]),
    value("memory-swappiness", &["-1"], &[("", "the guest has no swap; leave it away")]),
    value("kernel-memory", &["0"], &[("", "the limit of --memory counts the kernel's memory; use it alone")]),
    switch("oom-kill-disable", &[("", "a container without memory would stand still for ever; give it more with --memory")]),
    value("oom-score-adj", &["0"], &[("", "no process of the host competes with the container's in the guest; limit memory with --memory")]),
    value("group-add", &[], &[("", "groups of the user are those of the image; name user and group with --user")]),
    // Life of the container.
    value("restart", &["", "no"], &[("", "there is no daemon that would restart containers; run `caisson run` from a service of \
                                          the host, with Restart= of systemd for instance")]),
    short('a', value("attach", &[], &[("", "all streams are connected, or none with --detach; redirect those that are not wanted")])),
    value("sig-proxy", &["true"], &[("", "signals are always passed on; use --detach and `caisson logs --follow` instead")]),
    value("detach-keys", &[""], &[("", "a container cannot be left while it runs; start it with --detach and use `caisson exec`")]),
    value("log-driver", &["", "json-file", "local"], &[("", "the output is kept in the container's folder; read it with `caisson logs`")]),
    value("log-opt", &[], &[("", "set log_max_size in the configuration")]),
    value("health-cmd", &[], &[("", NO_HEALTH)]),
    value("health-interval", &[], &[("", NO_HEALTH)]),
    value("health-retries", &[], &[("", NO_HEALTH)]),
    value("health-start-period", &[], &[("", NO_HEALTH)]),
    value("health-start-interval", &[], &[("", NO_HEALTH)]),
    value("health-timeout", &[], &[("", NO_HEALTH)]),
    // Without health checks, this asks for what is so.
    Refused { long: "no-healthcheck", short: None, switch: true, accepted: &["true", "false"], reasons: &[("", NO_HEALTH)] },
    value("annotation", &[], &[("", "nothing here reads annotations; use --label")]),
    value("disable-content-trust", &["true"], &[("", "signatures of images are not checked; pull by digest instead")]),
    switch("use-api-socket", &[("", "there is no daemon and so no socket of it")]),
];

/// Parses to nothing, or not at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefusedFlags;

impl Args for RefusedFlags {
    fn augment_args(command: Command) -> Command {
        REFUSED.iter().fold(command, |command, refused| {
            let arg = Arg::new(refused.long)
                .long(refused.long)
                .short(refused.short)
                .hide(true)
                .action(ArgAction::Append);
            command.arg(if refused.switch {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg.num_args(1).allow_hyphen_values(true)
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RefusedFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        for refused in REFUSED {
            for given in matches
                .get_many::<String>(refused.long)
                .into_iter()
                .flatten()
            {
                if let Some(reason) = refused.reason(given) {
                    let flag = refused.long;
                    let value = if refused.switch {
                        String::new()
                    } else {
                        format!(" {given}")
                    };
                    let message = format!("--{flag}{value} cannot be honoured: {reason}\n");
                    return Err(clap::Error::raw(ErrorKind::InvalidValue, message));
                }
            }
        }
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(drop)
    }
}

impl Refused {
    fn reason(&self, given: &str) -> Option<&'static str> {
        if self.accepted.contains(&given) {
            return None;
        }
        let fitting = self
            .reasons
            .iter()
            .find(|(beginning, _)| given.starts_with(beginning));
        Some(fitting.map_or(OWN_KERNEL, |(_, reason)| reason))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        _refused: RefusedFlags,
    }

    fn parse(line: &str) -> Result<(), String> {
        let words = std::iter::once("caisson").chain(line.split(' '));
        Cli::try_parse_from(words)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_is_refused_with_reason_and_advice() {
        for refused in REFUSED {
            let Some((_, reason)) = refused.reasons.last() else {
                panic!("--{} has no reason", refused.long)
            };
            assert!(reason.len() >= "use --cpus".len(), "--{}", refused.long);
            assert_eq!(
                refused.reasons.last().map(|(beginning, _)| *beginning),
                Some(""),
                "--{}",
                refused.long
            );
            if refused.switch {
                continue;
            }
            let error = parse(&format!("--{} something", refused.long)).expect_err(refused.long);
            assert!(
                error.contains(&format!(
                    "--{} something cannot be honoured: ",
                    refused.long
                )),
                "{error}"
            );
        }
    }

    #[test]
    fn reasons_fit_the_value() {
        for (line, words) in [
            ("--pid host", "host's processes"),
            ("-P", "--publish"),
            ("--ip 10.0.0.2", "CNI"),
            ("--gpus all", "GPU"),
            ("--oom-kill-disable", "--memory"),
            ("--restart always", "systemd"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_so_anyway_is_accepted() {
        for line in [
            "--pid=",
            "--ipc private",
            "--cgroupns private",
            "--restart no",
            "--sig-proxy=true",
            "--oom-kill-disable=false",
            "--no-healthcheck",
            "--cpu-quota -1",
        ] {
            parse(line).expect(line);
        }
    }
}
