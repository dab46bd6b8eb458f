//! What `--volume`, `--mount` and `--tmpfs` ask for.

use std::path::{Path, PathBuf};

pub use caisson_config::clean;

use super::{identity, size};

/// A mount that the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Absolute path in the container, without `.` and `..`.
    pub target: PathBuf,
    /// What appears there.
    pub source: Source,
    /// The container cannot write.
    pub read_only: bool,
}

/// What appears in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or folder of the host.
    Host {
        /// Absolute path.
        path: PathBuf,
        /// Make it a folder if it is not there.
        create: bool,
    },
    /// A file or folder of the host, of which the container writes its own version: it
    /// stays in the writable layer.
    Overlay {
        /// Absolute path.
        path: PathBuf,
    },
    /// A volume with a name, kept below the root folder.
    Volume {
        /// Its name.
        name: String,
        /// Fill it with what the image has at that path, while it is empty.
        fill: bool,
    },
    /// A folder of the writable layer, there as long as the container.
    Anonymous,
    /// Memory.
    Tmpfs {
        /// Mount options of tmpfs(5).
        options: Vec<String>,
    },
}

type Parsed<T> = Result<T, String>;

const PROPAGATION: [&str; 6] = [
    "shared", "rshared", "slave", "rslave", "private", "rprivate",
];

const OVERLAY_OF_WHAT: &str =
    "overlay is for files and folders of the host; other volumes are the container's own";

/// Reads `--volume`: `[SOURCE:]PATH[:OPTIONS]`.
pub fn short(text: &str) -> Parsed<VolumeRequest> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        // `name:ro` has no path; Docker takes the options for a path and refuses it as well.
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => {
            return Err(
                "expected [SOURCE:]PATH[:OPTIONS]; a path with a colon needs --mount".to_owned(),
            );
        }
    };
    let target = self::target(target)?;
    let (mut read_only, mut fill, mut overlay) = (None, true, false);
    for option in options.split(',').filter(|_| !options.is_empty()) {
        match option {
            "ro" | "rw" if read_only.is_none() => read_only = Some(option == "ro"),
            "nocopy" => fill = false,
            // Podman's name for it.
            "overlay" | "O" => overlay = true,
            // Labels of SELinux, which neither the share nor the guest's kernel has.
            "z" | "Z" => {}
            // Hints for hosts that copy files to a machine elsewhere.
            "consistent" | "cached" | "delegated" => {}
            other => {
                propagation(other)?;
                return Err(format!(
                    "{other} is no option; expected ro, rw, overlay, z, Z or nocopy"
                ));
            }
        }
    }
    let source = match source {
        Some(source) if source.starts_with(['/', '.', '~']) && overlay => Source::Overlay {
            path: host_path(source)?,
        },
        _ if overlay => return Err(OVERLAY_OF_WHAT.to_owned()),
        None => Source::Anonymous,
        Some(source) if source.starts_with(['/', '.', '~']) => Source::Host {
            path: host_path(source)?,
            create: true,
        },
        Some(name) => Source::Volume {
            name: volume_name(name)?,
            fill,
        },
    };
    Ok(VolumeRequest {
        target,
        source,
        read_only: read_only.unwrap_or(false),
    })
}

/// The keys of `--mount`.
#[derive(Default)]
struct Keys<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    no_copy: bool,
    overlay: bool,
    tmpfs: Vec<String>,
    /// The first key that only one type has.
    particular: Option<&'a str>,
}

