//! Device processes as the driver of a machine starts them, with the test as the VMM and
//! its guest.

#![allow(clippy::unwrap_used)]

mod fs;
mod fuse;
mod guest;
mod process;
mod vmm;
mod vsock;
