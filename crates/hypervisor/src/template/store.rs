//! Where templates are kept: made once, by whoever comes first.
//!
//! ```text
//! <key>/          a template: memory, state, template.json; disk, log, sockets.json; and the
//!                 process that ran its machine: pages, process.json, given.json
//! <key>.failed    why it could not be made
//! .new            one that is being made
//! .gone-...       one that is being removed
//! lock            held while one is made
//! ```
//!
//! A maker holds the lock, which the kernel releases however the maker ends. A template
//! appears under its key by one rename, when all of it is on the disk.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Description, Recipe, Template, short};
use crate::{Error, Hypervisor, Result, VmConfig};

const LOCK: &str = "lock";
const NEW: &str = ".new";
const FAILED: &str = "failed";

/// How often a lock is tried that somebody else has for about a second.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// How long a failure keeps others from trying the same.
const FAILURE_KEPT: Duration = Duration::from_secs(600);

/// The templates of one installation.
#[derive(Debug, Clone)]
pub struct TemplateStore {
    folder: PathBuf,
}

/// What is under a key.
enum Found {
    Whole(Template),
    Nothing,
    /// What is wrong with it.
    Broken(String),
}

impl TemplateStore {
    /// The store in a folder, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The template for such machines, made if there is none.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the driver cannot fork them, [`Error::NoTemplate`] if
    /// it could not be made within `deadline`, now or lately.
    pub async fn obtain(
        &self,
        hypervisor: &dyn Hypervisor,
        config: &VmConfig,
        deadline: Duration,
    ) -> Result<Template> {
        let recipe = hypervisor.recipe(config)?;
        let key = recipe.key();
        if let Found::Whole(template) = self.look(&key) {
            return Ok(template);
        }
        let made = async {
            let lock = self.lock().await?;
            let template = self.make(hypervisor, config, &recipe, &key).await;
            drop(lock);
            template
        };
        match tokio::time::timeout(deadline, made).await {
            Ok(template) => template,
            Err(_) => {
                let reason = format!("it was not ready after {} s", deadline.as_secs());
                self.note_failure(&key, &reason);
                Err(Error::NoTemplate(reason))
            }
        }
    }

    /// As [`Self::obtain`], also if it could not be made lately.
    ///
    /// # Errors
    /// See [`Self::obtain`].
    pub async fn build(
        &self,
        hypervisor: &dyn Hypervisor,
        config: &VmConfig,
        deadline: Duration,
    ) -> Result<Template> {
        self.forget_failure(&hypervisor.recipe(config)?.key());
        self.obtain(hypervisor, config, deadline).await
    }