/// Reads `--mount`: `type=TYPE,source=SOURCE,target=PATH...`
pub fn long(text: &str) -> Parsed<VolumeRequest> {
    let mut keys = Keys::default();
    for field in text.split(',') {
        keys.set(field)?;
    }
    let kind = keys.kind.unwrap_or("volume");
    if let Some(key) = keys.particular
        && !key.starts_with(kind)
    {
        return Err(format!("{key} does not go with type={kind}"));
    }
    let target = self::target(
        keys.target
            .ok_or("target is missing; expected target=PATH")?,
    )?;
    let source = match (kind, keys.source) {
        ("bind", Some(path)) if keys.overlay => Source::Overlay {
            path: host_path(path)?,
        },
        _ if keys.overlay => return Err(OVERLAY_OF_WHAT.to_owned()),
        ("bind", Some(path)) => Source::Host {
            path: host_path(path)?,
            create: false,
        },
        ("bind", None) => {
            return Err(
                "source is missing; expected source=PATH, a file or folder of the host".to_owned(),
            );
        }
        ("volume", Some(name)) => Source::Volume {
            name: volume_name(name)?,
            fill: !keys.no_copy,
        },
        ("volume", None) => Source::Anonymous,
        ("tmpfs", None) => Source::Tmpfs {
            options: tmpfs_options(&keys.tmpfs)?,
        },
        ("tmpfs", Some(_)) => return Err("source does not go with type=tmpfs".to_owned()),
        (other, _) => {
            return Err(format!(
                "type={other} is not there; expected bind, volume or tmpfs"
            ));
        }
    };
    Ok(VolumeRequest {
        target,
        source,
        read_only: keys.read_only,
    })
}

impl<'a> Keys<'a> {
    fn set(&mut self, field: &'a str) -> Parsed<()> {
        let (key, value) = field
            .split_once('=')
            .map_or((field, None), |(key, value)| (key, Some(value)));
        let needed = || {
            value
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("{key} needs a value"))
        };
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("{key}={other} is neither true nor false")),
        };
        match key {
            "type" => self.kind = Some(needed()?),
            "source" | "src" => self.source = Some(needed()?),
            "target" | "destination" | "dst" => self.target = Some(needed()?),
            "readonly" | "ro" => self.read_only = switch()?,
            "overlay" => self.overlay = switch()?,
            "volume-nocopy" => self.no_copy = switch()?,
            "tmpfs-size" => self.tmpfs.push(format!("size={}", size::parse(needed()?)?)),
            "tmpfs-mode" => self.tmpfs.push(format!("mode={}", needed()?)),
            "consistency" => drop(needed()?),
            "bind-propagation" => propagation(needed()?)?,
            "bind-nonrecursive" | "bind-recursive" => {
                return Err(format!(
                    "{key} is not there; what is mounted below the source is shared with it"
                ));
            }
            "volume-driver" | "volume-opt" | "volume-label" | "volume-subpath" => {
                return Err(format!(
                    "{key} is not there; volumes are folders of the host's file system, without drivers"
                ));
            }
            other => {
                return Err(format!(
                    "{other} is no key of a mount; type, source, target and readonly are"
                ));
            }
        }
        if key.contains('-') {
            self.particular.get_or_insert(key);
        }
        Ok(())
    }
}

/// Reads `--tmpfs`: `PATH[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Parsed<VolumeRequest> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let options: Vec<String> = options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(VolumeRequest {
        target: target(path)?,
        source: Source::Tmpfs {
            options: tmpfs_options(&options)?,
        },
        read_only: false,
    })
}

/// Docker's options for a tmpfs, each replaced by its opposite if that is asked for.
fn tmpfs_options(asked: &[String]) -> Parsed<Vec<String>> {
    const FLAGS: [(&str, &str); 7] = [
        ("noexec", "exec"),
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("ro", "rw"),
        ("noatime", "atime"),
        ("nodiratime", "diratime"),
        ("sync", "async"),
    ];
    const VALUES: [&str; 7] = [
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "mpol",
    ];
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for option in asked {
        if let Some((key, value)) = option.split_once('=') {
            if !VALUES.contains(&key) || value.is_empty() {
                return Err(format!(
                    "{option} is no option of a tmpfs; size=, mode=, uid= and gid= are"
                ));
            }
            if key == "mode" && !u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777) {
                return Err(format!(
                    "mode={value} is not octal; expected such as mode=1777"
                ));
            }
            options.retain(|other| !other.starts_with(&format!("{key}=")));
            options.push(option.clone());
            continue;
        }
        let pair = FLAGS.iter().find(|(off, on)| option == off || option == on);
        let Some((off, on)) = pair else {
            propagation(option)?;
            return Err(format!(
                "{option} is no option of a tmpfs; exec, suid, dev, ro, size= and mode= are"
            ));
        };
        options.retain(|other| other != off && other != on);
        options.push(option.clone());
    }
    Ok(options)
}

