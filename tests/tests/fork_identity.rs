//! A hundred forks of one template: nothing that one of them draws is drawn by another.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use caisson_end_to_end::{Caisson, programs, text};

const FORKS: usize = 100;
const AT_ONCE: usize = 10;

/// What must differ, a line each: the kernel's boot id, a UUID, random bytes, the name of the host,
/// where the stack is, and a key as TLS uses it.
const DRAWN: &str = "cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; \
    head -c 16 /dev/urandom | od -An -tx1; hostname; sed -n 's/ .*stack.*//p' /proc/self/maps; \
    openssl genpkey -algorithm ED25519 -outform DER | od -An -v -tx1 | tr -d '\\n'; echo";

/// The sequence number that a connection to itself begins with, always between the same ports, and
/// the microseconds since 1970 just before it. 17 and 3 are `AF_PACKET` and `SOCK_RAW`, 96 is
/// `gettimeofday`.
const SEQUENCE: &str = r#"
    use Socket;
    socket(my $all, 17, 3, unpack("S", pack("n", 0x800))) or die "packet socket: $!";
    bind($all, pack("S n i S C C a8", 17, 0x800, 1, 0, 0, 0, "")) or die "loopback: $!";
    my $here = inet_aton("127.0.0.1");
    socket(my $tcp, AF_INET, SOCK_STREAM, 0) or die "socket: $!";
    bind($tcp, sockaddr_in(40000, $here)) or die "port: $!";
    my $time = pack("q q", 0, 0);
    syscall(96, $time, 0);
    my ($seconds, $micros) = unpack("q q", $time);
    connect($tcp, sockaddr_in(9, $here));
    while (defined recv($all, my $frame, 2048, 0)) {
        my ($from, $to, $sequence) = unpack("nnN", substr($frame, 34));
        if ($from == 40000) { printf("%d %d\n", $sequence, $seconds * 1e6 + $micros); last }
    }
"#;

/// What the guests say of the time: seconds since 1970, and since they began.
const TIME: &str = "date +%s; cut -d. -f1 /proc/uptime";

/// QEMU would draw for the guest, from a state in its own memory, which forks share.
#[test]
fn no_processor_draws_random_numbers() {
    let caisson = Caisson::new();
    let script = "grep -qwE 'rdrand|rdseed' /proc/cpuinfo && echo offered || echo none";
    let said = caisson.ok(["run", "--rm", "busybox", "sh", "-c", script]);
    assert_eq!(said, "none\n");
}

#[test]
fn a_hundred_forks_are_a_hundred_machines() {
    let caisson = with_image();
    caisson.ok(["template", "build"]);
    let mut drawn = BTreeSet::new();
    let mut offsets = Vec::new();
    for _ in 0..FORKS / AT_ONCE {
        for said in side_by_side(&caisson) {
            let lines: Vec<_> = said.lines().map(str::trim).collect();
            assert_eq!(lines.len(), 9, "{said}");
            for identity in &lines[2..8] {
                assert!(identity.len() > 8, "nothing was drawn: {said}");
                assert!(drawn.insert(identity.to_string()), "{identity} came twice");
            }
            offsets.push(offset(lines[8]));
        }
    }
    assert_eq!(drawn.len(), 6 * FORKS);
    assert_spread(&offsets);
}

/// What some forks say that run at the same time.
fn side_by_side(caisson: &Caisson) -> Vec<String> {
    let script = format!("{TIME}; {DRAWN}; perl -e '{SEQUENCE}'");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    let began = now().as_secs();
    let children: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            caisson
                .command(["run", "--rm", "--timing", "identity", "sh", "-ec", &script])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it starts")
        })
        .collect();
    let outputs = children
        .into_iter()
        .map(|child| child.wait_with_output().expect("it ends"));
    let said: Vec<_> = outputs
        .map(|output| {
            let errors = text(&output.stderr);
            assert!(output.status.success(), "{errors}");
            assert!(errors.contains("forked from template "), "{errors}");
            text(&output.stdout)
        })
        .collect();
    for said in &said {
        let mut numbers = said.lines().map(|line| line.parse::<u64>());
        let mut next = || numbers.next().expect("a line").expect("a number");
        let (date, uptime) = (next(), next());
        assert!(date + 2 >= began && date <= now().as_secs() + 2, "{date}");
        assert!(uptime < 300, "{uptime}");
    }
    said
}

/// A sequence number without the clock in it: the kernel adds one to it that ticks every 64 ns
/// (RFC 6528), so that numbers differ even if the secret that they are made of does not.
fn offset(line: &str) -> u32 {
    let (sequence, micros) = line.split_once(' ').expect("two numbers");
    let sequence: u32 = sequence.parse().expect("a sequence number");
    let micros: u64 = micros.parse().expect("a time");
    sequence.wrapping_sub((micros * 1000 / 64) as u32)
}

/// With one secret for all, they would be together within the time that a connection takes. No
/// window may hold more than a few: were all random, 0.8 of a hundred would be there.
fn assert_spread(offsets: &[u32]) {
    const FEW: usize = 12;
    let most = most_together(offsets);
    assert!(most <= FEW, "{most} sequence numbers together: {offsets:?}");
}

/// How many of the 2^32 numbers lie within 2^25 of each other, which is two seconds of the clock.
fn most_together(offsets: &[u32]) -> usize {
    let near = |first: &u32| {
        let others = offsets.iter();
        others
            .filter(|other| other.wrapping_sub(*first) < 1 << 25)
            .count()
    };
    offsets.iter().map(near).max().unwrap_or(0)
}

/// The measure would show a secret that several share: one guest's connections share theirs.
#[test]
fn one_machine_has_one_secret() {
    let caisson = with_image();
    let script = format!("for i in 1 2 3 4 5; do perl -e '{SEQUENCE}'; done");
    let said = caisson.ok(["run", "--rm", "identity", "sh", "-ec", &script]);
    let offsets: Vec<_> = said.lines().map(offset).collect();
    assert_eq!(offsets.len(), 5, "{said}");
    // Not all, as a busy host may stop the guest between the clock and the connection.
    assert!(most_together(&offsets) >= 3, "{offsets:?}");
}

fn with_image() -> Caisson {
    let caisson = Caisson::without_images();
    let image = programs::packed_image("identity");
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
    caisson
}
