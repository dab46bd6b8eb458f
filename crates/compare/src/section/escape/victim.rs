//! Victims: made for being attacked, looked at from outside, and gone afterwards.

use std::fs::{self, File, TryLockError};
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::error::{At, Error, Result};
use crate::runtime::{Interrupt, output};

/// How long our own commands may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What an attack is aimed at.
pub trait Victim {
    /// An attack begins.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// What has happened to it, if anything; `said` is what the attacker printed.
    fn damage(&mut self, said: &str) -> Result<Option<String>>;

    /// What else was seen from outside meanwhile.
    fn remark(&self) -> Option<String> {
        None
    }

    /// Makes it as it was.
    fn reset(&mut self) -> Result<()>;
}

/// A file of the host.
pub struct Canary {
    path: PathBuf,
}

impl Canary {
    const CONTENT: &str = "canary\n";

    /// Makes the file.
    pub fn new(path: &Path) -> Result<Self> {
        let mut canary = Self {
            path: path.to_owned(),
        };
        canary.reset()?;
        Ok(canary)
    }
}

impl Victim for Canary {
    fn damage(&mut self, _said: &str) -> Result<Option<String>> {
        let content = fs::read(&self.path).at(&self.path)?;
        Ok((content != Self::CONTENT.as_bytes()).then(|| {
            let text = String::from_utf8_lossy(&content);
            format!("the file on the host now reads {:?}", text.trim_end())
        }))
    }

    fn reset(&mut self) -> Result<()> {
        fs::write(&self.path, Self::CONTENT).at(&self.path)
    }
}

/// A disk of the host: a loop device on a file.
pub struct Disk {
    backing: PathBuf,
    device: String,
}

impl Disk {
    /// What it begins with, and nobody else knows.
    const SECRET: &str = "caisson-compare-secret";
    const SIZE: u64 = 1 << 20;

    /// Makes the file and attaches it.
    pub fn new(backing: &Path, interrupt: &Interrupt) -> Result<Self> {
        let file = File::create(backing).at(backing)?;
        file.set_len(Self::SIZE).at(backing)?;
        file.write_all_at(Self::SECRET.as_bytes(), 0).at(backing)?;
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(backing);
        let device = run(command, interrupt)?;
        Ok(Self {
            backing: backing.to_owned(),
            device,
        })
    }

    /// Its number, as `MAJOR:MINOR`.
    pub fn number(&self) -> Result<String> {
        let path = Path::new("/sys/block")
            .join(self.device.trim_start_matches("/dev/"))
            .join("dev");
        Ok(fs::read_to_string(&path).at(path)?.trim().to_owned())
    }
}

impl Victim for Disk {
    fn damage(&mut self, said: &str) -> Result<Option<String>> {
        if said.contains(Self::SECRET) {
            return Ok(Some(format!("the secret on {} was read", self.device)));
        }
        let content = fs::read(&self.backing).at(&self.backing)?;
        let rest = content.get(Self::SECRET.len()..).unwrap_or_default();
        let changed = rest.iter().any(|byte| *byte != 0);
        Ok(changed.then(|| format!("{} was written to", self.device)))
    }

    fn reset(&mut self) -> Result<()> {
        let file = File::options().write(true).open(&self.device);
        let file = file.at(&self.device)?;
        let mut content = vec![0; Self::SIZE as usize];
        content[..Self::SECRET.len()].copy_from_slice(Self::SECRET.as_bytes());
        file.write_all_at(&content, 0).at(&self.device)?;
        file.sync_all().at(&self.device)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut command = Command::new("losetup");
        command.args(["--detach", &self.device]);
        if let Err(error) = run(command, &Interrupt::default()) {
            tracing::warn!(%error, device = self.device, "a loop device is left behind");
        }
    }
}

/// A process of the host.
pub struct Process {
    program: PathBuf,
    token: String,
    child: Child,
}

impl Process {
    /// Starts it. The token is by what an attacker knows it.
    pub fn new(program: &Path, token: String) -> Result<Self> {
        let child = Self::start(program, &token)?;
        Ok(Self {
            program: program.to_owned(),
            token,
            child,
        })
    }

    /// Waits for its word that it is there: a process that has only just been started has no
    /// arguments yet to be found by.
    fn start(program: &Path, token: &str) -> Result<Child> {
        let failed = |source| Error::Spawn {
            program: program.to_string_lossy().into_owned(),
            source,
        };
        let mut child = Command::new(program)
            .args(["canary", token])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        if let Some(said) = child.stdout.as_mut() {
            said.read_exact(&mut [0]).map_err(failed)?;
        }
        Ok(child)
    }

