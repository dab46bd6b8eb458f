//! Limits of a container, enforced by the guest's kernel.

use caisson_end_to_end::{Caisson, text};
use serde_json::json;

#[test]
fn a_container_without_memory_is_killed_and_says_so() {
    let caisson = Caisson::new();
    caisson.fails(
        137,
        [
            "run",
            "--name",
            "box",
            "-m",
            "64m",
            "busybox",
            "tail",
            "/dev/zero",
        ],
    );
    let state = &caisson.inspect("box")["State"];
    assert_eq!(
        (&state["OOMKilled"], &state["ExitCode"]),
        (&json!(true), &json!(137))
    );
    // Within the limit it is not.
    caisson.ok([
        "run",
        "--name",
        "small",
        "-m",
        "64m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=32M",
        "count=1",
    ]);
    assert_eq!(caisson.inspect("small")["State"]["OOMKilled"], false);
}

#[test]
fn without_a_limit_the_guests_memory_is_the_limit() {
    let caisson = Caisson::new();
    let output = caisson
        .command(["run", "--name", "box", "busybox", "tail", "/dev/zero"])
        .env("CAISSON_MEMORY", "96MiB")
        .output()
        .expect("a command");
    assert_eq!(output.status.code(), Some(137), "{}", text(&output.stderr));
    let state = &caisson.inspect("box")["State"];
    assert_eq!(
        (&state["OOMKilled"], &state["Status"]),
        (&json!(true), &json!("exited"))
    );
}

#[test]
fn limits_are_those_of_the_guests_cgroup() {
    let caisson = Caisson::new();
    let printed = caisson.shell(
        &["-m", "96m", "--cpus", "0.5", "--pids-limit", "20"],
        "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; nproc",
    );
    assert_eq!(printed, format!("{}\n50000 100000\n20\n1\n", 96 << 20));
    assert_eq!(
        caisson.shell(&["--cpus", "1.5"], "nproc; cat /sys/fs/cgroup/cpu.max"),
        "2\n150000 100000\n"
    );
}

#[test]
fn the_number_of_processes_is_bounded() {
    let caisson = Caisson::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all";
    let output = caisson.run([
        "run",
        "--rm",
        "--pids-limit",
        "6",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert!(
        text(&output.stderr).contains("can't fork"),
        "{}",
        text(&output.stderr)
    );
    assert!(!output.status.success());
    assert_eq!(
        caisson.shell(&["--pids-limit", "-1"], "cat /sys/fs/cgroup/pids.max"),
        "max\n"
    );
}

#[test]
fn half_a_cpu_is_half_as_fast() {
    let caisson = Caisson::new();
    let script = "sleep 2 & while kill -0 $! 2>/dev/null; do :; done; cat /sys/fs/cgroup/cpu.stat";
    let printed = caisson.shell(&["--cpus", "0.2"], script);
    let value = |name: &str| -> u64 {
        let line = printed
            .lines()
            .find(|line| line.starts_with(name))
            .expect(name);
        line.rsplit(' ')
            .next()
            .expect("a value")
            .parse()
            .expect("a number")
    };
    assert!(value("nr_throttled") > 0, "{printed}");
    // A fifth of each period of 100 ms, with room for the last ones, in which a busy host may
    // have stopped the guest. How many there were depends on the host.
    let most = 60_000 * value("nr_periods");
    assert!(value("usage_usec") < most, "{printed}");
}

#[test]
fn resource_limits_of_processes_are_set() {
    let caisson = Caisson::new();
    let flags = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--ulimit",
        "nproc=50",
    ];
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c; grep 'Max processes' /proc/self/limits";
    let printed = caisson.shell(&flags, script);
    assert!(printed.starts_with("100\n200\n0\n"), "{printed}");
    assert!(printed.contains("50                   50"), "{printed}");
}

#[test]
fn file_systems_in_memory_have_the_size_that_was_asked_for() {
    let caisson = Caisson::new();
    let flags = [
        "--shm-size",
        "16m",
        "--tmpfs",
        "/scratch:size=1m,mode=1770,exec",
        "--tmpfs",
        "/plain",
    ];
    let script = "df -k /dev/shm /scratch | tail -2 | awk '{print $2}'; stat -c %a /scratch; \
        grep -E ' /(scratch|plain) ' /proc/mounts; dd if=/dev/zero of=/scratch/big bs=64k count=32 2>&1 | tail -1; \
        wc -c < /scratch/big";
    let output = caisson.run(
        ["run", "--rm"]
            .iter()
            .chain(&flags)
            .chain(&["busybox", "sh", "-c", script]),
    );
    let printed = text(&output.stdout);
    assert!(printed.starts_with("16384\n1024\n1770\n"), "{printed}");
    let mount = |path: &str| {
        printed
            .lines()
            .find(|line| line.contains(path))
            .expect("a mount")
    };
    assert!(
        mount(" /plain ").contains("noexec") && mount(" /plain ").contains("nosuid"),
        "{printed}"
    );
    assert!(!mount(" /scratch ").contains("noexec"), "{printed}");
    assert!(printed.ends_with("1048576\n"), "{printed}");
}

#[test]
fn kernel_parameters_are_set_in_the_guest_only() {
    let caisson = Caisson::new();
    let path = "/proc/sys/net/core/somaxconn";
    let host = std::fs::read_to_string(path).expect("the host's value");
    let flags = [
        "--sysctl",
        "net.core.somaxconn=99",
        "--sysctl",
        "kernel.shmmax=1000000",
    ];
    let printed = caisson.shell(&flags, &format!("cat {path} /proc/sys/kernel/shmmax"));
    assert_eq!(printed, "99\n1000000\n");
    assert_eq!(
        std::fs::read_to_string(path).expect("the host's value"),
        host
    );
    let error = caisson.fails(
        125,
        [
            "run",
            "--rm",
            "--sysctl",
            "net.no.such=1",
            "busybox",
            "true",
        ],
    );
    assert!(
        error.contains("net.no.such") || error.contains("net/no/such"),
        "{error}"
    );
}

#[test]
fn the_writable_layer_has_its_size() {
    let caisson = Caisson::new();
    let output = caisson
        .command([
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "dd if=/dev/zero of=/big bs=1M count=80; wc -c < /big; echo alive",
        ])
        .env("CAISSON_SCRATCH_SIZE", "64MiB")
        .output()
        .expect("a command");
    let (printed, error) = (text(&output.stdout), text(&output.stderr));
    assert!(error.contains("No space left on device"), "{error}");
    assert!(printed.ends_with("alive\n"), "{printed}");
}
