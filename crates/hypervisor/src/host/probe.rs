//! Is the KVM of this host one that runs a kernel?
//!
//! Some hosts have a `/dev/kvm` that opens and makes machines but interprets
//! every instruction of a guest that does not cooperate. Nothing that it reports
//! tells it apart, so a guest is timed: a loop in long mode, as a kernel would run.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// How often the guest goes round its loop.
const ITERATIONS: u32 = 100_000;

/// How often it does before that, untimed: the first entry into a guest makes page
/// tables, and below another VM an emulator translates KVM's own code for it, which on a
/// busy machine takes longer than the loop of an interpreter.
const WARM_UP: u32 = 1_000;

/// A KVM that needs more processor time is one that interprets: hardware needs well under a
/// millisecond, emulated hardware below another VM about two, an interpreter
/// more than a hundred.
const GOOD: Duration = Duration::from_millis(25);

/// When the guest is given up.
const DEADLINE: Duration = Duration::from_millis(400);

/// When it is given up by the clock on the wall: on a host so busy that the process waits for
/// a CPU, or with a virtual CPU that sleeps.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a virtual CPU that went past the deadline is interrupted until it hears.
const KICK: Duration = Duration::from_millis(5);

/// What running a guest showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum KvmProbe {
    /// The loop ran at the speed of hardware.
    Usable {
        /// Processor time of the loop, microseconds.
        microseconds: u64,
    },
    /// The loop ended, or was given up, far behind hardware.
    Slow {
        /// Processor time of the loop, microseconds.
        microseconds: u64,
    },
    /// `/dev/kvm` cannot be opened.
    Missing {
        /// The kernel's answer.
        reason: String,
    },
    /// A machine could not be made or its CPU stopped with something unexpected.
    Broken {
        /// What failed.
        reason: String,
    },
}

impl KvmProbe {
    /// Whether a guest can be run with it.
    pub fn usable(&self) -> bool {
        matches!(self, Self::Usable { .. })
    }
}

impl fmt::Display for KvmProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = |microseconds: &u64| {
            // Two instructions go round the loop.
            2.0 * f64::from(ITERATIONS) / (*microseconds).max(1) as f64
        };
        match self {
            Self::Usable { microseconds } => write!(
                f,
                "/dev/kvm runs guests on hardware ({:.0} million instructions/s)",
                speed(microseconds)
            ),
            Self::Slow { microseconds } => write!(
                f,
                "/dev/kvm opens, but it interprets its guests ({:.1} million instructions/s), too slow to boot a kernel",
                speed(microseconds)
            ),
            Self::Missing { reason } => write!(f, "/dev/kvm cannot be opened: {reason}"),
            Self::Broken { reason } => {
                write!(f, "/dev/kvm opens, but it cannot run a guest: {reason}")
            }
        }
    }
}

/// Opens `/dev/kvm`.
pub(super) fn open() -> io::Result<Kvm> {
    Kvm::new().map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Runs the probe guest.
pub(super) fn probe() -> KvmProbe {
    let kvm = match open() {
        Ok(kvm) => kvm,
        Err(error) => {
            return KvmProbe::Missing {
                reason: error.to_string(),
            };
        }
    };
    match time(&kvm) {
        Ok(duration) => {
            let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            if duration <= GOOD {
                KvmProbe::Usable { microseconds }
            } else {
                KvmProbe::Slow { microseconds }
            }
        }
        Err(reason) => KvmProbe::Broken { reason },
    }
}

/// What a thread has spent on running a guest. That is processor time, which is the guest's
/// own speed: by the clock on the wall, a busy host's good KVM looks like a slow one.
struct Stopwatch {
    processor: Duration,
    wall: Instant,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            processor: processor_time(),
            wall: Instant::now(),
        }
    }

    fn spent(&self) -> Duration {
        processor_time().saturating_sub(self.processor)
    }

    /// What was spent, if that is too much.
    fn late(&self) -> Option<Duration> {
        let (spent, waited) = (self.spent(), self.wall.elapsed());
        if waited >= PATIENCE {
            return Some(waited);
        }
        (spent >= DEADLINE).then_some(spent)
    }
}

/// Processor time of the calling thread, the time in guests included.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How long the loop takes, at most about [`DEADLINE`].
fn time(kvm: &Kvm) -> Result<Duration, String> {
    let failed = |what: &'static str| move |error: kvm_ioctls::Error| format!("{what}: {error}");
    let machine = kvm.create_vm().map_err(failed("no machine"))?;
    let memory = memory()?;
    map(&machine, &memory).map_err(failed("no memory"))?;
    let cpu = machine.create_vcpu(0).map_err(failed("no CPU"))?;
    let features = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("no CPU features"))?;
    cpu.set_cpuid2(&features)
        .map_err(failed("CPU features refused"))?;
    enter_long_mode(&cpu).map_err(failed("registers refused"))?;
    run(cpu)
}