/// Refuses propagation of mounts between the host and the container.
fn propagation(option: &str) -> Parsed<()> {
    match option {
        "private" | "rprivate" => Ok(()),
        option if PROPAGATION.contains(&option) => Err(format!(
            "{option} propagation is not possible: mounts of the host's kernel and of the guest's do not know each \
             other; leave it away, and mount on the host before the container starts"
        )),
        _ => Ok(()),
    }
}

/// A volume that an image asks for. Its path is taken as if from the root.
pub(super) fn of_image(text: &str) -> Parsed<VolumeRequest> {
    let target = target(&format!("/{text}"))?;
    Ok(VolumeRequest {
        target,
        source: Source::Anonymous,
        read_only: false,
    })
}

/// Checks `--workdir`.
pub fn working_directory(text: &str) -> Parsed<String> {
    if !text.starts_with('/') {
        return Err("expected an absolute path in the container".to_owned());
    }
    Ok(clean(Path::new(text)).to_string_lossy().into_owned())
}

fn target(text: &str) -> Parsed<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(format!("{text:?} is not an absolute path in the container"));
    }
    let path = clean(path);
    if path == Path::new("/") {
        return Err("/ cannot be mounted over; name a folder in it".to_owned());
    }
    if path.starts_with("/proc") {
        return Err("/proc is the guest's own and cannot be mounted over".to_owned());
    }
    Ok(path)
}

fn host_path(text: &str) -> Parsed<PathBuf> {
    if text.starts_with('~') {
        return Err("~ is for the shell to replace; expected a path".to_owned());
    }
    std::path::absolute(text).map_err(|error| format!("the current folder is not known: {error}"))
}

