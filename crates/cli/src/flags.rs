//! What `run`, `create` and `exec` are told.
//!
//! Names and meanings are Docker's. Values are read into their types while the
//! command line is parsed, so that a mistake is named together with its flag.

use std::net::IpAddr;
use std::path::PathBuf;

use caisson_storage::Platform;
use clap::builder::ArgAction;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use oci_spec::runtime::PosixRlimit;

use crate::config;
use crate::container::NetworkMode;
use crate::refuse::RefusedFlags;
use crate::signal;
use crate::spec::capability::{self, CapabilityName};
use crate::spec::egress::Place;
use crate::spec::security::{self, SecurityOption};
use crate::spec::sysctl::{self, Sysctl};
use crate::spec::volume::{self, VolumeRequest};
use crate::spec::{copy, device, environment, identity, label, limit, network, size};

/// When an image is fetched although a name for it may be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    /// Before every start
    Always,
    /// If it is not there
    #[default]
    Missing,
    /// Not at all
    Never,
}

/// `caisson run`.
#[derive(Debug, Clone, Args)]
#[command(mut_arg(PROGRAM, |program| program.required(false).required_unless_present("from")))]
pub struct RunFlags {
    /// Print the container's id and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// Show where the time of the start went
    #[arg(long, conflicts_with = "detach")]
    pub timing: bool,
    /// Instead of an image. It comes first, as each field takes what it reads away.
    #[command(flatten)]
    pub from: copy::From,
    /// The container.
    #[command(flatten)]
    pub create: CreateFlags,
}

/// A container to be made: `caisson create`, and most of `caisson run`.
#[derive(Debug, Clone, Args)]
// `-h` is the host name, as with Docker.
#[command(disable_help_flag = true)]
pub struct CreateFlags {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when its program has ended
    #[arg(long)]
    pub rm: bool,
    /// Name of the container
    #[arg(long, value_parser = identity::container_name)]
    pub name: Option<String>,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Set an environment variable; NAME alone takes its value from here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = environment::variable)]
    pub env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Mount a volume, or a file or folder of the host
    #[arg(short, long = "volume", value_name = "[SOURCE:]PATH[:OPTIONS]", value_parser = volume::short)]
    pub volume: Vec<VolumeRequest>,
    /// Mount a volume, a file or folder of the host, or a tmpfs
    #[arg(long, value_name = "type=TYPE,target=PATH[,KEY=VALUE]", value_parser = volume::long)]
    pub mount: Vec<VolumeRequest>,
    /// Mount a tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = volume::tmpfs)]
    pub tmpfs: Vec<VolumeRequest>,
    /// Folder in which the program starts
    #[arg(short, long, value_name = "PATH", value_parser = volume::working_directory)]
    pub workdir: Option<String>,
    /// User and group, by name or number, as the image knows them
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = identity::user)]
    pub user: Option<String>,
    /// Program instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME", value_parser = identity::host_name)]
    pub hostname: Option<String>,
    /// Network: user, bridge, none, or the name of a CNI network
    #[arg(long, alias = "net", value_name = "NAME", value_parser = network::mode)]
    pub network: Option<NetworkMode>,
    /// Publish a port of the container on the host
    #[arg(short, long, value_name = "[[ADDRESS:]PORT:]PORT[/udp]", value_parser = network::publish)]
    pub publish: Vec<network::Ports>,
    /// Let the container connect to this place only; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow: Vec<Place>,
    /// Do not let the container connect to this place; `all` is every place
    #[arg(long, value_name = "HOST[:PORT]")]
    pub deny: Vec<Place>,
    /// Resolver instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// Domain in which short names are looked up
    #[arg(long, value_name = "DOMAIN", value_parser = network::search)]
    pub dns_search: Vec<String>,
    /// Option of the resolver, as in resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "OPTION", value_parser = network::option)]
    pub dns_option: Vec<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = identity::host_line)]
    pub add_host: Vec<String>,
    /// Let the program write to volumes and tmpfs only
    #[arg(long)]
    pub read_only: bool,
    /// CPU time, in CPUs: 1.5 is one and a half
    #[arg(long, value_name = "NUMBER", value_parser = limit::cpus)]
    pub cpus: Option<limit::NanoCpus>,
    /// Memory limit: 512m, 2g...
    #[arg(short, long, value_name = "SIZE", value_parser = limit::memory)]
    pub memory: Option<u64>,
    /// Give the program a device of the guest: /dev/fuse or /dev/net/tun
    #[arg(long, value_name = "PATH", value_parser = device::parse)]
    pub device: Vec<device::GuestDevice>,
    /// Most processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Resource limit of processes: nofile=1024:4096...
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = limit::ulimit)]
    pub ulimit: Vec<PosixRlimit>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub shm_size: Option<u64>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = capability::parse)]
    pub cap_add: Vec<CapabilityName>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = capability::parse)]
    pub cap_drop: Vec<CapabilityName>,
    /// Every capability, no seccomp, nothing masked: root of the guest
    #[arg(long)]
    pub privileged: bool,
    /// seccomp=FILE|unconfined, no-new-privileges, systempaths=unconfined
    #[arg(long, value_name = "OPTION", value_parser = security::parse)]
    pub security_opt: Vec<SecurityOption>,
    /// Set a parameter of the guest's kernel
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl::parse)]
    pub sysctl: Vec<Sysctl>,
    /// Run an init that forwards signals and reaps processes
    #[arg(long)]
    pub init: bool,
    /// Set a label
    #[arg(short, long = "label", value_name = "NAME[=VALUE]", value_parser = label::parse)]
    pub label: Vec<(String, String)>,
    /// Read labels from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Signal that `stop` sends
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub stop_signal: Option<i32>,
    /// Seconds that `stop` waits before it kills; -1 for ever
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, value_parser = limit::stop_timeout)]
    pub stop_timeout: Option<u64>,
    /// When to fetch the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: PullPolicy,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCHITECTURE", value_parser = platform)]
    pub platform: Option<Platform>,
    /// Do not show the progress of a download
    #[arg(short, long)]
    pub quiet: bool,
    /// Guest kernel, uncompressed (vmlinux)
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// What makes the machine: auto, qemu...
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(config::HYPERVISORS))]
    pub hypervisor: Option<String>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Flags that a virtual machine cannot honour.
    #[command(flatten)]
    refused: RefusedFlags,
    /// The image and what runs in it.
    #[command(flatten)]
    pub program: Program,
}

