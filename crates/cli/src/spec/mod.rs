//! From flags and an image to a container's record: what Docker would tell its
//! runtime, for a container with a kernel of its own.

pub mod capability;
pub mod copy;
pub mod device;
pub mod egress;
pub mod environment;
pub mod identity;
pub mod label;
pub mod limit;
mod lines;
mod mount;
pub mod network;
mod process;
mod seccomp;
pub mod security;
pub mod sysctl;
pub mod volume;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use caisson_storage::{Image, ImageConfig};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Root, Spec};

use crate::config::Settings;
use crate::container::{ContainerRecord, Machine};
use crate::flags::CreateFlags;
use crate::signal;
use security::Security;

pub use caisson_config::size;
pub use process::exec_process;

/// A mistake in what the user or the image asks for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In the value of a flag.
    #[error("{flag} {value}: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// In a line of a file that a flag names.
    #[error("{flag} {}: line {number}: {reason}", file.display())]
    Line {
        /// The flag.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// Number of the line, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that a flag names cannot be used.
    #[error("{flag} {}: {source}", file.display())]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder of a volume cannot be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The image asks for something that cannot be.
    #[error("the image {image}: {reason}")]
    Image {
        /// Its name.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing says what to run.
    #[error("no command is given, and the image {0} has none; name one after the image")]
    NoCommand(String),
}

/// Result of reading what the user or the image asks for.
pub type Result<T> = std::result::Result<T, Error>;

/// What a container needs to know of its image.
#[derive(Debug, Clone)]
pub struct ImageFacts {
    /// As the user named it.
    pub name: String,
    /// Digest of its configuration.
    pub id: String,
    /// Its disk.
    pub disk: PathBuf,
    /// How containers of it are run.
    pub config: ImageConfig,
}

impl ImageFacts {
    /// Those of an image that the user called `name`.
    pub fn from_image(image: &Image, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: image.id.to_string(),
            disk: image.disk.clone(),
            config: image.config.clone(),
        }
    }

    fn mistake(&self, reason: String) -> Error {
        Error::Image {
            image: self.name.clone(),
            reason,
        }
    }
}

/// Seconds that `stop` waits, as with Docker.
const STOP_TIMEOUT: u64 = 10;

/// Digits of the id that are the host name.
const HOST_NAME_DIGITS: usize = 12;

/// Hidden: they tell of the machine or change it (Docker's list).
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Writing there changes the whole kernel (Docker's list).
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Kernel parameters that Docker sets: any user may listen on any port and ping.
const SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// Decides everything about a new container.
pub fn build(
    flags: &CreateFlags,
    facts: &ImageFacts,
    settings: &Settings,
    id: &str,
    name: String,
) -> Result<ContainerRecord> {
    let hostname = flags
        .hostname
        .clone()
        .unwrap_or_else(|| id.chars().take(HOST_NAME_DIGITS).collect());
    let security = Security::new(&flags.security_opt);
    let (entrypoint, command) = process::program(flags, facts)?;
    let process = process::first(
        flags,
        facts,
        &hostname,
        &security,
        [&entrypoint[..], &command].concat(),
    )?;
    let (mounts, shares) = mount::all(flags, facts, settings)?;

    let mut root = Root::default();
    root.set_path("rootfs".into());
    root.set_readonly(Some(flags.read_only));
    let mut spec = Spec::default();
    spec.set_root(Some(root));
    spec.set_mounts(Some(mounts));
    spec.set_process(Some(process));
    spec.set_hostname(Some(hostname));
    spec.set_linux(Some(linux(flags, &security)?));

    Ok(ContainerRecord {
        id: id.to_owned(),
        name,
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        image: facts.name.clone(),
        image_id: facts.id.clone(),
        image_disk: facts.disk.clone(),
        entrypoint,
        command,
        spec,
        shares,
        machine: machine(flags, settings)?,
        interactive: flags.interactive,
        auto_remove: flags.rm,
        init: flags.init,
        privileged: flags.privileged,
        stop_signal: stop_signal(flags, facts)?,
        stop_timeout: flags.stop_timeout.unwrap_or(STOP_TIMEOUT),
        labels: label::merge(&facts.config.labels, flags)?,
        network: network::network(flags, settings)?,
        extra_hosts: flags.add_host.clone(),
        scratch_size: settings.scratch_size,
        copy_of: None,
    })
}

fn linux(flags: &CreateFlags, security: &Security) -> Result<Linux> {
    let unconfined = flags.privileged || security.unconfined_system_paths;
    let paths = |paths: &[&str]| -> Option<Vec<String>> {
        Some(if unconfined {
            Vec::new()
        } else {
            paths.iter().map(|&path| path.to_owned()).collect()
        })
    };
    let mut linux = Linux::default();
    linux.set_resources(Some(resources(flags)?));
    linux.set_namespaces(Some(namespaces()));
    linux.set_devices(Some(device::nodes(&flags.device, flags.privileged)));
    linux.set_masked_paths(paths(&MASKED_PATHS));
    linux.set_readonly_paths(paths(&READ_ONLY_PATHS));
    linux.set_sysctl(Some(sysctls(flags)));
    let capabilities = capability::granted(&flags.cap_add, &flags.cap_drop, flags.privileged);
    let seccomp = match &security.seccomp {
        None if flags.privileged => None,
        wanted => seccomp::profile(&wanted.clone().unwrap_or_default(), &capabilities)?,
    };
    linux.set_seccomp(seccomp);
    Ok(linux)
}

fn resources(flags: &CreateFlags) -> Result<LinuxResources> {
    let mut resources = limit::resources(flags)?;
    resources.set_devices(Some(device::rules(&flags.device, flags.privileged)));
    Ok(resources)
}

/// No network namespace: the guest's only one is the container's.
fn namespaces() -> Vec<LinuxNamespace> {
    let kinds = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let namespace = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    kinds.map(namespace).to_vec()
}

fn sysctls(flags: &CreateFlags) -> HashMap<String, String> {
    let defaults = SYSCTLS
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let asked = flags
        .sysctl
        .iter()
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()));
    defaults.chain(asked).collect()
}

fn stop_signal(flags: &CreateFlags, facts: &ImageFacts) -> Result<i32> {
    if let Some(signal) = flags.stop_signal {
        return Ok(signal);
    }
    match &facts.config.stop_signal {
        Some(text) => signal::parse(text)
            .map_err(|reason| facts.mistake(format!("its stop signal {text:?} is none: {reason}"))),
        None => Ok(libc::SIGTERM),
    }
}

fn machine(flags: &CreateFlags, settings: &Settings) -> Result<Machine> {
    let host = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let kernel = match &flags.kernel {
        Some(file) => file.canonicalize().map_err(|source| Error::File {
            flag: "--kernel",
            file: file.clone(),
            source,
        })?,
        None => settings.kernel.clone(),
    };
    Ok(Machine {
        cpus: limit::virtual_cpus(flags, settings, host)?,
        memory: limit::guest_memory(flags, settings)?,
        hypervisor: flags
            .hypervisor
            .clone()
            .unwrap_or_else(|| settings.hypervisor.clone()),
        kernel,
        initramfs: settings.initramfs.clone(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
