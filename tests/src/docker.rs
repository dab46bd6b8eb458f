//! A Docker Engine of its own for each test.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::engine::{Containerd, RUNTIME, Release};
use crate::netns::Netns;
use crate::{eventually, output, programs, text, wait};

/// Programs of the image.
const APPLETS: [&str; 9] = [
    "sh", "cat", "echo", "uname", "sleep", "httpd", "ip", "wget", "grep",
];

/// A Docker Engine on a containerd of its own.
pub struct Docker {
    /// A folder that a test may use as it likes.
    pub folder: tempfile::TempDir,
    daemon: Option<Child>,
    containerd: Containerd,
}

impl Docker {
    /// Starts one without networks, with the image `busybox:test`.
    ///
    /// # Panics
    /// If what `make setup` and `make build` make is missing.
    pub fn start() -> Self {
        let flags = [
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--userland-proxy=false",
        ];
        Self::with(&dockerd(), &flags)
    }

    /// Starts one whose networks are in a namespace that stands for the host, with a
    /// bridge of both families.
    pub fn start_in(host: &Netns) -> Self {
        let flags = [
            "--bip=10.56.0.1/24",
            "--ipv6",
            "--fixed-cidr-v6=fd00:56::/64",
            // Which the next release does without.
            "--experimental",
            "--ip6tables",
        ];
        Self::with(&host.command(dockerd().get_program()), &flags)
    }

    fn with(dockerd: &Command, flags: &[&str]) -> Self {
        let containerd = Containerd::start(Release::Installed);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = |name: &str| folder.path().join(name);
        let log = File::create(path("log")).expect("a log");
        let parts = programs::engine("docker").join("usr");
        let daemon = Command::new(dockerd.get_program())
            .args(dockerd.get_args())
            .arg("--containerd")
            .arg(containerd.socket())
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", path("docker.sock").display()))
            .args(flags)
            .env(
                "PATH",
                format!(
                    "{}:/usr/sbin:/usr/bin:/sbin:/bin",
                    parts.join("sbin").display()
                ),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let docker = Self {
            folder,
            daemon: Some(daemon),
            containerd,
        };
        eventually("dockerd answers", || {
            docker.run(&["version"], b"").status.success()
        });
        let rootfs = docker.folder.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin")).expect("a folder");
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).expect("a link");
        }
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        archive.append_dir_all(".", &rootfs).expect("packed");
        let archive = archive.into_inner().expect("packed");
        let imported = docker.run(&["import", "-", "busybox:test"], &archive);
        assert!(imported.status.success(), "{imported:?}");
        docker
    }

    /// The program `docker`.
    pub fn client() -> PathBuf {
        programs::engine("docker").join("usr/bin/docker")
    }

    /// Where it answers, as `DOCKER_HOST` has it.
    pub fn address(&self) -> String {
        let socket = self.folder.path().join("docker.sock");
        format!("unix://{}", socket.display())
    }

    /// Runs `docker` to its end.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(Self::client());
        command.arg("--host").arg(self.address()).args(arguments);
        output(command, input)
    }

    /// `docker run` with our runtime and no network.
    pub fn container(&self, flags: &[&str], program: &[&str], input: &[u8]) -> Output {
        let mut arguments = vec!["run", "--network", "none", "--runtime", RUNTIME];
        arguments.extend(flags);
        arguments.push("busybox:test");
        arguments.extend(program);
        self.run(&arguments, input)
    }

    /// Runs `docker`, which must succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, b"");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            crate::kill(daemon.id(), "TERM");
            wait(daemon);
        }
        // dockerd keeps the namespace that it lives in mounted for networks of the host's.
        let own = self.folder.path().join("exec/netns/default");
        // If it failed, that is seen below.
        let _ = rustix::mount::unmount(&own, rustix::mount::UnmountFlags::empty());
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let folder = self.folder.path().to_string_lossy().into_owned();
        assert!(
            std::thread::panicking() || !mounts.contains(&folder),
            "a mount is left in {folder}"
        );
        if std::thread::panicking() {
            eprintln!("{}", self.containerd.log());
        }
    }
}

fn dockerd() -> Command {
    Command::new(programs::engine("docker").join("usr/sbin/dockerd"))
}
