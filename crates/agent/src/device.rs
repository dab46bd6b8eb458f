//! The platform devices behind which virtio devices come and go.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Where a platform device is given to its driver, which then looks at it afresh.
const BIND: &str = "/sys/bus/platform/drivers/virtio-mmio/bind";

/// Where its driver lets go of it.
const UNBIND: &str = "/sys/bus/platform/drivers/virtio-mmio/unbind";

/// Name of a device by its number.
pub fn name(number: u32) -> String {
    format!("virtio-mmio.{number}")
}

/// Gives a device to its driver.
pub fn bind(number: u32) -> Result<()> {
    let name = name(number);
    let mut driver = prepare_to_bind()?;
    driver
        .write_all(name.as_bytes())
        .map_err(Error::system(format!("use the device {name}")))
}

/// Opens what [`bind`] writes to.
pub fn prepare_to_bind() -> Result<&'static File> {
    static DRIVER: OnceLock<File> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let driver = File::options().write(true).open(BIND);
    let driver = driver.map_err(Error::path("open", Path::new(BIND)))?;
    Ok(DRIVER.get_or_init(|| driver))
}

/// Takes a device from its driver.
pub fn let_go(name: &str) -> Result<()> {
    fs::write(UNBIND, name).map_err(Error::system(format!("let go of the device {name}")))
}
