//! Where the image of the probes comes from: an archive, whatever the engine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::runtime::{Interrupt, Program, output};

/// A download ends at some time.
const DEADLINE: Duration = Duration::from_secs(600);

/// The archive of an image: a file, else a name that is fetched from its registry; without
/// either, the demo's.
pub fn archive(
    image: Option<&str>,
    caisson: &Path,
    scratch: &Path,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let Some(image) = image else {
        return demo(caisson);
    };
    let path = Path::new(image);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let wrong = |reason: String| Error::Image {
        image: image.to_owned(),
        reason,
    };
    if path.components().count() > 1 && (path.is_absolute() || image.starts_with('.')) {
        return Err(wrong("there is no such file".to_owned()));
    }
    if Program::find("skopeo").is_none() {
        let reason = "it is no file, and a name is fetched by skopeo: apt-get install skopeo";
        return Err(wrong(reason.to_owned()));
    }
    let archive = scratch.join("image.tar");
    let mut command = Command::new("skopeo");
    command
        .args(["copy", "--quiet"])
        .arg(format!("docker://{image}"))
        .arg(format!("oci-archive:{}:{image}", archive.display()));
    let outcome = output(command, DEADLINE, interrupt)?;
    if outcome.success() {
        Ok(archive)
    } else {
        Err(wrong(outcome.error_text()))
    }
}

fn demo(caisson: &Path) -> Result<PathBuf> {
    packed("busybox", caisson).ok_or_else(|| Error::Image {
        image: "busybox".to_owned(),
        reason: "`make demo` packs it into target/demo; name another with --image".to_owned(),
    })
}

/// An archive that was packed in the build tree: `target/release/caisson` has it in `target/demo`.
pub fn packed(name: &str, caisson: &Path) -> Option<PathBuf> {
    let real = caisson
        .canonicalize()
        .unwrap_or_else(|_| caisson.to_owned());
    real.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("demo").join(format!("{name}.tar")))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_image_is_found_beside_the_programs() {
        let folder = tempfile::tempdir().expect("a folder");
        let programs = folder.path().join("release");
        std::fs::create_dir_all(&programs).expect("a folder");
        let caisson = programs.join("caisson");
        std::fs::write(&caisson, "").expect("written");
        let find = |image| archive(image, &caisson, folder.path(), &Interrupt::default());
        let error = find(None).expect_err("there is none").to_string();
        assert!(error.contains("make demo"), "{error}");
        std::fs::create_dir(folder.path().join("demo")).expect("a folder");
        let demo = folder.path().join("demo/busybox.tar");
        std::fs::write(&demo, "").expect("written");
        assert_eq!(
            find(None).expect("found"),
            demo.canonicalize().expect("there")
        );
        let named = demo.to_string_lossy();
        assert_eq!(find(Some(&named)).expect("found"), demo);
        assert!(find(Some("./no-such-file")).is_err());
    }
}