    fn end(&mut self) {
        // It has not been waited for: its number cannot be another's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim for Process {
    fn damage(&mut self, _said: &str) -> Result<Option<String>> {
        let ended = self.child.try_wait();
        let ended = ended.map_err(|source| Error::Wait { source })?;
        Ok(ended.map(|status| format!("process {} of the host ended: {status}", self.child.id())))
    }

    fn reset(&mut self) -> Result<()> {
        self.end();
        self.child = Self::start(&self.program, &self.token)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A version 1 cgroup hierarchy without a controller, and a program that leaves a file beside
/// itself when the kernel starts it as the release agent.
pub struct Hierarchy {
    name: String,
    folder: PathBuf,
}

impl Hierarchy {
    /// Makes the hierarchy. It lives by its cgroup: the mount is in a namespace of its own, so that
    /// no runtime takes it for one of the host's.
    pub fn new(name: String, folder: &Path, program: &Path, interrupt: &Interrupt) -> Result<Self> {
        let hierarchy = Self {
            name,
            folder: folder.to_owned(),
        };
        let agent = hierarchy.agent();
        fs::copy(program, &agent).at(agent)?;
        let mount = hierarchy.mount_point();
        fs::create_dir_all(&mount).at(mount)?;
        hierarchy.shell("mkdir -p \"$1/victim\"", interrupt)?;
        Ok(hierarchy)
    }

    /// The program that the host's kernel is to be made to start.
    pub fn agent(&self) -> PathBuf {
        self.folder.join("agent")
    }

    fn left(&self) -> PathBuf {
        self.folder.join("released")
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }

    /// Runs a script where the hierarchy is mounted on `$1`.
    fn shell(&self, script: &str, interrupt: &Interrupt) -> Result<()> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec"])
            .arg(format!(
                "mount -t cgroup -o none,name={} none \"$1\"; {script}; umount \"$1\"",
                self.name
            ))
            .arg("sh")
            .arg(self.mount_point());
        run(command, interrupt).map(drop)
    }

    fn exists(&self) -> bool {
        let list = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        list.contains(&format!(":name={}:", self.name))
    }
}

impl Victim for Hierarchy {
    fn damage(&mut self, _said: &str) -> Result<Option<String>> {
        let left = self.left();
        let Ok(said) = fs::read_to_string(&left) else {
            return Ok(None);
        };
        let kernel = said.lines().last().unwrap_or_default().to_owned();
        Ok(Some(format!(
            "the host's kernel started the program: {kernel}"
        )))
    }

    fn reset(&mut self) -> Result<()> {
        let left = self.left();
        match fs::remove_file(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at(left),
            _ => self.shell("echo > \"$1/release_agent\"", &Interrupt::default()),
        }
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        // A cgroup that was removed is there for a moment more, and an unmount while it is leaves
        // the hierarchy: a later one does not.
        for _ in 0..50 {
            let script = "for cgroup in \"$1\"/*/; do rmdir \"$cgroup\" || true; done 2>/dev/null";
            let done = self.shell(script, &Interrupt::default());
            if done.is_err() || !self.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.exists() {
            tracing::warn!(name = self.name, "a cgroup hierarchy is left behind");
        }
    }
}

/// Something that there is once on a host: two comparisons at the same time would see each other's
/// attacks.
struct Exclusive {
    _locked: File,
}

impl Exclusive {
    /// Waits for its turn.
    fn new(path: &str, interrupt: &Interrupt) -> Result<Self> {
        let file = File::open(path).at(path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _locked: file }),
                Err(TryLockError::WouldBlock) if interrupt.is_set() => {
                    return Err(Error::Interrupted);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
                Err(TryLockError::Error(error)) => return Err(error).at(path),
            }
        }
    }
}

/// A parameter of the host's kernel.
pub struct Parameter {
    path: &'static str,
    value: String,
    _turn: Exclusive,
}

impl Parameter {
    /// Notes its value.
    pub fn new(path: &'static str, interrupt: &Interrupt) -> Result<Self> {
        let turn = Exclusive::new(path, interrupt)?;
        let value = fs::read_to_string(path).at(path)?;
        Ok(Self {
            path,
            value,
            _turn: turn,
        })
    }

    /// Its value, without the line's end.
    pub fn value(&self) -> &str {
        self.value.trim_end()
    }
}

impl Victim for Parameter {
    fn damage(&mut self, _said: &str) -> Result<Option<String>> {
        let now = fs::read_to_string(self.path).at(self.path)?;
        let (before, path) = (self.value(), self.path);
        Ok((now != self.value).then(|| {
            format!(
                "{path} of the host went from {before:?} to {:?}",
                now.trim_end()
            )
        }))
    }

    fn reset(&mut self) -> Result<()> {
        let now = fs::read_to_string(self.path).at(self.path)?;
        if now == self.value {
            return Ok(());
        }
        fs::write(self.path, &self.value).at(self.path)
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        if let Err(error) = self.reset() {
            tracing::error!(%error, value = self.value(), "a kernel parameter is not what it was");
        }
    }
}

/// The log of the host's kernel.
pub struct KernelLog {
    needle: &'static str,
    before: usize,
    interrupt: Interrupt,
    _turn: Exclusive,
}

impl KernelLog {
    /// Counts the lines with these words.
    pub fn new(needle: &'static str, interrupt: &Interrupt) -> Result<Self> {
        let mut log = Self {
            needle,
            before: 0,
            interrupt: interrupt.clone(),
            _turn: Exclusive::new("/dev/kmsg", interrupt)?,
        };
        log.reset()?;
        Ok(log)
    }

    fn count(&self) -> Result<usize> {
        let text = run(Command::new("dmesg"), &self.interrupt)?;
        Ok(text
            .lines()
            .filter(|line| line.contains(self.needle))
            .count())
    }
}

impl Victim for KernelLog {
    fn damage(&mut self, _said: &str) -> Result<Option<String>> {
        let new = self.count()?.saturating_sub(self.before);
        let needle = self.needle;
        Ok(
            (new > 0)
                .then(|| format!("the host's kernel did it: its log has {new} new {needle:?}")),
        )
    }

    fn reset(&mut self) -> Result<()> {
        self.before = self.count()?;
        Ok(())
    }
}

/// Runs a command of ours that must succeed, and gives what it printed.
fn run(command: Command, interrupt: &Interrupt) -> Result<String> {
    let outcome = output(command, DEADLINE, interrupt)?;
    if outcome.success() {
        Ok(outcome.text())
    } else {
        Err(Error::Command(Box::new(outcome)))
    }
}
