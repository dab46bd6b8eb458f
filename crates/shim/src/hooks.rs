//! Hooks that engines hang on a container's life: nerdctl's and Docker's set up networks
//! with them (OCI runtime-spec, config, POSIX-platform Hooks). They run on the host.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};
use serde_json::json;

use crate::error::{Error, Result};
use crate::namespace::Host;

/// For a hook that has no deadline of its own.
const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks whether a hook has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// When hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the container's first process: `prestart` and `createRuntime`.
    Creating,
    /// After it has been started.
    Started,
    /// After the container has been deleted.
    Deleted,
}

/// What hooks are told of a container.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a str,
    /// Process of the host that stands for it.
    pub pid: u32,
    /// Its folder.
    pub bundle: &'a Path,
    /// Its specification, as the engine wrote it.
    pub spec: &'a Spec,
}

/// Refuses hooks that would run in the container's namespaces, which are another kernel's.
pub fn check(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else {
        return Ok(());
    };
    let reason = "its program belongs to the host and cannot run in the guest";
    for (name, list) in [
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
    ] {
        if list.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Error::field(format!("hooks.{name}"), reason));
        }
    }
    Ok(())
}

/// Runs the hooks of a moment, one after the other, until one fails.
pub fn run(moment: Moment, subject: Subject<'_>, host: &Host) -> Result<()> {
    let Some(hooks) = subject.spec.hooks() else {
        return Ok(());
    };
    let lists = match moment {
        Moment::Creating => vec![hooks.prestart(), hooks.create_runtime()],
        Moment::Started => vec![hooks.poststart()],
        Moment::Deleted => vec![hooks.poststop()],
    };
    let status = match moment {
        Moment::Creating => "creating",
        Moment::Started => "running",
        Moment::Deleted => "stopped",
    };
    let state = json!({
        "ociVersion": subject.spec.version(),
        "id": subject.id,
        "status": status,
        "pid": subject.pid,
        "bundle": subject.bundle,
        "annotations": subject.spec.annotations(),
    })
    .to_string();
    for hook in lists.into_iter().flatten().flatten() {
        host.with(|| execute(hook, &state, subject.bundle))?
            .map_err(|reason| Error::Hook {
                hook: hook.path().display().to_string(),
                reason,
            })?;
    }
    Ok(())
}

fn execute(hook: &Hook, state: &str, bundle: &Path) -> std::result::Result<(), String> {
    use std::os::unix::process::CommandExt;
    let failed = |error: std::io::Error| error.to_string();
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[_]>::split_first) {
        command.arg0(name).args(arguments);
    }
    command.env_clear().current_dir(bundle);
    for variable in hook.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read what it is told.
        let _ = input.write_all(state.as_bytes());
    }
    let deadline = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DEADLINE, Duration::from_secs);
    let begin = Instant::now();
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if begin.elapsed() > deadline => {
                child.kill().map_err(failed)?;
                child.wait().map_err(failed)?;
                return Err(format!("it did not end within {} s", deadline.as_secs()));
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}
