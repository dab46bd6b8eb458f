//! Which runtimes there are on this machine, and how one gets the others.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The reference: namespaces and cgroups of the host's kernel.
    Runc,
    /// The same in C.
    Crun,
    /// gVisor: a kernel in user space.
    Runsc,
    /// A microVM.
    Caisson,
}

/// A runtime that cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Which one.
    pub kind: Kind,
    /// What is not there.
    pub reason: String,
    /// The command that installs or configures it.
    pub remedy: String,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Runc, Self::Crun, Self::Runsc, Self::Caisson];

    /// The name that a user types.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Runsc => "runsc",
            Self::Caisson => "caisson",
        }
    }

    /// The command that installs it.
    pub fn install(self) -> &'static str {
        match self {
            Self::Runc => "apt-get install runc",
            Self::Crun => "apt-get install crun",
            Self::Runsc => "apt-get install runsc",
            Self::Caisson => "make build, in Caisson's source tree",
        }
    }

    /// That it was not found.
    pub(super) fn not_found(self, program: &str) -> Absent {
        Absent {
            kind: self,
            reason: format!("{program} was not found in PATH"),
            remedy: self.install().to_owned(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no runtime: runc, crun, runsc or caisson"))
    }
}

/// A program of the host.
#[derive(Debug, Clone)]
pub struct Program;

impl Program {
    /// Where it is: in `PATH`, then where Debian keeps programs of root.
    pub fn find(name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|candidate| candidate.is_file())
    }

    /// Where Caisson's shim is: beside the command, else as any other program.
    pub fn shim(caisson: &Path) -> Option<PathBuf> {
        const NAME: &str = "containerd-shim-caisson-v2";
        let beside = caisson.with_file_name(NAME);
        if beside.is_file() {
            Some(beside)
        } else {
            Self::find(NAME)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_have_names() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("kata".parse::<Kind>().is_err());
    }

    #[test]
    fn programs_are_found_in_path() {
        assert!(Program::find("sh").is_some());
        assert_eq!(Program::find("no-such-program"), None);
    }
}