/// `caisson exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecFlags {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Do not wait for the program
    #[arg(short, long)]
    pub detach: bool,
    /// Set an environment variable; NAME alone takes its value from here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = environment::variable)]
    pub env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Folder in which the program starts
    #[arg(short, long, value_name = "PATH", value_parser = volume::working_directory)]
    pub workdir: Option<String>,
    /// User and group, by name or number, as the image knows them
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = identity::user)]
    pub user: Option<String>,
    /// Every capability and no seccomp
    #[arg(long)]
    pub privileged: bool,
    /// Name or id of a running container
    pub container: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub args: Vec<String>,
}

/// The guest's kernel runs programs for one platform.
pub fn platform(text: &str) -> Result<Platform, String> {
    let wanted: Platform = text
        .parse()
        .map_err(|error: caisson_storage::Error| error.to_string())?;
    let ours = Platform::default();
    if ours.matches(&wanted) {
        return Ok(wanted);
    }
    Err(format!("the guest's kernel runs programs for {ours} only"))
}

/// The image and the words after it.
///
/// They are one argument to clap: whatever follows the image is the program's,
/// also where it looks like a flag of ours.
#[derive(Debug, Clone)]
pub struct Program {
    /// Name, digest or id of an image.
    pub image: String,
    /// Arguments in place of the image's.
    pub args: Vec<String>,
}

const PROGRAM: &str = "program";

