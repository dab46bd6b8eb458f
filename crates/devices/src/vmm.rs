//! `caisson-devices vmm`: executes a VMM in a jail.
//!
//! The VMM is given whatever it works on as descriptors. Of the host's files it sees its
//! program, the libraries and the firmware, read-only; it has no network, no capability
//! and no user id that anything else has.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use caisson_checkpoint::Copy;
use clap::Args;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::{descriptor, jail};

/// The user is this and the process id: nobody else's, as long as the process lives.
/// Below 2^31, as some programs take ids for signed.
const FIRST_USER: u32 = 2_000_000_000;

/// Most bytes of the description of a process.
const IMAGE_LIMIT: u64 = 16 << 20;

/// A VMM and what it sees.
#[derive(Debug, Args)]
pub struct Options {
    /// File or folder that the VMM may read. One that does not exist is left out; a
    /// symbolic link stays one.
    #[arg(long = "visible", value_name = "PATH")]
    visible: Vec<PathBuf>,
    /// Device of the host that the VMM may use: with the group that the device has, or
    /// by a node of its own where only root may.
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,
    /// Stay in the network namespace in which this is started: it is the guest's.
    #[arg(long)]
    keep_network: bool,
    /// Group of the VMM.
    #[arg(long, value_name = "GID")]
    group: u32,
    /// Become a copy of the VMM that this file describes, instead of executing it.
    #[arg(long, value_name = "FD", requires = "pages_fd")]
    image_fd: Option<RawFd>,
    /// Its memory.
    #[arg(long, value_name = "FD", requires = "image_fd")]
    pages_fd: Option<RawFd>,
    /// What the copy writes to the memory of files that it is given stays its own.
    #[arg(long)]
    private: bool,
    /// The VMM and its arguments; those of a copy are for show.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the VMM.
pub fn run(options: Options) -> Result<Infallible> {
    let (program, arguments) = options
        .command
        .split_first()
        .context("no program is named")?;
    let program = std::fs::canonicalize(program)
        .with_context(|| format!("cannot find {}", program.display()))?;
    let parent = rustix::process::getppid();
    let copied = copied(&options)?;

    let groups = groups(&options.devices)?;
    let ordinary_user = !rustix::process::geteuid().is_root();
    let mut namespaces = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !options.keep_network {
        namespaces |= UnshareFlags::NEWNET;
    }
    jail::enter_namespaces(namespaces)?;
    let visible = options.visible.iter().chain([&program]);
    enter_root(visible, &options.devices)?;
    jail::bound_capabilities(CapabilitySet::empty())?;
    if !ordinary_user {
        become_nobody_else(Gid::from_raw(options.group), &groups)?;
    }
    jail::keep_capabilities(CapabilitySet::empty())?;
    // A change of the user forgets the setting.
    jail::die_with_parent()?;
    if rustix::process::getppid() != parent {
        bail!("the process that wanted the machine has ended");
    }
    if let Some(copied) = copied {
        return copied
            .begin(options.private, &options.command)
            .context("cannot become a copy");
    }
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}

/// What this process becomes a copy of, if it is to.
fn copied(options: &Options) -> Result<Option<Copy>> {
    let (Some(image), Some(pages)) = (options.image_fd, options.pages_fd) else {
        return Ok(None);
    };
    let pages = File::from(descriptor::take(pages, "the pages")?);
    let image = File::from(descriptor::take(image, "the image")?);
    let mut bytes = Vec::new();
    image
        .take(IMAGE_LIMIT)
        .read_to_end(&mut bytes)
        .context("cannot read the image")?;
    let image = serde_json::from_slice(&bytes).context("cannot understand the image")?;
    Copy::prepare(image, pages)
        .map(Some)
        .context("cannot become a copy")
}

/// Reading and writing, for everybody.
const ANYBODY: u32 = 0o006;

/// Groups whose members may use the devices that not everybody may.
fn groups(devices: &[PathBuf]) -> Result<Vec<Gid>> {
    let mut groups = Vec::new();
    for device in devices {
        match rustix::fs::stat(device) {
            Ok(status) if status.st_mode & ANYBODY != ANYBODY => {
                groups.push(Gid::from_raw(status.st_gid));
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot find {}", device.display()));
            }
        }
    }
    Ok(groups)
}

/// Whether root alone may use a device, as the kernel makes them where no udev gives
/// them a group.
fn only_root(status: &Stat) -> bool {
    const GROUP: u32 = 0o060;
    let owned = status.st_gid == Gid::ROOT.as_raw() || status.st_mode & GROUP != GROUP;
    status.st_uid == Uid::ROOT.as_raw() && owned && status.st_mode & ANYBODY != ANYBODY
}

/// Another node of a device, which anybody may use who sees it: the VMM for which root
/// started this process. It is the root of a mount that is attached nowhere.
fn own_node(status: &Stat) -> rustix::io::Result<OwnedFd> {
    const NAME: &str = "device";
    let folder = jail::device_folder()?;
    let mode = Mode::from_raw_mode(0o666);
    let kind = FileType::from_raw_mode(status.st_mode);
    rustix::fs::mknodat(&folder, NAME, kind, mode, status.st_rdev)?;
    // Whatever the umask is.
    rustix::fs::chmodat(&folder, NAME, mode, AtFlags::empty())?;
    // A mount can be copied only where it is attached. The VMM's root covers it, and
    // takes it away with the old one.
    jail::attach(&folder)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(&folder, NAME, clone)
}

/// Takes a user id that no process has.
fn become_nobody_else(group: Gid, groups: &[Gid]) -> Result<()> {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    let user = Uid::from_raw(FIRST_USER + process.unsigned_abs());
    rustix::thread::set_thread_groups(groups).context("cannot leave the groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).context("cannot change the group")?;
    rustix::thread::set_thread_res_uid(user, user, user).context("cannot change the user")
}

/// Something of the host in the new root.
struct Entry<'a> {
    path: &'a Path,
    /// Its mount, if it is no symbolic link.
    tree: Option<OwnedFd>,
}

/// Makes a root of these files and folders, the devices and the process's own
/// descriptors, and enters it.
fn enter_root<'a>(
    visible: impl Iterator<Item = &'a PathBuf>,
    devices: &'a [PathBuf],
) -> Result<()> {
    let mut entries = Vec::new();
    for path in visible {
        let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
        entries.extend(Entry::find(path, attributes)?);
    }
    for path in devices {
        let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        let mut entry = Entry::find(path, attributes)?;
        if let Some(Entry {
            tree: Some(tree), ..
        }) = &mut entry
        {
            let failed = || format!("cannot give {} to the VMM", path.display());
            let status = rustix::fs::fstat(&*tree).with_context(failed)?;
            if rustix::process::geteuid().is_root() && only_root(&status) {
                *tree = own_node(&status).with_context(failed)?;
            }
        }
        entries.extend(entry);
    }
    // By its descriptors' paths it opens what it was given a second time.
    let descriptors = Path::new("/proc/self/fd");
    entries.extend(Entry::find(descriptors, libc::MOUNT_ATTR_NOEXEC)?);

    let root = jail::empty_root()?;
    let mut attached = Vec::new();
    for entry in &entries {
        if entry.make(&root, &attached)? {
            attached.push(entry);
        }
    }
    jail::attach_root(&root)?;
    for entry in attached {
        entry.attach(&root)?;
    }
    jail::change_mount(&root, libc::MOUNT_ATTR_RDONLY, 0, 0)
        .context("cannot make the process's root read-only")?;
    jail::pivot_into(&root)
}

