//! Places on a bridge that come and go. Needs root, ip(8) and Debian's CNI plugins.
//!
//! Two hundred times everything that a container's network is but the machine: the
//! end-to-end tests do it with machines, fewer of them.

mod inside;

use std::fs::File;
use std::os::fd::AsFd;

use caisson_network::cni::{self, Lease};
use caisson_network::{Link, Namespace, PortMapping, Spoofing, parse_ports};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use inside::run;

/// Who joins and leaves at once.
const WORKERS: usize = 8;

/// How often each of them does.
const TIMES: usize = 25;

fn id(worker: usize, number: usize) -> String {
    format!("cycle-{}-{worker}-{number}", std::process::id())
}

/// Joins the bridge and leaves it, in the calling thread's namespace.
fn cycle(worker: usize, number: usize) {
    // Firewall rules are slow, and are made in some of the rounds.
    let ports: Vec<PortMapping> = if number.is_multiple_of(8) {
        parse_ports(&format!("{}:80", 20_000 + worker * TIMES + number)).expect("a port")
    } else {
        Vec::new()
    };
    let mut lease = Lease::new(cni::BRIDGE, &id(worker, number), &ports).expect("a lease");
    let namespace = Namespace::new().expect("root");
    let asked = lease.clone();
    let held = tempfile::tempfile().expect("a file");
    lease.add(&namespace, &held).expect("a place");
    let attachment = namespace.join(Spoofing::Refused).expect("joined");
    assert!(matches!(attachment.links().as_slice(), [Link::Tap(_)]));
    assert_eq!(attachment.guest().interfaces[0].name, "eth0");
    // Every third is killed before it can end by itself.
    if !number.is_multiple_of(3) {
        attachment.end();
    }
    drop(attachment);
    // Every fourth was killed before it could note what it was given.
    let noted = if number.is_multiple_of(4) {
        asked
    } else {
        lease
    };
    noted.remove().expect("given back");
}

/// Leases that are still held by these tests.
fn leases() -> Vec<String> {
    let ours = format!("cycle-{}-", std::process::id());
    let files = std::fs::read_dir("/var/lib/cni/networks/caisson");
    let files = files.into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts.filter(|text| text.contains(&ours)).collect()
}

#[test]
fn two_hundred_places_on_a_bridge_leave_no_trace() {
    let host = Namespace::new().expect("root");
    let inside = File::open(host.path()).expect("the namespace");
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let inside = inside.as_fd();
            scope.spawn(move || {
                move_into_link_name_space(inside, Some(LinkNameSpaceType::Network)).expect("root");
                for number in 0..TIMES {
                    cycle(worker, number);
                }
            });
        }
    });
    assert_eq!(leases(), Vec::<String>::new());
    // An interface that goes with its namespace goes a moment later.
    let mut links = String::new();
    for _ in 0..600 {
        links = run(&host, "ip -o link show");
        if !links.contains("veth") {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    let names: Vec<_> = links
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .filter(|name| !["lo", "caisson0"].contains(name))
        // The kernel's own, in each namespace.
        .filter(|name| !name.contains("tunl") && !name.contains("sit") && !name.contains("ifb"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
    for tables in ["iptables-save", "ip6tables-save"] {
        let rules = run(&host, tables);
        let ours = format!("cycle-{}-", std::process::id());
        let left = rules.lines().find(|line| line.contains(&ours));
        assert_eq!(left, None);
    }
}
