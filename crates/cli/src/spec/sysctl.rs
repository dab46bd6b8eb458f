//! Kernel parameters.
//!
//! A container under Docker may set those that have a namespace. Here it has a
//! whole kernel for itself, so that nearly all of them are its own.

/// A parameter and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// With dots: `net.ipv4.ip_forward`.
    pub name: String,
    /// As it is written to `/proc/sys`.
    pub value: String,
}

const ALLOWED: [&str; 5] = ["fs.", "kernel.", "net.", "user.", "vm."];

/// Parameters that are not the container's, and why.
const REFUSED: [(&str, &str); 10] = [
    ("kernel.hostname", "use --hostname"),
    (
        "kernel.domainname",
        "there is no NIS domain; give the full name with --hostname",
    ),
    (
        "kernel.panic",
        "a guest that panics must end at once, so that the host reports it",
    ),
    (
        "kernel.hung_task_panic",
        "a guest that panics must end at once, so that the host reports it",
    ),
    (
        "vm.panic_on_oom",
        "a container without memory is to be ended, not its machine",
    ),
    ("kernel.modprobe", "the guest's kernel has no modules"),
    (
        "kernel.modules_disabled",
        "the guest's kernel has no modules",
    ),
    (
        "kernel.poweroff_cmd",
        "no program of the guest is run for it",
    ),
    ("kernel.cap_last_cap", "it cannot be written"),
    (
        "kernel.ns_last_pid",
        "process ids belong to a running container; write it from there",
    ),
];

/// Reads `NAME=VALUE`; the name has dots or slashes, as sysctl(8) takes it.
pub fn parse(text: &str) -> Result<Sysctl, String> {
    let expected = || "expected NAME=VALUE, such as net.ipv4.ip_forward=1".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let name = normal_name(name.trim()).ok_or_else(expected)?;
    if let Some((refused, reason)) = REFUSED
        .iter()
        .find(|(refused, _)| is_or_begins(&name, refused))
    {
        return Err(format!("{refused} cannot be set: {reason}"));
    }
    if name == "kernel.core_pattern" && value.trim_start().starts_with('|') {
        return Err(
            "core dumps cannot be piped to a program outside of the container; name a file"
                .to_owned(),
        );
    }
    if !ALLOWED.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(format!(
            "names of kernel parameters begin with {}",
            ALLOWED.join(", ")
        ));
    }
    if value.is_empty() || value.contains(['\n', '\0']) {
        return Err(expected());
    }
    Ok(Sysctl {
        name,
        value: value.to_owned(),
    })
}

/// `kernel.panic` stands for `kernel.panic_on_oops` too.
fn is_or_begins(name: &str, refused: &str) -> bool {
    name.strip_prefix(refused)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// As sysctl(8) does: where the first separator is a slash, dots are part of the
/// components, and the other way round. In the result dots separate, and a dot
/// within a component is a slash.
fn normal_name(name: &str) -> Option<String> {
    let slashes = name
        .find(['.', '/'])
        .is_some_and(|first| name.as_bytes()[first] == b'/');
    let name: String = if slashes {
        let swap = |c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    let component = |component: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_/@".contains(c);
        // Once the name is a path, `/` is a dot: `//` would be `..`.
        !component.is_empty()
            && component.chars().all(good)
            && !component.starts_with('/')
            && !component.contains("//")
    };
    (name.contains('.') && name.split('.').all(component)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read() {
        for (text, name, value) in [
            ("net.ipv4.ip_forward=1", "net.ipv4.ip_forward", "1"),
            ("net/ipv4/ip_forward=1", "net.ipv4.ip_forward", "1"),
            (
                "net/ipv4/conf/eth0.100/forwarding=1",
                "net.ipv4.conf.eth0/100.forwarding",
                "1",
            ),
            ("vm.max_map_count=262144", "vm.max_map_count", "262144"),
            (
                "kernel.sem=250 32000 32 128",
                "kernel.sem",
                "250 32000 32 128",
            ),
            (
                "kernel.core_pattern=core.%p",
                "kernel.core_pattern",
                "core.%p",
            ),
            ("fs.mqueue.msg_max=10", "fs.mqueue.msg_max", "10"),
        ] {
            assert_eq!(
                parse(text),
                Ok(Sysctl {
                    name: name.to_owned(),
                    value: value.to_owned()
                }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_the_containers_is_refused() {
        for (text, words) in [
            ("kernel.hostname=x", "--hostname"),
            ("kernel.panic=10", "must end at once"),
            ("kernel.panic_on_oops=0", "must end at once"),
            ("kernel.core_pattern=|/bin/x", "core dumps"),
            ("dev.cdrom.x=1", "begin with"),
            ("net.ipv4.ip_forward", "expected NAME=VALUE"),
            ("net..ipv4=1", "expected NAME=VALUE"),
            ("net./../../x=1", "expected NAME=VALUE"),
            ("net/../../x=1", "expected NAME=VALUE"),
            ("vm=1", "expected NAME=VALUE"),
            ("vm.x=", "expected NAME=VALUE"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