impl<'a> Entry<'a> {
    /// None if there is no such file.
    fn find(path: &'a Path, attributes: u64) -> Result<Option<Self>> {
        let failed = || format!("cannot show {} to the VMM", path.display());
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            bail!("{}: not an absolute path", failed());
        }
        let link = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => FileType::from_raw_mode(status.st_mode) == FileType::Symlink,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(failed),
        };
        if link {
            return Ok(Some(Self { path, tree: None }));
        }
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, path, clone).with_context(failed)?;
        jail::change_mount(&tree, attributes, libc::MS_PRIVATE, 0).with_context(failed)?;
        Ok(Some(Self {
            path,
            tree: Some(tree),
        }))
    }

    /// Its path in a root.
    fn inner(&self) -> &Path {
        self.path.strip_prefix("/").unwrap_or(self.path)
    }

    /// Makes the place for it. Returns whether there is something to attach there:
    /// neither for a link, nor below a folder that is attached itself.
    fn make(&self, root: &OwnedFd, attached: &[&Self]) -> Result<bool> {
        if attached
            .iter()
            .any(|other| self.path.starts_with(other.path))
        {
            return Ok(false);
        }
        let failed = || format!("cannot make a place for {}", self.path.display());
        let mut parents: Vec<_> = self.inner().ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            folder(root, parent).with_context(failed)?;
        }
        let Some(tree) = &self.tree else {
            let target = std::fs::read_link(self.path).with_context(failed)?;
            rustix::fs::symlinkat(target, root, self.inner()).with_context(failed)?;
            return Ok(false);
        };
        let status = rustix::fs::fstat(tree).with_context(failed)?;
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            folder(root, self.inner()).with_context(failed)?;
        } else {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(root, self.inner(), flags, Mode::from_raw_mode(0o444))
                .with_context(failed)?;
        }
        Ok(true)
    }

    fn attach(&self, root: &OwnedFd) -> Result<()> {
        let Some(tree) = &self.tree else {
            return Ok(());
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(tree, "", root, self.inner(), flags)
            .with_context(|| format!("cannot attach {}", self.path.display()))
    }
}

fn folder(root: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}
