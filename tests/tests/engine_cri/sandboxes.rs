//! Pods that the Sandbox service makes: no container stands for them. containerd 1.6 does
//! not know of the service.

use caisson_end_to_end::engine::{Containerd, Release};
use caisson_end_to_end::{eventually, kill};
use k8s_cri::v1::{
    ContainerState, LinuxContainerResources, NamespaceMode, PodSandboxState,
    PodSandboxStatusRequest, RunPodSandboxRequest,
};

use crate::IDLE;
use crate::client::Cri;

/// Makes a test of each function with the releases that have the service.
macro_rules! with_the_service {
    ($($test:ident),* $(,)?) => {
        mod containerd_1_7 { $(#[test] fn $test() { super::$test(super::Release::Previous) })* }
        mod containerd_2 { $(#[test] fn $test() { super::$test(super::Release::Newest) })* }
    };
}

with_the_service![
    pods_by_the_sandbox_service,
    a_sandbox_is_what_its_pod_asks_for,
    the_end_of_a_machine_is_seen,
];

fn pods_by_the_sandbox_service(release: Release) {
    let cri = Cri::of(Containerd::with_sandbox_service(release));
    let pod = cri.pod("sandbox");
    let containers = cri.engine.ok(&["container", "ls", "-q"]);
    assert!(!containers.contains(&pod.id), "no container stands for it");
    let first = pod.run("first", IDLE);
    let second = pod.run("second", IDLE);
    let boot = "cat /proc/sys/kernel/random/boot_id";
    assert_eq!(cri.shell(&first, boot), cri.shell(&second, boot));
    assert_eq!(
        cri.engine.processes(&["qemu-system"]).len(),
        1,
        "one machine"
    );
    let before = cri.shell(&first, boot);
    pod.remove(&first);
    pod.remove(&second);
    let third = pod.run("third", IDLE);
    assert_eq!(
        cri.shell(&third, boot),
        before,
        "the machine outlives the containers"
    );
    pod.end();
    cri.engine.shows("CRI: pods by the Sandbox service");
}

fn a_sandbox_is_what_its_pod_asks_for(release: Release) {
    const GIBIBYTE: i64 = 1 << 30;
    let cri = Cri::of(Containerd::with_sandbox_service(release));
    let mut config = cri.config("asks", NamespaceMode::Container);
    let linux = config.linux.as_mut().expect("it is there");
    linux.sysctls = [("net.core.somaxconn".to_owned(), "99".to_owned())].into();
    linux.resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: GIBIBYTE,
        cpu_quota: 200_000,
        cpu_period: 100_000,
        ..Default::default()
    });
    let pod = cri.pod_of(config);
    let container = pod.run("one", IDLE);
    assert_eq!(cri.shell(&container, "hostname"), "asks\n");
    assert_eq!(
        cri.shell(&container, "cat /proc/sys/net/core/somaxconn"),
        "99\n"
    );
    assert_eq!(cri.shell(&container, "nproc"), "2\n");
    let total = cri.shell(
        &container,
        "sed -n 's/MemTotal: *\\(.*\\) kB/\\1/p' /proc/meminfo",
    );
    let total: i64 = total.trim().parse().expect("a number");
    assert!(total * 1024 > GIBIBYTE, "{total} kB");

    let machine = cri.engine.processes(&["qemu-system"])[0].to_string();
    let cgroups = cri.engine.cgroups();
    assert!(!cgroups.is_empty(), "the host counts it");
    for folder in cgroups {
        let list = folder.join(&pod.id).join("cgroup.procs");
        let processes = std::fs::read_to_string(list).expect("a list");
        assert!(processes.lines().any(|pid| pid == machine), "{processes}");
    }
    eventually("the figures of the pod are those of its machine", || {
        cri.pod_memory(&pod).is_some_and(|used| used > 48 << 20)
    });
    pod.end();
    eventually("the cgroups go with the pod", || {
        cri.engine.cgroups().is_empty()
    });

    cri.engine
        .shows("CRI: name, sysctls, size, cgroup, figures of a pod by the Sandbox service");
}

// containerd 2.1 crashes before it has asked: "invalid memory address" in `v2.NewBundle`.
#[test]
fn containerd_1_7_is_told_that_the_hosts_network_is_refused() {
    let cri = Cri::of(Containerd::with_sandbox_service(Release::Previous));
    let mut config = cri.config("host", NamespaceMode::Container);
    let context = config.linux.as_mut().and_then(|linux| {
        let context = linux.security_context.as_mut()?;
        context.namespace_options.as_mut()
    });
    context.expect("it is there").network = NamespaceMode::Node.into();
    let request = RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    let refused = cri.result(cri.service().run_pod_sandbox(request));
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("pod without hostNetwork"), "{error}");
}

fn the_end_of_a_machine_is_seen(release: Release) {
    let cri = Cri::of(Containerd::with_sandbox_service(release));
    let pod = cri.pod("mortal");
    let container = pod.run("one", IDLE);
    let state = || {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        let status = cri.ok(cri.service().pod_sandbox_status(request)).status;
        status.expect("a status").state()
    };
    assert_eq!(state(), PodSandboxState::SandboxReady);
    kill(cri.engine.processes(&["qemu-system"])[0], "KILL");
    eventually("the pod is not ready", || {
        state() == PodSandboxState::SandboxNotready
    });
    eventually("its container has ended", || {
        cri.status(&container).state() == ContainerState::ContainerExited
    });
    assert_eq!(cri.status(&container).exit_code, 137);
    pod.end();
}
