//! `start`: makes sure that a shim serves the container, and tells its address.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::address::{self, ADDRESS_FILE};
use crate::arguments::Arguments;
use crate::bootstrap::Request;
use crate::bundle::{self, Bundle, Role};
use crate::daemon::READY;
use crate::error::{Error, Result};

/// Most that is read of what containerd says.
const INPUT_LIMIT: u64 = 10 << 20;

/// Most that is shown of what a shim says before it ends.
const WORDS_LIMIT: u64 = 16 << 10;

/// Starts a shim unless the sandbox of the container has one, and prints the answer.
pub fn start(arguments: &Arguments) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(INPUT_LIMIT)
        .read_to_end(&mut input)
        .map_err(Error::host("read standard input"))?;
    let request = Request::read(arguments, &input, |name| std::env::var(name).ok());

    let folder = std::env::current_dir().map_err(Error::host("find the bundle"))?;
    let role = role(&folder)?;
    let group = match &role {
        Role::Member(pod) => pod,
        Role::Alone | Role::Sandbox => &arguments.id,
    };
    if !bundle::is_name(group) {
        return Err(Error::Invalid(format!("{group:?} is no name of a sandbox")));
    }
    let socket = address::socket(
        request.socket_folder.as_deref(),
        &arguments.address,
        &arguments.namespace,
        group,
        request.debug,
    );
    if UnixStream::connect(&socket).is_err() {
        if let Role::Member(pod) = &role {
            return Err(Error::State(format!(
                "the pod {pod} has no running sandbox for this container"
            )));
        }
        make_way(&socket)?;
        run(arguments, &request, &socket)?;
    }
    let file = folder.join(ADDRESS_FILE);
    std::fs::write(&file, address::unix(&socket)).map_err(Error::path("write", &file))?;
    std::io::stdout()
        .write_all(&request.answer(&socket))
        .map_err(Error::host("write to standard output"))
}

/// A sandbox that containerd makes through the Sandbox service has no specification yet.
fn role(folder: &Path) -> Result<Role> {
    if !folder.join("config.json").exists() {
        return Ok(Role::Alone);
    }
    Ok(Bundle::read(folder)?.role())
}

/// Removes the socket of a shim that is gone.
fn make_way(socket: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(folder) = socket.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)
            .map_err(Error::path("make", folder))?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::path("remove", socket)(error))
        }
        _ => Ok(()),
    }
}

/// Starts the shim and waits until it listens.
fn run(arguments: &Arguments, request: &Request, socket: &Path) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::host("find this program"))?;
    let mut command = Command::new(&program);
    command
        .arg("-namespace")
        .arg(&arguments.namespace)
        .arg("-id")
        .arg(&arguments.id)
        .arg("-address")
        .arg(&arguments.address)
        .arg("-publish-binary")
        .arg(&arguments.publish_binary)
        .arg("-socket")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if request.debug {
        command.arg("-debug");
    }
    if let Some(address) = &request.ttrpc_address {
        command.env("TTRPC_ADDRESS", address);
    }
    let mut shim = command.spawn().map_err(Error::path("start", &program))?;
    let words = last_words(&mut shim)?;
    if words == READY {
        return Ok(());
    }
    let status = shim.wait().map_err(Error::host("wait for the shim"))?;
    let words = words.trim().trim_start_matches(READY.trim()).trim();
    let words = words
        .strip_prefix(crate::RUNTIME)
        .map_or(words, |rest| rest.trim_start_matches(": "));
    Err(Error::Daemon(if words.is_empty() {
        status.to_string()
    } else {
        words.to_owned()
    }))
}

/// What the shim says until it listens or ends: it closes the pipe then.
fn last_words(shim: &mut Child) -> Result<String> {
    let pipe = shim
        .stderr
        .take()
        .expect("standard error was asked to be a pipe");
    let mut words = Vec::new();
    pipe.take(WORDS_LIMIT)
        .read_to_end(&mut words)
        .map_err(Error::host("listen to the shim"))?;
    Ok(String::from_utf8_lossy(&words).into_owned())
}
