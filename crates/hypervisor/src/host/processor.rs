//! What a guest sees of the processor with `-cpu host`.

use std::fs::{self, File};
use std::io::{self, Read};

/// More than what `/proc/cpuinfo` says of one CPU.
const LIMIT: u64 = 16 << 10;

/// Lines of `/proc/cpuinfo` that differ where a guest's processor does. Others change
/// with time or from one CPU to the next.
const TELLING: [&str; 6] = [
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "microcode",
    "flags",
];

/// Processor and kernel of this host: a guest that has seen one can go on only with the
/// same. The kernel has a say in the features that KVM offers.
pub(super) fn identity() -> io::Result<String> {
    let mut text = String::new();
    File::open("/proc/cpuinfo")?
        .take(LIMIT)
        .read_to_string(&mut text)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("kernel: {}; {}", kernel.trim(), telling(&text)))
}

fn telling(text: &str) -> String {
    let first = text.lines().take_while(|line| !line.trim().is_empty());
    let pairs = first.filter_map(|line| line.split_once(':'));
    let shown: Vec<_> = pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| TELLING.contains(name))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    shown.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_by_itself_is_left_out() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 1\nmodel name\t: AMD\n\
                    cpu MHz\t\t: 2595.1\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmodel\t: 2\n";
        assert_eq!(
            telling(text),
            "vendor_id: AuthenticAMD; model: 1; flags: fpu vme"
        );
    }

    #[test]
    fn this_host_has_one() {
        let first = identity().expect("an identity");
        assert!(first.contains("vendor_id: "), "{first}");
        assert_eq!(first, identity().expect("an identity"));
    }
}