/// Runs the CPU in a thread of its own, which a signal takes out of the guest
/// when it is late.
fn run(mut cpu: VcpuFd) -> Result<Duration, String> {
    extern "C" fn interrupt(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), interrupt).map_err(|error| error.to_string())?;

    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(move || {
            let mut watch = Stopwatch::start();
            let mut warm = false;
            let outcome = loop {
                let outcome = match cpu.run() {
                    Ok(VcpuExit::Hlt) if !warm => {
                        warm = true;
                        watch = Stopwatch::start();
                        continue;
                    }
                    Ok(VcpuExit::Hlt) => Ok(watch.spent()),
                    Ok(exit) => Err(format!("the guest stopped with {exit:?}")),
                    Err(error) if error.errno() == libc::EINTR => match watch.late() {
                        None => continue,
                        Some(late) => Ok(late),
                    },
                    Err(error) => Err(format!("the guest does not run: {error}")),
                };
                break outcome;
            };
            // The receiver waits until this thread has ended.
            drop(sender.send(outcome));
        })
        .map_err(|error| error.to_string())?;

    let mut wait = DEADLINE;
    loop {
        match receiver.recv_timeout(wait) {
            Ok(outcome) => {
                drop(thread.join());
                return outcome;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // A signal that comes just before KVM_RUN is lost, hence the next one.
                thread.kill(SIGRTMIN()).map_err(|error| error.to_string())?;
                wait = KICK;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err("the guest's thread ended".to_owned());
            }
        }
    }
}

const PAGE_MAP_LEVEL_4: u64 = 0x1000;
const PAGE_DIRECTORY_POINTERS: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const MEMORY: usize = 0x5000;

/// The guest: page tables that map the first 2 MiB onto themselves, and the loop, twice.
fn memory() -> Result<GuestMemoryMmap, String> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE_PAGE: u64 = 1 << 7;

    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| format!("no memory: {error}"))?;
    let mut code = Vec::new();
    for iterations in [WARM_UP, ITERATIONS] {
        code.extend([0x48, 0xb9]); // mov rcx, iterations
        code.extend(u64::from(iterations).to_le_bytes());
        code.extend([0x48, 0xff, 0xc9]); // dec rcx
        code.extend([0x75, 0xfb]); // jnz to the dec
        code.push(0xf4); // hlt
    }
    let entries = [
        (PAGE_MAP_LEVEL_4, PAGE_DIRECTORY_POINTERS | PRESENT_WRITABLE),
        (PAGE_DIRECTORY_POINTERS, PAGE_DIRECTORY | PRESENT_WRITABLE),
        (PAGE_DIRECTORY, LARGE_PAGE | PRESENT_WRITABLE),
    ];
    for (table, entry) in entries {
        memory
            .write_obj(entry, GuestAddress(table))
            .map_err(|error| error.to_string())?;
    }
    memory
        .write_slice(&code, GuestAddress(CODE))
        .map_err(|error| error.to_string())?;
    Ok(memory)
}

fn map(machine: &VmFd, memory: &GuestMemoryMmap) -> Result<(), kvm_ioctls::Error> {
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|_| kvm_ioctls::Error::new(libc::EFAULT))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host as u64,
    };
    debug_assert_eq!(memory.num_regions(), 1);
    // SAFETY: the region is the whole of `memory`, which `time` drops after the
    // machine and its CPU: they are declared later, or moved into `run`, which
    // returns after the CPU's thread has ended.
    unsafe { machine.set_user_memory_region(region) }
}

/// Intel SDM volume 3, 10.8.5: protected mode, paging with PAE and long mode at once.
fn enter_long_mode(cpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const CR0_PROTECTED: u64 = 1;
    const CR0_PAGING: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LONG_ENABLED: u64 = 1 << 8;
    const EFER_LONG_ACTIVE: u64 = 1 << 10;

    let mut special = cpu.get_sregs()?;
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        type_: 0x3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    special.cs = kvm_segment {
        selector: 0x8,
        type_: 0xb,
        db: 0,
        l: 1,
        ..data
    };
    for segment in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *segment = data;
    }
    special.cr3 = PAGE_MAP_LEVEL_4;
    special.cr4 |= CR4_PAE;
    special.cr0 |= CR0_PROTECTED | CR0_PAGING;
    special.efer |= EFER_LONG_ENABLED | EFER_LONG_ACTIVE;
    cpu.set_sregs(&special)?;

    let mut registers = cpu.get_regs()?;
    registers.rip = CODE;
    registers.rflags = 0x2; // the bit that is always set
    cpu.set_regs(&registers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_ends_and_says_why() {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || drop(sender.send(probe())));
        let probe = receiver.recv_timeout(Duration::from_secs(60));
        let probe = probe.expect("it ends");
        thread.join().expect("no panic");
        match &probe {
            KvmProbe::Usable { microseconds } => assert!(*microseconds <= 25_000),
            KvmProbe::Slow { microseconds } => assert!(*microseconds > 25_000),
            KvmProbe::Missing { .. } => assert!(open().is_err()),
            KvmProbe::Broken { reason } => panic!("the probe guest itself is wrong: {reason}"),
        }
        assert!(probe.to_string().starts_with("/dev/kvm "));
    }

    #[test]
    fn one_plain_sentence_with_the_figure() {
        let slow = KvmProbe::Slow {
            microseconds: 110_000,
        };
        assert_eq!(
            slow.to_string(),
            "/dev/kvm opens, but it interprets its guests (1.8 million instructions/s), too slow to boot a kernel"
        );
    }
}
