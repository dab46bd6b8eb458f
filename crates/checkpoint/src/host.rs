//! What of a host a process depends on.

use std::arch::x86_64::__cpuid_count;

use serde::{Deserialize, Serialize};

/// The kernel, whose calls that read clocks are mapped in every process, and the processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    kernel: String,
    processor: Vec<u32>,
}

impl Host {
    /// The one that this process runs on.
    pub(crate) fn this() -> Self {
        let kernel = rustix::system::uname();
        let [release, version] = [kernel.release(), kernel.version()];
        // Which instructions there are: libraries and translators choose by them (CPUID). Other
        // registers tell one core from another.
        let (first, seventh, registers, others) = (
            __cpuid_count(1, 0),
            __cpuid_count(7, 0),
            __cpuid_count(0xd, 0),
            __cpuid_count(0x8000_0001, 0),
        );
        let processor = vec![
            first.ecx,
            first.edx,
            seventh.ebx,
            seventh.ecx,
            registers.eax,
            others.ecx,
        ];
        Self {
            kernel: format!(
                "{} {}",
                release.to_string_lossy(),
                version.to_string_lossy()
            ),
            processor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stays_the_same() {
        assert_eq!(Host::this(), Host::this());
    }
}
