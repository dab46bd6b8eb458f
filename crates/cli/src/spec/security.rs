//! What `--security-opt` asks for.

use std::path::PathBuf;

/// One security option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    /// Which system calls are allowed.
    Seccomp(SeccompProfile),
    /// Whether a program can gain rights by executing another.
    NoNewPrivileges(bool),
    /// Nothing of `/proc` and `/sys` is masked or read-only.
    UnconfinedSystemPaths,
    /// Asks for what is so anyway.
    AsItIs,
}

/// Where the rules for system calls come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SeccompProfile {
    /// Docker's rules.
    #[default]
    Builtin,
    /// No rules.
    Unconfined,
    /// A file in Docker's format.
    File(PathBuf),
}

/// Reads a security option.
pub fn parse(text: &str) -> Result<SecurityOption, String> {
    // Docker still takes the colon of its first versions.
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    let no_label = "the guest's kernel has neither AppArmor nor SELinux: its walls are those of the machine; \
                    leave it away";
    match (name, value) {
        ("seccomp", "unconfined") => Ok(SecurityOption::Seccomp(SeccompProfile::Unconfined)),
        ("seccomp", "builtin") => Ok(SecurityOption::Seccomp(SeccompProfile::Builtin)),
        ("seccomp", "") => {
            Err("expected seccomp=FILE, seccomp=builtin or seccomp=unconfined".to_owned())
        }
        ("seccomp", file) => Ok(SecurityOption::Seccomp(SeccompProfile::File(file.into()))),
        ("no-new-privileges", "" | "true") => Ok(SecurityOption::NoNewPrivileges(true)),
        ("no-new-privileges", "false") => Ok(SecurityOption::NoNewPrivileges(false)),
        ("no-new-privileges", _) => {
            Err("expected no-new-privileges, with =true or =false".to_owned())
        }
        ("systempaths", "unconfined") => Ok(SecurityOption::UnconfinedSystemPaths),
        ("systempaths", _) => Err("expected systempaths=unconfined".to_owned()),
        ("apparmor", "unconfined") | ("label", "disable") => Ok(SecurityOption::AsItIs),
        ("apparmor" | "label", _) => Err(no_label.to_owned()),
        _ => Err("expected seccomp=..., no-new-privileges or systempaths=unconfined".to_owned()),
    }
}

/// The options together; of each kind the last one counts.
#[derive(Debug, Default)]
pub(super) struct Security {
    pub seccomp: Option<SeccompProfile>,
    pub no_new_privileges: bool,
    pub unconfined_system_paths: bool,
}

impl Security {
    pub fn new(options: &[SecurityOption]) -> Self {
        let mut security = Self::default();
        for option in options {
            match option {
                SecurityOption::Seccomp(profile) => security.seccomp = Some(profile.clone()),
                SecurityOption::NoNewPrivileges(wanted) => security.no_new_privileges = *wanted,
                SecurityOption::UnconfinedSystemPaths => security.unconfined_system_paths = true,
                SecurityOption::AsItIs => {}
            }
        }
        security
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        for (text, option) in [
            (
                "seccomp=unconfined",
                SecurityOption::Seccomp(SeccompProfile::Unconfined),
            ),
            (
                "seccomp:unconfined",
                SecurityOption::Seccomp(SeccompProfile::Unconfined),
            ),
            (
                "seccomp=builtin",
                SecurityOption::Seccomp(SeccompProfile::Builtin),
            ),
            (
                "seccomp=/a/b.json",
                SecurityOption::Seccomp(SeccompProfile::File("/a/b.json".into())),
            ),
            ("no-new-privileges", SecurityOption::NoNewPrivileges(true)),
            (
                "no-new-privileges:true",
                SecurityOption::NoNewPrivileges(true),
            ),
            (
                "no-new-privileges=false",
                SecurityOption::NoNewPrivileges(false),
            ),
            (
                "systempaths=unconfined",
                SecurityOption::UnconfinedSystemPaths,
            ),
            ("apparmor=unconfined", SecurityOption::AsItIs),
            ("label=disable", SecurityOption::AsItIs),
        ] {
            assert_eq!(parse(text), Ok(option), "{text}");
        }
        for text in [
            "",
            "seccomp",
            "apparmor=docker-default",
            "label=type:x",
            "no-new-privileges=yes",
            "magic",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
