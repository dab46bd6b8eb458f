//! Users and groups by the container's own files.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Longest user or group file that is read.
const FILE_LIMIT: u64 = 4 << 20;

/// Whom a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// From the user file.
    pub(super) home: Option<String>,
}

/// The user and group files of a container.
#[derive(Debug, Default)]
pub(super) struct Files {
    passwd: String,
    group: String,
}

impl Files {
    /// Reads them; those that are not there are empty.
    pub(super) fn read() -> Result<Self> {
        Ok(Self {
            passwd: read(Path::new("/etc/passwd"))?,
            group: read(Path::new("/etc/group"))?,
        })
    }

    /// Docker's rule for `user[:group]`, each a name or a number.
    pub(super) fn resolve(&self, text: &str) -> Result<Identity> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let entry = self.user(|name, uid| name == user || Some(uid) == user.parse().ok());
        let mut identity = match (entry, user.parse()) {
            (Some(entry), _) => entry,
            (None, Ok(uid)) => Identity {
                uid,
                ..Identity::default()
            },
            (None, Err(_)) if user.is_empty() => self.by_number(0),
            (None, Err(_)) => {
                return Err(Error::Invalid(format!(
                    "unable to find user {user}: no matching entries in passwd file"
                )));
            }
        };
        match group {
            Some(group) if !group.is_empty() => {
                identity.gid = self.group(group)?;
            }
            _ => identity.groups = self.memberships(identity.uid),
        }
        Ok(identity)
    }

    /// A user by number, who need not be in the file.
    pub(super) fn by_number(&self, uid: u32) -> Identity {
        self.user(|_, found| found == uid).unwrap_or(Identity {
            uid,
            ..Identity::default()
        })
    }

    /// The first user that matches.
    fn user(&self, matches: impl Fn(&str, u32) -> bool) -> Option<Identity> {
        self.passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).filter(|home| !home.is_empty());
            matches(name, uid).then(|| Identity {
                uid,
                gid,
                groups: Vec::new(),
                home: home.map(str::to_owned),
            })
        })
    }

    fn group(&self, text: &str) -> Result<u32> {
        let named = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            (name == text).then_some(gid)
        });
        named.or(text.parse().ok()).ok_or_else(|| {
            Error::Invalid(format!(
                "unable to find group {text}: no matching entries in group file"
            ))
        })
    }

    /// Groups that name the user as a member.
    fn memberships(&self, uid: u32) -> Vec<u32> {
        let names: Vec<_> = self
            .passwd
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
            })
            .collect();
        let mut groups: Vec<u32> = self
            .group
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':').skip(2);
                let gid = fields.next()?.parse().ok()?;
                let members = fields.next()?;
                members
                    .split(',')
                    .any(|member| names.contains(&member.trim()))
                    .then_some(gid)
            })
            .collect();
        groups.dedup();
        groups
    }
}

/// A file of an image may be anything: only a regular one of sensible size is read.
fn read(path: &Path) -> Result<String> {
    let failed = || Error::path("read", path);
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed()(error)),
    };
    let metadata = file.metadata().map_err(failed())?;
    if !metadata.is_file() || metadata.len() > FILE_LIMIT {
        return Err(Error::Invalid(format!(
            "{} of the image is no regular file of at most {FILE_LIMIT} bytes",
            path.display()
        )));
    }
    let mut text = Vec::new();
    file.take(FILE_LIMIT)
        .read_to_end(&mut text)
        .map_err(failed())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/sh\n\
                     broken\n\
                     app:x:1000:1000::/home/app:/bin/sh\n\
                     1001:x:7:7::/home/seven:\n"
                .to_owned(),
            group: "root:x:0:\nwheel:x:10:app,other\naudio:x:11:other\nweb:x:12:app\n".to_owned(),
        }
    }

    fn identity(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(str::to_owned),
        }
    }

    #[test]
    fn names_and_numbers() {
        let files = files();
        let app = identity(1000, 1000, &[10, 12], Some("/home/app"));
        assert_eq!(files.resolve("app").expect("app"), app);
        assert_eq!(files.resolve("1000").expect("1000"), app);
        // A name that looks like a number is a name first, in the file's order.
        let seven = identity(7, 7, &[], Some("/home/seven"));
        assert_eq!(files.resolve("1001").expect("1001"), seven);
        let stranger = identity(4242, 0, &[], None);
        assert_eq!(files.resolve("4242").expect("4242"), stranger);
        let root = identity(0, 0, &[], Some("/root"));
        assert_eq!(files.resolve("").expect("nobody named"), root);
    }

    #[test]
    fn a_named_group_is_the_only_one() {
        let files = files();
        let app = files.resolve("app:audio").expect("app");
        assert_eq!((app.gid, app.groups), (11, Vec::new()));
        assert_eq!(files.resolve("app:77").expect("app").gid, 77);
        assert_eq!(files.resolve("5:web").expect("5").gid, 12);
    }

    #[test]
    fn who_is_not_there_is_an_error() {
        let files = files();
        assert!(files.resolve("nobody").is_err());
        assert!(files.resolve("app:nobody").is_err());
        assert!(Files::default().resolve("root").is_err());
        assert_eq!(Files::default().resolve("0").expect("root").uid, 0);
    }
}
