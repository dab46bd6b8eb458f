//! The process of a user-mode network: there from when it is needed, and not before. A network
//! namespace stands for the host.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{Caisson, eventually, finish, kill, output, programs, text};

/// The host's address, which a guest may connect to.
const ADDRESS: &str = "192.0.2.1";

/// A host with both families, whose other end is nowhere.
fn host() -> Netns {
    let host = Netns::new("host");
    host.ip("link add outside type veth peer name nowhere");
    host.ip("link set nowhere up");
    host.ip(&format!("addr add {ADDRESS}/24 dev outside"));
    host.ip("link set outside up");
    host
}

fn installation(host: &Netns) -> Caisson {
    let caisson = Caisson::inside(host);
    let image = programs::demo_image();
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
    caisson
}

/// A server on the host that greets whoever connects. Returns its port.
fn greeter(host: &Netns) -> u16 {
    let listener = host.inside(|| TcpListener::bind((ADDRESS, 0)).expect("a port"));
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // The other end may be gone.
            let _ = stream.and_then(|mut stream| stream.write_all(b"welcome\n"));
        }
    });
    port
}

fn is_passt(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("passt"))
}

/// Network processes of the installation.
fn processes(caisson: &Caisson) -> Vec<u32> {
    let mut found = caisson.processes();
    found.retain(|pid| is_passt(*pid));
    found
}

/// Those that `inspect` knows of.
fn inspected(caisson: &Caisson, name: &str) -> Vec<u32> {
    let found = caisson.inspect(name);
    let pids = found["MachinePids"].as_array().expect("pids").iter();
    pids.filter_map(|pid| u32::try_from(pid.as_u64()?).ok())
        .filter(|pid| is_passt(*pid))
        .collect()
}

#[test]
fn a_container_has_a_network_process_once_it_needs_one() {
    let host = host();
    let caisson = installation(&host);
    let port = greeter(&host);
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    eventually("the interface has come up, and asks for routers", || {
        let counters = caisson.ok(["exec", "box", "cat", "/proc/net/snmp6"]);
        let mut lines = counters.lines();
        let asked = lines.find_map(|line| line.strip_prefix("Icmp6OutRouterSolicits"));
        asked.expect("a counter").trim() != "0"
    });
    assert!(processes(&caisson).is_empty());
    assert!(inspected(&caisson, "box").is_empty());

    let script = format!("mkfifo /tmp/open; exec 3<>/tmp/open; nc {ADDRESS} {port} <&3");
    assert_eq!(
        caisson.ok(["exec", "box", "sh", "-c", &script]),
        "welcome\n"
    );
    let running = processes(&caisson);
    assert_eq!(running.len(), 1, "{running:?}");
    eventually("it is among the container's processes", || {
        inspected(&caisson, "box") == running
    });
    // It has nothing of the supervisor's but what it was given.
    let status = fs::read_to_string(format!("/proc/{}/status", running[0])).expect("it runs");
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    // Nor of the connection, of which it has a timer, once it knows of its end.
    eventually("it has what it needs alone", || {
        let files = fs::read_dir(format!("/proc/{}/fd", running[0])).expect("its files");
        let mut links = files.filter_map(|file| fs::read_link(file.expect("a file").path()).ok());
        let kinds = ["/dev/null", "socket:", "pipe:", "anon_inode:[eventpoll]"];
        links.all(|link| {
            let link = link.to_string_lossy();
            kinds.iter().any(|kind| link.starts_with(kind))
        })
    });

    kill(running[0], "KILL");
    assert_eq!(caisson.ok(["wait", "box"]), "137\n");
    let state = &caisson.inspect("box")["State"];
    let error = state["Error"].as_str().expect("a reason");
    assert!(
        error.contains("its network (passt) ended: signal: 9"),
        "{state}"
    );
}

#[test]
fn with_a_published_port_it_is_there_from_the_start() {
    let host = host();
    let caisson = installation(&host);
    let flags = ["run", "-d", "--name", "box", "-p", "127.0.0.1::80"];
    caisson.ok(flags.iter().chain(&["busybox", "sleep", "1000"]));
    let running = processes(&caisson);
    assert_eq!(running.len(), 1, "{running:?}");
    assert_eq!(inspected(&caisson, "box"), running);
}

/// A program in the place of passt.
fn stand_in(caisson: &Caisson, script: &str) -> PathBuf {
    let program = caisson.folder("stack").join("passt");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    program
}

fn run(caisson: &Caisson, passt: &Path, flags: &[&str], script: &str) -> Output {
    let begin = ["run", "--rm"].iter().chain(flags);
    let mut command = caisson.command(begin.chain(&["busybox", "sh", "-c", script]));
    command.env("CAISSON_PASST", passt);
    output(command, b"")
}

#[test]
fn a_network_that_cannot_start_ends_the_container_that_needs_it() {
    let host = host();
    let caisson = installation(&host);
    let broken = stand_in(&caisson, "echo Nothing works today >&2; exit 1");
    let idle = run(&caisson, &broken, &[], "echo done");
    assert_eq!(text(&idle.stderr), "");
    assert_eq!(text(&idle.stdout), "done\n");

    let needy = run(&caisson, &broken, &[], "ping -c 1 10.0.2.2; sleep 1000");
    let said = text(&needy.stderr);
    assert_eq!(needy.status.code(), Some(137), "{said}");
    assert!(
        said.contains("its network (passt) ended: Nothing works today"),
        "{said}"
    );

    let published = run(&caisson, &broken, &["-p", "127.0.0.1::80"], "echo never");
    let said = text(&published.stderr);
    assert_eq!(published.status.code(), Some(125), "{said}");
    assert!(said.contains("passt failed: Nothing works today"), "{said}");
    assert_eq!(text(&published.stdout), "");
}

#[test]
fn a_program_that_is_not_there_is_missed_at_once() {
    let host = host();
    let caisson = installation(&host);
    let refused = |passt: &Path| {
        let output = run(&caisson, passt, &[], "echo never");
        assert_eq!(output.status.code(), Some(125));
        assert_eq!(text(&output.stdout), "");
        text(&output.stderr)
    };
    let said = refused(Path::new("/nowhere/passt"));
    assert!(
        said.contains("/nowhere/passt was not found; install it"),
        "{said}"
    );
    let program = stand_in(&caisson, "");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).expect("not executable");
    let said = refused(&program);
    let expected = format!("cannot start {}: Permission denied", program.display());
    assert!(said.contains(&expected), "{said}");
}

/// However far the start of the process is, it does not outlive the container.
#[test]
fn a_container_that_ends_while_its_network_starts_leaves_nothing() {
    let host = host();
    let caisson = installation(&host);
    let slow = stand_in(&caisson, "exec sleep 1000");
    let mut command = caisson.command([
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "ping -c 1 10.0.2.2; sleep 1000",
    ]);
    command.env("CAISSON_PASST", &slow);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a command");
    let starting = || {
        let mut all = caisson.processes();
        all.retain(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
        });
        all
    };
    eventually("the network starts", || !starting().is_empty());
    caisson.ok(["kill", "box"]);
    assert_eq!(finish(child).status.code(), Some(137));
    assert!(starting().is_empty());
}
