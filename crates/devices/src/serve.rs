//! The one vhost-user connection of a device process.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use anyhow::{Result, anyhow};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::bitmap::BitmapReplace;
use vhost_user_backend::{Error, VhostUserBackend, VhostUserDaemon};
use vm_memory::mmap::NewBitmap;

/// Serves the connection that waits in `listener` until the VMM closes it.
pub fn serve<T>(mut daemon: VhostUserDaemon<T>, listener: OwnedFd) -> Result<()>
where
    T: VhostUserBackend + Clone + 'static,
    T::Bitmap: BitmapReplace + NewBitmap + Clone + Send + Sync,
    T::Vring: Clone + Send + Sync,
{
    let mut listener = Listener::from(UnixListener::from(listener));
    daemon
        .start(&mut listener)
        .map_err(|error| anyhow!("no VMM connected to the vhost-user socket: {error}"))?;
    drop(listener);
    let ended = daemon.wait();
    // Its destructor waits for the workers, of which one may be busy with a request that
    // takes its time. The process is about to end, and them with it.
    std::mem::forget(daemon);
    match ended {
        Ok(())
        | Err(Error::HandleRequest(
            VhostUserError::Disconnected | VhostUserError::PartialMessage,
        )) => Ok(()),
        Err(error) => Err(anyhow!("the VMM's vhost-user connection failed: {error}")),
    }
}
