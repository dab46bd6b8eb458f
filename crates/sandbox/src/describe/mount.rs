//! Mounts, with options in the words of fstab (OCI runtime-spec, config, Linux mount
//! options).

use std::path::Path;

use caisson_protocol::agent::Mount;
use oci_spec::runtime::Mount as MountSpec;

use super::text;
use crate::Result;

/// Describes a mount.
pub(super) fn mount(spec: &MountSpec) -> Result<Mount> {
    let kind = match spec.typ().as_deref().unwrap_or_default() {
        // The guest has the second version alone.
        "cgroup" => "cgroup2",
        kind => kind,
    };
    let source = spec.source().as_deref().unwrap_or(Path::new(""));
    let mut mount = Mount {
        destination: text("mounts.destination", spec.destination())?,
        kind: kind.to_owned(),
        source: text("mounts.source", source)?,
        bind: kind == "bind",
        ..Default::default()
    };
    let mut options = Vec::new();
    for word in spec.options().iter().flatten() {
        if !interpret(word, &mut mount) {
            options.push(word.as_str());
        }
    }
    mount.options = options.join(",");
    Ok(mount)
}

/// Follows a word, unless it is for the file system itself.
fn interpret(word: &str, mount: &mut Mount) -> bool {
    match word {
        "bind" => mount.bind = true,
        "rbind" => (mount.bind, mount.recursive) = (true, true),
        "copyup" => mount.copy_up = true,
        // What the kernel does without being told.
        "defaults" | "loud" | "nostrictatime" | "symfollow" => {}
        _ => {
            if let Some(flag) = flag(word) {
                mount.flags |= flag;
            } else if let Some(flag) = opposite(word) {
                mount.flags &= !flag;
            } else if let Some(propagation) = propagation(word) {
                mount.propagation = propagation;
            } else {
                return false;
            }
        }
    }
    true
}

/// The flag that a word sets.
fn flag(word: &str) -> Option<u32> {
    let flag = match word {
        "ro" => libc::MS_RDONLY,
        "nosuid" => libc::MS_NOSUID,
        "nodev" => libc::MS_NODEV,
        "noexec" => libc::MS_NOEXEC,
        "sync" => libc::MS_SYNCHRONOUS,
        "dirsync" => libc::MS_DIRSYNC,
        "noatime" => libc::MS_NOATIME,
        "nodiratime" => libc::MS_NODIRATIME,
        "relatime" => libc::MS_RELATIME,
        "strictatime" => libc::MS_STRICTATIME,
        "silent" => libc::MS_SILENT,
        "nosymfollow" => NOSYMFOLLOW,
        _ => return None,
    };
    Some(flag as u32)
}

/// `MS_NOSYMFOLLOW` (linux/mount.h).
const NOSYMFOLLOW: libc::c_ulong = 256;

/// The flag that a word takes back.
fn opposite(word: &str) -> Option<u32> {
    let flag = match word {
        "rw" => libc::MS_RDONLY,
        "suid" => libc::MS_NOSUID,
        "dev" => libc::MS_NODEV,
        "exec" => libc::MS_NOEXEC,
        "async" => libc::MS_SYNCHRONOUS,
        "atime" => libc::MS_NOATIME,
        "diratime" => libc::MS_NODIRATIME,
        "norelatime" => libc::MS_RELATIME,
        _ => return None,
    };
    Some(flag as u32)
}

