//! Classic BPF (Documentation/networking/filter.rst): programs that accept or drop a frame.
//!
//! It needs neither a compiler nor rights of its own, and its only jumps are forward, so
//! that a program always ends. A load beyond the end of a frame drops it.

use caisson_netlink::Instruction;

/// A place in a program that is jumped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// What part of a frame must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Test {
    size: u32,
    offset: u32,
    mask: u32,
    value: u32,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(crate) struct Program {
    instructions: Vec<Instruction>,
    /// Where the labels are.
    places: Vec<usize>,
    /// Jumps, and where they lead.
    jumps: Vec<(usize, Label)>,
}

impl Test {
    pub(crate) const fn byte(offset: u32, value: u8) -> Self {
        Self::new(libc::BPF_B, offset, value as u32)
    }

    pub(crate) const fn half(offset: u32, value: u16) -> Self {
        Self::new(libc::BPF_H, offset, value as u32)
    }

    pub(crate) const fn word(offset: u32, value: u32) -> Self {
        Self::new(libc::BPF_W, offset, value)
    }

    /// The frame has no VLAN tag that was taken off before the program sees it.
    pub(crate) const fn untagged() -> Self {
        let place = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
        Self::word(place, 0)
    }

    /// Only these bits count.
    pub(crate) const fn masked(mut self, mask: u32) -> Self {
        self.mask = mask;
        self
    }

    const fn new(size: u32, offset: u32, value: u32) -> Self {
        Self {
            size,
            offset,
            mask: u32::MAX,
            value,
        }
    }

    /// These bytes, of a length that is a multiple of two.
    pub(crate) fn bytes(offset: u32, bytes: &[u8]) -> Vec<Self> {
        let chunks = bytes.chunks(4).zip(0..);
        let tests = chunks.map(|(chunk, number)| match *chunk {
            [a, b, c, d] => Self::word(offset + 4 * number, u32::from_be_bytes([a, b, c, d])),
            [a, b] => Self::half(offset + 4 * number, u16::from_be_bytes([a, b])),
            _ => unreachable!("addresses have an even number of bytes"),
        });
        tests.collect()
    }
}

impl Program {
    /// A place that is marked later.
    pub(crate) fn label(&mut self) -> Label {
        self.places.push(usize::MAX);
        Label(self.places.len() - 1)
    }

    /// What comes next is the place of this label.
    pub(crate) fn mark(&mut self, label: Label) {
        self.places[label.0] = self.instructions.len();
    }

    /// Goes on at a label if all tests hold, and with what comes next otherwise.
    pub(crate) fn when(&mut self, tests: &[Test], then: Label) {
        let length = |test: &Test| if test.mask == u32::MAX { 2 } else { 3 };
        // A jump to the label follows the tests.
        let mut left = tests.iter().map(length).sum::<u8>() + 1;
        for test in tests {
            self.push(libc::BPF_LD | libc::BPF_ABS | test.size, test.offset);
            if test.mask != u32::MAX {
                self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, test.mask);
            }
            left -= length(test);
            self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, test.value);
            if let Some(comparison) = self.instructions.last_mut() {
                comparison.jf = left;
            }
        }
        self.go(then);
    }

    /// Goes on at a label.
    pub(crate) fn go(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(libc::BPF_JMP | libc::BPF_JA, 0);
    }

    /// Ends with a verdict.
    pub(crate) fn verdict(&mut self, accept: bool) {
        let value = if accept { u32::MAX } else { 0 };
        self.push(libc::BPF_RET | libc::BPF_K, value);
    }

    /// The finished program. Labels must be marked after the jumps to them.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (from, to) in self.jumps {
            self.instructions[from].k = (self.places[to.0] - from - 1) as u32;
        }
        self.instructions
    }

    fn push(&mut self, code: u32, k: u32) {
        self.instructions.push(Instruction {
            code: code as u16,
            jt: 0,
            jf: 0,
            k,
        });
    }
}
