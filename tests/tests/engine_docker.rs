//! Docker Engine with our shim: `docker run --runtime io.containerd.caisson.v2`.

use caisson_end_to_end::docker::Docker;
use caisson_end_to_end::engine::shown;
use caisson_end_to_end::{eventually, text};

/// Notes that Docker has shown a feature.
fn shows(feature: &str) {
    shown("Docker 26", feature);
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
    shows("run, the guest's kernel, not a warning line");

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
    shows("exec and its streams");
    eventually("the log has come", || {
        docker.ok(&["logs", "job"]) == "said\n"
    });
    docker.ok(&["pause", "job"]);
    docker.ok(&["unpause", "job"]);
    docker.ok(&["update", "--memory", "100m", "--memory-swap", "100m", "job"]);
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "job"]);
    assert!(stats.contains("100MiB"), "{stats}");
    shows("figures");
    shows("limits that change while it runs");
    docker.ok(&["stop", "--time", "1", "job"]);
    assert_eq!(
        docker.ok(&["inspect", "--format", "{{.State.ExitCode}}", "job"]),
        "137\n"
    );
    docker.ok(&["rm", "job"]);
    shows("kill, pause, resume");
}
