//! A process: its program, its user and what it may do.

use caisson_protocol::agent::{Capabilities, ProcessDescription, ProcessLimit, User};
use oci_spec::runtime::{
    LinuxCapabilities, PosixRlimit, PosixRlimitType, Process, User as UserSpec,
};
use protobuf::MessageField;

use super::capability::bits;
use super::text;
use crate::Result;

/// Where the specification has none.
const UMASK: u32 = 0o022;

/// Describes a process.
pub(crate) fn process(process: &Process) -> Result<ProcessDescription> {
    Ok(ProcessDescription {
        arguments: process.args().clone().unwrap_or_default(),
        environment: process.env().clone().unwrap_or_default(),
        working_folder: text("process.cwd", process.cwd())?,
        user: MessageField::some(user(process.user())),
        capabilities: process.capabilities().as_ref().map(capabilities).into(),
        limits: process.rlimits().iter().flatten().map(limit).collect(),
        no_new_privileges: process.no_new_privileges() == Some(true),
        oom_score_adjustment: process.oom_score_adj().unwrap_or(0),
        ..Default::default()
    })
}

fn user(user: &UserSpec) -> User {
    User {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(UMASK),
        name: user.username().clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn capabilities(sets: &LinuxCapabilities) -> Capabilities {
    Capabilities {
        bounding: bits(sets.bounding()),
        effective: bits(sets.effective()),
        permitted: bits(sets.permitted()),
        inheritable: bits(sets.inheritable()),
        ambient: bits(sets.ambient()),
        ..Default::default()
    }
}

fn limit(limit: &PosixRlimit) -> ProcessLimit {
    ProcessLimit {
        resource: resource(limit.typ()),
        soft: limit.soft(),
        hard: limit.hard(),
        ..Default::default()
    }
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: &str) -> serde_json::Result<ProcessDescription> {
        serde_json::from_str(json).map(|spec| process(&spec).expect("described"))
    }

    #[test]
    fn every_field_is_told() {
        let description = described(
            r#"{"args": ["sh", "-c"], "env": ["A=b"], "cwd": "/work",
                "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [3, 4],
                         "username": "app:web"},
                "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_DAC_OVERRIDE"],
                                 "permitted": ["CAP_DAC_READ_SEARCH"],
                                 "inheritable": ["CAP_FOWNER"], "ambient": ["CAP_FSETID"]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
                            {"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615}],
                "noNewPrivileges": true, "oomScoreAdj": -17}"#,
        )
        .expect("a process");
        let limit = |resource, soft, hard| ProcessLimit {
            resource,
            soft,
            hard,
            ..Default::default()
        };
        let expected = ProcessDescription {
            arguments: vec!["sh".to_owned(), "-c".to_owned()],
            environment: vec!["A=b".to_owned()],
            working_folder: "/work".to_owned(),
            user: MessageField::some(User {
                uid: 1,
                gid: 2,
                additional_gids: vec![3, 4],
                // JSON has no octal numbers.
                umask: 0o077,
                name: "app:web".to_owned(),
                ..Default::default()
            }),
            capabilities: MessageField::some(Capabilities {
                bounding: 1 << 0,
                effective: 1 << 1,
                permitted: 1 << 2,
                inheritable: 1 << 3,
                ambient: 1 << 4,
                ..Default::default()
            }),
            limits: vec![limit(7, 5, 6), limit(4, 0, u64::MAX)],
            no_new_privileges: true,
            oom_score_adjustment: -17,
            ..Default::default()
        };
        assert_eq!(description, expected);
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let json = r#"{"cwd": "/", "user": {"uid": 0, "gid": 0}}"#;
        let description = described(json).expect("a process");
        assert_eq!(description.user.umask, UMASK);
        assert!(description.capabilities.is_none());
        assert!(!description.no_new_privileges);
        assert_eq!(description.oom_score_adjustment, 0);
    }

    #[test]
    fn limits_have_the_kernels_numbers() {
        // asm-generic/resource.h
        let names = [
            "CPU",
            "FSIZE",
            "DATA",
            "STACK",
            "CORE",
            "RSS",
            "NPROC",
            "NOFILE",
            "MEMLOCK",
            "AS",
            "LOCKS",
            "SIGPENDING",
            "MSGQUEUE",
            "NICE",
            "RTPRIO",
            "RTTIME",
        ];
        for (number, name) in names.iter().enumerate() {
            let kind = format!("RLIMIT_{name}").parse().expect("a limit");
            assert_eq!(resource(kind) as usize, number, "{name}");
        }
    }

    #[test]
    fn names_that_are_not_known_are_refused() {
        for what in [
            r#""rlimits": [{"type": "RLIMIT_MADE_UP", "soft": 1, "hard": 1}]"#,
            r#""capabilities": {"bounding": ["CAP_MADE_UP"]}"#,
        ] {
            let json = format!(r#"{{"cwd": "/", "user": {{"uid": 0, "gid": 0}}, {what}}}"#);
            let error = described(&json).expect_err("refused").to_string();
            assert!(error.contains("MADE_UP"), "{error}");
        }
    }
}
