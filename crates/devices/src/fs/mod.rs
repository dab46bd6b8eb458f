//! `caisson-devices fs`: the file system device, which is virtiofsd as a library in a
//! jail of ours.

mod calls;
mod mount;
mod state;

use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use rustix::thread::{CapabilitySet, UnshareFlags};
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::{descriptor, jail, seccomp, serve};
use mount::Mount;

/// Descriptors asked for. Every file that the guest's kernel remembers takes one.
const DESCRIPTORS: u64 = 1_000_000;
/// Those that are not the guest's: 509 memory regions at most, rings, own files.
const OWN_DESCRIPTORS: u64 = 640;

/// How long the guest may believe what it was told of names and attributes. Contents
/// it asks for anew whenever a file is opened.
const BELIEF: Duration = Duration::from_secs(1);

/// Owners, modes, special files and capabilities of files are the guest's business; it
/// acts under the user and group that the request names. `DAC_READ_SEARCH` is missing
/// on purpose: with it, any file of a shared file system can be opened by its handle.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// The file system device: a folder with one entry for each mount, or a folder of the
/// host to which mounts come and go.
#[derive(Debug, Args)]
pub struct Options {
    /// Descriptor of the listening socket for vhost-user.
    #[arg(long)]
    listener_fd: RawFd,
    /// Descriptor of a file with what the device knew of the guest, which it goes on with
    /// unless the file is empty, and to which it writes that when it is asked to.
    #[arg(long, requires = "control_fd")]
    state_fd: Option<RawFd>,
    /// Descriptor of the socket through which it is asked.
    #[arg(long, requires = "state_fd")]
    control_fd: Option<RawFd>,
    /// File or folder of the host, and the name under which the guest sees it.
    #[arg(
        long = "mount",
        value_name = "NAME=SOURCE",
        value_parser = OsStringValueParser::new().try_map(|value| Mount::parse(value, false)),
    )]
    writable: Vec<Mount>,
    /// The same, but whatever the guest tries to write is refused here.
    #[arg(
        long = "mount-ro",
        value_name = "NAME=SOURCE",
        value_parser = OsStringValueParser::new().try_map(|value| Mount::parse(value, true)),
    )]
    read_only: Vec<Mount>,
    /// Serve the mounts below this mount point of the host instead, those of later too.
    /// It must be shared (mount_namespaces(7)); the guest cannot write to it itself.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["writable", "read_only"])]
    tree: Option<PathBuf>,
}

/// Serves one connection of a VMM until it ends.
pub fn run(options: Options) -> Result<()> {
    let listener = descriptor::take(options.listener_fd, "--listener-fd")?;
    let mut state = match (options.state_fd, options.control_fd) {
        (Some(state), Some(control)) => Some((
            File::from(descriptor::take(state, "--state-fd")?),
            UnixStream::from(descriptor::take(control, "--control-fd")?),
        )),
        _ => None,
    };
    let mut mounts = options.writable;
    mounts.extend(options.read_only);
    let limit = jail::raise_descriptor_limit(DESCRIPTORS)?;
    let Some(guest_descriptors) = limit.checked_sub(OWN_DESCRIPTORS) else {
        bail!("the limit of open files is {limit}: more than {OWN_DESCRIPTORS} are needed");
    };
    let ordinary_user = !rustix::process::geteuid().is_root();
    let own_descriptors = match options.tree {
        Some(folder) => {
            // What is to follow the host's mounts must be taken while they are shared.
            let tree = mount::follow(&folder)?;
            jail::enter_namespaces(UnshareFlags::empty())?;
            mount::enter_tree(&tree)?
        }
        None => {
            jail::enter_namespaces(UnshareFlags::empty())?;
            mount::enter(&mounts)?
        }
    };
    jail::keep_capabilities(CAPABILITIES)?;
    jail::die_with_parent()?;
    seccomp::install(calls::ALLOWED)?;

    let make = move || {
        let own_descriptors = own_descriptors
            .try_clone()
            .context("cannot copy a descriptor")?;
        PassthroughFs::new(config(own_descriptors, guest_descriptors, ordinary_user))
            .context("cannot set up the file server")
    };
    let files = make()?;
    let goes_on = match &mut state {
        Some((state, control)) => state::load(&files, state, control)?,
        None => false,
    };
    // The tag is the VMM's. QEMU 7.2 crashes when a back-end offers to tell it.
    let backend = VhostUserFsBackendBuilder::default()
        .build(files)
        .map_err(|error| anyhow!("cannot set up the file system device: {error}"))?;
    let device = Arc::new(state::Device::new(backend, goes_on));
    if let Some((state, control)) = state {
        state::save_when_asked(Arc::clone(&device), control, state, make)?;
    }
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let daemon = VhostUserDaemon::new("vhost-user".to_owned(), device, memory)
        .map_err(|error| anyhow!("cannot set up the vhost-user backend: {error}"))?;
    serve::serve(daemon, listener)
}

fn config(own_descriptors: File, guest_descriptors: u64, ordinary_user: bool) -> Config {
    // The namespace of an ordinary user has one user and group, 0: whoever acts in the
    // guest is that user on the host, and that user's files are root's in the guest.
    let squash = || {
        ordinary_user.then(|| {
            vec![IdMap::SquashGuest {
                from_guest: 0,
                to_host: 0,
                count: u32::MAX,
            }]
        })
    };
    Config {
        entry_timeout: BELIEF,
        attr_timeout: BELIEF,
        cache_policy: CachePolicy::Auto,
        // The host writes to the same files.
        writeback: false,
        xattr: true,
        killpriv_v2: true,
        readdirplus: true,
        // Mounts may have files of the same number: each is a device of its own.
        announce_submounts: true,
        // They need DAC_READ_SEARCH.
        inode_file_handles: InodeFileHandlesMode::Never,
        proc_sfd_rawfd: Some(own_descriptors),
        guest_fd_limit: guest_descriptors,
        uid_map: squash(),
        gid_map: squash(),
        ..Config::default()
    }
}