    /// Every whole template, by its key.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Description>> {
        let mut list: Vec<_> = self
            .names()?
            .filter_map(|name| {
                let directory = self.folder.join(&name);
                let description = Description::read(&directory).ok()??;
                description.check(&directory, &name).ok()?;
                description.check_process(&directory).ok()?;
                Some(description)
            })
            .collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(list)
    }

    /// Removes the templates whose keys begin with `prefix`, and what is left of failed
    /// ones; all for an empty prefix. Machines that were forked of them live on.
    /// Returns the keys.
    ///
    /// # Errors
    /// When the folder cannot be read or a template not be removed.
    pub fn remove(&self, prefix: &str) -> io::Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in self.names()? {
            let failure = name.strip_suffix(".failed");
            if !failure.unwrap_or(&name).starts_with(prefix) {
                continue;
            }
            match failure {
                Some(key) => self.forget_failure(key),
                None => {
                    self.take_away(&name)?;
                    removed.push(name);
                }
            }
        }
        removed.sort();
        Ok(removed)
    }

    /// Removes a template that turned out to be of no use.
    pub fn discard(&self, template: &Template) {
        if let Err(error) = self.take_away(&template.key) {
            tracing::warn!(%error, key = template.short_key(), "a template cannot be removed");
        }
    }

    /// Names of templates and of failures.
    fn names(&self) -> io::Result<impl Iterator<Item = String> + use<>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && name != LOCK))
    }

    fn look(&self, key: &str) -> Found {
        let directory = self.folder.join(key);
        let checked = Description::read(&directory).and_then(|description| {
            let Some(description) = description else {
                return Ok(None);
            };
            description.check(&directory, key)?;
            description.check_process(&directory)?;
            Ok(Some(description.has_process()))
        });
        match checked {
            Ok(Some(has_process)) => Found::Whole(Template {
                directory,
                key: key.to_owned(),
                has_process,
            }),
            Ok(None) => Found::Nothing,
            Err(what) => Found::Broken(what),
        }
    }

    /// Waits until nobody else makes a template.
    async fn lock(&self) -> Result<File> {
        let failed = || Error::host("cannot lock the templates");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(failed())?;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join(LOCK))
            .map_err(failed())?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::Error(error)) => return Err(failed()(error)),
            }
        }
    }

    /// Makes a template unless somebody just has. To be called with the lock.
    async fn make(
        &self,
        hypervisor: &dyn Hypervisor,
        config: &VmConfig,
        recipe: &Recipe,
        key: &str,
    ) -> Result<Template> {
        match self.look(key) {
            Found::Whole(template) => return Ok(template),
            Found::Nothing => {}
            Found::Broken(what) => {
                tracing::warn!(key = short(key), what, "a template is made anew");
                self.take_away(key)
                    .map_err(Error::host("cannot remove a broken template"))?;
            }
        }
        if let Some(reason) = self.recent_failure(key) {
            return Err(Error::NoTemplate(reason));
        }
        match self.make_new(hypervisor, config, recipe, key).await {
            Ok(template) => {
                self.remove_superseded(recipe, key);
                Ok(template)
            }
            Err(error) => {
                self.note_failure(key, &error.to_string());
                Err(Error::NoTemplate(error.to_string()))
            }
        }
    }

    async fn make_new(
        &self,
        hypervisor: &dyn Hypervisor,
        config: &VmConfig,
        recipe: &Recipe,
        key: &str,
    ) -> Result<Template> {
        let failed = || Error::host("cannot keep the template");
        self.remove_leftovers();
        let new = self.folder.join(NEW);
        fs::create_dir(&new).map_err(failed())?;
        let leftovers = RemoveOnDrop(&new);
        hypervisor.make_template(config, &new).await?;
        if hypervisor.recipe(config)? != *recipe {
            return Err(Error::NoTemplate(
                "the kernel, the initramfs or the hypervisor changed meanwhile".to_owned(),
            ));
        }
        let description = Description::of(&new, recipe).map_err(failed())?;
        description.write(&new).map_err(failed())?;
        let directory = self.folder.join(key);
        fs::rename(&new, &directory).map_err(failed())?;
        std::mem::forget(leftovers);
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed())?;
        Ok(Template {
            directory,
            key: key.to_owned(),
            has_process: description.has_process(),
        })
    }

    /// What makers and removers that were killed have left. Only with the lock: the one
    /// who makes a template has it.
    fn remove_leftovers(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                drop(RemoveOnDrop(&entry.path()));
            }
        }
    }

    fn remove_superseded(&self, recipe: &Recipe, key: &str) {
        let old = self.list().unwrap_or_default();
        for old in old {
            if old.key != key
                && old.recipe.kind == recipe.kind
                && let Err(error) = self.take_away(&old.key)
            {
                tracing::warn!(%error, key = short(&old.key), "an old template cannot be removed");
            }
        }
    }

    /// Removes what is under a key. It is gone at once for everybody, whenever this is
    /// interrupted.
    fn take_away(&self, key: &str) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let gone = self
            .folder
            .join(format!(".gone-{}-{number}", std::process::id()));
        match fs::rename(self.folder.join(key), &gone) {
            Ok(()) => drop(RemoveOnDrop(&gone)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn failure(&self, key: &str) -> PathBuf {
        self.folder.join(key).with_extension(FAILED)
    }

    fn recent_failure(&self, key: &str) -> Option<String> {
        let path = self.failure(key);
        let age = path.metadata().ok()?.modified().ok()?.elapsed().ok()?;
        (age < FAILURE_KEPT)
            .then(|| fs::read_to_string(&path).ok())
            .flatten()
    }

    fn note_failure(&self, key: &str, reason: &str) {
        if let Err(error) = fs::write(self.failure(key), reason) {
            tracing::debug!(%error, "a failure is not kept");
        }
    }

    fn forget_failure(&self, key: &str) {
        // There seldom is one.
        let _ = fs::remove_file(self.failure(key));
    }
}

/// A folder that is removed, unless this is forgotten.
struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.0.display(), "a folder cannot be removed");
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
