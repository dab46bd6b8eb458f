//! From an OCI seccomp profile to the BPF program that the guest loads.
//!
//! The program is made here and not in the guest: libseccomp needs milliseconds
//! for it, and many more where the guest's processor is emulated.

use std::collections::HashSet;
use std::io::{Read, Seek};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterAttr, ScmpFilterContext,
    ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::MemfdFlags;

use crate::{Error, Result};

/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Arguments of a system call that a filter can look at.
const ARGUMENTS: usize = 6;

/// Value of `seccomp_data.arch` for x86-64 and x32 (`linux/audit.h`).
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Marks the number of an x32 system call (`asm/unistd.h`).
const X32_BIT: u32 = 0x4000_0000;

/// System calls younger than libseccomp 2.5.4 (Debian's updates of it know some), by
/// their numbers on x86-64. Numbers from 424 on are the same on every architecture.
const YOUNG_SYSCALLS: [(&str, i32); 16] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
];

/// Compiles a profile to `struct sock_filter[]`, ready for `seccomp(2)`.
///
/// As with runc, names of system calls that are not known are skipped, because
/// profiles list those of every architecture and kernel. And where the profile
/// denies by default, system calls younger than any it names fail with `ENOSYS`
/// and not with its error, so that a C library falls back to older ones.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    check_flags(profile)?;
    let default = action(
        profile.default_action(),
        profile.default_errno_ret(),
        "linux.seccomp.defaultAction",
    )?;
    let mut filter =
        ScmpFilterContext::new(default).map_err(|error| refused("defaultAction", error))?;
    // The caller decides about no_new_privs, as the specification has it in `process`.
    filter
        .set_ctl_nnp(false)
        .map_err(|error| refused("flags", error))?;
    let architectures = add_architectures(&mut filter, profile)?;
    // A binary tree instead of a list: every system call of the container passes here.
    filter
        .set_filter_attr(ScmpFilterAttr::CtlOptimize, 2)
        .map_err(|error| refused("flags", error))?;

    let mut last = Last::default();
    for rule in profile.syscalls().iter().flatten() {
        add_rule(&mut filter, rule, default, &architectures, &mut last)?;
    }
    let mut program = export(&filter)?;
    let enosys_anyway = profile.default_errno_ret() == Some(libc::ENOSYS.unsigned_abs());
    if denies(default) && last.x86_64 > 0 && !enosys_anyway {
        program = [unknown_is_enosys(&last, &architectures), program].concat();
    }
    if program.len() > MAX_INSTRUCTIONS * INSTRUCTION_LEN {
        let reason = format!(
            "it compiles to {} instructions and the kernel takes {MAX_INSTRUCTIONS}; \
             shorten the profile",
            program.len() / INSTRUCTION_LEN
        );
        return Err(Error::Specification {
            field: "linux.seccomp".to_owned(),
            reason,
        });
    }
    Ok(program)
}

/// Architectures of a profile that an x86-64 kernel can meet.
struct Architectures {
    /// x86-64 is the only one.
    only_native: bool,
    x32: bool,
}

/// Largest number of a system call that the profile names.
#[derive(Default)]
struct Last {
    x86_64: i32,
    x32: i32,
}

fn check_flags(profile: &LinuxSeccomp) -> Result<()> {
    let refuse = |field: &str, reason: &str| {
        Err(Error::Specification {
            field: format!("linux.seccomp.{field}"),
            reason: reason.to_owned(),
        })
    };
    if profile
        .listener_path()
        .as_ref()
        .is_some_and(|path| !path.as_os_str().is_empty())
    {
        return refuse(
            "listenerPath",
            "the listener would be a process outside of the virtual machine",
        );
    }
    for flag in profile.flags().iter().flatten() {
        match flag {
            // There is one thread when the filter is loaded.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => {}
            // Without a listener there is nothing to wait for.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {}
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => {
                return refuse(
                    "flags",
                    "the guest keeps no audit log; leave SECCOMP_FILTER_FLAG_LOG away",
                );
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                return refuse(
                    "flags",
                    "the guest's mitigations are not taken back for one container; leave \
                     SECCOMP_FILTER_FLAG_SPEC_ALLOW away",
                );
            }
        }
    }
    Ok(())
}

