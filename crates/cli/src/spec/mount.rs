//! Everything that is mounted in a container, and what of it the host shares.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use caisson_protocol::SHARE_ROOT;
use oci_spec::runtime::Mount;

use super::volume::{self, Source, VolumeRequest};
use super::{Error, ImageFacts, Result};
use crate::config::Settings;
use crate::container::SharedPath;
use crate::flags::CreateFlags;

/// Docker's size of `/dev/shm`.
const SHM_SIZE: &str = "size=65536k";

/// Type of a mount that is a folder of the container's own writable layer, also
/// where its root is read-only. With a source, it begins with what is there.
const WRITABLE_LAYER: &str = "volume";

/// Option of a bind mount: while its source is an empty folder, it is filled
/// with what the image has at the destination.
const COPY_UP: &str = "copyup";

/// The mounts in the order in which they are to be made, and the host's part of them.
pub(super) fn all(
    flags: &CreateFlags,
    facts: &ImageFacts,
    settings: &Settings,
) -> Result<(Vec<Mount>, Vec<SharedPath>)> {
    let requests = requests(flags, facts)?;
    let covered: BTreeSet<&Path> = requests
        .iter()
        .map(|request| request.1.target.as_path())
        .collect();
    let mut mounts = system(flags);
    // As with Docker: who mounts over /dev means all of it.
    mounts.retain(|mount| {
        let destination = mount.destination();
        let below_dev = destination.starts_with("/dev") && covered.contains(Path::new("/dev"));
        !covered.contains(destination.as_path()) && !below_dev
    });
    let mut shares = Vec::new();
    for (flag, request) in &requests {
        mounts.push(mount(flag, request, settings, &mut shares)?);
    }
    Ok((mounts, shares))
}

/// What the user and the image want, outer folders first.
fn requests(flags: &CreateFlags, facts: &ImageFacts) -> Result<Vec<(&'static str, VolumeRequest)>> {
    let lists = [
        ("--volume", &flags.volume),
        ("--mount", &flags.mount),
        ("--tmpfs", &flags.tmpfs),
    ];
    let mut requests: Vec<(&'static str, VolumeRequest)> = Vec::new();
    for (flag, request) in lists
        .into_iter()
        .flat_map(|(flag, list)| list.iter().map(move |request| (flag, request)))
    {
        if requests
            .iter()
            .any(|(_, other)| other.target == request.target)
        {
            let value = request.target.display().to_string();
            return Err(Error::Flag {
                flag,
                value,
                reason: "something else is mounted there already".to_owned(),
            });
        }
        requests.push((flag, request.clone()));
    }
    for path in &facts.config.volumes {
        let request = volume::of_image(path)
            .map_err(|reason| facts.mistake(format!("its volume {path:?}: {reason}")))?;
        if !requests
            .iter()
            .any(|(_, other)| other.target == request.target)
        {
            requests.push(("VOLUME", request));
        }
    }
    requests.sort_by_key(|(_, request)| request.target.components().count());
    Ok(requests)
}

fn mount(
    flag: &'static str,
    request: &VolumeRequest,
    settings: &Settings,
    shares: &mut Vec<SharedPath>,
) -> Result<Mount> {
    let access = if request.read_only { "ro" } else { "rw" };
    let target = &request.target;
    Ok(match &request.source {
        Source::Tmpfs { options } => {
            let read_only = request.read_only.then_some("ro");
            entry(
                target,
                "tmpfs",
                Some("tmpfs".into()),
                options.iter().map(String::as_str).chain(read_only),
            )
        }
        Source::Anonymous => entry(target, WRITABLE_LAYER, None, [access]),
        Source::Host { path, create } => {
            let source = share(host_path(flag, path, *create)?, request.read_only, shares);
            entry(target, "bind", Some(source), ["rbind", "rprivate", access])
        }
        Source::Overlay { path } => {
            let source = share(host_path(flag, path, false)?, true, shares);
            entry(target, WRITABLE_LAYER, Some(source), [access])
        }
        Source::Volume { name, fill } => {
            let source = share(named_volume(name, settings)?, request.read_only, shares);
            let options = ["rbind", "rprivate", access]
                .into_iter()
                .chain(fill.then_some(COPY_UP));
            entry(target, "bind", Some(source), options)
        }
    })
}

/// Adds a path of the host to the share; returns where the guest sees it.
fn share(source: PathBuf, read_only: bool, shares: &mut Vec<SharedPath>) -> PathBuf {
    let name = shares.len().to_string();
    let path = Path::new(SHARE_ROOT).join(&name);
    shares.push(SharedPath {
        name,
        source,
        read_only,
    });
    path
}

/// A file or folder of the host, without links.
fn host_path(flag: &'static str, path: &Path, create: bool) -> Result<PathBuf> {
    let failed = |source| Error::File {
        flag,
        file: path.to_owned(),
        source,
    };
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            fs::create_dir_all(path).and_then(|()| fs::metadata(path))
        }
        other => other,
    };
    let metadata = metadata.map_err(failed)?;
    if !metadata.is_dir() && !metadata.is_file() {
        let reason = "sockets, pipes and devices of the host belong to its kernel and do nothing in the container's; \
                      only files and folders can be shared";
        return Err(Error::Flag {
            flag,
            value: path.display().to_string(),
            reason: reason.to_owned(),
        });
    }
    path.canonicalize().map_err(failed)
}

/// The folder of a volume with a name, made if it is new.
fn named_volume(name: &str, settings: &Settings) -> Result<PathBuf> {
    let volumes = settings.root.join("volumes");
    let folder = volumes.join(name).join("_data");
    let make = |path: &Path, mode| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| Error::Folder {
            path: path.to_owned(),
            source,
        })
    };
    // Programs that take their user's rights from a volume must not be run from here.
    make(&volumes, 0o700)?;
    make(&folder, 0o755)?;
    Ok(folder)
}

/// What every container has mounted (Docker's list).
fn system(flags: &CreateFlags) -> Vec<Mount> {
    let access = if flags.privileged { "rw" } else { "ro" };
    let kernel = ["nosuid", "noexec", "nodev"];
    // In the words of other engines where it is the usual size.
    let shm_size = match flags.shm_size {
        None | Some(0) => SHM_SIZE.to_owned(),
        Some(bytes) => format!("size={bytes}"),
    };
    let pty = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let source = |name: &str| Some(name.into());
    vec![
        entry("/proc".as_ref(), "proc", source("proc"), kernel),
        entry(
            "/dev".as_ref(),
            "tmpfs",
            source("tmpfs"),
            ["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        entry("/dev/pts".as_ref(), "devpts", source("devpts"), pty),
        entry(
            "/sys".as_ref(),
            "sysfs",
            source("sysfs"),
            kernel.into_iter().chain([access]),
        ),
        entry(
            "/sys/fs/cgroup".as_ref(),
            "cgroup",
            source("cgroup"),
            kernel.into_iter().chain([access]),
        ),
        entry("/dev/mqueue".as_ref(), "mqueue", source("mqueue"), kernel),
        entry(
            "/dev/shm".as_ref(),
            "tmpfs",
            source("shm"),
            kernel.into_iter().chain(["mode=1777", &shm_size]),
        ),
    ]
}

fn entry<'a>(
    destination: &Path,
    kind: &str,
    source: Option<PathBuf>,
    options: impl IntoIterator<Item = &'a str>,
) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination.to_owned());
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(source);
    mount.set_options(Some(options.into_iter().map(str::to_owned).collect()));
    mount
}
