//! The system calls that a device process may make.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// What every device calls once its filter is in force: vhost-user, events, the
/// guest's memory, threads. Nothing that opens a file, runs a program or makes a
/// socket.
const COMMON: &[libc::c_long] = &[
    // vhost-user.
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_writev,
    // Events.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    // Memory, the guest's included.
    libc::SYS_brk,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and their end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_clock_gettime,
];

/// Namespaces would give a process that was taken over capabilities again.
const NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// Ends the process at any system call from now on that neither every device nor this
/// one makes. Threads inherit that: there must be none yet.
pub fn install(device: &[libc::c_long]) -> Result<()> {
    // A filter cannot look into the structure that `clone3` takes its flags from: libc
    // makes its threads with `clone` where the newer call does not exist.
    apply(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
    )?;
    let no_namespace = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(NAMESPACES as u64),
        0,
    )
    .and_then(|condition| SeccompRule::new(vec![condition]))
    .context("cannot make the rule for new threads")?;
    let mut rules: BTreeMap<_, _> = COMMON
        .iter()
        .chain(device)
        .map(|&call| (call, Vec::new()))
        .collect();
    rules.insert(libc::SYS_clone, vec![no_namespace]);
    rules.insert(libc::SYS_clone3, Vec::new());
    apply(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn apply(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<()> {
    let processor = std::env::consts::ARCH
        .try_into()
        .context("no system call filter for this processor")?;
    let program: BpfProgram = SeccompFilter::new(rules, mismatch, matched, processor)
        .and_then(TryInto::try_into)
        .context("cannot make the system call filter")?;
    seccompiler::apply_filter(&program).context("cannot install the system call filter")
}
