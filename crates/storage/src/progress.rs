//! What is told to the user while an image is fetched and unpacked.

use crate::{Digest, Reference};

/// One step of a pull or a load.
///
/// A layer's events come in the order `LayerAdded`, any number of `Downloaded`,
/// `LayerComplete`, `Unpacking`, `LayerDone`; those of different layers mix. A
/// load from an archive has no `Downloaded` and no `LayerComplete`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The name was looked up: this is the manifest behind it.
    Resolved {
        /// Name that was asked for.
        reference: &'a Reference,
        /// Digest of the manifest or index.
        digest: &'a Digest,
    },
    /// The image is in the store already; nothing is fetched.
    UpToDate,
    /// Another process is making the same image or layer; this one waits for it.
    Waiting {
        /// What both want.
        digest: &'a Digest,
    },
    /// The image has this layer.
    LayerAdded {
        /// Digest of the layer as it is stored.
        layer: &'a Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// More of a layer has arrived.
    Downloaded {
        /// Digest of the layer.
        layer: &'a Digest,
        /// Bytes of it that are here in all, those of an earlier, interrupted pull included.
        bytes: u64,
    },
    /// The download was interrupted and is tried again.
    Retrying {
        /// Digest of the layer.
        layer: &'a Digest,
        /// What went wrong.
        reason: &'a str,
    },
    /// All of the layer is here and its digest is right.
    LayerComplete {
        /// Digest of the layer.
        layer: &'a Digest,
    },
    /// The layer is being added to the disk.
    Unpacking {
        /// Digest of the layer.
        layer: &'a Digest,
    },
    /// The layer is part of the disk.
    LayerDone {
        /// Digest of the layer.
        layer: &'a Digest,
    },
}

/// Receives the steps. Called from several threads, so it must be quick.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}