fn add_architectures(
    filter: &mut ScmpFilterContext,
    profile: &LinuxSeccomp,
) -> Result<Architectures> {
    let mut added = Architectures {
        only_native: true,
        x32: false,
    };
    for arch in profile.architectures().iter().flatten() {
        let arch = match arch {
            // Always in a filter made on it.
            Arch::ScmpArchNative | Arch::ScmpArchX86_64 => continue,
            Arch::ScmpArchX86 => ScmpArch::X86,
            Arch::ScmpArchX32 => ScmpArch::X32,
            // No kernel for x86-64 can be entered that way.
            _ => continue,
        };
        added.only_native = false;
        added.x32 |= arch == ScmpArch::X32;
        filter
            .add_arch(arch)
            .map_err(|error| refused("architectures", error))?;
    }
    Ok(added)
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
    architectures: &Architectures,
    last: &mut Last,
) -> Result<()> {
    let names = || rule.names().join(", ");
    let action = action(
        rule.action(),
        rule.errno_ret(),
        &format!("linux.seccomp.syscalls ({})", names()),
    )?;
    let mut conditions = Vec::new();
    for argument in rule.args().iter().flatten() {
        conditions.push(condition(argument).ok_or_else(|| Error::Specification {
            field: format!("linux.seccomp.syscalls ({})", names()),
            reason: format!(
                "argument {} does not exist; system calls have arguments 0 to 5",
                argument.index()
            ),
        })?);
    }
    for name in rule.names() {
        let Some(syscall) = resolve(name, architectures, last) else {
            tracing::debug!(
                name,
                "system call of the seccomp profile is not known and left out"
            );
            continue;
        };
        // libseccomp takes a rule that changes nothing for a mistake.
        if action == default {
            continue;
        }
        let added = if conditions.is_empty() {
            filter.add_rule(action, syscall).map(drop)
        } else if distinct(rule.args().iter().flatten()) {
            filter
                .add_rule_conditional(action, syscall, &conditions)
                .map(drop)
        } else {
            // libseccomp cannot test one argument twice in a rule; runc's answer is a rule for each.
            conditions.iter().try_for_each(|one| {
                filter
                    .add_rule_conditional(action, syscall, &[*one])
                    .map(drop)
            })
        };
        added.map_err(|error| refused(&format!("syscalls ({name})"), error))?;
    }
    Ok(())
}

/// The number of a system call, and notes it as the last one if it is.
fn resolve(name: &str, architectures: &Architectures, last: &mut Last) -> Option<ScmpSyscall> {
    if architectures.x32
        && let Ok(syscall) = ScmpSyscall::from_name_by_arch(name, ScmpArch::X32)
    {
        last.x32 = last.x32.max(syscall.as_raw_syscall());
    }
    if let Ok(syscall) = ScmpSyscall::from_name_by_arch(name, ScmpArch::X8664) {
        last.x86_64 = last.x86_64.max(syscall.as_raw_syscall());
        return Some(syscall);
    }
    // libseccomp translates a number to other architectures by its name, which it does not know.
    if !architectures.only_native {
        return None;
    }
    let (_, number) = YOUNG_SYSCALLS.iter().find(|(young, _)| *young == name)?;
    last.x86_64 = last.x86_64.max(*number);
    Some(ScmpSyscall::from_raw_syscall(*number))
}

fn distinct<'a>(arguments: impl Iterator<Item = &'a LinuxSeccompArg>) -> bool {
    let mut seen = HashSet::new();
    arguments
        .into_iter()
        .all(|argument| seen.insert(argument.index()))
}

fn condition(argument: &LinuxSeccompArg) -> Option<ScmpArgCompare> {
    let index = u32::try_from(argument.index())
        .ok()
        .filter(|_| argument.index() < ARGUMENTS)?;
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(argument.value()),
            argument.value_two().unwrap_or(0),
        ),
    };
    Some(ScmpArgCompare::new(index, operator, datum))
}

fn action(action: LinuxSeccompAction, value: Option<u32>, field: &str) -> Result<ScmpAction> {
    let refuse = |reason: String| {
        Err(Error::Specification {
            field: field.to_owned(),
            reason,
        })
    };
    let value = value.unwrap_or(libc::EPERM.unsigned_abs());
    let Ok(short) = u16::try_from(value) else {
        return refuse(format!("errnoRet {value} is not the number of an error"));
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(short.into()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(short),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return refuse(
                "SCMP_ACT_NOTIFY needs a listener, which would be outside of the virtual machine"
                    .to_owned(),
            );
        }
    })
}

/// A good tracer answers for system calls of the future itself, so that tracing
/// counts as allowing.
fn denies(action: ScmpAction) -> bool {
    !matches!(
        action,
        ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)
    )
}

