//! Kubernetes' way: pods by the CRI plugin of three releases of containerd.

mod client;
mod sandboxes;

use caisson_end_to_end::engine::Release;
use caisson_end_to_end::eventually;
use client::Cri;
use k8s_cri::v1::{
    ContainerState, ContainerStatsRequest, LinuxContainerResources, Mount, NamespaceMode,
    UpdateContainerResourcesRequest,
};

caisson_end_to_end::each_release![
    three_containers_share_one_machine,
    streams_and_logs,
    figures_and_limits,
    shared_processes_and_files,
];

/// Runs until it is killed, and ends at once when it is asked to.
const IDLE: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

fn three_containers_share_one_machine(release: Release) {
    let cri = Cri::start(release);
    let pod = cri.pod("trio");
    let server = pod.run("server", "while true; do echo served | nc -l -p 7000; done");
    let client = pod.run("client", IDLE);
    let other = pod.run("other", IDLE);
    for container in [&client, &other] {
        let script = "until nc 127.0.0.1 7000 </dev/null; do usleep 20000; done";
        assert_eq!(cri.shell(container, script), "served\n");
    }
    assert_eq!(
        cri.engine.processes(&["qemu-system"]).len(),
        1,
        "one machine"
    );
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = cri.shell(&server, boot);
    assert_eq!(cri.shell(&client, boot), first);
    assert_eq!(cri.shell(&other, boot), first);
    assert_eq!(cri.shell(&client, "hostname"), "trio\n");

    // Each has its own rootfs and its own processes.
    cri.shell(&client, "echo client >/own");
    assert_eq!(cri.exec(&other, &["cat", "/own"]).0, 1);
    let processes = cri.shell(&client, "ps -o args");
    assert!(!processes.contains("nc -l"), "{processes}");

    cri.shell(&client, "echo shared >/dev/shm/word");
    assert_eq!(cri.shell(&other, "cat /dev/shm/word"), "shared\n");

    pod.remove(&client);
    assert_eq!(cri.shell(&other, "echo here"), "here\n");
    pod.end();
    cri.engine
        .shows("CRI: a pod of three containers, one machine, one localhost, one /dev/shm");
}

