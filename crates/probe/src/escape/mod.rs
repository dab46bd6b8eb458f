//! Escapes. Each one announces what it tries, tries it, and says what the kernel answered.
//!
//! They only ever touch victims that the comparison made and named. None hides a failure: a
//! line `refused` is a result, a missing line `end` is a crash.

pub mod bomb;
pub mod cgroup;
pub mod descriptor;
pub mod disk;
pub mod file;
pub mod kernel;
pub mod signal;

use crate::line;

/// What an attack leaves in its victim.
pub const MARK: &[u8] = b"changed by the probe\n";

/// Runs an attack; false if there is none of this name with these arguments.
pub fn run(attack: &str, arguments: &[&str]) -> bool {
    match (attack, arguments) {
        ("write", paths) => file::write(paths),
        ("remount", [mount, path]) => file::remount(mount, path),
        ("release-agent", [hierarchy, agent, folder]) => cgroup::attack(hierarchy, agent, folder),
        ("parameter", [path, value]) => kernel::parameter(path, value),
        ("sysrq", []) => kernel::sysrq(),
        ("module", []) => kernel::module(),
        ("disk", [device, folder]) => disk::attack(device, folder),
        ("signal", [token]) => signal::attack(token),
        ("descriptor", [path]) => descriptor::attack(path),
        ("forks", [bound, token]) => return bomb::forks(bound, token),
        ("memory", [bound, token]) => return bomb::memory(bound, token),
        // Children of the two; by the token they are counted from outside.
        ("spin", [_token]) => return bomb::spin(),
        ("fill", [bound, _token]) => return bomb::fill(bound),
        _ => return false,
    }
    line::end();
    true
}
