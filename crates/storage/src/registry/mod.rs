//! Images from registries (OCI distribution specification 1.1).
//!
//! Spoken with `reqwest` directly: the ready-made client crates read manifests
//! and tokens of any length into memory, and they do not tell what a refusal
//! asked for, so that neither hostile registries nor interrupted layers could be
//! handled here.

mod auth;
mod client;
mod credentials;
mod http;
mod layer;
mod retry;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};

pub use credentials::Credentials;
pub use retry::RetryPolicy;

use crate::manifest::{self, Blob, Document, Manifest};
use crate::section::Section;
use crate::store::{DiskBuilder, ImageStore, MAX_CONFIG, ParsedConfig, check_layer_count};
use crate::{Digest, Error, Event, Image, Platform, Progress, Reference, Result, Silent};
use client::Client;
use layer::Download;

/// How deep indexes may lie in one another.
const MAX_DEPTH: usize = 4;

/// How an image is pulled.
#[derive(Clone)]
pub struct PullOptions {
    /// Which image of an index is taken; any other is refused.
    pub platform: Platform,
    /// Who asks. None takes what Docker's configuration has for the registry.
    pub credentials: Option<Credentials>,
    /// Folder of Docker's `config.json`. None is `$DOCKER_CONFIG` or `~/.docker`.
    pub docker_config: Option<PathBuf>,
    /// Registries (`host` or `host:port`) that speak plain http. Those on this
    /// host always do.
    pub insecure_registries: Vec<String>,
    /// Layers that are fetched at once, at least 1.
    pub concurrency: usize,
    /// What is done when a registry fails for a moment.
    pub retry: RetryPolicy,
    /// Is told every step.
    pub progress: Arc<dyn Progress>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: Platform::default(),
            credentials: None,
            docker_config: None,
            insecure_registries: Vec::new(),
            concurrency: 3,
            retry: RetryPolicy::default(),
            progress: Arc::new(Silent),
        }
    }
}

impl std::fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullOptions")
            .field("platform", &self.platform)
            .field("insecure_registries", &self.insecure_registries)
            .field("concurrency", &self.concurrency)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl ImageStore {
    /// Fetches an image, or only names it if the store has it already.
    ///
    /// The future may be dropped at any time: there is no half image then, and
    /// the layers that have arrived are kept for the next pull. When two pulls
    /// want the same image or layer, the second waits for the first.
    pub async fn pull(&self, reference: &Reference, options: &PullOptions) -> Result<Image> {
        let client = Arc::new(Client::new(reference, options).await?);
        let (digest, manifest) = resolve(&client, reference, &options.platform).await?;
        options.progress.event(Event::Resolved {
            reference,
            digest: &digest,
        });
        let names = match reference.digest() {
            // The digest says which image it is; the tag beside it is a comment.
            Some(_) => vec![reference.with_digest(digest)],
            None => vec![reference.clone(), reference.with_digest(digest)],
        };
        let pull = Pull {
            store: self.clone(),
            client,
            reference: reference.to_string(),
            options: options.clone(),
            names,
        };
        if let Some(image) = pull.reuse(&manifest.config.digest).await? {
            return Ok(image);
        }
        let id = manifest.config.digest.clone();
        let (store, progress) = (self.clone(), options.progress.clone());
        let _lock = blocking(move || {
            store.lock_image(&id, || progress.event(Event::Waiting { digest: &id }))
        })
        .await?;
        // Somebody else may have made it while we waited.
        if let Some(image) = pull.reuse(&manifest.config.digest).await? {
            return Ok(image);
        }
        pull.fetch(manifest).await
    }
}

/// Finds the manifest behind a name. The digest is that of what the name stands
/// for: the index, if there is one.
async fn resolve(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<(Digest, Manifest)> {
    let wanted = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.to_owned(),
        (None, None) => unreachable!("a reference has a tag or a digest"),
    };
    let (top, mut text) = client.manifest(&wanted, reference.digest()).await?;
    let mut digest = top.clone();
    for _ in 0..MAX_DEPTH {
        let object = format!("{reference} ({digest})");
        match manifest::parse(&object, &text)? {
            Document::Manifest(manifest) => return Ok((top, manifest)),
            Document::Index(index) => {
                let blob = manifest::choose(&reference.to_string(), &index, platform)?;
                (digest, text) = client
                    .manifest(&blob.digest.to_string(), Some(&blob.digest))
                    .await?;
            }
        }
    }
    Err(Error::Image {
        object: reference.to_string(),
        reason: format!("it lies below more than {MAX_DEPTH} indexes"),
    })
}

/// A pull under way.
struct Pull {
    store: ImageStore,
    client: Arc<Client>,
    reference: String,
    options: PullOptions,
    /// What the image is going to be called.
    names: Vec<Reference>,
}

