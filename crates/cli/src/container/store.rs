//! The folder of containers, shared by every command and supervisor.
//!
//! `<root>/containers/<id>/` holds `container.json` (written once, by an atomic
//! rename of the whole folder), `state.json` (replaced by the supervisor), the
//! writable layer's disk, the logs, and `lock`: its holder is the supervisor,
//! and it is by that lock, which the kernel releases whatever happens, that
//! others know whether it lives.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{ContainerRecord, State, Status};

/// What can go wrong with stored containers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No container of that name or id.
    #[error("no such container: {0}; `caisson ps -a` lists them")]
    NotFound(String),
    /// More than one id begins so.
    #[error("{0} is the beginning of several container ids; give more digits")]
    Ambiguous(String),
    /// The name is taken.
    #[error(
        "the name {name} is in use by container {id}; remove it with `caisson rm {name}` or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Short id of its owner.
        id: String,
    },
    /// It must not be running for that.
    #[error("container {0} is running; stop it first, or use --force")]
    Live(String),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Exit code of what was killed: 128 + SIGKILL.
const KILLED: u8 = 137;

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| StoreError::File {
        path: path.to_owned(),
        source,
    }
}

/// All containers of one user.
#[derive(Debug, Clone)]
pub struct ContainerStore {
    containers: PathBuf,
    run: PathBuf,
}

impl ContainerStore {
    /// Uses `<root>/containers` and the run directory, making them if needed.
    /// Nobody else may look into them: records have environments in them.
    pub fn open(root: &Path, run: &Path) -> Result<Self, StoreError> {
        let store = Self {
            containers: root.join("containers"),
            run: run.to_owned(),
        };
        for directory in [&store.containers, &store.run] {
            private_folder(directory)?;
        }
        Ok(store)
    }

