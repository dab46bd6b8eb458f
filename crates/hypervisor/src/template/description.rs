//! What is written down about a template, and whether it is still so.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::recipe::{FileIdentity, Recipe, hexadecimal};
use super::{DISK, GIVEN, MEMORY, PAGES, PROCESS, SOCKETS, STATE};

/// Name of the file that holds it: a template without one is not complete.
const FILE: &str = "template.json";

/// What is written down about a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Key of the recipe.
    pub key: String,
    /// What the template depends on.
    pub recipe: Recipe,
    /// When it was made, seconds since the epoch.
    pub created: u64,
    /// Bytes of the disk that it takes.
    pub disk: u64,
    /// Identity of the memory's file, which is too much to be read at each start. Whoever
    /// writes to it changes the time of its last change, and cannot change it back.
    memory: String,
    /// Identity of the disk's file, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mounted_disk: Option<String>,
    /// SHA-256 of the state, with the connections of a template after it.
    state_sha256: String,
    /// The process that ran the machine, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
}

/// A process in the folder of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    /// Identity of the file with its memory.
    pages: String,
    /// SHA-256 of what else there is of it.
    sha256: String,
}

impl Process {
    /// That which a driver has left in `directory`.
    fn of(directory: &Path) -> io::Result<Option<Self>> {
        let Some(pages) = identity(&directory.join(PAGES))? else {
            return Ok(None);
        };
        let mut image = fs::read(directory.join(PROCESS))?;
        image.extend(fs::read(directory.join(GIVEN))?);
        let sha256 = hexadecimal(&image);
        Ok(Some(Self { pages, sha256 }))
    }
}

impl Description {
    /// Describes what a driver has left in `directory`.
    pub(super) fn of(directory: &Path, recipe: &Recipe) -> io::Result<Self> {
        let memory = directory.join(MEMORY);
        let state = directory.join(STATE);
        let disk = directory.join(DISK);
        let pages = directory.join(PAGES);
        let files = [&memory, &state, &disk, &pages];
        let disk_blocks = |path: &&PathBuf| path.metadata().map_or(0, |file| file.blocks());
        Ok(Self {
            key: recipe.key(),
            recipe: recipe.clone(),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            disk: files.iter().map(disk_blocks).sum::<u64>() * 512,
            memory: FileIdentity::of(&memory)?.to_string(),
            mounted_disk: identity(&disk)?,
            state_sha256: checksum(directory)?,
            process: Process::of(directory)?,
        })
    }

    /// Whether forks begin as copies of the process that ran the template's machine.
    pub fn has_process(&self) -> bool {
        self.process.is_some()
    }

    /// Writes it, so that it outlives a loss of power.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let mut file = File::create_new(directory.join(FILE))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()
    }

    /// Reads the one of a template; `None` if there is no such template.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, String> {
        match fs::read(directory.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| format!("{FILE} is damaged: {error}")),
            Err(_) if !directory.exists() => Ok(None),
            Err(error) => Err(format!("{FILE}: {error}")),
        }
    }

    /// Whether the files are those that were described, but for the process; else, what is
    /// wrong.
    pub(super) fn check(&self, directory: &Path, key: &str) -> Result<(), String> {
        let failed = |name: &str| {
            let name = name.to_owned();
            move |error: io::Error| format!("{name}: {error}")
        };
        let memory = FileIdentity::of(&directory.join(MEMORY)).map_err(failed(MEMORY))?;
        let state = checksum(directory).map_err(failed(STATE))?;
        let disk = identity(&directory.join(DISK)).map_err(failed(DISK))?;
        let wrong = [
            (self.key != key, "it is of another recipe"),
            (
                memory.to_string() != self.memory,
                "the memory is not what was written",
            ),
            (
                disk != self.mounted_disk,
                "the disk is not what was written",
            ),
            (state != self.state_sha256, "the state has another checksum"),
        ];
        match wrong.iter().find(|(is, _)| *is) {
            Some((_, what)) => Err((*what).to_owned()),
            None => Ok(()),
        }
    }

    /// Whether the process is the one that was described; else, what is wrong.
    pub(super) fn check_process(&self, directory: &Path) -> Result<(), String> {
        match Process::of(directory) {
            Ok(found) if found == self.process => Ok(()),
            Ok(_) => Err("the process is not what was written".to_owned()),
            Err(error) => Err(format!("the process: {error}")),
        }
    }
}

/// SHA-256 of the state and the connections.
fn checksum(directory: &Path) -> io::Result<String> {
    let mut state = fs::read(directory.join(STATE))?;
    match fs::read(directory.join(SOCKETS)) {
        Ok(more) => state.extend(more),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(hexadecimal(&state))
}

/// Identity of a file, if it is there.
fn identity(path: &Path) -> io::Result<Option<String>> {
    match FileIdentity::of(path) {
        Ok(identity) => Ok(Some(identity.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
