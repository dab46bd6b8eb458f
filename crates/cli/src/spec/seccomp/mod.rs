//! Which system calls a container may make.

mod default;
mod file;

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::security::SeccompProfile;
use super::{Error, Result};

/// Version of the guest's kernel, for rules that depend on it.
const GUEST_KERNEL: (u32, u32) = (6, 12);

/// The rules for a container with these capabilities; none for no rules at all.
pub(super) fn profile(
    wanted: &SeccompProfile,
    capabilities: &Capabilities,
) -> Result<Option<LinuxSeccomp>> {
    match wanted {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::Builtin => Ok(Some(default::profile(capabilities))),
        SeccompProfile::File(path) => {
            file::read(path, capabilities)
                .map(Some)
                .map_err(|reason| Error::Flag {
                    flag: "--security-opt",
                    value: format!("seccomp={}", path.display()),
                    reason,
                })
        }
    }
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    error: Option<u32>,
    arguments: &[LinuxSeccompArg],
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|&name| name.to_owned()).collect());
    rule.set_action(action);
    rule.set_errno_ret(error);
    rule.set_args((!arguments.is_empty()).then(|| arguments.to_vec()));
    rule
}

fn argument(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value);
    let builder = match value_two {
        Some(value) => builder.value_two(value),
        None => builder,
    };
    builder.build().expect("every field that is needed is set")
}

/// A profile of rules for the one architecture that the guest's kernel has: it
/// is built without 32-bit emulation and without x32.
fn with_rules(
    default: LinuxSeccompAction,
    error: Option<u32>,
    rules: Vec<LinuxSyscall>,
) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default);
    profile.set_default_errno_ret(error);
    profile.set_architectures(Some(vec![Arch::ScmpArchX86_64]));
    profile.set_syscalls(Some(rules));
    profile
}
