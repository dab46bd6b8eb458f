//! Leaving a checkpoint of a container that runs, and making a container that is a copy.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use caisson_hypervisor::Copies;
use caisson_hypervisor::template::Recipe;
use caisson_sandbox::{ContainerCopy, Origin};
use containerd_shim_protos::events::task::TaskCheckpointed;
use containerd_shim_protos::topics;
use tokio::sync::Mutex;

use super::{Container, Guest, Request};
use crate::bundle::{Bundle, Role};
use crate::checkpoint::{self, Checkpoint};
use crate::disk;
use crate::error::{Error, Result};
use crate::pod::{Machine, Pod};
use crate::process::Status;
use crate::stdio::{Io, Owner, Relays};
use crate::translate;
use crate::tree::{Names, Place};

/// Why a container whose snapshot is a disk can be neither left nor restored: the engine
/// keeps the difference of its files, and its guest knows the disk as it was.
const DISK: &str = "its snapshot is a disk, whose content is not in a checkpoint; use a snapshotter \
     of folders, such as overlayfs";

/// Where a checkpoint is unpacked, in the container's folder.
const UNPACKED: &str = "checkpoint";

/// A container that goes on where another was, once it is started.
pub(super) struct Copy {
    waiting: Mutex<Option<(ContainerCopy, Io)>>,
    guest: OnceLock<caisson_sandbox::Container>,
}

impl Copy {
    /// The container, if it has been started.
    pub(super) fn guest(&self) -> Option<&caisson_sandbox::Container> {
        self.guest.get()
    }
}

impl Container {
    /// Leaves a checkpoint in a folder. The container goes on, unless it is to `exit`; one
    /// that is paused stays so.
    pub async fn checkpoint(&self, pod: &Pod, folder: &Path, exit: bool) -> Result<()> {
        let _turn = self.changing.lock().await;
        let machine = self.can_be_left(pod).await?;
        let recipe = (*machine.recipe)
            .as_ref()
            .map_err(|reason| self.refuse(format!("its machine cannot be copied: {reason}")))?;
        let guest_id = self.guest()?.id().to_owned();
        let places: Vec<_> = {
            let entries = self.entries();
            entries.iter().map(|entry| entry.place().clone()).collect()
        };
        if !places.iter().any(Place::is_rootfs) {
            return Err(self.refuse(DISK.to_owned()));
        }
        let Some(mut relays) = self.init.relays().await else {
            return Err(self.refuse("its streams are gone".to_owned()));
        };
        let left = self.leave(pod, &mut relays, folder).await;
        drop(relays);
        left?;
        let (folder_of, recipe): (_, Recipe) = (folder.to_owned(), recipe.clone());
        // The container's output moves on meanwhile.
        tokio::task::spawn_blocking(move || {
            checkpoint::seal(&folder_of, &guest_id, places, &recipe)
        })
        .await
        .map_err(Error::host("write the checkpoint"))??;
        pod.events.send(
            topics::TASK_CHECKPOINTED_EVENT_TOPIC,
            &TaskCheckpointed {
                container_id: self.id.clone(),
                checkpoint: folder.to_string_lossy().into_owned(),
                ..Default::default()
            },
        );
        if exit {
            self.init.signal(libc::SIGKILL.unsigned_abs(), true).await?;
        }
        Ok(())
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Checkpoint {
            container: self.id.clone(),
            reason,
        }
    }

    /// Refuses what cannot be in a checkpoint.
    async fn can_be_left(&self, pod: &Pod) -> Result<Machine> {
        let refuse = |reason: &str| Err(self.refuse(reason.to_owned()));
        if self.role != Role::Alone {
            return refuse("it is part of a pod, whose containers share one machine");
        }
        if self.init.paths.terminal {
            return refuse("it has a terminal, which belongs to whoever is attached to it");
        }
        if self.init.status() != Status::Running {
            return refuse("it does not run");
        }
        let Some(machine) = pod.running().await else {
            return refuse("its machine has ended");
        };
        if let Origin::Booted { reason } = machine.sandbox.origin() {
            return Err(self.refuse(format!(
                "its machine booted instead of being forked of a template ({reason})"
            )));
        }
        Ok(machine)
    }

