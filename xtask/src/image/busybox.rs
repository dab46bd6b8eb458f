//! A real OCI image from Debian's busybox-static: what the demo runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result};
use tar::{Builder, EntryType};

use super::layout::{Image, add, header};
use crate::step::output;

/// Where Debian's busybox-static puts its program.
const BUSYBOX: &str = "/bin/busybox";

/// Reference that the image carries.
pub const REFERENCE: &str = "busybox:latest";

/// Folders of the root file system with their modes.
pub const FOLDERS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("var", 0o755),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";

const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// The image, with one layer: busybox, a link for each of its applets, and the users.
pub fn image() -> Result<Image> {
    let mut archive = Builder::new(Vec::new());
    for (name, mode) in FOLDERS {
        add(&mut archive, EntryType::Directory, name, *mode, &[])?;
    }
    add_programs(&mut archive, &BTreeSet::new())?;
    for (name, content) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        let content = content.as_bytes();
        add(&mut archive, EntryType::Regular, name, 0o644, content)?;
    }
    Ok(Image {
        name: "busybox",
        config: r#"{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"],"WorkingDir":"/"}"#.to_owned(),
        made_of: "busybox-static",
        layer: archive.into_inner()?,
    })
}

/// Adds busybox and a link for each applet whose path is not `taken`.
pub fn add_programs<W: Write>(archive: &mut Builder<W>, taken: &BTreeSet<String>) -> Result<()> {
    let busybox = fs::read(BUSYBOX)
        .with_context(|| format!("cannot read {BUSYBOX}: run `make setup` for busybox-static"))?;
    let applets = output(Command::new(BUSYBOX).arg("--list"))?;
    add(archive, EntryType::Regular, "bin/busybox", 0o755, &busybox)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let path = format!("bin/{applet}");
        if !taken.contains(&path) {
            archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, "busybox")?;
        }
    }
    Ok(())
}
