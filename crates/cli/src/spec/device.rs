//! Devices of the guest's kernel that a container may use.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

/// A device that a container may have on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestDevice {
    path: &'static str,
    major: i64,
    minor: i64,
}

/// Devices without hardware behind them, in Linux's own numbers (Documentation/admin-guide/devices.txt).
const ON_REQUEST: [GuestDevice; 2] = [
    GuestDevice {
        path: "/dev/fuse",
        major: 10,
        minor: 229,
    },
    GuestDevice {
        path: "/dev/net/tun",
        major: 10,
        minor: 200,
    },
];

/// Reads `--device`.
pub fn parse(text: &str) -> Result<GuestDevice, String> {
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    let (target, permissions) = (
        parts.next().unwrap_or(source),
        parts.next().unwrap_or("rwm"),
    );
    if let Some(device) = ON_REQUEST.iter().find(|device| device.path == source) {
        if target != source || permissions != "rwm" {
            return Err(format!(
                "{source} is there under its own name and with all permissions only; expected {source}"
            ));
        }
        return Ok(*device);
    }
    Err(match source {
        "/dev/kvm" => "machines in the machine are not offered".to_owned(),
        _ => "a device of the host belongs to the host's kernel, and the container has another; /dev/fuse and \
              /dev/net/tun are the guest's, files are shared with --volume"
            .to_owned(),
    })
}

/// The devices beyond those that every container has; a privileged one has all.
pub(super) fn nodes(devices: &[GuestDevice], privileged: bool) -> Vec<LinuxDevice> {
    let devices = if privileged { &ON_REQUEST[..] } else { devices };
    let node = |device: &GuestDevice| {
        let mut node = LinuxDevice::default();
        node.set_path(device.path.into());
        node.set_typ(LinuxDeviceType::C);
        node.set_major(device.major);
        node.set_minor(device.minor);
        node.set_file_mode(Some(0o666));
        node.set_uid(Some(0));
        node.set_gid(Some(0));
        node
    };
    devices.iter().map(node).collect()
}

/// Rules of the devices cgroup, the last that fits counts: Docker's. Any node may
/// be made, and those of every container may be opened.
pub(super) fn rules(devices: &[GuestDevice], privileged: bool) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, LinuxDeviceType::A, None, None, "rwm")];
    }
    let character = |major, minor| rule(true, LinuxDeviceType::C, Some(major), minor, "rwm");
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
        character(1, Some(3)), // null
        character(1, Some(5)), // zero
        character(1, Some(7)), // full
        character(1, Some(8)), // random
        character(1, Some(9)), // urandom
        character(5, Some(0)), // tty
        character(5, Some(1)), // console
        character(5, Some(2)), // ptmx
        character(136, None),  // pts
    ];
    rules.extend(
        devices
            .iter()
            .map(|device| character(device.major, Some(device.minor))),
    );
    rules
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(Some(typ));
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_of_the_guest_are_there() {
        for text in [
            "/dev/fuse",
            "/dev/net/tun",
            "/dev/fuse:/dev/fuse",
            "/dev/fuse:/dev/fuse:rwm",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for (text, words) in [
            ("/dev/sda", "host's kernel"),
            ("/dev/kvm", "not offered"),
            ("/dev/fuse:/dev/x", "expected /dev/fuse"),
            ("/dev/fuse:/dev/fuse:r", "expected /dev/fuse"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn rules_deny_first() {
        let fuse = parse("/dev/fuse").expect("there");
        let json = serde_json::to_value(rules(&[fuse], false)).expect("JSON");
        assert_eq!(
            json[0],
            serde_json::json!({"allow": false, "type": "a", "access": "rwm"})
        );
        let last = json
            .as_array()
            .and_then(|rules| rules.last())
            .expect("rules");
        assert_eq!(
            *last,
            serde_json::json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
        );
        let json = serde_json::to_value(rules(&[], true)).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!([{"allow": true, "type": "a", "access": "rwm"}])
        );
    }
}
