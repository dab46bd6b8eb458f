//! Which devices a container may use: a BPF program on its cgroup (cgroup v2 has no
//! file for it; Documentation/admin-guide/cgroup-v2.rst, Device controller).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use caisson_protocol::agent::DeviceRule;

use crate::error::{Error, Result};

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*` (linux/bpf.h).
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE_NODE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ANY_ACCESS: i32 = MAKE_NODE | READ | WRITE;

/// One line of the answer to "may it?". None stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// What every container may use, whatever its specification says: nodes may be made,
/// and the devices of `child::view::device` with terminals opened.
const ALWAYS: [Rule; 11] = [
    node(BLOCK),
    node(CHARACTER),
    device(1, 3),
    device(1, 5),
    device(1, 7),
    device(1, 8),
    device(1, 9),
    device(5, 0),
    device(5, 1),
    device(5, 2),
    Rule {
        minor: None,
        ..device(136, 0)
    },
];

/// With this before them, those are all.
const NOTHING: Rule = Rule {
    allow: false,
    kind: None,
    major: None,
    minor: None,
    access: ANY_ACCESS,
};

const fn node(kind: i32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major: None,
        minor: None,
        access: MAKE_NODE,
    }
}

const fn device(major: i32, minor: i32) -> Rule {
    Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: Some(major),
        minor: Some(minor),
        access: ANY_ACCESS,
    }
}

/// A program that has been loaded before anybody asked for it.
static PREPARED: OnceLock<(Vec<Instruction>, OwnedFd)> = OnceLock::new();

/// Puts the rules of a container in force that may use no devices but those of every
/// container. The kernel's verifier is the dearest part of a container's start under
/// emulation, and a template can have it behind itself.
pub(super) fn prepare(cgroup: BorrowedFd<'_>) -> Result<()> {
    let prepare = || {
        // It is loaded once, and attached for each container that is expected.
        let (_, loaded) = match PREPARED.get() {
            Some(prepared) => prepared,
            None => {
                let program = compile(&[&[NOTHING], &ALWAYS[..]].concat());
                let loaded = load(&program)?;
                PREPARED.get_or_init(|| (program, loaded))
            }
        };
        change(ATTACH, cgroup, loaded)
    };
    prepare().map_err(Error::system("load the rules for devices"))
}

/// Puts the rules in force for a cgroup, which may have those of [`prepare`]. No rules are no
/// restriction.
pub(super) fn restrict(
    cgroup: BorrowedFd<'_>,
    rules: &[DeviceRule],
    is_prepared: bool,
) -> Result<()> {
    let program = (!rules.is_empty()).then(|| compile(&with_always(rules)));
    let prepared = PREPARED.get();
    let restricted = || {
        if let Some((prepared, loaded)) = prepared.filter(|_| is_prepared) {
            if program.as_ref() == Some(prepared) {
                return Ok(());
            }
            change(DETACH, cgroup, loaded)?;
        }
        match (&program, prepared) {
            (None, _) => Ok(()),
            (Some(program), Some((prepared, loaded))) if program == prepared => {
                change(ATTACH, cgroup, loaded)
            }
            (Some(program), _) => change(ATTACH, cgroup, &load(program)?),
        }
    };
    restricted().map_err(Error::system("restrict the container's devices"))
}

/// The rules and those of every container. The last that fits counts, so one that is
/// said again at the end need not be said before.
fn with_always(rules: &[DeviceRule]) -> Vec<Rule> {
    let rules = rules.iter().map(rule);
    rules
        .filter(|rule| !ALWAYS.contains(rule))
        .chain(ALWAYS)
        .collect()
}

fn rule(rule: &DeviceRule) -> Rule {
    Rule {
        allow: rule.allow,
        kind: (rule.kind != 0).then_some(rule.kind.cast_signed()),
        major: rule.major.map(u32::cast_signed),
        minor: rule.minor.map(u32::cast_signed),
        access: rule.access.cast_signed() & ANY_ACCESS,
    }
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: from << 4 | to,
            offset,
            immediate,
        }
    }

    /// `to = *(u32 *)(from + offset)`
    const fn load(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    const fn copy(to: u8, from: u8) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    const fn set(to: u8, value: i32) -> Self {
        Self::new(0xb7, to, 0, 0, value)
    }

    const fn and(to: u8, value: i32) -> Self {
        Self::new(0x57, to, 0, 0, value)
    }

    const fn shift_right(to: u8, bits: i32) -> Self {
        Self::new(0x77, to, 0, 0, bits)
    }

    /// Skips `offset` instructions unless the register has this value.
    const fn skip_unless(register: u8, value: i32, offset: i16) -> Self {
        Self::new(0x55, register, 0, offset, value)
    }

    const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
}

/// Registers of the program.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const REST: u8 = 6;

/// The last rule that fits decides; none is a refusal.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
    let mut program = vec![
        Instruction::load(KIND, CONTEXT, 0),
        Instruction::copy(ACCESS, KIND),
        Instruction::and(KIND, 0xffff),
        Instruction::shift_right(ACCESS, 16),
        Instruction::load(MAJOR, CONTEXT, 4),
        Instruction::load(MINOR, CONTEXT, 8),
    ];
    for rule in rules.iter().rev() {
        let tests = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
        let tests: Vec<_> = tests
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
        // Behind the tests come the answer and the exit.
        let to_next_rule = |tests_left: usize| tests_left as i16 + 2;
        if rule.access != ANY_ACCESS {
            // Whatever is wanted beyond the rule's access is left in REST.
            program.push(Instruction::copy(REST, ACCESS));
            program.push(Instruction::and(REST, !rule.access));
            program.push(Instruction::skip_unless(REST, 0, to_next_rule(tests.len())));
        }
        for (number, (register, value)) in tests.iter().enumerate() {
            let skip = to_next_rule(tests.len() - number - 1);
            program.push(Instruction::skip_unless(*register, *value, skip));
        }
        program.push(Instruction::set(ANSWER, rule.allow.into()));
        program.push(Instruction::exit());
        if tests.is_empty() && rule.access == ANY_ACCESS {
            // It fits always: the kernel refuses a program with code behind that.
            return program;
        }
    }
    program.extend([Instruction::set(ANSWER, 0), Instruction::exit()]);
    program
}

/// bpf(2) with an argument of a certain form.
fn bpf<T>(command: libc::c_int, argument: &T) -> io::Result<libc::c_int> {
    // SAFETY: each command used here reads as much of its argument as `size` says, and
    // what the argument points to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *argument, size_of::<T>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        // Not truncated: a descriptor or 0.
        result => Ok(result as libc::c_int),
    }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;

    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
    }

    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    let descriptor = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `BPF_PROG_ATTACH`, and its flags.
const ATTACH: (libc::c_int, u32) = (8, ALLOW_MULTI);

/// `BPF_PROG_DETACH`, which has none.
const DETACH: (libc::c_int, u32) = (9, 0);

/// `BPF_F_ALLOW_MULTI`: a container may restrict the cgroups that it makes itself further.
const ALLOW_MULTI: u32 = 2;

/// Attaches a program to a cgroup, or takes it away.
fn change(
    (command, flags): (libc::c_int, u32),
    cgroup: BorrowedFd<'_>,
    program: &OwnedFd,
) -> io::Result<()> {
    const BPF_CGROUP_DEVICE: u32 = 6;

    /// The beginning of `union bpf_attr` for both.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }

    let attach = Attach {
        target: cgroup.as_raw_fd().unsigned_abs(),
        program: program.as_raw_fd().unsigned_abs(),
        kind: BPF_CGROUP_DEVICE,
        flags,
    };
    bpf(command, &attach).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn allows(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_i32; 8];
        let mut next = 0_usize;
        loop {
            let instruction = program[next];
            let (to, from) = (
                usize::from(instruction.registers & 15),
                usize::from(instruction.registers >> 4),
            );
            next += 1;
            match instruction.code {
                0x61 => registers[to] = context[instruction.offset as usize / 4],
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = instruction.immediate,
                0x57 => registers[to] &= instruction.immediate,
                0x77 => registers[to] >>= instruction.immediate,
                0x55 if registers[to] != instruction.immediate => {
                    next += instruction.offset as usize;
                }
                0x55 => {}
                0x95 => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
        compile(&with_always(rules))
    }

    /// For any access to any device.
    fn any(allow: bool) -> DeviceRule {
        DeviceRule {
            allow,
            access: ANY_ACCESS.cast_unsigned(),
            ..Default::default()
        }
    }

    fn character(major: Option<u32>, minor: Option<u32>, access: i32) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind: CHARACTER.cast_unsigned(),
            major,
            minor,
            access: access.cast_unsigned(),
            ..Default::default()
        }
    }

    #[test]
    fn disks_are_refused_and_null_is_not() {
        let program = program(&[any(false)]);
        assert!(!allows(&program, BLOCK, READ, 254, 0));
        assert!(!allows(&program, BLOCK, READ | MAKE_NODE, 254, 0));
        assert!(allows(&program, BLOCK, MAKE_NODE, 254, 0));
        assert!(allows(&program, CHARACTER, READ | WRITE, 1, 3));
        assert!(allows(&program, CHARACTER, READ, 136, 77));
        assert!(!allows(&program, CHARACTER, READ, 10, 229));
    }

    #[test]
    fn the_prepared_program_is_that_of_an_ordinary_container() {
        let prepared = compile(&[&[NOTHING], &ALWAYS[..]].concat());
        let ordinary = [
            any(false),
            character(None, None, MAKE_NODE),
            character(Some(1), Some(3), ANY_ACCESS),
        ];
        assert!(prepared == program(&ordinary));
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let refused = DeviceRule {
            allow: false,
            ..character(Some(10), Some(200), WRITE)
        };
        let program = program(&[any(false), character(Some(10), None, READ | WRITE), refused]);
        assert!(allows(&program, CHARACTER, READ | WRITE, 10, 229));
        assert!(allows(&program, CHARACTER, READ, 10, 200));
        assert!(!allows(&program, CHARACTER, WRITE, 10, 200));
        assert!(!allows(&program, BLOCK, READ, 10, 229));
    }

    #[test]
    fn everything_may_be_allowed() {
        let program = program(&[any(true)]);
        assert!(allows(&program, BLOCK, ANY_ACCESS, 8, 0));
    }
}
