//! The host's cgroup of a sandbox: where the specification says, so that whoever watches
//! the host sees what a container costs there. Limits are the guest's business.
//!
//! The shim goes there before it starts the machine, as memory stays charged to where it
//! was allocated, and everything that it starts goes with it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// File in the bundle with the folders that were made, for `delete`.
pub const RECORD: &str = "cgroups";

/// How long the processes of a killed shim may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks whether they are.
const PAUSE: Duration = Duration::from_millis(5);

/// How often a cgroup is entered again whose folder has gone meanwhile.
const TRIES: u32 = 10;

/// Hierarchies that are left alone: new cgroups of cpuset admit nobody until they are
/// given CPUs, and systemd's are its own.
const NOT_ENTERED: [&str; 2] = ["cpuset", "name=systemd"];

/// Where the shim is and was.
#[derive(Debug, Default)]
pub struct Placement {
    before: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

/// A mounted hierarchy and the shim's place in it.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    own: PathBuf,
}

impl Placement {
    /// Enters the cgroup that a specification names. What does not work is logged: the
    /// container runs all the same.
    pub fn enter(path: &Path, bundle: &Path) -> Self {
        let mut placement = Self::default();
        let Some(relative) = relative(path) else {
            tracing::warn!(path = %path.display(), "linux.cgroupsPath names no cgroup");
            return placement;
        };
        for hierarchy in hierarchies() {
            let folder = hierarchy.mount.join(&relative);
            if let Err(error) = placement.join(&folder) {
                tracing::warn!(%error, cgroup = %folder.display(), "the sandbox is not in its cgroup");
                continue;
            }
            placement.before.push(hierarchy.own);
        }
        let record: Vec<_> = placement
            .made
            .iter()
            .map(|folder| folder.to_string_lossy())
            .collect();
        if let Err(error) = fs::write(bundle.join(RECORD), record.join("\n")) {
            tracing::warn!(%error, "a killed shim's cgroup would stay");
        }
        placement
    }

    /// Another sandbox that leaves may take a folder away that the two have in common.
    fn join(&mut self, folder: &Path) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match self.try_to_join(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    tries += 1;
                }
                joined => return joined,
            }
        }
    }

    fn try_to_join(&mut self, folder: &Path) -> io::Result<()> {
        let missing: Vec<_> = folder
            .ancestors()
            .take_while(|folder| !folder.exists())
            .collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => self.made.push(folder.to_owned()),
                // Another sandbox was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
    }

    /// Goes back and removes what was made. The machine must have ended.
    pub fn leave(self) {
        for folder in &self.before {
            let file = folder.join("cgroup.procs");
            if let Err(error) = fs::write(&file, std::process::id().to_string()) {
                tracing::warn!(%error, file = %file.display(), "the shim stays in its cgroup");
            }
        }
        remove(&self.made);
    }
}

/// Removes what a killed shim has made, once the machine has followed it.
pub fn remove_recorded(bundle: &Path) {
    let text = fs::read_to_string(bundle.join(RECORD)).unwrap_or_default();
    let made: Vec<_> = text.lines().map(PathBuf::from).collect();
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE && made.iter().any(|folder| is_populated(folder)) {
        std::thread::sleep(PAUSE);
    }
    remove(&made);
}

fn is_populated(folder: &Path) -> bool {
    fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
}

/// Deepest first. Others may be in one of them by now, which then stays.
fn remove(made: &[PathBuf]) {
    for folder in made.iter().rev() {
        if let Err(error) = fs::remove_dir(folder) {
            tracing::debug!(%error, folder = %folder.display(), "a cgroup stays");
        }
    }
}

/// A path below the root of a hierarchy. systemd's form is `slice:prefix:name`, which
/// means `.../slice/prefix-name.scope`, each dash of the slice's name being a step. What
/// has other words before the first colon is a path.
fn relative(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?;
    let path = match text.split(':').collect::<Vec<_>>()[..] {
        ["", prefix, name] => slice_path("system.slice")?.join(unit(prefix, name)?),
        [slice, prefix, name] if slice.ends_with(".slice") => {
            slice_path(slice)?.join(unit(prefix, name)?)
        }
        _ => PathBuf::from(text.trim_start_matches('/')),
    };
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && path.components().next().is_some()).then_some(path)
}

/// What systemd would call the sandbox: a scope, or the slice that it is said to be.
fn unit(prefix: &str, name: &str) -> Option<String> {
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    (!unit.contains('/')).then_some(unit)
}

