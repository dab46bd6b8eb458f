//! What every process of a machine gives up before it meets the guest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

/// Ends the process when the one that started it ends. Must come after the user
/// namespace is made, which forgets the setting, and is undone by nothing later.
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot tie the device process to its parent")
}

/// Allows `wanted` open files, or as many as the hard limit does where it may not be
/// raised. Returns the new limit.
pub fn raise_descriptor_limit(wanted: u64) -> Result<u64> {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let allow = |current: u64, maximum: Option<u64>| {
        let limit = Rlimit {
            current: Some(current),
            maximum,
        };
        rustix::process::setrlimit(Resource::Nofile, limit).map(|()| current)
    };
    match limits.current {
        Some(current) if current < wanted => {
            allow(wanted, limits.maximum.map(|maximum| maximum.max(wanted)))
                .or_else(|_| {
                    let within = limits.maximum.map_or(wanted, |maximum| maximum.min(wanted));
                    allow(within, limits.maximum)
                })
                .with_context(|| format!("cannot raise the limit of {current} open files"))
        }
        Some(current) => Ok(current),
        None => Ok(u64::MAX),
    }
}

/// Enters a mount namespace of its own whose mounts no other namespace sees, and new
/// namespaces of the kinds `also`. An ordinary user needs a user namespace for it, in
/// which the user is root.
pub fn enter_namespaces(also: UnshareFlags) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    if root {
        unshare(UnshareFlags::NEWNS | also).context("cannot make namespaces")?;
    } else {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | also).context(
            "cannot make a user namespace; allow them with \
             `sysctl kernel.unprivileged_userns_clone=1` or run as root",
        )?;
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ] {
            let path = format!("/proc/self/{file}");
            std::fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
        }
    }
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("cannot make the mounts of the new namespace private")
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the process has one thread at this time, and no flag of ours touches the
    // descriptor table, whose unsharing is what makes the call unsafe.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// An empty tmpfs that is not attached anywhere yet.
pub fn empty_root() -> Result<OwnedFd> {
    tmpfs(MountAttrFlags::MOUNT_ATTR_NODEV).context("cannot make a tmpfs for the process's root")
}

/// The same, in which device nodes can be opened.
pub fn device_folder() -> rustix::io::Result<OwnedFd> {
    tmpfs(MountAttrFlags::empty())
}

fn tmpfs(attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0555")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", "1m")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// Attaches a detached mount, so that others can be attached below it.
pub fn attach_root(root: &OwnedFd) -> Result<()> {
    attach(root).context("cannot attach the process's root")
}

/// Attaches a detached mount until the process's root takes its place.
pub fn attach(mount: &OwnedFd) -> rustix::io::Result<()> {
    // Any folder will do: the old root is about to go.
    rustix::mount::move_mount(
        mount,
        "",
        rustix::fs::CWD,
        "/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Adds attributes (`MOUNT_ATTR_*`, mount_setattr(2)) to the mount `tree` and sets its
/// propagation (`MS_*`) unless that is 0; with `AT_RECURSIVE`, of all mounts below too.
pub fn change_mount(
    tree: &OwnedFd,
    attributes: u64,
    propagation: libc::c_ulong,
    recursive: libc::c_int,
) -> io::Result<()> {
    let argument = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    // SAFETY: the path is a string with its NUL, and the kernel reads as many bytes of
    // the structure as it is told that it has.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const argument,
            size_of_val(&argument),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes an attached mount the root of the process and lets go of the old root.
pub fn pivot_into(root: &OwnedFd) -> Result<()> {
    let pivot = || {
        rustix::process::fchdir(root)?;
        // With one path for both, the old root ends up on top of the new one.
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    pivot().context("cannot enter the process's root")
}

/// Keeps only these capabilities and lets no program gain any.
pub fn keep_capabilities(keep: CapabilitySet) -> Result<()> {
    bound_capabilities(keep)?;
    let held = rustix::thread::capabilities(None).context("cannot read the capabilities")?;
    let keep = keep & held.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        },
    )
    .context("cannot drop capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")
}

/// Lets no program that is executed from now on gain other capabilities than these.
pub fn bound_capabilities(keep: CapabilitySet) -> Result<()> {
    let held = rustix::thread::capabilities(None).context("cannot read the capabilities")?;
    if !held.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in (CapabilitySet::all() - keep).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The running kernel may know fewer capabilities.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => bail!("cannot drop {capability:?} from the bounding set: {error}"),
        }
    }
    Ok(())
}