impl Args for Program {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(PROGRAM)
                .value_name("IMAGE [COMMAND]")
                .help("Image, and the program with its arguments in place of the image's")
                .required(true)
                .num_args(1..)
                .trailing_var_arg(true),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Program {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut words = matches
            .get_many::<String>(PROGRAM)
            .into_iter()
            .flatten()
            .cloned();
        let from = matches.try_contains_id("from").unwrap_or(false);
        let image = match words.next() {
            Some(image) => image,
            None if from => String::new(),
            None => {
                return Err(clap::Error::raw(
                    ErrorKind::MissingRequiredArgument,
                    "the name of an image is missing\n",
                ));
            }
        };
        Ok(Self {
            image,
            args: words.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    enum Cli {
        Run(Box<RunFlags>),
        Create(Box<CreateFlags>),
        Exec(ExecFlags),
    }

    fn run(line: &str) -> Result<RunFlags, String> {
        match Cli::try_parse_from(["caisson", "run"].into_iter().chain(line.split(' '))) {
            Ok(Cli::Run(flags)) => Ok(*flags),
            Ok(other) => panic!("not run: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_after_the_image_are_the_programs() {
        let flags = run("-it --rm busybox --rm -h -- x -e").expect("parses");
        assert!(flags.create.interactive && flags.create.tty && flags.create.rm);
        assert_eq!(flags.create.program.image, "busybox");
        assert_eq!(flags.create.program.args, ["--rm", "-h", "--", "x", "-e"]);
    }

    #[test]
    fn short_flags_are_those_of_docker() {
        let flags =
            run("-d -h box -e A=1 -v /a:/b -w /c -u 1:2 -m 64m -l a=b -q busybox").expect("parses");
        assert!(flags.detach && flags.create.quiet);
        assert_eq!(flags.create.hostname.as_deref(), Some("box"));
        assert_eq!(flags.create.memory, Some(64 << 20));
        assert_eq!(flags.create.workdir.as_deref(), Some("/c"));
        assert_eq!(flags.create.pull, PullPolicy::Missing);
    }

    #[test]
    fn mistakes_name_the_flag_and_the_value() {
        for (line, words) in [
            ("--memory 3q busybox", ["--memory", "3q"]),
            ("--cpus none busybox", ["--cpus", "none"]),
            ("--ulimit nofile busybox", ["--ulimit", "nofile"]),
            ("--cap-add CAP_NOPE busybox", ["--cap-add", "CAP_NOPE"]),
            ("--stop-signal NOPE busybox", ["--stop-signal", "NOPE"]),
            ("--pull often busybox", ["--pull", "often"]),
            (
                "--sysctl kernel.hostname=x busybox",
                ["--sysctl", "--hostname"],
            ),
            (
                "--security-opt apparmor=x busybox",
                ["--security-opt", "apparmor"],
            ),
            (
                "--platform linux/arm64 busybox",
                ["--platform", "linux/amd64 only"],
            ),
            ("--device /dev/sda busybox", ["--device", "/dev/sda"]),
            ("--mount type=npipe,target=/a busybox", ["--mount", "npipe"]),
            ("--bogus busybox", ["--bogus", "unexpected"]),
            ("--rm", ["IMAGE", "required"]),
        ] {
            let error = run(line).expect_err(line);
            assert!(
                words.iter().all(|word| error.contains(word)),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn a_copy_is_given_what_is_around_its_program() {
        let flags = run("--from warm -d --name ab -p 80 -h box --rm").expect("parses");
        assert_eq!(flags.from.0.as_deref(), Some("warm"));
        assert!(run("-d busybox").expect("parses").from.0.is_none());
        for (line, words) in [
            ("--from warm busybox", "an image or a command"),
            ("--from warm -e A=1", "--env cannot"),
            ("--from warm -v /a:/b", "--volume cannot"),
            ("--from warm --entrypoint sh", "--entrypoint cannot"),
            ("--from warm --read-only", "--read-only cannot"),
            ("--from warm -u 1", "--user cannot"),
        ] {
            let error = run(line).expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
            assert!(error.contains("runs already"), "{line}: {error}");
        }
    }

    #[test]
    fn negative_numbers_are_values() {
        let flags = run("--pids-limit -1 --stop-timeout -1 busybox").expect("parses");
        assert_eq!(flags.create.pids_limit, Some(-1));
        assert_eq!(flags.create.stop_timeout, Some(u64::MAX));
    }

    #[test]
    fn exec_takes_a_container_and_a_program() {
        let Ok(Cli::Exec(flags)) =
            Cli::try_parse_from(["caisson", "exec", "-it", "box", "ls", "-l", "--tty"])
        else {
            panic!("exec parses");
        };
        assert_eq!(
            (flags.container.as_str(), flags.args.join(" ")),
            ("box", "ls -l --tty".to_owned())
        );
    }
}