fn refused(field: &str, error: libseccomp::error::SeccompError) -> Error {
    Error::Specification {
        field: format!("linux.seccomp.{field}"),
        reason: format!("libseccomp refuses it: {error}"),
    }
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>> {
    let doing = "compiling the seccomp profile";
    let file = rustix::fs::memfd_create("seccomp", MemfdFlags::CLOEXEC)
        .map_err(|error| Error::host(doing)(error.into()))?;
    let mut file = std::fs::File::from(file);
    filter
        .export_bpf(&file)
        .map_err(|error| Error::host(doing)(std::io::Error::other(error)))?;
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .map_err(Error::host(doing))?;
    Ok(program)
}

/// Bytes of a `struct sock_filter`.
const INSTRUCTION_LEN: usize = 8;

/// An instruction of classic BPF as bytes (`linux/filter.h`).
fn instruction(code: u32, jump_true: u8, jump_false: u8, k: u32) -> [u8; INSTRUCTION_LEN] {
    // Every code of classic BPF fits into 16 bits.
    let [code_low, code_high, ..] = code.to_ne_bytes();
    let [k0, k1, k2, k3] = k.to_ne_bytes();
    [code_low, code_high, jump_true, jump_false, k0, k1, k2, k3]
}

/// A prologue that answers `ENOSYS` to numbers beyond the last one named.
fn unknown_is_enosys(last: &Last, architectures: &Architectures) -> Vec<u8> {
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let load_arch = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 4);
    let jump = |operator: u32, k: u32, yes: u8, no: u8| {
        instruction(libc::BPF_JMP | operator | libc::BPF_K, yes, no, k)
    };
    let enosys = instruction(
        libc::BPF_RET | libc::BPF_K,
        0,
        0,
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
    );
    let x86_64 = last.x86_64.unsigned_abs();
    // Numbers of x32 are above all of x86-64, so one comparison sees to both
    // where the profile leaves x32 out.
    let program = if architectures.x32 && last.x32 > 0 {
        let x32 = last.x32.unsigned_abs() | X32_BIT;
        vec![
            load_arch,
            jump(libc::BPF_JEQ, AUDIT_ARCH_X86_64, 0, 5),
            load_number,
            jump(libc::BPF_JSET, X32_BIT, 1, 0),
            jump(libc::BPF_JGT, x86_64, 1, 2),
            jump(libc::BPF_JGT, x32, 0, 1),
            enosys,
        ]
    } else {
        vec![
            load_arch,
            jump(libc::BPF_JEQ, AUDIT_ARCH_X86_64, 0, 3),
            load_number,
            jump(libc::BPF_JGT, x86_64, 0, 1),
            enosys,
        ]
    };
    program.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).expect("a profile")
    }

    /// What a system call answers under a filter.
    #[derive(Debug, PartialEq, Eq)]
    enum Answer {
        Value,
        Error(i32),
        Killed,
    }

    /// Makes a system call in a child that has loaded the filter.
    fn answer(program: &[u8], number: libc::c_long, arguments: [libc::c_long; 2]) -> Answer {
        let instructions: Vec<libc::sock_filter> = program
            .chunks_exact(INSTRUCTION_LEN)
            .map(|bytes| libc::sock_filter {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        let program = libc::sock_fprog {
            len: u16::try_from(instructions.len()).expect("a filter has few instructions"),
            filter: instructions.as_ptr().cast_mut(),
        };
        // SAFETY: the child makes system calls only, on memory that was made before the fork.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: `program` points to `instructions`, both alive; the other calls take numbers.
            unsafe {
                let loaded = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                    && libc::syscall(
                        libc::SYS_seccomp,
                        libc::SECCOMP_SET_MODE_FILTER,
                        0,
                        &raw const program,
                    ) == 0;
                if !loaded {
                    libc::_exit(255);
                }
                let result = libc::syscall(number, arguments[0], arguments[1], 0, 0, 0);
                libc::_exit(if result == -1 {
                    *libc::__errno_location()
                } else {
                    0
                });
            }
        }
        assert!(child > 0, "fork: {}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: `status` is valid for the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        if libc::WIFSIGNALED(status) {
            assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
            return Answer::Killed;
        }
        match libc::WEXITSTATUS(status) {
            255 => panic!("the kernel refused the filter"),
            0 => Answer::Value,
            error => Answer::Error(error),
        }
    }

    /// Allows what the child needs to report, and `rules`.
    fn allowing(rules: &str) -> Vec<u8> {
        let comma = if rules.is_empty() { "" } else { "," };
        let profile = profile(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64"],
                "syscalls":[{{"names":["exit","exit_group","mseal"],"action":"SCMP_ACT_ALLOW"}}{comma}{rules}]}}"#
        ));
        compile(&profile).expect("a filter")
    }

    #[test]
    fn allowed_calls_pass_and_others_fail_as_told() {
        let program = allowing(
            r#"{"names":["getpid","no_such_call"],"action":"SCMP_ACT_ALLOW"},
               {"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
               {"names":["getuid"],"action":"SCMP_ACT_KILL_PROCESS"}"#,
        );
        for (number, expected) in [
            (libc::SYS_getpid, Answer::Value),
            (libc::SYS_getgid, Answer::Error(libc::EPERM)),
            (libc::SYS_getppid, Answer::Error(libc::ENOSYS)),
            (libc::SYS_getuid, Answer::Killed),
        ] {
            assert_eq!(
                answer(&program, number, [0, 0]),
                expected,
                "system call {number}"
            );
        }
    }

    #[test]
    fn arguments_are_looked_at() {
        // personality(2) with 0xffffffff asks and changes nothing.
        let program = allowing(
            r#"{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967295,"op":"SCMP_CMP_EQ"}]},
               {"names":["umask"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":448,"valueTwo":64,"op":"SCMP_CMP_MASKED_EQ"}]},
               {"names":["alarm"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}"#,
        );
        for (number, argument, expected) in [
            (libc::SYS_personality, 0xffff_ffff, Answer::Value),
            (libc::SYS_personality, 8, Answer::Error(libc::EPERM)),
            (libc::SYS_umask, 0o177, Answer::Value),
            (libc::SYS_umask, 0o277, Answer::Error(libc::EPERM)),
            // Two conditions on one argument are alternatives.
            (libc::SYS_alarm, 1, Answer::Value),
            (libc::SYS_alarm, 2, Answer::Value),
            (libc::SYS_alarm, 3, Answer::Error(libc::EPERM)),
        ] {
            assert_eq!(
                answer(&program, number, [argument, 0]),
                expected,
                "system call {number} ({argument:#x})"
            );
        }
    }

    #[test]
    fn calls_younger_than_the_profile_do_not_exist() {
        // `mseal`, 462, is the last one named.
        let program = allowing("");
        for (number, expected) in [
            (461, Answer::Error(libc::EPERM)),
            (463, Answer::Error(libc::ENOSYS)),
            (5000, Answer::Error(libc::ENOSYS)),
            (
                libc::c_long::from(X32_BIT) | 39,
                Answer::Error(libc::ENOSYS),
            ),
        ] {
            assert_eq!(
                answer(&program, number, [0, 0]),
                expected,
                "system call {number}"
            );
        }
    }

    #[test]
    fn young_calls_can_be_allowed() {
        // An odd address or no such call is the kernel's own answer: the filter let it pass.
        let program = allowing("");
        let answer = answer(&program, 462, [1, 0]);
        assert!(
            matches!(answer, Answer::Error(libc::EINVAL | libc::ENOSYS)),
            "{answer:?}"
        );
    }

    #[test]
    fn other_architectures_are_filtered_too() {
        let program = compile(&profile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64"],
                "syscalls":[{"names":["exit","exit_group","getpid","socketcall","mseal"],"action":"SCMP_ACT_ALLOW"}]}"#,
        ))
        .expect("a filter");
        let last = libc::SYS_exit_group;
        for (number, expected) in [
            (libc::SYS_getpid, Answer::Value),
            (libc::SYS_getuid, Answer::Error(libc::EPERM)),
            (last + 1, Answer::Error(libc::ENOSYS)),
            (
                libc::c_long::from(X32_BIT) | libc::SYS_getuid,
                Answer::Error(libc::EPERM),
            ),
            (
                libc::c_long::from(X32_BIT) | (last + 1),
                Answer::Error(libc::ENOSYS),
            ),
        ] {
            assert_eq!(
                answer(&program, number, [0, 0]),
                expected,
                "system call {number:#x}"
            );
        }
    }

    #[test]
    fn profiles_that_allow_by_default_stay_open() {
        let program = compile(&profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getuid"],"action":"SCMP_ACT_ERRNO"}]}"#,
        ))
        .expect("a filter");
        assert_eq!(
            answer(&program, libc::SYS_getuid, [0, 0]),
            Answer::Error(libc::EPERM)
        );
        assert_eq!(answer(&program, libc::SYS_getpid, [0, 0]), Answer::Value);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (json, words) in [
            (
                r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
                "linux.seccomp.defaultAction",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/s"}"#,
                "linux.seccomp.listenerPath",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#,
                "linux.seccomp.flags",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}"#,
                "errnoRet 70000",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "argument 6",
            ),
        ] {
            let error = compile(&profile(json)).expect_err(json).to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
