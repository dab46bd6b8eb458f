//! How a container is made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use caisson_sandbox::{ContainerConfig, Rootfs};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::topics;
use containerd_shim_protos::types::mount::Mount;
use protobuf::MessageField;

use super::{Container, Guest};
use crate::bundle::{Bundle, Role};
use crate::disk;
use crate::error::{Error, Result};
use crate::hooks::{self, Moment};
use crate::pod::Pod;
use crate::stdio::{Owner, Paths};
use crate::translate;
use crate::tree::{Entry, Names};

/// What containerd asks for.
#[derive(Debug)]
pub struct Request {
    /// Id of the container.
    pub id: String,
    /// Its folder.
    pub bundle: PathBuf,
    /// Its rootfs; none: the specification says where it is.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub paths: Paths,
    /// Folder of the checkpoint that it is a copy of, if it is one.
    pub checkpoint: Option<PathBuf>,
}

impl Pod {
    /// Makes a container.
    pub async fn create(self: &Arc<Self>, request: Request) -> Result<Arc<Container>> {
        self.free(&request.id)?;
        let bundle = Bundle::read(&request.bundle)?;
        hooks::check(&bundle.spec)?;
        let role = bundle.role();
        if role == Role::Alone && !self.is_empty() {
            return Err(Error::State(
                "this shim serves another container".to_owned(),
            ));
        }
        let container = if let Some(checkpoint) = &request.checkpoint {
            self.create_copy(&request, bundle, checkpoint).await?
        } else if role == Role::Sandbox {
            let machine = self.machine(Some(&bundle), None).await?;
            Container::new(&request, bundle, &machine, Guest::Marker, Vec::new())
        } else {
            self.create_in_guest(&request, bundle, role != Role::Alone)
                .await?
        };
        let container = Arc::new(container);
        if let Err(error) = container.hooks(self, Moment::Creating) {
            container.discard().await;
            return Err(error);
        }
        self.insert(container.clone());
        self.events.send(
            topics::TASK_CREATE_EVENT_TOPIC,
            &TaskCreate {
                container_id: request.id,
                bundle: request.bundle.to_string_lossy().into_owned(),
                rootfs: request.rootfs,
                io: MessageField::some(TaskIO {
                    stdin: request.paths.stdin,
                    stdout: request.paths.stdout,
                    stderr: request.paths.stderr,
                    terminal: request.paths.terminal,
                    ..Default::default()
                }),
                pid: container.pid,
                checkpoint: request
                    .checkpoint
                    .map(|path| path.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                ..Default::default()
            },
        );
        Ok(container)
    }

    /// What the guest sees of the host as the container's `/`.
    pub(super) fn rootfs(
        &self,
        request: &Request,
        bundle: &Bundle,
        names: &mut Names,
    ) -> Result<Entry> {
        if !request.rootfs.is_empty() {
            return self.tree.mount(&request.rootfs, names);
        }
        let root = bundle.spec.root().as_ref().map(|root| root.path().clone());
        let path = root.ok_or_else(|| Error::field("root", "it is missing"))?;
        let source = bundle.path.join(path);
        self.tree.bind(Path::new("/"), &source, false, names)
    }

    async fn create_in_guest(
        self: &Arc<Self>,
        request: &Request,
        bundle: Bundle,
        in_pod: bool,
    ) -> Result<Container> {
        let names = &mut Names::New;
        let mut translated = translate::container(&bundle, &self.tree, names, in_pod)?;
        let rootfs = match disk::of(&request.rootfs, self.tree.host())? {
            Some(disk) => Rootfs::Disk(disk),
            None => {
                let entry = self.rootfs(request, &bundle, names)?;
                let name = entry.name().to_owned();
                translated.entries.push(entry);
                Rootfs::Share(name)
            }
        };
        let config = ContainerConfig {
            id: request.id.clone(),
            spec: translated.spec,
            rootfs,
            files: Vec::new(),
            init: false,
            streams: request.paths.request(),
        };
        let owner = Owner {
            namespace: &self.place.namespace,
            container: &request.id,
        };
        let (machine, io) =
            tokio::try_join!(self.machine(Some(&bundle), None), request.paths.open(owner))?;
        let (guest, streams) = machine.sandbox.create_container(config).await?;
        let process = guest.init().clone();
        let container = Container::new(
            request,
            bundle,
            &machine,
            Guest::Container(guest),
            translated.entries,
        );
        container.init.made(process, io.join(streams)).await;
        Ok(container)
    }
}
