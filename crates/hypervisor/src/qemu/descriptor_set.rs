//! QEMU's sets of descriptors (`add-fd`, or `-add-fd`), which it opens by a path.

use serde_json::{Value, json};

/// What a set has.
#[derive(Debug, Clone, Copy)]
pub(super) enum DescriptorSet {
    /// What a disk of this number is read from.
    Disk(usize),
    /// The file that a state is written to.
    State,
    /// The frames of interfaces that are plugged in.
    Frames,
}

impl DescriptorSet {
    /// Its number. Disks are fewer than the first of the others.
    pub(super) fn number(self) -> usize {
        match self {
            Self::Disk(number) => number,
            Self::State => 100,
            Self::Frames => 101,
        }
    }

    /// What QEMU opens.
    pub(super) fn path(self) -> String {
        format!("/dev/fdset/{}", self.number())
    }

    /// As the argument of a command.
    pub(super) fn argument(self) -> Value {
        json!({ "fdset-id": self.number() })
    }
}
