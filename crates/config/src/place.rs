//! Where things are, unless the configuration says otherwise.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::document::Document;
use super::{Error, Result, Settings};

/// The file of the whole host.
const HOST_FILE: &str = "/etc/caisson/config.toml";

/// What the defaults depend on.
pub struct Surroundings<'a> {
    /// Whether we are root.
    pub superuser: bool,
    /// Reads a variable of our environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// The program that is running.
    pub program: PathBuf,
    /// Where the file of the whole host is.
    pub host_file: PathBuf,
}

impl<'a> Surroundings<'a> {
    /// Those of this process.
    pub fn ours(environment: &'a dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        Ok(Self {
            superuser: rustix::process::geteuid().is_root(),
            environment,
            program: std::env::current_exe().map_err(Error::Program)?,
            host_file: HOST_FILE.into(),
        })
    }

    /// A variable that is set and not empty (XDG Base Directory Specification).
    fn folder(&self, name: &str) -> Option<PathBuf> {
        (self.environment)(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }

    fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.folder("HOME").map(|home| home.join(path))
    }

    /// The configuration file: the named one, which must be there, else the
    /// user's own, else that of the host.
    pub fn document(&self) -> Result<Option<Document>> {
        if let Some(named) = (self.environment)("CAISSON_CONFIG").filter(|name| !name.is_empty()) {
            let file = PathBuf::from(named);
            return match Document::read(&file)? {
                Some(document) => Ok(Some(document)),
                None => Err(Error::Read {
                    file,
                    source: std::io::ErrorKind::NotFound.into(),
                }),
            };
        }
        if !self.superuser {
            let own = self
                .folder("XDG_CONFIG_HOME")
                .or_else(|| self.in_home(".config"));
            if let Some(own) = own
                && let Some(document) = Document::read(&own.join("caisson/config.toml"))?
            {
                return Ok(Some(document));
            }
        }
        Document::read(&self.host_file)
    }

    /// What is in force if nothing is said. Without a home there is no root folder.
    pub fn defaults(&self) -> Settings {
        let data = || {
            self.folder("XDG_DATA_HOME")
                .or_else(|| self.in_home(".local/share"))
        };
        let root = match self.superuser {
            true => Some("/var/lib/caisson".into()),
            false => data().map(|data| data.join("caisson")),
        };
        Settings {
            root: root.unwrap_or_default(),
            devices: self.devices(),
            kernel: self.guest_file("vmlinux"),
            initramfs: self.guest_file("initramfs"),
            ..Settings::blank()
        }
    }

    /// Folder of sockets. Without a place that the system empties, below the root.
    pub fn run(&self, root: &Path) -> PathBuf {
        match self.superuser {
            true => "/run/caisson".into(),
            false => self
                .folder("XDG_RUNTIME_DIR")
                .map_or_else(|| root.join("run"), |run| run.join("caisson")),
        }
    }

    /// Installed, the program is `bin/caisson` and the rest in `lib/caisson`; in
    /// the build tree, it is `target/release/caisson` and the rest around it.
    fn devices(&self) -> PathBuf {
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        let built = folder.join("caisson-devices");
        first([
            folder.join("../lib/caisson/caisson-devices"),
            built.clone(),
            folder.join("../release/caisson-devices"),
        ])
        .unwrap_or(built)
    }

    fn guest_file(&self, name: &str) -> PathBuf {
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        let (installed, built) = (
            folder.join("../lib/caisson").join(name),
            folder.join("../guest").join(name),
        );
        let missing = if folder.ends_with("bin") {
            installed.clone()
        } else {
            built.clone()
        };
        first([installed, built]).unwrap_or_else(|| clean(&missing))
    }
}

/// The first that is there.
fn first<const N: usize>(paths: [PathBuf; N]) -> Option<PathBuf> {
    paths
        .into_iter()
        .find(|path| path.exists())
        .map(|path| clean(&path))
}

/// Takes `.` and `..` out of an absolute path as they are written: for a path without
/// links, such as the program's, which the kernel tells.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

impl Settings {
    /// Defaults that depend on nothing.
    pub fn blank() -> Self {
        Self {
            root: PathBuf::new(),
            run: PathBuf::new(),
            log_level: "warn".to_owned(),
            log_max_size: 64 << 20,
            cpus: 1,
            memory: 512 << 20,
            scratch_size: 10 << 30,
            boot_deadline: 60,
            template: "auto".to_owned(),
            hypervisor: "auto".to_owned(),
            accelerator: "auto".to_owned(),
            qemu: "qemu-system-x86_64".into(),
            devices: PathBuf::new(),
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            network: "user".to_owned(),
            anti_spoof: "auto".to_owned(),
            passt: "passt".into(),
            insecure_registries: Vec::new(),
            origins: BTreeMap::new(),
        }
    }
}
