//! A disk of the host, through a device node that the container makes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::MARK;
use crate::line;

/// Where the mark goes: behind what the victim holds.
const OFFSET: u64 = 4096;

/// Makes a node for `MAJOR:MINOR`, reads the disk's beginning and leaves a mark on it.
pub fn attack(device: &str, folder: &str) {
    let numbers = device
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    let Some((major, minor)) = numbers else {
        return line::refused("make a node", "expected MAJOR:MINOR");
    };
    let node = Path::new(folder).join("disk");
    let what = format!("mknod {} b {major} {minor}", node.display());
    line::attempt(&what);
    // Of an earlier attempt.
    let _ = fs::remove_file(&node);
    let made = mknodat(
        CWD,
        &node,
        FileType::BlockDevice,
        Mode::RUSR | Mode::WUSR,
        makedev(major, minor),
    );
    if line::outcome(what, made).is_none() {
        return;
    }
    let what = "read and write the disk";
    line::attempt(what);
    if let Some(text) = line::outcome(what, read_and_write(&node)) {
        line::done(format_args!("it begins with {text:?}"));
    }
    let _ = fs::remove_file(&node);
}

fn read_and_write(node: &Path) -> io::Result<String> {
    let disk = File::options().read(true).write(true).open(node)?;
    let mut begin = [0; 64];
    disk.read_exact_at(&mut begin, 0)?;
    disk.write_all_at(MARK, OFFSET)?;
    disk.sync_all()?;
    Ok(String::from_utf8_lossy(&begin)
        .trim_end_matches('\0')
        .to_owned())
}
