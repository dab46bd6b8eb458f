//! File systems that nearly every container asks for, mounted before a template is frozen.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::device;
use super::option::Options;
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
        let usual = USUAL.into_iter().enumerate();
        usual.map(Premade::make).collect::<Result<_>>().map(Self)
    }

    /// Unmounts what the agent sees of them. The process that has moved them to other places
    /// keeps them. Can be called again.
    pub fn remove() {
        for number in 0..USUAL.len() {
            let point = Path::new(FOLDER).join(number.to_string());
            match rustix::mount::unmount(&point, UnmountFlags::DETACH) {
                // It is not mounted any more.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => eprintln!("agent: cannot unmount {}: {errno}", point.display()),
            }
        }
    }

    /// Where there is one that is just as this mount asks for.
    pub(super) fn find(&self, wanted: &Mount) -> Option<&Path> {
        let found = self.0.iter().find(|premade| {
            let mount = &premade.mount;
            mount.destination() == wanted.destination()
                && mount.source() == wanted.source()
                && Options::parse(mount) == Options::parse(wanted)
                && mount.typ() == wanted.typ()
        });
        found.map(|premade| premade.point.as_path())
    }
}

impl Premade {
    fn make((number, usual): (usize, (&str, &str, &str, &[&str]))) -> Result<Self> {
        let (destination, kind, source, words) = usual;
        let mut mount = Mount::default();
        mount.set_destination(destination.into());
        mount.set_typ(Some(kind.to_owned()));
        mount.set_source(Some(source.into()));
        mount.set_options(Some(words.iter().map(|word| (*word).to_owned()).collect()));
        let options = Options::parse(&mount);
        let point = Path::new(FOLDER).join(number.to_string());
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

    fn mount(json: serde_json::Value) -> Mount {
        serde_json::from_value(json).expect("a mount")
    }

    #[test]
    fn only_what_is_asked_for_is_given() {
        let usual = mount(serde_json::json!({
            "destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"],
        }));
        let point = PathBuf::from("/point");
        let premade = PremadeMounts(vec![Premade {
            mount: usual.clone(),
            point: point.clone(),
        }]);
        let mut other_order = usual.clone();
        let words = ["nodev", "nosuid", "noexec"].map(str::to_owned);
        other_order.set_options(Some(words.into()));
        for same in [&usual, &other_order] {
            assert_eq!(premade.find(same), Some(point.as_path()));
        }
        let changes: [fn(&mut Mount) -> &mut Mount; 4] = [
            |mount| mount.set_destination("/host/proc".into()),
            |mount| mount.set_options(Some(vec!["nosuid".to_owned(), "ro".to_owned()])),
            |mount| mount.set_typ(Some("sysfs".to_owned())),
            |mount| mount.set_source(Some("other".into())),
        ];
        for change in changes {
            let mut other = usual.clone();
            change(&mut other);
            assert_eq!(premade.find(&other), None, "{other:?}");
        }
        let bound = mount(serde_json::json!({
            "destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev", "rprivate"],
        }));
        assert_eq!(premade.find(&bound), None);
    }
}
