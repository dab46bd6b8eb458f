//! Read-only disks in the Enhanced Read-Only File System, written without a kernel
//! and without `mkfs.erofs`.
//!
//! The format is that of Linux's `fs/erofs/erofs_fs.h`. A disk made here is:
//!
//! ```text
//! block 0            superblock, at byte 1024
//! blocks 1...        content of files, in the order in which it came
//! after it           blocks of folders (and of very long symbolic links)
//! meta_blkaddr...    inodes in slots of 32 bytes, each with its extended
//!                    attributes and the end of its content or its chunk map
//! ```
//!
//! Content comes first because it is written as it passes, when nothing is known of
//! the rest; the [`Tree`] stays in memory until [`write()`]. Nothing is compressed: the
//! guest would pay for it at every read. The same tree and content give the same
//! bytes: no clock, no random number, no order of a hash table is in them.

mod directory;
mod disk;
mod file;
mod format;
mod plan;
mod spool;
mod tree;
mod writer;
mod xattr;

pub(crate) use disk::Disk;
pub(crate) use file::FileWriter;
pub(crate) use format::device_number;
pub(crate) use spool::Spool;
pub(crate) use tree::{Attributes, InodeId, Kind, Timestamp, Tree, TreeLimits};
pub(crate) use writer::write;
pub(crate) use xattr::{XattrKey, Xattrs};

#[cfg(test)]
pub(crate) mod reader;
