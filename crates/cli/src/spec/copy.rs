//! From a snapshot and flags to the record of a container that is a copy.

use std::time::SystemTime;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::{Error, HOST_NAME_DIGITS, Result, label, network};
use crate::config::Settings;
use crate::container::ContainerRecord;
use crate::flags::CreateFlags;
use crate::snapshot::{CopyOf, SnapshotRecord};

/// `--from`, and that nothing is asked for that a program that already runs cannot be given.
#[derive(Debug, Clone, Default)]
pub struct From(pub Option<String>);

const FROM: &str = "from";

/// What can be chosen for a copy: all that is around the program.
const CHANGEABLE: [&str; 25] = [
    FROM,
    "add_host",
    "allow",
    "cidfile",
    "deny",
    "detach",
    "dns",
    "dns_option",
    "dns_search",
    "hostname",
    "interactive",
    "label",
    "label_file",
    "log_level",
    "name",
    "network",
    "publish",
    "quiet",
    "rm",
    "root",
    "run_directory",
    "stop_signal",
    "stop_timeout",
    "timing",
    "tty",
];

impl Args for From {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(FROM)
                .long(FROM)
                .value_name("SNAPSHOT")
                .help("Go on where the container of a snapshot was, instead of starting an image"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for From {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let Some(snapshot) = matches.get_one::<String>(FROM) else {
            return Ok(Self(None));
        };
        let refused = matches.ids().find(|id| {
            matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)
                && !CHANGEABLE.contains(&id.as_str())
        });
        match refused.map(clap::Id::as_str) {
            None => Ok(Self(Some(snapshot.clone()))),
            Some("program") => Err(refuse(
                "an image or a command cannot be named together with --from: the program of a \
                 snapshot runs already"
                    .to_owned(),
            )),
            Some(id) => Err(refuse(format!(
                "--{} cannot be used with --from: the program of a snapshot runs already, as \
                 its first container was started",
                id.replace('_', "-")
            ))),
        }
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn refuse(reason: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ArgumentConflict, reason + "\n")
}

/// Decides everything about a copy.
pub fn copy(
    flags: &CreateFlags,
    snapshot: &SnapshotRecord,
    settings: &Settings,
    id: &str,
    name: String,
) -> Result<ContainerRecord> {
    let first = &snapshot.container;
    let terminal = first
        .spec
        .process()
        .as_ref()
        .and_then(|process| process.terminal())
        .unwrap_or(false);
    let refuse = |flag, reason: &str| {
        Err(Error::Flag {
            flag,
            value: format!("with --from {}", snapshot.name),
            reason: reason.to_owned(),
        })
    };
    if flags.interactive && !first.interactive {
        return refuse(
            "-i",
            "the first container was started without it, and the program has no input to be \
             connected",
        );
    }
    if flags.tty && !terminal {
        return refuse(
            "-t",
            "the first container was started without it, and the program has no terminal",
        );
    }
    let before = &first.network;
    let mut network = match flags.network {
        Some(_) => network::network(flags, settings)?,
        None => {
            let mut flags = flags.clone();
            flags.network = Some(before.mode.clone());
            if flags.allow.is_empty() && flags.deny.is_empty() {
                flags.allow.clone_from(&before.allow);
                flags.deny.clone_from(&before.deny);
            }
            network::network(&flags, settings)?
        }
    };
    if flags.dns.is_empty() && flags.dns_search.is_empty() && flags.dns_option.is_empty() {
        network.dns = before.dns.clone();
    }
    let mut spec = first.spec.clone();
    let hostname = flags
        .hostname
        .clone()
        .unwrap_or_else(|| id.chars().take(HOST_NAME_DIGITS).collect());
    spec.set_hostname(Some(hostname));
    Ok(ContainerRecord {
        id: id.to_owned(),
        name,
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        spec,
        interactive: flags.interactive,
        auto_remove: flags.rm,
        stop_signal: flags.stop_signal.unwrap_or(first.stop_signal),
        stop_timeout: flags.stop_timeout.unwrap_or(first.stop_timeout),
        labels: label::merge(&first.labels, flags)?,
        network,
        extra_hosts: [&first.extra_hosts[..], &flags.add_host].concat(),
        copy_of: Some(CopyOf {
            snapshot: snapshot.name.clone(),
            created: snapshot.created.clone(),
            guest_id: snapshot.guest_id.clone(),
        }),
        ..first.clone()
    })
}
