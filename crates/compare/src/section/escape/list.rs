//! The escapes.

use std::path::PathBuf;

use super::bomb::{Counted, Neighbour};
use super::victim::{Canary, Disk, Hierarchy, KernelLog, Parameter, Process};
use super::{Attack, Escape};
use crate::context::Context;
use crate::error::{At, Result};
use crate::runtime::{Mount, Program};

use super::super::probe::Probe;

/// Processes that the fork bomb starts at most, and the limit that is to stop it before.
const FORKS: u64 = 64;
const FORK_LIMIT: u32 = 32;

/// The same for the memory bomb, in MiB.
const MEMORY: u64 = 256;
const MEMORY_LIMIT: u64 = 64;

/// A folder that every image has and that may be written.
const FOLDER: &str = "/tmp";

/// Parameters that have no namespace: there is one for the whole kernel.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";
const LEASE_BREAK_TIME: &str = "/proc/sys/fs/lease-break-time";

/// Descriptors that runc left open in its day.
const LEAKED: [u32; 3] = [7, 8, 9];

const RIGHTS: &str =
    "That an ordinary container could do it: this one was given every right that the engine has.";
const DEFAULTS: &str = "What more rights would change: the row above does.";

/// In the order of the report.
pub const ESCAPES: &[Escape] = &[
    Escape {
        id: "shared-folder",
        title: "Write to a folder that is shared read-write",
        shows: "Whether the container can change the files that it was given to change. It can under \
                every runtime: a shared folder is a door, and no boundary closes it.",
        does_not_show: "A weakness of a runtime.",
        privileged: true,
        disturbs: None,
        by_design: true,
        make: shared_folder,
    },
    Escape {
        id: "overlay-folder",
        title: "Write to a folder that is shared as an overlay",
        shows: "Whether what the container writes to its own version of a shared folder reaches the \
                host's files.",
        does_not_show: "Runtimes and engines without such volumes; they are skipped.",
        privileged: true,
        disturbs: None,
        by_design: false,
        make: overlay_folder,
    },
    Escape {
        id: "read-only-folder",
        title: "Write to a folder that is shared read-only",
        shows: "Whether a privileged container that remounts the share read-write can then write to \
                the host: whether `ro` is kept by the container's kernel or by the host.",
        does_not_show: "A container with default rights, which may not remount.",
        privileged: true,
        disturbs: None,
        by_design: false,
        make: read_only_folder,
    },
    Escape {
        id: "no-folder",
        title: "Write to a file that is not shared",
        shows: "Whether a privileged container finds a file of the host by its path, or through \
                /proc/1/root.",
        does_not_show: "Other ways to the same file: the disk below has a row of its own.",
        privileged: true,
        disturbs: None,
        by_design: false,
        make: no_folder,
    },
    Escape {
        id: "release-agent",
        title: "Let the kernel start a program: cgroup release_agent (CVE-2022-0492)",
        shows: "Whether a privileged container can make the host's kernel start a program, as root \
                and outside of every container, by leaving a cgroup empty.",
        does_not_show: RIGHTS,
        privileged: true,
        disturbs: None,
        by_design: false,
        make: release_agent,
    },
    Escape {
        id: "release-agent-default",
        title: "The same with default rights",
        shows: "Whether an ordinary container can do it.",
        does_not_show: DEFAULTS,
        privileged: false,
        disturbs: None,
        by_design: false,
        make: release_agent,
    },
    Escape {
        id: "kernel-parameter",
        title: "Change a parameter of the kernel: fs.lease-break-time",
        shows: "Whether /proc/sys of a privileged container is the host's.",
        does_not_show: "Parameters that have a namespace; those are the container's own anywhere.",
        privileged: true,
        disturbs: None,
        by_design: false,
        make: kernel_parameter,
    },
    Escape {
        id: "kernel-parameter-default",
        title: "The same with default rights",
        shows: "Whether an ordinary container can do it.",
        does_not_show: DEFAULTS,
        privileged: false,
        disturbs: None,
        by_design: false,
        make: kernel_parameter,
    },
    Escape {
        id: "core-pattern",
        title: "Choose the program that takes core dumps: kernel.core_pattern",
        shows: "Whether a privileged container can name the program that the host's kernel starts \
                when something crashes. It is given a file name, never a program.",
        does_not_show: RIGHTS,
        privileged: true,
        disturbs: Some("a program that crashes meanwhile leaves its core under another name"),
        by_design: false,
        make: core_pattern,
    },
    Escape {
        id: "sysrq",
        title: "Press the magic key: /proc/sysrq-trigger",
        shows: "Whether a privileged container can give the host's kernel orders that end processes \
                or the machine. The key is `h`, which only prints the list of keys.",
        does_not_show: RIGHTS,
        privileged: true,
        disturbs: None,
        by_design: false,
        make: sysrq,
    },
    Escape {
        id: "kernel-module",
        title: "Load a kernel module",
        shows: "Whether a privileged container reaches the host kernel's loader. The module is none: \
                256 zero bytes, which the loader rejects and logs.",
        does_not_show: "Whether the loader asks for signatures.",
        privileged: true,
        disturbs: None,
        by_design: false,
        make: kernel_module,
    },
    Escape {
        id: "disk",
        title: "Read and write the host's disk through mknod",
        shows: "Whether a privileged container that makes a device node reaches a disk of the host: \
                a loop device on a file, with a secret on it.",
        does_not_show: RIGHTS,
        privileged: true,
        disturbs: None,
        by_design: false,
        make: disk,
    },
    Escape {
        id: "disk-default",
        title: "The same with default rights",
        shows: "Whether an ordinary container can do it.",
        does_not_show: DEFAULTS,
        privileged: false,
        disturbs: None,
        by_design: false,
        make: disk,
    },
    Escape {
        id: "signal",
        title: "End a process of the host, with --pid=host",
        shows: "Whether a container in the host's process namespace can end a process of the host.",
        does_not_show: "A container without --pid=host, to which other processes do not exist.",
        privileged: false,
        disturbs: None,
        by_design: false,
        make: signal,
    },
    Escape {
        id: "descriptor",
        title: "Walk out through a leaked descriptor (CVE-2024-21626)",
        shows: "Whether the first process of a container inherits a folder of the host, or may start \
                in one as /proc/self/fd/N.",
        does_not_show: "Descriptors that a runtime leaks to `exec`, or at other numbers.",
        privileged: false,
        disturbs: None,
        by_design: false,
        make: descriptor,
    },
    Escape {
        id: "fork-bomb",
        title: "A fork bomb under a limit of 32 processes",
        shows: "Whether the runtime's limit holds, how much of the bomb the host's kernel has to \
                schedule, and whether a neighbour on the host notices.",
        does_not_show: "What processor time is left to others: that is what --cpus is for.",
        privileged: false,
        disturbs: None,
        by_design: false,
        make: fork_bomb,
    },
    Escape {
        id: "memory-bomb",
        title: "A memory bomb under a limit of 64 MiB",
        shows: "Whether the runtime's limit holds, and whether a neighbour on the host notices.",
        does_not_show: "Bandwidth of memory and caches, which no limit here shares out.",
        privileged: false,
        disturbs: None,
        by_design: false,
        make: memory_bomb,
    },
];

