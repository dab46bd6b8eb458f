//! The download of one layer, which goes on where an earlier one ended.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::blocking;
use super::client::Client;
use super::retry::{Attempts, Failure};
use crate::error::IoContext;
use crate::manifest::Blob;
use crate::store::{ImageStore, is_still_at};
use crate::{Digest, Error, Event, Progress, Result};

/// Pieces of a layer that wait to be written. A piece is what one read of the
/// connection gives, a few tens of KiB.
const WAITING_PIECES: usize = 16;

/// One layer on its way.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) store: &'a ImageStore,
    pub(super) blob: &'a Blob,
    pub(super) progress: &'a Arc<dyn Progress>,
    /// Held by what writes the file, which outlives a download that is dropped.
    pub(super) writing: mpsc::Sender<()>,
}

impl Download<'_> {
    /// Fetches the layer into the store's folder for downloads and returns the
    /// file, whole and with the right digest. It keeps its content even if another
    /// process removes its name.
    pub(super) async fn run(self) -> Result<Arc<File>> {
        let blob = self.blob;
        let mut partial = {
            let (path, blob) = (self.store.download_path(&blob.digest), blob.clone());
            let progress = self.progress.clone();
            blocking(move || Partial::open(&path, &blob, progress.as_ref())).await?
        };
        self.progress.event(Event::Downloaded {
            layer: &blob.digest,
            bytes: partial.length,
        });
        let mut resumed = partial.length > 0;
        let mut attempts = Attempts::new(self.client.retry());
        loop {
            while partial.length < blob.size {
                let before = partial.length;
                let result;
                (partial, result) = self.attempt(partial).await?;
                if partial.length > before {
                    attempts.reset();
                }
                if let Err(failure) = result {
                    if let Failure::Passing { error, .. } = &failure {
                        self.progress.event(Event::Retrying {
                            layer: &blob.digest,
                            reason: &error.to_string(),
                        });
                    }
                    attempts.failed(failure).await?;
                }
            }
            let actual = Digest::of_hash(partial.hash.clone());
            if actual == blob.digest {
                break;
            }
            if !resumed {
                // Never left behind: the next pull must not begin with it.
                partial.remove()?;
                return Err(self.client.wrong_digest(&blob.digest, &actual));
            }
            // What an earlier pull left was wrong: once more, from the beginning.
            partial.restart()?;
            resumed = false;
        }
        self.progress.event(Event::LayerComplete {
            layer: &blob.digest,
        });
        let file = partial.file;
        file.unlock().context("unlock", &partial.path)?;
        Ok(Arc::new(file))
    }

    /// Fetches as much of the layer as one request gives.
    async fn attempt(
        &self,
        partial: Partial,
    ) -> Result<(Partial, std::result::Result<(), Failure>)> {
        let (client, blob) = (self.client, self.blob);
        let offset = partial.length;
        let mut response = match client.blob(&blob.digest, offset).await {
            Ok(response) => response,
            Err(failure) => return Ok((partial, Err(failure))),
        };
        // A registry may ignore that only the rest is wanted.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(offset) => 0,
            StatusCode::OK => offset,
            status => {
                return Ok((
                    partial,
                    Err(Failure::Lasting(client.failed(format!(
                        "asked for {} from byte {offset} on, it answers {status} with another part",
                        blob.digest
                    )))),
                ));
            }
        };
        let (sender, receiver) = mpsc::channel(WAITING_PIECES);
        let writer = {
            let (blob, progress) = (blob.clone(), self.progress.clone());
            let writing = self.writing.clone();
            tokio::task::spawn_blocking(move || {
                // Should nobody wait for it, the file is dropped before `writing` is.
                (partial.write(receiver, &blob, progress.as_ref()), writing)
            })
        };
        let mut expected = blob.size - (offset - skip);
        let result = loop {
            match response.chunk().await {
                Ok(Some(mut chunk)) => {
                    if chunk.len() as u64 > expected {
                        break Err(Failure::Lasting(client.failed(format!(
                            "it sends more than the {} bytes of {}",
                            blob.size, blob.digest
                        ))));
                    }
                    expected -= chunk.len() as u64;
                    let skipped = skip.min(chunk.len() as u64);
                    skip -= skipped;
                    let rest = chunk.split_off(skipped as usize);
                    // The writer has failed: its error is the one to tell.
                    if !rest.is_empty() && sender.send(rest).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) if expected > 0 => {
                    break Err(Failure::passing(client.failed(format!(
                        "{} ended {expected} bytes too early",
                        blob.digest
                    ))));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(client.lost(&error)),
            }
        };
        drop(sender);
        let (partial, _) = writer
            .await
            .map_err(|error| Error::Interrupted(error.to_string()))?;
        Ok((partial?, result))
    }
}

/// Removes downloads that are not needed any more. One that another pull is
/// about is left to that one.
pub(super) fn forget(store: &ImageStore, blobs: &[Blob]) {
    for blob in blobs {
        let path = store.download_path(&blob.digest);
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && is_still_at(&file, &path)
        {
            // Otherwise it goes when it is old.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Where the part that a registry sends begins (RFC 9110, 14.4).
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let range = text.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// What is here of a layer, locked.
struct Partial {
    file: File,
    path: PathBuf,
    /// Of the first `length` bytes.
    hash: Sha256,
    length: u64,
}

impl Partial {
    /// Waits for others that fetch the same layer, and reads what is there.
    fn open(path: &Path, blob: &Blob, progress: &dyn Progress) -> Result<Self> {
        let file = lock(path, || {
            progress.event(Event::Waiting {
                digest: &blob.digest,
            });
        })?;
        let mut partial = Self {
            file,
            path: path.to_owned(),
            hash: Sha256::new(),
            length: 0,
        };
        if partial.file.metadata().context("read", path)?.len() > blob.size {
            partial.restart()?;
            return Ok(partial);
        }
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = partial.file.read(&mut buffer).context("read", path)?;
            if count == 0 {
                break;
            }
            partial.hash.update(&buffer[..count]);
            partial.length += count as u64;
        }
        Ok(partial)
    }

    /// Appends pieces until there are no more.
    fn write(
        mut self,
        mut pieces: mpsc::Receiver<bytes::Bytes>,
        blob: &Blob,
        progress: &dyn Progress,
    ) -> Result<Self> {
        while let Some(piece) = pieces.blocking_recv() {
            self.file.write_all(&piece).context("write", &self.path)?;
            self.hash.update(&piece);
            self.length += piece.len() as u64;
            progress.event(Event::Downloaded {
                layer: &blob.digest,
                bytes: self.length,
            });
        }
        Ok(self)
    }

    /// Removes the file while it is still locked.
    fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).context("remove", &self.path)
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).context("shorten", &self.path)?;
        self.file
            .seek(SeekFrom::Start(0))
            .context("read", &self.path)?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }
}

/// Opens and locks the file at `path`, creating it if need be.
fn lock(path: &Path, on_wait: impl Fn()) -> Result<File> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .context("open", path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                on_wait();
                file.lock().context("lock", path)?;
            }
            Err(TryLockError::Error(source)) => return Err(source).context("lock", path),
        }
        // The one before us may have removed the file that we waited for.
        if is_still_at(&file, path) {
            return Ok(file);
        }
    }
}
