//! File systems that nearly every container asks for, mounted before a template is frozen.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use caisson_protocol::agent::{ContainerDescription, Mount};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::root::Root;
use super::{device, mask, option};
use crate::error::{Error, Result};

/// Where they wait.
const FOLDER: &str = "/run/caisson/premade";

/// Destination, type, source, flags and options, as the host describes those of the engines'
/// default specifications (containerd's `populateDefaultUnixSpec`, which Docker's and ours
/// follow).
const USUAL: [(&str, &str, &str, MountFlags, &str); 6] = [
    ("/proc", "proc", "proc", CLOSED, ""),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        MountFlags::NOSUID.union(MountFlags::STRICTATIME),
        "mode=755,size=65536k",
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    ),
    ("/dev/mqueue", "mqueue", "mqueue", CLOSED, ""),
    ("/dev/shm", "tmpfs", "shm", CLOSED, "mode=1777,size=65536k"),
    (
        "/sys",
        "sysfs",
        "sysfs",
        CLOSED.union(MountFlags::RDONLY),
        "",
    ),
];

/// What most of them are.
const CLOSED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Paths of theirs that those specifications protect, of all that the guest's kernel has.
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// Paths of theirs that those specifications hide, likewise.
const MASKED: [&str; 3] = ["/proc/keys", "/proc/timer_list", "/sys/firmware"];

/// Folders of `/dev` on which others are mounted.
const DEVICE_FOLDERS: [&str; 3] = ["pts", "mqueue", "shm"];

/// A file system that is mounted where nobody looks for it.
#[derive(Debug)]
struct Premade {
    mount: Mount,
    point: PathBuf,
}

/// Those that there are.
#[derive(Debug, Default)]
pub struct PremadeMounts(Vec<Premade>);

impl PremadeMounts {
    /// Mounts all of them. They show the namespaces of the process that calls it.
    pub fn prepare() -> Result<Self> {
        let made = USUAL.into_iter().map(Premade::make);
        let made = made.collect::<Result<_>>().map(Self)?;
        // The ones for `/proc` and `/sys` lie there as if it were a rootfs.
        let root = Root::open(Path::new(FOLDER))?;
        for path in READ_ONLY {
            mask::read_only(&root, Path::new(path))?;
        }
        for path in MASKED {
            mask::mask(&root, Path::new(path))?;
        }
        Ok(made)
    }

    /// Unmounts what the agent sees of them. The process that has moved them to other places
    /// keeps them. Can be called again.
    pub fn remove() {
        for (destination, ..) in USUAL {
            let point = point(destination);
            match rustix::mount::unmount(&point, UnmountFlags::DETACH) {
                // It is not mounted any more.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => eprintln!("agent: cannot unmount {}: {errno}", point.display()),
            }
        }
    }

    /// Where there is one that is just as this mount of a container asks for.
    /// There is none if another mount would come over it or what it protects: then those
    /// mounts are made, and protected, in the order of the specification.
    pub(super) fn find(&self, wanted: &Mount, description: &ContainerDescription) -> Option<&Path> {
        let place = Path::new(&wanted.destination);
        let found = self.0.iter().find(|premade| premade.mount == *wanted)?;
        let covers = |mount: &&Mount| {
            let other = Path::new(&mount.destination);
            other == place || protected(place).any(|path| other.starts_with(path))
        };
        let is_alone = description.mounts.iter().filter(covers).nth(1).is_none();
        let is_wanted = is_alone && protected(place).all(|path| is_protected(description, path));
        is_wanted.then_some(found.point.as_path())
    }

    /// Whether a path is protected or hidden in one of these that is used.
    pub(super) fn protects(&self, path: &Path, description: &ContainerDescription) -> bool {
        let used = description.mounts.iter().find(|mount| {
            let mut paths = protected(Path::new(&mount.destination));
            paths.any(|protected| Path::new(protected) == path)
        });
        used.is_some_and(|mount| self.find(mount, description).is_some())
    }
}

/// Paths below a destination that are protected or hidden.
fn protected(destination: &Path) -> impl Iterator<Item = &'static str> {
    let all = READ_ONLY.into_iter().chain(MASKED);
    all.filter(move |path| Path::new(path).starts_with(destination))
}

