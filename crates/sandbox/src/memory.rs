//! How much memory a guest needs beside that of its containers.

use caisson_hypervisor::template;

/// Memory of the guest that a container limited to `limit` cannot have: the
/// kernel's text and data, the initramfs and the agent.
const FIXED_OVERHEAD: u64 = 64 << 20;

/// The kernel's page array takes 1/64 of memory; page tables and caches of the
/// agent's own work have as much again.
const OVERHEAD_SHARE: u64 = 32;

/// Memory of the guest whose containers are limited to `limit` bytes: so much more
/// than it that they meet their own limit before the guest's kernel runs out, and
/// rounded up, so that machines for many limits can be forked from one template.
/// `None` if there is no such number.
pub fn guest_memory(limit: u64) -> Option<u64> {
    let least = limit.checked_add(FIXED_OVERHEAD + limit / OVERHEAD_SHARE)?;
    let memory = template::memory_size(least);
    memory.is_multiple_of(1 << 20).then_some(memory)
}
