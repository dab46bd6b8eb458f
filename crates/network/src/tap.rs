//! Tap devices of machines.

use caisson_netlink::Link;

/// How the names of a machine's taps begin.
pub(crate) const PREFIX: &str = "caisson";

/// Whether a device is the tap of a machine.
pub(crate) fn is_machine(device: &Link) -> bool {
    let number = device.name.strip_prefix(PREFIX);
    device.kind == "tun"
        && number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}