/// Whether a container is to have a path so.
fn is_protected(description: &ContainerDescription, path: &str) -> bool {
    let paths = if MASKED.contains(&path) {
        &description.masked_paths
    } else {
        &description.read_only_paths
    };
    paths.iter().any(|wanted| wanted == path)
}

/// Where the one for a destination is.
fn point(destination: &str) -> PathBuf {
    let name = destination.trim_start_matches('/').replace('/', "-");
    Path::new(FOLDER).join(name)
}

impl Premade {
    fn make(usual: (&str, &str, &str, MountFlags, &str)) -> Result<Self> {
        let (destination, kind, source, flags, options) = usual;
        let mount = Mount {
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            source: source.to_owned(),
            flags: flags.bits(),
            options: options.to_owned(),
            ..Default::default()
        };
        let point = point(destination);
        fs::create_dir_all(&point).map_err(Error::path("make", &point))?;
        let data = option::data(&mount);
        rustix::mount::mount(source, &point, kind, flags, data.as_deref())
            .map_err(Error::path("mount", &point))?;
        if destination == "/dev" {
            let folder = open(&point)?;
            device::add_default(&folder)?;
            for name in DEVICE_FOLDERS {
                rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))
                    .map_err(Error::path("make", &point))?;
            }
        }
        Ok(Self { mount, point })
    }
}

fn open(folder: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty()).map_err(Error::path("open", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> (PremadeMounts, ContainerDescription) {
        let mount = Mount {
            destination: "/proc".to_owned(),
            kind: "proc".to_owned(),
            source: "proc".to_owned(),
            flags: CLOSED.bits(),
            ..Default::default()
        };
        let premade = PremadeMounts(vec![Premade {
            mount: mount.clone(),
            point: "/point".into(),
        }]);
        let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        let description = ContainerDescription {
            mounts: vec![mount],
            masked_paths: list(&["/proc/timer_list", "/proc/kcore", "/proc/keys"]),
            read_only_paths: list(&READ_ONLY),
            ..Default::default()
        };
        (premade, description)
    }

    #[test]
    fn what_comes_over_it_is_made_in_order() {
        let (premade, usual) = usual();
        for (destination, is_given) in [
            ("/proc", false),
            ("/proc/sys", false),
            ("/proc/sys/fs/binfmt_misc", false),
            ("/proc/meminfo", true),
            ("/process", true),
        ] {
            let mut description = usual.clone();
            description.mounts.push(Mount {
                destination: destination.to_owned(),
                ..usual.mounts[0].clone()
            });
            let found = premade.find(&usual.mounts[0], &description);
            assert_eq!(found.is_some(), is_given, "{destination}");
            let protects = premade.protects(Path::new("/proc/sys"), &description);
            assert_eq!(protects, is_given, "{destination}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_given() {
        let (premade, description) = usual();
        let usual = &description.mounts[0];
        let found = premade.find(usual, &description);
        assert_eq!(found, Some(Path::new("/point")));
        let changes: [fn(&mut Mount); 7] = [
            |mount| mount.destination = "/host/proc".to_owned(),
            |mount| mount.flags = MountFlags::NOSUID.bits(),
            |mount| mount.options = "hidepid=2".to_owned(),
            |mount| mount.propagation = 1,
            |mount| mount.kind = "sysfs".to_owned(),
            |mount| mount.source = "other".to_owned(),
            |mount| mount.bind = true,
        ];
        for change in changes {
            let mut other = usual.clone();
            change(&mut other);
            assert_eq!(premade.find(&other, &description), None, "{other:?}");
        }
    }

    #[test]
    fn who_may_see_or_write_more_is_given_another() {
        let (premade, description) = usual();
        let protects = |path, description| premade.protects(Path::new(path), description);
        assert!(protects("/proc/keys", &description));
        assert!(protects("/proc/sys", &description));
        assert!(!protects("/proc/kcore", &description), "one of its own");
        assert!(!protects("/sys/firmware", &description), "not mounted");
        let mut open = description.clone();
        open.masked_paths.clear();
        assert_eq!(premade.find(&open.mounts[0], &open), None);
        assert!(!protects("/proc/sys", &open));
    }
}
