//! Checkpoints of Docker Engine, which are experimental there: `docker checkpoint create`,
//! `docker start --checkpoint`.

use caisson_end_to_end::docker::Docker;
use caisson_end_to_end::engine::{RUNTIME, shown};
use caisson_end_to_end::eventually;
use caisson_end_to_end::netns::Netns;

/// Serves a page, and counts in its memory and in a file that it holds open.
const JOB: &str = "echo page >/index.html; httpd -p 80 -h /; exec 3>/count; n=0; \
                   while true; do n=$((n+1)); echo $n >&3; sleep 0.05; done";

fn run(docker: &Docker, name: &str, network: &str, script: &str) {
    docker.ok(&[
        "run",
        "-d",
        "--name",
        name,
        "--network",
        network,
        "--runtime",
        RUNTIME,
        "busybox:test",
        "sh",
        "-c",
        script,
    ]);
}

fn count(docker: &Docker) -> Option<u64> {
    let noted = docker.run(&["exec", "job", "cat", "/count"], b"");
    let noted = String::from_utf8_lossy(&noted.stdout).into_owned();
    noted.lines().last()?.parse().ok()
}

fn counts_on(docker: &Docker, from: u64) {
    eventually("it counts on", || {
        count(docker).is_some_and(|number| number > from)
    });
}

fn is_neighbour(docker: &Docker, host: &Netns) {
    let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}";
    let told = docker.ok(&["inspect", "--format", template, "job"]);
    let (address, mac) = told.trim().split_once(' ').expect("both");
    let seen = docker.ok(&["exec", "job", "ip", "addr", "show", "eth0"]);
    assert!(seen.contains(&format!("inet {address}/")), "{seen}");
    assert!(seen.contains(&format!("link/ether {mac}")), "{seen}");
    assert_eq!(
        host.fetch(&format!("{address}:80")).as_deref(),
        Some("page")
    );
    // By Docker's own resolver.
    let page = docker.ok(&["exec", "job", "wget", "-q", "-O", "-", "http://other/"]);
    assert_eq!(page, "page\n");
}

#[test]
fn a_container_goes_on_from_its_checkpoint() {
    let host = Netns::new("host");
    let docker = Docker::start_in(&host);
    docker.ok(&["network", "create", "--subnet", "10.57.0.0/24", "net"]);
    run(&docker, "other", "net", JOB);
    run(&docker, "job", "net", JOB);
    counts_on(&docker, 3);
    is_neighbour(&docker, &host);
    let before = count(&docker).expect("a number");
    docker.ok(&["checkpoint", "create", "--leave-running", "job", "one"]);
    counts_on(&docker, before + 20);
    is_neighbour(&docker, &host);
    docker.ok(&["checkpoint", "create", "--leave-running", "job", "two"]);
    let boot_id = docker.ok(&["exec", "job", "cat", "/proc/sys/kernel/random/boot_id"]);

    for checkpoint in ["one", "two", "one"] {
        docker.ok(&["kill", "job"]);
        docker.ok(&["start", "--checkpoint", checkpoint, "job"]);
        counts_on(&docker, before + 1);
        is_neighbour(&docker, &host);
        let other = docker.ok(&["exec", "job", "cat", "/proc/sys/kernel/random/boot_id"]);
        assert_ne!(boot_id, other, "another machine");
    }
    docker.ok(&["rm", "--force", "job", "other"]);
    docker.ok(&["network", "rm", "net"]);
    let shows = |feature| shown("Docker 26", feature);
    shows("checkpoint and restore, with files that are open");
    shows("checkpoint and restore, with bind mounts and a network");
}