impl Pull {
    /// Names the image if the store has it.
    async fn reuse(&self, id: &Digest) -> Result<Option<Image>> {
        let (store, id, names) = (self.store.clone(), id.clone(), self.names.clone());
        let (reference, platform) = (self.reference.clone(), self.options.platform.clone());
        let image = blocking(move || match store.get_id(&id) {
            Ok(Some(image)) => {
                image.config.check_platform(&reference, &platform)?;
                store.rename(&id, &names)
            }
            // A damaged image is made anew.
            Ok(None) | Err(Error::DamagedImage { .. }) => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
        if image.is_some() {
            self.options.progress.event(Event::UpToDate);
        }
        Ok(image)
    }

    /// Fetches the layers, several at once, while those that are here are put
    /// together in their order.
    async fn fetch(&self, manifest: Manifest) -> Result<Image> {
        let id = &manifest.config.digest;
        let text = self.client.small_blob(&manifest.config, MAX_CONFIG).await?;
        let config = ParsedConfig::parse(&format!("{} ({id})", self.reference), text)?;
        config
            .config
            .check_platform(&self.reference, &self.options.platform)?;
        check_layer_count(&config, manifest.layers.len(), id)?;

        // A layer may occur twice in an image; it is fetched once.
        let mut unique: Vec<Blob> = Vec::new();
        let mut order = Vec::new();
        for layer in manifest.layers {
            let known = unique.iter().position(|blob| blob.digest == layer.digest);
            order.push(known.unwrap_or(unique.len()));
            if known.is_none() {
                self.options.progress.event(Event::LayerAdded {
                    layer: &layer.digest,
                    size: layer.size,
                });
                unique.push(layer);
            }
        }
        let (senders, receivers): (Vec<_>, Vec<_>) =
            unique.iter().map(|_| oneshot::channel()).unzip();
        let assembly = Assembly {
            store: self.store.clone(),
            progress: self.options.progress.clone(),
            names: self.names.clone(),
            layers: unique.clone(),
            order,
        };
        let mut assembled = tokio::task::spawn_blocking(move || assembly.run(config, receivers));
        let (writing, mut all_written) = mpsc::channel::<()>(1);
        // Should one fail, the assembly ends as its senders are dropped.
        let fetched = stream::iter(unique.iter().zip(senders))
            .map(|(blob, sender)| async {
                let download = Download {
                    client: &self.client,
                    store: &self.store,
                    blob,
                    progress: &self.options.progress,
                    writing: writing.clone(),
                };
                let file = download.run().await?;
                // Nobody listens when the assembly has failed; its error is the one to tell.
                let _ = sender.send(file);
                Ok::<_, Error>(())
            })
            .buffer_unordered(self.options.concurrency.max(1))
            .try_collect::<()>();
        let result = tokio::select! {
            fetched = fetched => {
                let assembled = (&mut assembled).await;
                fetched.and(flatten(assembled))
            }
            // It failed: what is still under way is not needed any more.
            assembled = &mut assembled => flatten(assembled),
        };
        match &result {
            // What is here of the others is kept for the next try.
            Err(error) if error.is_passing() => {}
            _ => {
                drop(writing);
                // None: whatever wrote has ended and released its file.
                all_written.recv().await;
                layer::forget(&self.store, &unique);
            }
        }
        result?.ok_or_else(|| Error::Interrupted(self.reference.clone()))
    }
}

fn flatten<T>(joined: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    joined.unwrap_or_else(|error| Err(Error::Interrupted(error.to_string())))
}

/// The other half of a pull: layers become a disk.
struct Assembly {
    store: ImageStore,
    progress: Arc<dyn Progress>,
    names: Vec<Reference>,
    /// Each layer once.
    layers: Vec<Blob>,
    /// The image's layers, lowest first, as indexes into `layers`.
    order: Vec<usize>,
}

impl Assembly {
    /// Returns None if the download ended before it was complete.
    fn run(
        &self,
        config: ParsedConfig,
        receivers: Vec<oneshot::Receiver<Arc<File>>>,
    ) -> Result<Option<Image>> {
        let mut files: Vec<Option<Arc<File>>> = vec![None; self.layers.len()];
        let mut receivers = receivers.into_iter();
        let mut disk = DiskBuilder::begin(&self.store, config)?;
        for &number in &self.order {
            // Numbers are given in the order of first occurrence, so that the next
            // unknown one is the next receiver.
            let file = match &files[number] {
                Some(file) => file.clone(),
                None => {
                    let received = receivers.next().map(oneshot::Receiver::blocking_recv);
                    let Some(Ok(file)) = received else {
                        return Ok(None);
                    };
                    files[number] = Some(file.clone());
                    file
                }
            };
            let blob = &self.layers[number];
            self.progress.event(Event::Unpacking {
                layer: &blob.digest,
            });
            disk.add_layer(Section::new(&file, 0, blob.size))?;
            self.progress.event(Event::LayerDone {
                layer: &blob.digest,
            });
        }
        disk.finish(&self.store, &self.names).map(Some)
    }
}

/// Runs what blocks beside the asynchronous tasks.
async fn blocking<T: Send + 'static>(
    task: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    flatten(tokio::task::spawn_blocking(task).await)
}

#[cfg(test)]
mod tests;