/// `a-b.slice` is `a.slice/a-b.slice`, and `-.slice` the root (systemd.slice(5)). There are
/// no slices between two dashes.
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    if name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name
        .match_indices('-')
        .map(|(end, _)| end)
        .chain([name.len()]);
    Some(ends.map(|end| format!("{}.slice", &name[..end])).collect())
}

fn hierarchies() -> Vec<Hierarchy> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// Those with controllers, and cgroup v2.
fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let place = |controller: &str| {
        own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers
                .split(',')
                .any(|name| name == controller)
                .then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let before: Vec<_> = before.split(' ').collect();
        let after: Vec<_> = after.split(' ').collect();
        let (Some(&root), Some(&mount), Some(&kind)) =
            (before.get(3), before.get(4), after.first())
        else {
            continue;
        };
        let controller = match kind {
            "cgroup2" => "",
            "cgroup" => {
                let options = after.get(2).copied().unwrap_or_default();
                let controller = options
                    .split(',')
                    .find(|option| place(option).is_some() && !NOT_ENTERED.contains(option));
                match controller {
                    Some(controller) => controller,
                    None => continue,
                }
            }
            _ => continue,
        };
        let mount = PathBuf::from(mount);
        if root == "/"
            && let Some(path) = place(controller)
            && found.iter().all(|hierarchy| hierarchy.mount != mount)
        {
            let own = mount.join(path);
            found.push(Hierarchy { mount, own });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_path_are_read() {
        for (text, path) in [
            ("/default/a", Some("default/a")),
            ("kubepods/pod1/a", Some("kubepods/pod1/a")),
            ("system.slice:docker:1", Some("system.slice/docker-1.scope")),
            (
                "kubepods-burstable-pod1.slice:cri-containerd:a",
                Some(
                    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-a.scope",
                ),
            ),
            (":docker:1", Some("system.slice/docker-1.scope")),
            ("-.slice:docker:1", Some("docker-1.scope")),
            ("system.slice::1", Some("system.slice/1.scope")),
            ("a.slice:docker:b.slice", Some("a.slice/b.slice")),
            ("/default/a:b:c", Some("default/a:b:c")),
            ("x:y", Some("x:y")),
            ("-a.slice:docker:1", None),
            ("a--b.slice:docker:1", None),
            ("../a.slice:docker:1", None),
            ("a.slice:docker:../1", None),
            ("/../x", None),
            ("/", None),
        ] {
            assert_eq!(
                relative(Path::new(text)).as_deref(),
                path.map(Path::new),
                "{text}"
            );
        }
    }

    #[test]
    fn the_one_hierarchy_of_version_2_is_found() {
        let mounts = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
            31 20 0:26 /below /mnt rw - cgroup2 cgroup2 rw\n\
            32 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let expected = Hierarchy {
            mount: "/sys/fs/cgroup".into(),
            own: "/sys/fs/cgroup/system.slice/containerd.service".into(),
        };
        assert_eq!(
            parse(mounts, "0::/system.slice/containerd.service\n"),
            [expected]
        );
    }

    #[test]
    fn a_sandbox_enters_and_leaves_what_it_has_made() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("a.slice/docker-1.scope");
        let mut placement = Placement::default();
        // A kernel would make the file.
        std::fs::create_dir(root.path().join("a.slice")).expect("a folder");
        placement.join(&folder).expect("joined");
        let joined = std::fs::read_to_string(folder.join("cgroup.procs")).expect("written");
        assert_eq!(joined, std::process::id().to_string());
        assert_eq!(placement.made, std::slice::from_ref(&folder));
        std::fs::remove_file(folder.join("cgroup.procs")).expect("removed");
        placement.leave();
        assert!(!folder.exists() && root.path().join("a.slice").exists());
    }

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mounts = "30 20 0:26 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw\n\
            31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 20 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
            33 20 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd,xattr\n\
            34 20 0:30 / /proc rw - proc proc rw\n";
        let own = "4:memory:/mine\n3:cpuset:/\n2:name=systemd:/x\n0::/two\n";
        let named = |mount: &str, own: &str| Hierarchy {
            mount: mount.into(),
            own: own.into(),
        };
        assert_eq!(
            parse(mounts, own),
            [
                named("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/two"),
                named("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/mine"),
            ]
        );
    }
}
