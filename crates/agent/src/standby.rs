//! What a template's guest does before it is frozen, so that its forks find it done.

use crate::cgroup::Cgroup;
use crate::container::Spare;
use crate::disks::Disks;
use crate::error::Result;
use crate::reaper::Reaper;
use crate::template::Wanted;
use crate::{device, network};

/// Does it all. There is nothing of it: the guest has just booted, or the container for which
/// it was done before is gone.
pub async fn stand_by(
    wanted: &Wanted,
    disks: &Disks,
    spare: &Spare,
    reaper: &Reaper,
) -> Result<()> {
    // Nothing else goes on: the event loop may be held up.
    let cgroup = Cgroup::prepare_first()?;
    network::prepare(wanted.network.as_ref())?;
    disks.prepare(wanted.new_disk.as_deref())?;
    spare.prepare(&cgroup, reaper).await?;
    device::prepare_to_bind()?;
    Ok(())
}
