//! Where the programs under test are.
//!
//! They are those of `target/release`. `CAISSON_TEST_PROGRAMS` names another folder, such as
//! `target/debug`; the guest's files are then said to be where `make build` puts them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Root of the source tree.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
        .to_owned()
}

/// Where cargo and `make build` put what they make.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace().join(folder),
        None => workspace().join("target"),
    }
}

fn chosen() -> Option<PathBuf> {
    std::env::var_os("CAISSON_TEST_PROGRAMS").map(|folder| workspace().join(folder))
}

/// Whether they were built without optimisation, which makes their code twice as large.
pub fn are_for_debugging() -> bool {
    chosen().is_some_and(|folder| folder.ends_with("debug"))
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `make build`",
        path.display()
    );
    path
}

/// The `caisson` command.
pub fn caisson() -> PathBuf {
    let folder = chosen().unwrap_or_else(|| target().join("release"));
    existing(folder.join("caisson"))
}

/// The shim for containerd.
pub fn shim() -> PathBuf {
    let folder = chosen().unwrap_or_else(|| target().join("release"));
    existing(folder.join("containerd-shim-caisson-v2"))
}

/// Folder of an engine that `make setup` has unpacked.
pub fn engine(name: &str) -> PathBuf {
    let cache = match std::env::var_os("CAISSON_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/caisson")
        }
    };
    let folder = cache.join("engines").join(name);
    assert!(
        folder.exists(),
        "{} is missing: run `make setup`",
        folder.display()
    );
    folder
}

/// The archive of `busybox:latest`.
pub fn demo_image() -> PathBuf {
    image("busybox")
}

/// The archive of an image that is made here.
pub fn image(name: &str) -> PathBuf {
    let path = target().join(format!("demo/{name}.tar"));
    assert!(
        path.exists(),
        "{} is missing: run `make build` or `cargo xtask image {name}`",
        path.display()
    );
    path
}

/// The archive of an image that `xtask image NAME` packs.
pub fn packed_image(name: &str) -> PathBuf {
    let path = target().join(format!("demo/{name}.tar"));
    assert!(
        path.exists(),
        "{} is missing: run `cargo run -p xtask -- image {name}`",
        path.display()
    );
    path
}

/// What `caisson compare` runs in containers; it also sends and shows frames.
pub fn probe() -> PathBuf {
    existing(target().join("guest/caisson-probe"))
}

/// The guest's kernel.
pub fn kernel() -> PathBuf {
    existing(target().join("guest/vmlinux"))
}

/// What the guest starts with: the agent.
pub fn initramfs() -> PathBuf {
    existing(target().join("guest/initramfs"))
}

/// The variables that tell a chosen program where its parts are. Others find them.
pub fn places() -> Vec<(&'static str, OsString)> {
    let Some(folder) = chosen() else {
        return Vec::new();
    };
    vec![
        (
            "CAISSON_DEVICES",
            existing(folder.join("caisson-devices")).into(),
        ),
        ("CAISSON_KERNEL", kernel().into()),
        ("CAISSON_INITRAMFS", initramfs().into()),
    ]
}
