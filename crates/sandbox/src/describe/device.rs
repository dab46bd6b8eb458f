//! Devices: the nodes that are made and the rules for those that may be used.

use caisson_protocol::agent::{Device, DeviceRule};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{refused, text};
use crate::Result;

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*` (linux/bpf.h).
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MAKE_NODE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// Permissions of a node, where the specification has none.
const MODE: u32 = 0o666;

/// Describes a node.
pub(super) fn node(device: &LinuxDevice) -> Result<Device> {
    let field = "linux.devices";
    let path = text(field, device.path())?;
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        _ => libc::S_IFCHR,
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| refused(field, format!("{path} has no device number")))
    };
    Ok(Device {
        mode: kind | device.file_mode().unwrap_or(MODE) & 0o7777,
        major: number(device.major())?,
        minor: number(device.minor())?,
        uid: device.uid(),
        gid: device.gid(),
        path,
        ..Default::default()
    })
}

/// Describes a rule.
pub(super) fn rule(rule: &LinuxDeviceCgroup) -> DeviceRule {
    // Linux has 12 bits of major and 20 of minor numbers; -1 is any.
    let number = |number: Option<i64>| u32::try_from(number?).ok();
    let access = rule.access().as_deref().unwrap_or("rwm");
    let bit = |letter, bit| if access.contains(letter) { bit } else { 0 };
    DeviceRule {
        allow: rule.allow(),
        kind: match rule.typ() {
            Some(LinuxDeviceType::B) => BLOCK,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => CHARACTER,
            _ => 0,
        },
        major: number(rule.major()),
        minor: number(rule.minor()),
        access: bit('m', MAKE_NODE) | bit('r', READ) | bit('w', WRITE),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: &str) -> Result<Device> {
        node(&serde_json::from_str(json).expect("a device"))
    }

    fn ruled(json: &str) -> DeviceRule {
        rule(&serde_json::from_str(json).expect("a rule"))
    }

    #[test]
    fn a_node_is_told_with_its_kind_and_its_owner() {
        let expected = Device {
            path: "/dev/disk".to_owned(),
            mode: libc::S_IFBLK | 0o640,
            major: 8,
            minor: 1,
            uid: Some(0),
            gid: Some(6),
            ..Default::default()
        };
        let json = r#"{"path": "/dev/disk", "type": "b", "major": 8, "minor": 1,
                       "fileMode": 416, "uid": 0, "gid": 6}"#;
        assert_eq!(described(json).expect("described"), expected);

        let json = r#"{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}"#;
        let fuse = described(json).expect("described");
        assert_eq!(fuse.mode, libc::S_IFCHR | MODE);
        assert_eq!((fuse.uid, fuse.gid), (None, None));
        let pipe = described(r#"{"path": "/dev/pipe", "type": "p", "fileMode": 4516}"#);
        assert_eq!(pipe.expect("described").mode, libc::S_IFIFO | 0o644);
    }

    #[test]
    fn a_node_needs_a_number() {
        let json = r#"{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}"#;
        let error = described(json).expect_err("refused").to_string();
        assert!(error.starts_with("linux.devices"), "{error}");
        assert!(error.ends_with("/dev/x has no device number"), "{error}");
    }

    #[test]
    fn a_rule_says_what_it_restricts() {
        let expected = DeviceRule {
            allow: true,
            kind: CHARACTER,
            major: Some(10),
            minor: Some(229),
            access: READ | WRITE,
            ..Default::default()
        };
        let json = r#"{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}"#;
        assert_eq!(ruled(json), expected);

        let everything = DeviceRule {
            access: MAKE_NODE | READ | WRITE,
            ..Default::default()
        };
        assert_eq!(ruled(r#"{"allow": false}"#), everything);
        let json = r#"{"allow": false, "type": "a", "major": -1, "minor": -1, "access": "rwm"}"#;
        assert_eq!(ruled(json), everything);

        assert_eq!(ruled(r#"{"type": "b"}"#).kind, BLOCK);
        assert_eq!(ruled(r#"{"type": "u"}"#).kind, CHARACTER);
        assert_eq!(ruled(r#"{"access": "m"}"#).access, MAKE_NODE);
    }
}
