//! From a command's first word to a program, inside the container.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The program that `name` means: a path if it has a slash, else the first
/// executable of that name in the folders of `PATH`.
pub(super) fn find(name: &str, path: Option<&str>) -> Result<PathBuf> {
    if name.is_empty() {
        return Err(Error::ProgramNotFound(
            "exec: no command is given".to_owned(),
        ));
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(error) => Err(refused(name, &error)),
        };
    }
    let mut denied = None;
    for folder in path.unwrap_or_default().split(':') {
        // An empty entry would be the working folder: nobody means that today.
        if folder.is_empty() {
            continue;
        }
        let candidate = Path::new(folder).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                denied = Some(error);
            }
            Err(_) => {}
        }
    }
    match denied {
        Some(error) => Err(refused(name, &error)),
        None => Err(Error::ProgramNotFound(format!(
            "exec: \"{name}\": executable file not found in $PATH"
        ))),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = path.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a terminated string that outlives the call.
    let accessible =
        unsafe { libc::faccessat(libc::AT_FDCWD, text.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    if accessible < 0 || metadata.mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

/// In the words and with the exit code of other container tools.
pub(super) fn refused(name: &str, error: &io::Error) -> Error {
    let text = format!("exec: \"{name}\": {}", words(error));
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG) => {
            Error::ProgramNotFound(text)
        }
        _ => Error::ProgramNotExecutable(text),
    }
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_executable_wins() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("folder")).expect("made");
            fs::write(&path, "").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        };
        file("a/tool", 0o644);
        file("b/tool", 0o755);
        file("a/text", 0o644);
        let root = folder.path().display();
        let path = format!("{root}/none::{root}/a:{root}/b");
        let found = find("tool", Some(&path)).expect("found");
        assert_eq!(found, folder.path().join("b/tool"));

        let error = find("text", Some(&path)).expect_err("not executable");
        assert!(matches!(error, Error::ProgramNotExecutable(_)), "{error}");
        let error = find("gone", Some(&path)).expect_err("not there");
        assert_eq!(
            error.to_string(),
            "exec: \"gone\": executable file not found in $PATH"
        );
        let error = find("./gone/x", None).expect_err("not there");
        assert!(matches!(error, Error::ProgramNotFound(_)), "{error}");
        let error = find("/", None).expect_err("a folder");
        assert_eq!(error.to_string(), "exec: \"/\": is a directory");
    }
}
