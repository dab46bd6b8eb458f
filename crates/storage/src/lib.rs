//! OCI images and the disks made of them.
//!
//! [`ImageStore`] holds the images of one folder: they come from a registry
//! ([`ImageStore::pull`]) or an archive ([`ImageStore::load`]), and each is one
//! read-only EROFS disk beside its configuration. [`ImageBuilder`] makes such a
//! disk of layers, and [`empty_disk`] makes the disk that takes what a
//! container writes.
//!
//! Everything that comes from an image is hostile: digests are verified as bytes
//! pass, sizes and counts are bounded by [`Limits`], and no path of a layer is
//! ever given to the host's kernel.

mod archive;
mod digest;
mod erofs;
mod error;
mod image_builder;
mod layer;
mod manifest;
mod platform;
mod progress;
mod reference;
mod registry;
mod scratch;
mod section;
mod store;

pub use archive::LoadSource;
pub use digest::Digest;
pub(crate) use digest::VerifyingReader;
pub use error::{Error, Result};
pub use image_builder::{ImageBuilder, Limits};
pub use platform::Platform;
pub use progress::{Event, Progress, Silent};
pub use reference::Reference;
pub use registry::{Credentials, PullOptions, RetryPolicy};
pub use scratch::{copy_disk, empty_disk};
pub use store::{Image, ImageConfig, ImageStore};
