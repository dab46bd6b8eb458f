//! Layers of an image: tar archives, read once from front to back, laid over a tree.
//!
//! The archives are as hostile as archives can be. They are parsed here rather than
//! by the `tar` crate, which takes the end of a line for the end of a record (an
//! extended attribute may have line ends in it) and holds names in memory whatever
//! their length is. Their paths are looked up in our own [`Tree`](crate::erofs::Tree)
//! and in nothing else.
//!
//! What the entries of several layers mean together is that of the OCI image
//! specification ("Image Layer Filesystem Changeset"); where it is silent, we do what
//! containerd does, since that is what images are tested with.

mod apply;
mod compression;
mod entry;
mod extension;
mod header;
mod path;
mod sparse;
mod stream;
mod tar;

pub(crate) use apply::{Target, add_layer};

/// What is wrong with an entry.
type Refusal = &'static str;

#[cfg(test)]
mod tests;
