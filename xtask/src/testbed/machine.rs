//! The test bed's machine: QEMU, and the process that serves the host's files to it.

use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};

use super::monitor;
use super::stream::{self, Mark};
use super::tsc;

/// Parameters of the kernel; nobody else is in there to be protected from. With them
/// goes the frequency of the time stamp counter, which is the host's. Measured against
/// emulated clocks on a busy host, it came out so wrong that an hour passed in minutes,
/// and every deadline with it.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr \
    random.trust_cpu=1 no_timer_check tsc=reliable";

/// Memory of the machine. What is written in it stays there.
const MEMORY: &str = "3072M";

/// How much of the kernel's words is kept for an error.
const LAST_WORDS: usize = 2048;

/// What a machine is made of.
pub struct Parts<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a [u8],
    /// `caisson-devices`, which serves files.
    pub devices: &'a Path,
    /// Names and paths of the folders that it serves.
    pub shares: &'a [(&'static str, PathBuf)],
    /// Where its file in transit is made.
    pub scratch: &'a Path,
    /// How its streams end.
    pub mark: &'a Mark,
    /// Whether the command has our terminal.
    pub interactive: bool,
}

/// Runs a machine until its command has ended, and gives that one's exit status.
pub fn run(parts: &Parts<'_>, deadline: Duration) -> Result<u8> {
    let (files_process, files) = serve_files(parts)?;
    let _files_process = Ended(files_process);
    let (kernel_log, theirs_kernel_log) = pair()?;
    let (out, theirs_out) = pair()?;
    let (err, theirs_err) = pair()?;
    let (terminal, theirs_terminal) = pair()?;
    let (monitor, theirs_monitor) = pair()?;
    let mut initramfs = tempfile::tempfile_in(parts.scratch)
        .with_context(|| format!("cannot make a file in {}", parts.scratch.display()))?;
    initramfs
        .write_all(parts.initramfs)
        .and_then(|()| initramfs.rewind())
        .context("cannot write the machine's initramfs")?;

    let mut qemu = Qemu::new();
    let initramfs = qemu.give(initramfs);
    let memory = format!("memory-backend-memfd,id=ram,share=on,size={MEMORY}");
    qemu.arguments(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.arguments(&["-display", "none", "-machine", "q35,memory-backend=ram"]);
    // SVM is emulated as well, which is what makes a /dev/kvm.
    qemu.arguments(&["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    qemu.arguments(&["-m", MEMORY, "-object", &memory]);
    qemu.arguments(&["-kernel", &parts.kernel.to_string_lossy()]);
    qemu.arguments(&["-initrd", &format!("/proc/self/fd/{initramfs}")]);
    let frequency = tsc::frequency().context("cannot measure the time stamp counter")?;
    qemu.arguments(&[
        "-append",
        &format!("{PARAMETERS} tsc_early_khz={frequency}"),
    ]);
    qemu.stream("kernel", theirs_kernel_log);
    qemu.arguments(&["-serial", "chardev:kernel", "-device", "virtio-serial-pci"]);
    qemu.stream("out", theirs_out);
    qemu.arguments(&["-device", "virtserialport,chardev=out,name=out"]);
    qemu.stream("err", theirs_err);
    qemu.arguments(&["-device", "virtserialport,chardev=err,name=err"]);
    qemu.stream("terminal", theirs_terminal);
    qemu.arguments(&["-device", "virtconsole,chardev=terminal"]);
    qemu.stream("monitor", theirs_monitor);
    qemu.arguments(&["-mon", "chardev=monitor,mode=control"]);
    qemu.stream("files", files);
    qemu.arguments(&["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
    // A network for passt to find; it leads nowhere.
    qemu.arguments(&["-nic", "user,restrict=on,model=virtio-net-pci"]);
    let mut qemu = Ended(qemu.spawn()?);

    let last_words = Arc::default();
    let kernel = {
        let last_words = Arc::clone(&last_words);
        thread::spawn(move || keep(kernel_log, &last_words))
    };
    let (sender, ends) = mpsc::channel();
    relay(out, io::stdout(), parts.mark, sender.clone());
    relay(err, io::stderr(), parts.mark, sender);
    if parts.interactive {
        relay_terminal(terminal)?;
    }
    let outcome = wait(&ends, deadline, monitor);
    qemu.end();
    drop(kernel.join());
    outcome.with_context(|| {
        let words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        match words.trim() {
            "" => "the machine's kernel said nothing".to_owned(),
            words => format!("the last that the machine's kernel said:\n{words}\nIt ended because"),
        }
    })
}

/// The command did not end in time.
#[derive(Debug)]
pub struct Late {
    deadline: Duration,
    /// Where the machine's processors were.
    processors: String,
}

impl std::error::Error for Late {}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the command did not end within {} s (--deadline); where its processors were:\n{}",
            self.deadline.as_secs(),
            self.processors
        )
    }
}

/// Waits until both streams have come to their end. If that takes too long, tells what the
/// machine does instead.
fn wait(
    ends: &mpsc::Receiver<io::Result<Option<u8>>>,
    deadline: Duration,
    monitor: UnixStream,
) -> Result<u8> {
    let begin = Instant::now();
    let mut status = None;
    for _ in ["out", "err"] {
        let rest = deadline.saturating_sub(begin.elapsed());
        match ends.recv_timeout(rest) {
            Ok(end) => match end.context("cannot copy what the command printed")? {
                Some(named) => status = Some(named),
                None => bail!("the machine ended before the command did"),
            },
            Err(RecvTimeoutError::Timeout) => bail!(Late {
                deadline,
                processors: monitor::processors(monitor).trim_end().to_owned(),
            }),
            Err(RecvTimeoutError::Disconnected) => bail!("the threads that copy have ended"),
        }
    }
    status.context("the command's exit status is lost")
}

/// QEMU's command line.
struct Qemu {
    command: Command,
    descriptors: Vec<OwnedFd>,
}

impl Qemu {
    /// Below are the standard streams.
    const FIRST: i32 = 3;

    fn new() -> Self {
        // It ends when we do, however that is.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        Self {
            command,
            descriptors: Vec::new(),
        }
    }

    fn arguments(&mut self, arguments: &[&str]) {
        self.command.args(arguments);
    }

    /// Passes a descriptor, and gives its number in QEMU.
    fn give(&mut self, descriptor: impl Into<OwnedFd>) -> i32 {
        self.descriptors.push(descriptor.into());
        // Not truncated: there are seven.
        Self::FIRST + self.descriptors.len() as i32 - 1
    }

    fn stream(&mut self, name: &str, end: UnixStream) {
        let number = self.give(end);
        self.arguments(&["-chardev", &format!("socket,id={name},fd={number}")]);
    }

    fn spawn(mut self) -> Result<Child> {
        let mappings = self.descriptors.into_iter().zip(Self::FIRST..);
        let mappings = mappings
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .fd_mappings(mappings)
            .context("two descriptors have one number")?
            .spawn()
            .context("cannot start qemu-system-x86_64")
    }
}

/// A process that does not outlive this value.
struct Ended(Child);

impl Ended {
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts to serve the host's files, read-only, and gives QEMU's end of the connection.
fn serve_files(parts: &Parts<'_>) -> Result<(Child, UnixStream)> {
    const LISTENER: i32 = 3;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let path = folder.path().join("files");
    let listener = UnixListener::bind(&path).context("cannot make a socket")?;
    let connection = UnixStream::connect(&path).context("cannot make a connection")?;
    let mut command = Command::new(parts.devices);
    command
        .args(["fs", &format!("--listener-fd={LISTENER}")])
        .stdin(Stdio::null());
    for (name, source) in parts.shares {
        command.arg(format!("--mount-ro={name}={}", source.display()));
    }
    let mapping = FdMapping {
        parent_fd: listener.into(),
        child_fd: LISTENER,
    };
    let process = command
        .fd_mappings(vec![mapping])
        .context("two descriptors have one number")?
        .spawn()
        .with_context(|| format!("cannot start {}", parts.devices.display()))?;
    Ok((process, connection))
}

fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().context("cannot make a socket pair")
}

/// Copies a stream to one of ours in a thread, which says how it ended.
fn relay(
    mut from: UnixStream,
    mut to: impl Write + Send + 'static,
    mark: &Mark,
    ended: mpsc::Sender<io::Result<Option<u8>>>,
) {
    let mark = mark.clone();
    thread::spawn(move || {
        // Nobody listens any more when the deadline has passed.
        let _ = ended.send(stream::copy(&mut from, &mut to, &mark));
    });
}

/// Copies our terminal to the machine's and back, until we end.
fn relay_terminal(terminal: UnixStream) -> Result<()> {
    let mut to = terminal.try_clone().context("cannot copy a socket")?;
    thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut to));
    let mut from = terminal;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let mut out = io::stdout();
            if out
                .write_all(&buffer[..read])
                .and_then(|()| out.flush())
                .is_err()
            {
                return;
            }
        }
    });
    Ok(())
}

/// Keeps the end of what the kernel says, until it ends.
fn keep(mut from: UnixStream, kept: &Mutex<String>) {
    let mut buffer = [0; 4096];
    let mut last = Vec::new();
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        last.extend_from_slice(&buffer[..read]);
        last.drain(..last.len().saturating_sub(LAST_WORDS));
        let text = String::from_utf8_lossy(&last);
        let clean = text.chars().filter(|c| *c == '\n' || !c.is_control());
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = clean.collect();
    }
}
