//! Processor, memory and the way into the kernel.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use super::rate;
use crate::line;

/// What one hash is taken of.
const HASHED: usize = 64 << 10;

/// What is copied at a time: more than a processor's nearer caches hold.
const COPIED: usize = 16 << 20;

/// System calls between two looks at the clock.
const CALLS: u64 = 1000;

/// Measures all three.
pub fn measure(time: Duration) {
    let block: Vec<u8> = (0..HASHED).map(|index| index as u8).collect();
    let hashes = rate::<Infallible>(time, || {
        black_box(fnv1a(black_box(&block)));
        Ok(1)
    });
    let source = vec![1_u8; COPIED];
    let mut target = vec![0_u8; COPIED];
    let copied = rate::<Infallible>(time, || {
        black_box(&mut target).copy_from_slice(black_box(&source));
        Ok(COPIED as u64)
    });
    let calls = rate::<Infallible>(time, || {
        for _ in 0..CALLS {
            // Nothing remembers its answer, unlike getpid's.
            black_box(rustix::process::getppid());
        }
        Ok(CALLS)
    });
    for (name, Ok(rate)) in [
        ("hash", hashes),
        ("memory", copied),
        ("system-calls", calls),
    ] {
        line::sample(name, rate);
    }
}

/// The 64-bit hash of Fowler, Noll and Vo: one multiplication a byte, each waiting for the one
/// before.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_its_authors() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