fn propagation(word: &str) -> Option<u32> {
    let flags = match word {
        "private" => libc::MS_PRIVATE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "shared" => libc::MS_SHARED,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "unbindable" => libc::MS_UNBINDABLE,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    };
    Some(flags as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: serde_json::Value) -> Mount {
        mount(&serde_json::from_value(json).expect("a mount")).expect("described")
    }

    fn with(kind: &str, words: &[&str]) -> Mount {
        let json = serde_json::json!({
            "destination": "/x", "type": kind, "source": "/y", "options": words,
        });
        described(json)
    }

    #[test]
    fn words_are_told_apart() {
        let words = [
            "nosuid", "ro", "size=64k", "rprivate", "rw", "mode=755", "defaults",
        ];
        let expected = Mount {
            destination: "/x".to_owned(),
            kind: "tmpfs".to_owned(),
            source: "/y".to_owned(),
            flags: libc::MS_NOSUID as u32,
            propagation: (libc::MS_PRIVATE | libc::MS_REC) as u32,
            options: "size=64k,mode=755".to_owned(),
            ..Default::default()
        };
        assert_eq!(with("tmpfs", &words), expected);
    }

    #[test]
    fn a_bind_is_one_by_type_or_by_option() {
        let bind = with("bind", &["ro", "copyup"]);
        assert!(bind.bind && bind.copy_up && !bind.recursive);
        assert_eq!(bind.options, "");
        let bind = with("none", &["rbind", "ro"]);
        assert!(bind.bind && bind.recursive && !bind.copy_up);
        assert_eq!(bind.flags, libc::MS_RDONLY as u32);
        assert!(!with("tmpfs", &["ro"]).bind);
    }

    #[test]
    fn every_flag_has_its_number() {
        // linux/mount.h
        let flags = [
            ("ro", 0),
            ("nosuid", 1),
            ("nodev", 2),
            ("noexec", 3),
            ("sync", 4),
            ("dirsync", 7),
            ("nosymfollow", 8),
            ("noatime", 10),
            ("nodiratime", 11),
            ("silent", 15),
            ("relatime", 21),
            ("strictatime", 24),
        ];
        for (word, bit) in flags {
            assert_eq!(with("tmpfs", &[word]).flags, 1 << bit, "{word}");
        }
        let all = flags.map(|(word, _)| word);
        let opposites = [
            "rw",
            "suid",
            "dev",
            "exec",
            "async",
            "atime",
            "diratime",
            "norelatime",
        ];
        let left = with("tmpfs", &[&all[..], &opposites].concat());
        assert_eq!(left.flags, 1 << 7 | 1 << 8 | 1 << 15 | 1 << 24);
        assert_eq!(left.options, "");
        let shared = with("tmpfs", &["rshared"]).propagation;
        assert_eq!(shared, 1 << 20 | 1 << 14);
    }

    #[test]
    fn what_is_not_said_is_empty() {
        let bare = described(serde_json::json!({"destination": "/x"}));
        let expected = Mount {
            destination: "/x".to_owned(),
            ..Default::default()
        };
        assert_eq!(bare, expected);
    }

    #[test]
    fn control_groups_are_of_the_second_version() {
        assert_eq!(with("cgroup", &[]).kind, "cgroup2");
    }

    /// Their words are those of containerd's `populateDefaultUnixSpec`, in any order; what
    /// they become is what the agent has mounted beforehand (`child::view::premade`).
    #[test]
    fn the_usual_file_systems_are_those_that_the_agent_has() {
        const CLOSED: u32 = 1 << 1 | 1 << 2 | 1 << 3;
        let usual = [
            ("proc", "nosuid noexec nodev", CLOSED, ""),
            ("proc", "nodev nosuid noexec", CLOSED, ""),
            (
                "tmpfs",
                "nosuid strictatime mode=755 size=65536k",
                1 << 1 | 1 << 24,
                "mode=755,size=65536k",
            ),
            (
                "devpts",
                "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5",
                1 << 1 | 1 << 3,
                "newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            ("mqueue", "nosuid noexec nodev", CLOSED, ""),
            (
                "tmpfs",
                "nosuid noexec nodev mode=1777 size=65536k",
                CLOSED,
                "mode=1777,size=65536k",
            ),
            ("sysfs", "nosuid noexec nodev ro", CLOSED | 1, ""),
        ];
        for (kind, words, flags, options) in usual {
            let expected = Mount {
                destination: "/x".to_owned(),
                kind: kind.to_owned(),
                source: "/y".to_owned(),
                flags,
                options: options.to_owned(),
                ..Default::default()
            };
            let words: Vec<_> = words.split(' ').collect();
            assert_eq!(with(kind, &words), expected);
        }
    }
}