fn shown(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A folder with a canary in it.
fn share(context: &Context<'_>, name: &str) -> Result<(PathBuf, Canary, String)> {
    let folder = context.folder(&format!("escapes/{name}"))?;
    let path = folder.join("canary");
    let canary = Canary::new(&path)?;
    Ok((folder, canary, shown(&path)))
}

fn shared_folder(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    write_to(context, probe, "shared", Mount::writable)
}

fn overlay_folder(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    write_to(context, probe, "overlay", Mount::overlay)
}

/// Writes to a canary in a folder that is shared in one way or another.
fn write_to(
    context: &Context<'_>,
    probe: &Probe,
    name: &str,
    mount: fn(PathBuf, &str) -> Mount,
) -> Result<Attack> {
    let (folder, canary, path) = share(context, name)?;
    let control = [&probe.shown(), "escape", "write", &path];
    let attack = Attack::new(canary, probe, &["write", "/share/canary"]);
    let mut attack = attack.with_control(&control);
    attack.mounts = vec![mount(folder, "/share")];
    Ok(attack)
}

fn read_only_folder(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let (folder, canary, path) = share(context, "read-only")?;
    let script = "mount --bind -o ro \"$1\" \"$1\"; exec \"$0\" escape remount \"$1\" \"$2\"";
    let mut attack = Attack::new(canary, probe, &["remount", "/share", "/share/canary"])
        .with_control(&[
            "unshare",
            "--mount",
            "sh",
            "-ec",
            script,
            &probe.shown(),
            &shown(&folder),
            &path,
        ]);
    attack.mounts = vec![Mount::read_only(folder, "/share")];
    Ok(attack)
}

fn no_folder(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let (_, canary, path) = share(context, "unshared")?;
    let through = format!("/proc/1/root{path}");
    Ok(Attack::new(canary, probe, &["write", &path, &through]))
}

fn release_agent(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let folder = context.folder("escapes/release-agent")?;
    let name = token("hierarchy");
    let interrupt = &context.options.interrupt;
    let hierarchy = Hierarchy::new(name.clone(), &folder, &probe.path, interrupt)?;
    let agent = shown(&hierarchy.agent());
    let work = shown(&context.folder("escapes/release-agent/host")?);
    let control = [
        "unshare",
        "--mount",
        &probe.shown(),
        "escape",
        "release-agent",
        &name,
        &agent,
        &work,
    ];
    let attack = Attack::new(hierarchy, probe, &["release-agent", &name, &agent, FOLDER]);
    Ok(attack.with_control(&control))
}

fn kernel_parameter(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let parameter = Parameter::new(LEASE_BREAK_TIME, &context.options.interrupt)?;
    // A second more or less: nobody notices.
    let value = if parameter.value() == "46" {
        "45"
    } else {
        "46"
    };
    let words = ["parameter", LEASE_BREAK_TIME, value];
    Ok(Attack::new(parameter, probe, &words))
}

fn core_pattern(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let parameter = Parameter::new(CORE_PATTERN, &context.options.interrupt)?;
    let words = ["parameter", CORE_PATTERN, "core.caisson-compare"];
    Ok(Attack::new(parameter, probe, &words))
}

fn sysrq(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let log = KernelLog::new("sysrq: HELP", &context.options.interrupt)?;
    Ok(Attack::new(log, probe, &["sysrq"]))
}

fn kernel_module(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let log = KernelLog::new("Invalid ELF header", &context.options.interrupt)?;
    Ok(Attack::new(log, probe, &["module"]))
}

fn disk(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let folder = context.folder("escapes/disk")?;
    let disk = Disk::new(&folder.join("backing"), &context.options.interrupt)?;
    let number = disk.number()?;
    let control = [&probe.shown(), "escape", "disk", &number, &shown(&folder)];
    Ok(Attack::new(disk, probe, &["disk", &number, FOLDER]).with_control(&control))
}

fn signal(_: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let token = token("canary");
    let process = Process::new(&probe.path, token.clone())?;
    let mut attack = Attack::new(process, probe, &["signal", &token]);
    attack.host_pid = true;
    Ok(attack)
}

fn descriptor(context: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let (folder, canary, path) = share(context, "descriptor")?;
    // The control walks out of a chroot, through a descriptor that was left open for it.
    let jail = folder.join("jail");
    std::fs::create_dir_all(jail.join("proc")).at(&jail)?;
    std::fs::copy(&probe.path, jail.join("probe")).at(&jail)?;
    let chroot = Program::find("chroot").map_or_else(|| "chroot".to_owned(), |path| shown(&path));
    let script = "mount -t proc proc \"$1/proc\"; \
                  exec \"$0\" \"$1\" /probe escape descriptor \"$2\" 7</";
    let mut attack = Attack::new(canary, probe, &["descriptor", &path]).with_control(&[
        "unshare",
        "--mount",
        "sh",
        "-ec",
        script,
        &chroot,
        &shown(&jail),
        &path,
    ]);
    attack.start_in = LEAKED
        .map(|number| format!("/proc/self/fd/{number}"))
        .to_vec();
    Ok(attack)
}

fn fork_bomb(_: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let token = token("forks");
    let neighbour = Neighbour::new(Counted::Processes, FORK_LIMIT.into(), FORKS, token.clone())?;
    let words = ["forks", &FORKS.to_string(), &token];
    let mut attack = Attack::new(neighbour, probe, &words);
    attack.pids = Some(FORK_LIMIT.into());
    Ok(attack)
}

fn memory_bomb(_: &Context<'_>, probe: &Probe) -> Result<Attack> {
    let token = token("memory");
    let neighbour = Neighbour::new(Counted::Memory, MEMORY_LIMIT, MEMORY, token.clone())?;
    let words = ["memory", &MEMORY.to_string(), &token];
    let mut attack = Attack::new(neighbour, probe, &words);
    attack.memory = Some(MEMORY_LIMIT << 20);
    // Some runtimes kill the process that takes the memory, others all of the container.
    attack.ends_by_kill = true;
    Ok(attack)
}

/// A name that no other comparison on this machine uses.
fn token(what: &str) -> String {
    format!("caisson-compare-{}-{what}", std::process::id())
}
