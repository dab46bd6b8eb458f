//! Docker Engine with our shim: `docker run --runtime io.containerd.caisson.v2`.

use std::fs::File;
use std::process::{Child, Command, Output, Stdio};

use caisson_end_to_end::engine::{Containerd, RUNTIME, Release};
use caisson_end_to_end::{eventually, output, programs, text, wait};

/// A Docker Engine on a containerd of its own.
struct Docker {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    containerd: Containerd,
}

impl Docker {
    fn start() -> Self {
        let containerd = Containerd::start(Release::Installed);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = |name: &str| folder.path().join(name);
        let log = File::create(path("log")).expect("a log");
        let parts = programs::engine("docker").join("usr");
        let daemon = Command::new(parts.join("sbin/dockerd"))
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
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--userland-proxy=false",
            ])
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
        for name in ["sh", "cat", "echo", "uname", "sleep"] {
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

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(programs::engine("docker").join("usr/bin/docker"));
        command
            .arg("--host")
            .arg(format!(
                "unix://{}",
                self.folder.path().join("docker.sock").display()
            ))
            .args(arguments);
        output(command, input)
    }

    fn container(&self, flags: &[&str], program: &[&str], input: &[u8]) -> Output {
        let mut arguments = vec!["run", "--network", "none", "--runtime", RUNTIME];
        arguments.extend(flags);
        arguments.push("busybox:test");
        arguments.extend(program);
        self.run(&arguments, input)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, b"");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            caisson_end_to_end::kill(daemon.id(), "TERM");
            wait(daemon);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.containerd.log());
        }
    }
}

#[test]
fn docker_runs_containers_in_machines() {
    let docker = Docker::start();
    let uname = docker.container(&["--rm"], &["uname", "-r"], b"");
    assert!(text(&uname.stdout).starts_with("6.12."), "{uname:?}");
    assert_eq!(text(&uname.stderr), "");
    assert_eq!(
        docker
            .container(&["--rm"], &["sh", "-c", "exit 5"], b"")
            .status
            .code(),
        Some(5)
    );
    assert_eq!(
        docker
            .container(&["--rm"], &["no-such-program"], b"")
            .status
            .code(),
        Some(127)
    );
    assert_eq!(
        docker
            .container(&["--rm", "-i"], &["cat"], b"through")
            .stdout,
        b"through"
    );

    let folder = docker.folder.path().join("volume");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("file"), "host\n").expect("written");
    let volume = format!("{}:/v", folder.display());
    let cat = docker.container(&["--rm", "-v", &volume], &["cat", "/v/file"], b"");
    assert_eq!(text(&cat.stdout), "host\n", "{cat:?}");
}

#[test]
fn docker_manages_a_running_container() {
    let docker = Docker::start();
    let started = docker.container(
        &["-d", "--name", "job"],
        &["sh", "-c", "echo said; sleep 1000"],
        b"",
    );
    assert!(started.status.success(), "{started:?}");
    assert_eq!(docker.ok(&["exec", "job", "echo", "inside"]), "inside\n");
    eventually("the log has come", || {
        docker.ok(&["logs", "job"]) == "said\n"
    });
    docker.ok(&["pause", "job"]);
    docker.ok(&["unpause", "job"]);
    docker.ok(&["update", "--memory", "100m", "--memory-swap", "100m", "job"]);
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "job"]);
    assert!(stats.contains("100MiB"), "{stats}");
    docker.ok(&["stop", "--time", "1", "job"]);
    assert_eq!(
        docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", "job"]),
        "137\n"
    );
    docker.ok(&["rm", "job"]);
}