    /// Freezes the container, leaves its machine in files, and thaws it.
    async fn leave(&self, pod: &Pod, relays: &mut Relays, folder: &Path) -> Result<()> {
        let guest = self.guest()?;
        let mut held = relays.hold().await?;
        let frozen = match guest.freeze().await {
            Ok(frozen) => frozen,
            Err(error) => {
                relays.go_on(held, None);
                return Err(error.into());
            }
        };
        held.end().await;
        let read = relays.wait().await;
        let (thawing, left) = if read {
            // There is no disk: the files are the engine's.
            frozen
                .snapshot(folder, Copies::Anywhere, Box::new(|| Ok(())))
                .await
        } else {
            (frozen.abandon().await, Ok(()))
        };
        match thawing
            .thaw(self.init.paths.request(), self.is_paused())
            .await
        {
            Ok(streams) => relays.go_on(held, Some(streams)),
            Err(error) => {
                relays.go_on(held, None);
                // A container whose program does not go on is of no use to anybody.
                tracing::error!(%error, container = self.id, "the container does not go on");
                pod.kill().await;
                // The first of two failures is the cause.
                return Err(left.err().unwrap_or(error).into());
            }
        }
        left?;
        if !read {
            return Err(self.refuse(
                "what its program has written is not read, and cannot be in a checkpoint"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Lets a copy go on where the first one was.
    pub(super) async fn start_copy(&self, pod: &Pod, copy: &Copy) -> Result<()> {
        let Some(machine) = pod.running().await else {
            return Err(Error::State("the machine has ended".to_owned()));
        };
        let waiting = copy.waiting.lock().await.take();
        let (config, io) =
            waiting.ok_or_else(|| Error::State("the process has been started".to_owned()))?;
        let (guest, streams) = machine.sandbox.copy_container(config).await?;
        self.init.made(guest.init().clone(), io.join(streams)).await;
        // It is started once.
        let _ = copy.guest.set(guest);
        Ok(())
    }
}

impl Pod {
    /// Makes a container that is a copy of the one in a checkpoint.
    pub(super) async fn create_copy(
        self: &Arc<Self>,
        request: &Request,
        bundle: Bundle,
        from: &Path,
    ) -> Result<Container> {
        if bundle.role() != Role::Alone {
            return Err(Error::Unsupported("a checkpoint in a pod"));
        }
        if request.paths.terminal {
            return Err(Error::field(
                "process.terminal",
                "the container of a checkpoint has no terminal",
            ));
        }
        let (from, unpacked) = (from.to_owned(), request.bundle.join(UNPACKED));
        let unpack = move || Checkpoint::unpack(&from, unpacked);
        let checkpoint = tokio::task::spawn_blocking(unpack)
            .await
            .map_err(Error::host("read the checkpoint"))??;
        let record = &checkpoint.record;
        let names = &mut Names::Known(record.places.clone());
        let mut translated = translate::container(&bundle, &self.tree, names, false)?;
        if disk::of(&request.rootfs, self.tree.host())?.is_some() {
            return Err(Error::Invalid(format!("the copy cannot be made: {DISK}")));
        }
        let rootfs = self.rootfs(request, &bundle, names)?;
        translated.entries.push(rootfs);
        names.all_used()?;
        let config = ContainerCopy {
            id: record.guest_id.clone(),
            hostname: translated.spec.hostname().clone().unwrap_or_default(),
            spec: translated.spec,
            files: Vec::new(),
            streams: request.paths.request(),
        };
        let owner = Owner {
            namespace: &self.place.namespace,
            container: &request.id,
        };
        let (machine, io) = tokio::try_join!(
            self.machine(Some(&bundle), Some(&checkpoint)),
            request.paths.open(owner)
        )?;
        let copy = Copy {
            waiting: Mutex::new(Some((config, io))),
            guest: OnceLock::new(),
        };
        Ok(Container::new(
            request,
            bundle,
            &machine,
            Guest::Copy(Box::new(copy)),
            translated.entries,
        ))
    }
}
