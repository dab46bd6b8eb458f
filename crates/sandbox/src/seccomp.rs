//! From an OCI seccomp profile to the BPF program that the guest loads.
//!
//! The program is made here and not in the guest: libseccomp needs milliseconds
//! for it, and many more where the guest's processor is emulated.

mod young;

use std::collections::HashSet;
use std::io::{Read, Seek};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterAttr, ScmpFilterContext,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::MemfdFlags;

use crate::{Error, Result};
use young::{INSTRUCTION_LEN, Last, unknown_is_enosys};

/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Arguments of a system call that a filter can look at.
const ARGUMENTS: usize = 6;

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
        let Some(syscall) = last.resolve(name, architectures) else {
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

#[cfg(test)]
mod tests;