fn streams_and_logs(release: Release) {
    let cri = Cri::start(release);
    let pod = cri.pod("streams");
    let mut config = pod.container(
        "attached",
        "echo out; echo err >&2; while read line; do echo \"got $line\"; done",
    );
    config.stdin = true;
    let attached = pod.run_of(config);

    let exec = cri.exec(&attached, &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(exec, (3, "out\n".to_owned(), "err\n".to_owned()));

    let script = "head -c 7; echo err >&2; exit 5";
    let mut stream = cri.exec_stream(&attached, &["sh", "-c", script], false);
    stream.write(b"through");
    let (output, error, status) = stream.end();
    assert_eq!((&*output, &*error), ("through", "err\n"));
    assert_eq!(status["status"], "Failure", "{status}");
    assert_eq!(status["details"]["causes"][0]["message"], "5", "{status}");

    let mut terminal = cri.exec_stream(&attached, &["sh"], true);
    terminal.resize(99, 33);
    terminal
        .write(b"until [ \"$(stty size)\" = '33 99' ]; do usleep 20000; done; echo r$((6*7))\r");
    terminal.expect("r42");
    terminal.write(b"exit\r");
    let (_, _, status) = terminal.end();
    assert_eq!(status["status"], "Success", "{status}");

    let mut attach = cri.attach(&attached);
    attach.write(b"word\n");
    attach.expect("got word\n");
    drop(attach);
    let expected = [("stderr", "err"), ("stdout", "got word"), ("stdout", "out")]
        .map(|(stream, line)| (stream.to_owned(), line.to_owned()));
    eventually("the log has come", || {
        let mut log = cri.log("attached");
        log.sort();
        log == expected
    });

    let exits = pod.run("exits", "echo last; exit 9");
    eventually("the exit is seen", || {
        cri.status(&exits).state() == ContainerState::ContainerExited
    });
    assert_eq!(cri.status(&exits).exit_code, 9);
    eventually("its output as well", || {
        cri.log("exits") == [("stdout".to_owned(), "last".to_owned())]
    });
    pod.end();
    cri.engine.shows("CRI: ExecSync, Exec, Attach, logs");
}

fn figures_and_limits(release: Release) {
    const MEBIBYTE: i64 = 1 << 20;
    let cri = Cri::start(release);
    let pod = cri.pod("limits");
    let with = |name: &str, limit: i64, script: &str| {
        let mut config = pod.container(name, script);
        let linux = config.linux.as_mut().expect("it is there");
        linux.resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: limit,
            ..Default::default()
        });
        pod.run_of(config)
    };
    let small = with("small", 32 * MEBIBYTE, IDLE);
    let large = with("large", 64 * MEBIBYTE, IDLE);
    let limit = "cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max";
    assert_eq!(cri.shell(&small, limit), format!("{}\n", 32 * MEBIBYTE));
    assert_eq!(cri.shell(&large, limit), format!("{}\n", 64 * MEBIBYTE));

    cri.ok(cri
        .service()
        .update_container_resources(UpdateContainerResourcesRequest {
            container_id: small.clone(),
            linux: Some(LinuxContainerResources {
                memory_limit_in_bytes: 48 * MEBIBYTE,
                ..Default::default()
            }),
            ..Default::default()
        }));
    assert_eq!(cri.shell(&small, limit), format!("{}\n", 48 * MEBIBYTE));

    // Of the guest's cgroup, not of the machine.
    eventually("the figures of a container are counted", || {
        let request = ContainerStatsRequest {
            container_id: small.clone(),
        };
        let stats = cri.ok(cri.service().container_stats(request)).stats;
        let memory = stats.and_then(|stats| stats.memory);
        let used = memory.and_then(|memory| memory.working_set_bytes);
        used.is_some_and(|used| (1..48 << 20).contains(&used.value))
    });
    eventually("the figures of the pod are those of its machine", || {
        cri.pod_memory(&pod).is_some_and(|used| used > 48 << 20)
    });

    // More than its limit: killed, and said why.
    let hungry = with("hungry", 16 * MEBIBYTE, "tail /dev/zero");
    eventually("it is killed", || {
        cri.status(&hungry).state() == ContainerState::ContainerExited
    });
    assert_eq!(cri.status(&hungry).exit_code, 137);
    // containerd learns of it by an event, and of the end by the answer to a call.
    eventually("it is said why", || {
        cri.status(&hungry).reason == "OOMKilled"
    });
    pod.end();
    cri.engine
        .shows("CRI: limits, UpdateContainerResources, stats, OOMKilled");
}

fn shared_processes_and_files(release: Release) {
    let cri = Cri::start(release);
    let pod = cri.pod_of(cri.config("shared", NamespaceMode::Pod));
    let folder = cri.engine.folder("secret");
    // As the kubelet does: a link that is exchanged for another.
    let put = |version: &str| {
        std::fs::create_dir(folder.join(version)).expect("a folder");
        std::fs::write(folder.join(version).join("key"), version).expect("written");
        let link = folder.join("new");
        std::os::unix::fs::symlink(version, &link).expect("a link");
        std::fs::rename(link, folder.join("data")).expect("exchanged");
    };
    put("first");
    let mut config = pod.container("reader", IDLE);
    config.mounts.push(Mount {
        container_path: "/secret".to_owned(),
        host_path: folder.to_string_lossy().into_owned(),
        readonly: true,
        ..Default::default()
    });
    let reader = pod.run_of(config);
    let marked = pod.run("marked", "echo $$ >/dev/shm/pid; exec sleep 4242");
    let read = || cri.shell(&reader, "cat /secret/data/key");
    assert_eq!(read(), "first");
    put("second");
    eventually("the guest sees the change", || read() == "second");
    assert_eq!(cri.exec(&reader, &["touch", "/secret/x"]).0, 1);

    let processes = cri.shell(&reader, "ps -o args");
    assert!(processes.contains("sleep 4242"), "{processes}");
    cri.shell(&reader, "kill -9 $(cat /dev/shm/pid)");
    eventually("another container's process is killed", || {
        cri.status(&marked).state() == ContainerState::ContainerExited
    });
    assert_eq!(cri.status(&marked).exit_code, 137);
    pod.end();
    cri.engine
        .shows("CRI: shared processes, secrets that change");
}
