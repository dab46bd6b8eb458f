//! What the options of a mount mean for mount(2).

use std::ffi::CString;
use std::path::Path;

use caisson_protocol::agent::Mount;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::root::Root;
use crate::child::descriptor_path;
use crate::error::{Error, Result};

/// What may be done with the files.
pub(super) fn flags(mount: &Mount) -> MountFlags {
    MountFlags::from_bits_retain(mount.flags)
}

/// What the file system itself is told.
pub(super) fn data(mount: &Mount) -> Option<CString> {
    // A NUL byte, which JSON may have, ends no string of the kernel's here.
    CString::new(mount.options.as_str())
        .ok()
        .filter(|data| !data.is_empty())
}

/// Has a mount share what is mounted below it as was said, if it was.
pub(super) fn propagate(mount: &Mount, root: &Root) -> Result<()> {
    if mount.propagation == 0 {
        return Ok(());
    }
    let destination = Path::new(&mount.destination);
    let target = root.existing(destination)?;
    let propagation = MountPropagationFlags::from_bits_retain(mount.propagation);
    rustix::mount::mount_change(descriptor_path(&target), propagation)
        .map_err(Error::path("set the propagation of", destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_told_what_is_text() {
        let told = |options: &str| {
            data(&Mount {
                options: options.to_owned(),
                ..Default::default()
            })
        };
        assert_eq!(told("size=64k").as_deref(), Some(c"size=64k"));
        assert_eq!(told(""), None);
        assert_eq!(told("size=64k\0"), None);
    }
}