fn volume_name(text: &str) -> Parsed<String> {
    identity::container_name(text).map_err(|expected| {
        format!("{text:?} is not the name of a volume ({expected}); a path on the host begins with / or .")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(path: &str, create: bool) -> Source {
        Source::Host {
            path: path.into(),
            create,
        }
    }

    fn named(name: &str, fill: bool) -> Source {
        Source::Volume {
            name: name.to_owned(),
            fill,
        }
    }

    fn memory(options: &str) -> Source {
        Source::Tmpfs {
            options: options.split(',').map(str::to_owned).collect(),
        }
    }

    fn request(target: &str, source: Source, read_only: bool) -> Parsed<VolumeRequest> {
        Ok(VolumeRequest {
            target: target.into(),
            source,
            read_only,
        })
    }

    #[test]
    fn volumes_in_short() {
        for (text, expected) in [
            ("/data", request("/data", Source::Anonymous, false)),
            ("/srv:/data", request("/data", host("/srv", true), false)),
            ("/srv:/data:ro", request("/data", host("/srv", true), true)),
            (
                "/srv:/data:rw,z",
                request("/data", host("/srv", true), false),
            ),
            (
                "/srv:/data/../x//y/.:Z",
                request("/x/y", host("/srv", true), false),
            ),
            ("/srv:/data:private,ro", Err("private".to_owned())),
            ("db:/data", request("/data", named("db", true), false)),
            (
                "db:/data:nocopy,ro",
                request("/data", named("db", false), true),
            ),
        ] {
            let found = short(text);
            match expected {
                Ok(_) => assert_eq!(found, expected, "{text}"),
                Err(words) => assert!(found.expect_err(text).contains(&words), "{text}"),
            }
        }
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(
            short("./x:/data").map(|r| r.source),
            Ok(Source::Host {
                path: here.join("x"),
                create: true
            })
        );
    }

    #[test]
    fn volumes_in_long() {
        for (text, expected) in [
            (
                "type=bind,source=/srv,target=/data",
                request("/data", host("/srv", false), false),
            ),
            (
                "type=bind,src=/srv,dst=/data,readonly",
                request("/data", host("/srv", false), true),
            ),
            (
                "type=bind,src=/srv,dst=/data,ro=false",
                request("/data", host("/srv", false), false),
            ),
            (
                "type=bind,src=/a:b,destination=/c:d",
                request("/c:d", host("/a:b", false), false),
            ),
            (
                "source=db,target=/data",
                request("/data", named("db", true), false),
            ),
            (
                "type=volume,source=db,target=/data,volume-nocopy",
                request("/data", named("db", false), false),
            ),
            ("target=/data", request("/data", Source::Anonymous, false)),
            (
                "type=bind,src=/srv,dst=/data,bind-propagation=rprivate",
                request("/data", host("/srv", false), false),
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
                request(
                    "/t",
                    memory("noexec,nosuid,nodev,size=1048576,mode=1770"),
                    false,
                ),
            ),
        ] {
            assert_eq!(long(text), expected, "{text}");
        }
    }

    #[test]
    fn tmpfs_has_dockers_defaults() {
        for (text, options) in [
            ("/t", "noexec,nosuid,nodev"),
            ("/t:exec,size=10%", "nosuid,nodev,exec,size=10%"),
            (
                "/t:size=1m,size=2m,suid,mode=755",
                "noexec,nodev,size=2m,suid,mode=755",
            ),
            ("/t:rw", "noexec,nosuid,nodev,rw"),
        ] {
            assert_eq!(tmpfs(text), request("/t", memory(options), false), "{text}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (parse, text, words) in [
            (
                short as fn(&str) -> Parsed<VolumeRequest>,
                "",
                "absolute path",
            ),
            (short, "data", "absolute path"),
            (short, "/a:b", "absolute path"),
            (short, "/a:/", "cannot be mounted over"),
            (short, "/a:/x/..", "cannot be mounted over"),
            (short, "/a:/proc/sys", "guest's own"),
            (short, "/a:/b:rx", "rx is no option"),
            (short, "/a:/b:ro,rw", "rw is no option"),
            (short, "/a:/b:shared", "propagation is not possible"),
            (short, "/a:/b:rslave", "propagation is not possible"),
            (short, "/a:/b:/c:/d", "--mount"),
            (short, "a b:/c", "name of a volume"),
            (short, "~/x:/c", "shell"),
            (long, "type=bind,target=/a", "source is missing"),
            (long, "type=bind,source=/a", "target is missing"),
            (
                long,
                "type=bind,source=/a,target=/b,bind-propagation=shared",
                "propagation is not possible",
            ),
            (
                long,
                "type=bind,source=/a,target=/b,volume-nocopy",
                "does not go with",
            ),
            (long, "type=tmpfs,source=/a,target=/b", "does not go with"),
            (
                long,
                "type=volume,target=/b,tmpfs-size=1m",
                "does not go with",
            ),
            (long, "type=npipe,target=/b", "npipe"),
            (long, "type=tmpfs,target=/b,tmpfs-size=x", "expected a size"),
            (long, "target=/b,readonly=maybe", "neither true nor false"),
            (long, "target", "needs a value"),
            (long, "target=/b,colour=red", "colour is no key"),
            (long, "target=/b,volume-driver=nfs", "without drivers"),
            (tmpfs, "t", "absolute path"),
            (tmpfs, "/t:bind", "no option of a tmpfs"),
            (tmpfs, "/t:mode=999", "not octal"),
            (tmpfs, "/t:size=", "no option of a tmpfs"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn working_directories_are_absolute() {
        assert_eq!(working_directory("/a/../b/"), Ok("/b".to_owned()));
        assert!(working_directory("a").is_err());
        assert!(working_directory("").is_err());
    }
}
