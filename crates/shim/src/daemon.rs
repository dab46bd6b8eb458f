//! The process that serves a sandbox until containerd has no more use for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use caisson_config::Settings;
use tokio::signal::unix::{SignalKind, signal};

use crate::address;
use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::events::{Engine, Events};
use crate::namespace::Host;
use crate::pod::{Place, Pod};
use crate::tree::Tree;
use crate::{log, service};

/// What is written to standard error once the socket is served.
pub const READY: &str = "ready\n";

/// File in the bundle on which the shim holds a lock as long as it lives, and in which
/// its process id is.
pub const LOCK_FILE: &str = "shim.lock";

/// Folder in the bundle that is shared with the guest.
const SHARE_FOLDER: &str = "share";

/// How long containerd may take for the last events.
const FAREWELL: Duration = Duration::from_secs(15);

/// When an engine that has started a shim has long asked it for its first container.
const FIRST_USE: Duration = Duration::from_secs(30);

/// How long the last answers may take to be written.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves until told to stop.
pub fn serve(arguments: &Arguments) -> Result<()> {
    rustix::process::setsid().map_err(Error::host("leave the engine's session"))?;
    let folder = std::env::current_dir().map_err(Error::host("find the bundle"))?;
    let settings = Settings::load(&[])?;
    let _lock = hold(&folder)?;
    let host = Host::leave()?;
    let tree = Tree::new(folder.join(SHARE_FOLDER), host)?;
    let level = if arguments.debug {
        "debug"
    } else {
        &settings.log_level
    };
    log::begin(&folder, level);
    let place = Place {
        id: arguments.id.clone(),
        namespace: arguments.namespace.clone(),
        folder,
        settings,
    };
    // One thread: the machine's processes end with the thread that started them.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::host("start the event loop"))?
        .block_on(run(arguments, place, tree))
}

async fn run(arguments: &Arguments, place: Place, tree: Tree) -> Result<()> {
    let events = Events::new(Engine {
        namespace: arguments.namespace.clone(),
        ttrpc_address: std::env::var("TTRPC_ADDRESS")
            .ok()
            .filter(|address| !address.is_empty()),
        address: arguments.address.clone(),
        publish_binary: arguments.publish_binary.clone(),
    });
    let pod = Arc::new(Pod::new(place, tree, events));
    let mut server = ttrpc::asynchronous::Server::new()
        .bind(&address::unix(&arguments.socket))
        .map_err(|error| {
            Error::Daemon(format!(
                "cannot listen on {}: {error}",
                arguments.socket.display()
            ))
        })?;
    for services in service::all(&pod) {
        server = server.register_service(services);
    }
    let mut ended = signal(SignalKind::terminate()).map_err(Error::host("listen for signals"))?;
    server.start().await.map_err(|error| {
        Error::Daemon(format!(
            "cannot serve {}: {error}",
            arguments.socket.display()
        ))
    })?;
    say_ready()?;
    tracing::debug!(socket = %arguments.socket.display(), "the shim serves");

    tokio::select! {
        () = pod.finished() => {}
        () = forgotten(&pod) => tracing::warn!("nobody uses this shim"),
        _ = ended.recv() => tracing::warn!("the shim was told to end"),
    }
    pod.kill().await;
    pod.leave_cgroup();
    pod.events.flush(FAREWELL).await;
    if let Err(error) = std::fs::remove_file(&arguments.socket) {
        tracing::debug!(%error, "the socket stays");
    }
    // Connections that engines hold open are closed, after what they have asked is answered.
    if tokio::time::timeout(LAST_ANSWERS, server.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("a call is not answered: the engine does not read, or waits in vain");
    }
    Ok(())
}

/// An engine that was killed after it had started a shim, and before it asked it for a
/// container, knows nothing of it later: containerd 1.6 keeps such a shim for ever.
async fn forgotten(pod: &Pod) {
    tokio::time::sleep(FIRST_USE).await;
    if !pod.is_unused() {
        std::future::pending::<()>().await;
    }
}

/// Tells whoever started us, and lets go of it.
fn say_ready() -> Result<()> {
    let failed = || Error::host("say that the shim is ready");
    std::io::stderr()
        .write_all(READY.as_bytes())
        .map_err(failed())?;
    let nothing = File::options()
        .write(true)
        .open("/dev/null")
        .map_err(failed())?;
    rustix::stdio::dup2_stderr(&nothing).map_err(|errno| failed()(errno.into()))
}

/// Takes the lock of a bundle.
fn hold(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let failed = || Error::path("lock", &path);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed())?;
    file.try_lock()
        .map_err(|error| failed()(std::io::Error::from(error)))?;
    file.set_len(0)
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
        .map_err(failed())?;
    Ok(file)
}
