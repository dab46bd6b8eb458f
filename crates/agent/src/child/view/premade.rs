//! File systems that nearly every container asks for, mounted before a template is frozen.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Mount};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::option::Options;
use super::root::Root;
use super::{device, mask};
use crate::error::{Error, Result};

/// Where they wait.
const FOLDER: &str = "/run/caisson/premade";

/// Destination, type, source and options, in the words of the engines' default
/// specifications (containerd's `populateDefaultUnixSpec`, which Docker's and ours follow).
const USUAL: [(&str, &str, &str, &[&str]); 6] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    (
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    (
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
];

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

    /// Where there is one that is just as this mount of a specification asks for.
    pub(super) fn find(&self, wanted: &Mount, linux: Option<&Linux>) -> Option<&Path> {
        let found = self.0.iter().find(|premade| {
            let mount = &premade.mount;
            mount.destination() == wanted.destination()
                && mount.source() == wanted.source()
                && Options::parse(mount) == Options::parse(wanted)
                && mount.typ() == wanted.typ()
                && protected(wanted.destination()).all(|path| is_protected(linux, path))
        });
        found.map(|premade| premade.point.as_path())
    }

    /// Whether a path is protected or hidden in one of these that is used.
    pub(super) fn protects(&self, path: &Path, mounts: &[Mount], linux: Option<&Linux>) -> bool {
        let used = mounts.iter().find(|mount| {
            let mut paths = protected(mount.destination());
            paths.any(|protected| Path::new(protected) == path)
        });
        used.is_some_and(|mount| self.find(mount, linux).is_some())
    }
}

/// Paths below a destination that are protected or hidden.
fn protected(destination: &Path) -> impl Iterator<Item = &'static str> {
    let all = READ_ONLY.into_iter().chain(MASKED);
    all.filter(move |path| Path::new(path).starts_with(destination))
}

/// Whether a specification wants a path so.
fn is_protected(linux: Option<&Linux>, path: &str) -> bool {
    let Some(linux) = linux else {
        return false;
    };
    let paths = if MASKED.contains(&path) {
        linux.masked_paths()
    } else {
        linux.readonly_paths()
    };
    paths.iter().flatten().any(|wanted| wanted == path)
}

/// Where the one for a destination is.
fn point(destination: &str) -> PathBuf {
    let name = destination.trim_start_matches('/').replace('/', "-");
    Path::new(FOLDER).join(name)
}

impl Premade {
    fn make(usual: (&str, &str, &str, &[&str])) -> Result<Self> {
        let (destination, kind, source, words) = usual;
        let mut mount = Mount::default();
        mount.set_destination(destination.into());
        mount.set_typ(Some(kind.to_owned()));
        mount.set_source(Some(source.into()));
        mount.set_options(Some(words.iter().map(|word| (*word).to_owned()).collect()));
        let options = Options::parse(&mount);
        let point = point(destination);
        fs::create_dir_all(&point).map_err(Error::path("make", &point))?;
        rustix::mount::mount(
            source,
            &point,
            kind,
            options.flags,
            options.data().as_deref(),
        )
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

    fn usual() -> (PremadeMounts, Mount, Linux) {
        let json = serde_json::json!({
            "destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"],
        });
        let mount: Mount = serde_json::from_value(json).expect("a mount");
        let premade = PremadeMounts(vec![Premade {
            mount: mount.clone(),
            point: "/point".into(),
        }]);
        let list = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
        let mut linux = Linux::default();
        linux.set_masked_paths(list(&["/proc/timer_list", "/proc/kcore", "/proc/keys"]));
        linux.set_readonly_paths(list(&READ_ONLY));
        (premade, mount, linux)
    }

    #[test]
    fn only_what_is_asked_for_is_given() {
        let (premade, usual, linux) = usual();
        let mut other_order = usual.clone();
        let words = ["nodev", "nosuid", "noexec"].map(str::to_owned);
        other_order.set_options(Some(words.into()));
        for same in [&usual, &other_order] {
            let found = premade.find(same, Some(&linux));
            assert_eq!(found, Some(Path::new("/point")));
        }
        let changes: [fn(&mut Mount) -> &mut Mount; 5] = [
            |mount| mount.set_destination("/host/proc".into()),
            |mount| mount.set_options(Some(vec!["nosuid".to_owned(), "ro".to_owned()])),
            |mount| mount.set_options(Some(vec!["rprivate".to_owned()])),
            |mount| mount.set_typ(Some("sysfs".to_owned())),
            |mount| mount.set_source(Some("other".into())),
        ];
        for change in changes {
            let mut other = usual.clone();
            change(&mut other);
            assert_eq!(premade.find(&other, Some(&linux)), None, "{other:?}");
        }
    }

    #[test]
    fn who_may_see_or_write_more_is_given_another() {
        let (premade, usual, linux) = usual();
        let mounts = [usual.clone()];
        let protects = |path: &str, linux| premade.protects(Path::new(path), &mounts, linux);
        assert!(protects("/proc/keys", Some(&linux)));
        assert!(protects("/proc/sys", Some(&linux)));
        assert!(!protects("/proc/kcore", Some(&linux)), "one of its own");
        assert!(!protects("/sys/firmware", Some(&linux)), "not mounted");
        let mut open = linux.clone();
        open.set_masked_paths(None);
        for linux in [None, Some(&open)] {
            assert_eq!(premade.find(&usual, linux), None);
            assert!(!protects("/proc/sys", linux));
        }
    }
}