    /// Stores a new container. Its name must be free.
    pub fn create(&self, record: &ContainerRecord) -> Result<Container, StoreError> {
        let _gate = gate(&self.containers)?;
        self.remove_unfinished()?;
        if let Some(taken) = self
            .list()?
            .into_iter()
            .find(|other| other.record.name == record.name)
        {
            return Err(StoreError::NameTaken {
                name: record.name.clone(),
                id: taken.short_id().to_owned(),
            });
        }
        let unfinished = self.containers.join(format!(".{}", record.id));
        let directory = self.containers.join(&record.id);
        fs::create_dir(&unfinished).map_err(at(&unfinished))?;
        let stored = write_json(&unfinished.join("container.json"), record)
            .and_then(|()| write_json(&unfinished.join("state.json"), &State::default()))
            .and_then(|()| fs::rename(&unfinished, &directory).map_err(at(&directory)));
        if let Err(error) = stored {
            // Nothing may be left of a container that was never made.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        Ok(Container {
            record: record.clone(),
            run: self.run_directory(&record.id),
            directory,
        })
    }

    /// Removes what a command that was killed left half made. The caller is behind
    /// the gate, so that nobody else is making anything.
    fn remove_unfinished(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.containers).map_err(at(&self.containers))? {
            let path = entry.map_err(at(&self.containers))?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden && path.is_dir() {
                ignore_missing(fs::remove_dir_all(&path)).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// Every container, the newest first. One that is being removed is left out,
    /// and one that cannot be read does not hide the others.
    pub fn list(&self) -> Result<Vec<Container>, StoreError> {
        let mut containers = Vec::new();
        for entry in fs::read_dir(&self.containers).map_err(at(&self.containers))? {
            let entry = entry.map_err(at(&self.containers))?;
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            match self.read(id) {
                Ok(container) => containers.push(container),
                Err(StoreError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(
                    "container {id} cannot be read ({error}); remove its folder {}",
                    self.containers.join(id).display()
                ),
            }
        }
        containers.sort_by(|a, b| b.record.created.cmp(&a.record.created));
        Ok(containers)
    }

    /// The container of that name, id, or beginning of an id.
    pub fn find(&self, name_or_id: &str) -> Result<Container, StoreError> {
        let mut containers = self.list()?;
        let exact = |c: &Container| c.record.name == name_or_id || c.record.id == name_or_id;
        if let Some(index) = containers.iter().position(exact) {
            return Ok(containers.swap_remove(index));
        }
        containers.retain(|c| !name_or_id.is_empty() && c.record.id.starts_with(name_or_id));
        match containers.len() {
            0 => Err(StoreError::NotFound(name_or_id.to_owned())),
            1 => Ok(containers.swap_remove(0)),
            _ => Err(StoreError::Ambiguous(name_or_id.to_owned())),
        }
    }

    fn read(&self, id: &str) -> Result<Container, StoreError> {
        let directory = self.containers.join(id);
        let record = read_json(&directory.join("container.json"))?;
        Ok(Container {
            record,
            run: self.run_directory(id),
            directory,
        })
    }

    /// A socket's path must fit into 108 bytes: 16 digits are as good as 64.
    fn run_directory(&self, id: &str) -> PathBuf {
        self.run.join(&id[..id.len().min(16)])
    }
}

/// One container on disk.
#[derive(Debug, Clone)]
pub struct Container {
    /// As it was created.
    pub record: ContainerRecord,
    directory: PathBuf,
    run: PathBuf,
}

impl Container {
    /// The first 12 digits of the id, as Docker shows it.
    pub fn short_id(&self) -> &str {
        &self.record.id[..self.record.id.len().min(12)]
    }

    /// Folder of sockets, there while the container is live.
    pub fn run_directory(&self) -> &Path {
        &self.run
    }

    /// Socket of the supervisor.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// Disk of the writable layer.
    pub fn scratch_disk(&self) -> PathBuf {
        self.directory.join("scratch.img")
    }

    /// Its place in a CNI network, while it has one.
    pub fn network_lease(&self) -> PathBuf {
        self.directory.join("network.json")
    }

    /// What the container wrote.
    pub fn output_log(&self) -> PathBuf {
        self.directory.join("output.log")
    }

    /// What the guest's kernel wrote to its console.
    pub fn console_log(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What the agent and the guest's kernel logged.
    pub fn guest_log(&self) -> PathBuf {
        self.directory.join("guest.log")
    }

    /// What the supervisor has to say.
    pub fn supervisor_log(&self) -> PathBuf {
        self.directory.join("supervisor.log")
    }

    /// What has become of the container. A supervisor that has vanished is seen here.
    pub fn state(&self) -> Result<State, StoreError> {
        let state = self.read_state();
        if !state.status.is_live() || self.is_held()? {
            return Ok(state);
        }
        // It may have ended properly between the two looks.
        let state = self.read_state();
        if !state.status.is_live() {
            return Ok(state);
        }
        Ok(State {
            status: Status::Dead,
            exit_code: KILLED,
            error: Some(format!(
                "its supervisor (process {}) was killed",
                state.supervisor_pid
            )),
            supervisor_pid: 0,
            machine_pids: Vec::new(),
            network: None,
            ..state
        })
    }

    /// A file that cannot be read is one that was lost with the host: the
    /// container is dead, and can be started again or removed.
    fn read_state(&self) -> State {
        read_json(&self.directory.join("state.json")).unwrap_or_else(|error: StoreError| State {
            status: Status::Dead,
            exit_code: KILLED,
            error: Some(format!("its state was lost: {error}")),
            ..State::default()
        })
    }

    /// Replaces the state. For the supervisor only.
    pub fn set_state(&self, state: &State) -> Result<(), StoreError> {
        write_json(&self.directory.join("state.json"), state)
    }

    /// Becomes the supervisor; fails if there is one.
    pub fn hold(&self) -> Result<File, StoreError> {
        let _gate = self.gate()?;
        let path = self.directory.join("lock");
        let lock = File::create(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(StoreError::Live(self.record.name.clone())),
            Err(TryLockError::Error(source)) => Err(StoreError::File { path, source }),
        }
    }

    /// Waits until no supervisor holds the container: it says its last words a
    /// moment before it lets go.
    pub fn wait_free(&self) -> Result<(), StoreError> {
        let path = self.directory.join("lock");
        match File::open(&path) {
            Ok(lock) => lock.lock_shared().map_err(at(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::File { path, source }),
        }
    }

    /// A look at the lock takes it for a moment, and a supervisor must not take
    /// such a moment for another supervisor: looks and holds go through a gate.
    fn gate(&self) -> Result<File, StoreError> {
        gate(self.directory.parent().unwrap_or(&self.directory))
    }

    fn is_held(&self) -> Result<bool, StoreError> {
        let _gate = self.gate()?;
        let path = self.directory.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(StoreError::File { path, source }),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(StoreError::File { path, source }),
        }
    }

    /// Makes the folder of sockets, without what a lost supervisor has left in it.
    pub fn make_run_directory(&self) -> Result<(), StoreError> {
        self.remove_run_directory()?;
        private_folder(&self.run)
    }

    /// Removes what a lost or finished supervisor has left in the run directory.
    pub fn remove_run_directory(&self) -> Result<(), StoreError> {
        ignore_missing(fs::remove_dir_all(&self.run)).map_err(at(&self.run))
    }

    /// Removes the container, whose lock is held by the caller. A crash half way
    /// leaves a container that can be removed again.
    pub fn remove(&self, _lock: File) -> Result<(), StoreError> {
        self.remove_run_directory()?;
        // The record goes last: without it nobody could find the rest.
        for entry in fs::read_dir(&self.directory).map_err(at(&self.directory))? {
            let path = entry.map_err(at(&self.directory))?.path();
            if path
                .file_name()
                .is_some_and(|name| name != "container.json")
            {
                ignore_missing(fs::remove_file(&path)).map_err(at(&path))?;
            }
        }
        ignore_missing(fs::remove_dir_all(&self.directory)).map_err(at(&self.directory))
    }
}

fn private_folder(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at(path))
}

fn gate(containers: &Path) -> Result<File, StoreError> {
    let path = containers.join(".lock");
    let lock = File::create(&path).map_err(at(&path))?;
    lock.lock().map_err(at(&path))?;
    Ok(lock)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = fs::read(path).map_err(at(path))?;
    serde_json::from_slice(&bytes).map_err(|error| at(path)(error.into()))
}

fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| at(path)(error.into()))?;
    let temporary = path.with_extension("json.new");
    fs::write(&temporary, bytes).map_err(at(&temporary))?;
    fs::rename(&temporary, path).map_err(at(path))
}

#[cfg(test)]
mod tests;
