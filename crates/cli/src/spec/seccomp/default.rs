//! The rules of a container that asks for none: the effect of Docker's profile
//! on x86-64.
//!
//! What is not named here fails with `EPERM`. Left out are system calls that act
//! on the kernel as a whole, that have had many holes, or that have no namespace.

use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall,
};

use super::{argument, rule, with_rules};

/// Allowed to everybody.
#[rustfmt::skip]
const ALWAYS: &[&[&str]] = &[
    // Files by name.
    &["access", "chdir", "chmod", "chown", "creat", "faccessat", "faccessat2", "fchmodat", "fchmodat2", "fchownat",
      "futimesat", "getcwd", "lchown", "link", "linkat", "lstat", "mkdir", "mkdirat", "mknod", "mknodat",
      "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "readlink", "readlinkat", "rename", "renameat",
      "renameat2", "rmdir", "stat", "statfs", "statx", "symlink", "symlinkat", "truncate", "unlink", "unlinkat",
      "utime", "utimensat", "utimes", "umask"],
    &["getxattr", "getxattrat", "lgetxattr", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lsetxattr",
      "removexattr", "removexattrat", "setxattr", "setxattrat"],
    &["fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "listmount",
      "statmount"],
    // Files by descriptor.
    &["cachestat", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fallocate", "fchdir",
      "fchmod", "fchown", "fcntl", "fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "getdents",
      "getdents64", "ioctl", "lseek", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev",
      "pwritev2", "read", "readahead", "readv", "sendfile", "splice", "sync", "sync_file_range", "syncfs", "tee",
      "vmsplice", "write", "writev"],
    &["fgetxattr", "flistxattr", "fremovexattr", "fsetxattr"],
    &["epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
      "epoll_wait_old", "eventfd", "eventfd2", "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4"],
    &["io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit"],
    // Sockets; socket(2) itself has a condition.
    &["accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom",
      "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair"],
    // Memory.
    &["brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
      "mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc",
      "pkey_free", "pkey_mprotect", "remap_file_pages"],
    // Processes and threads; clone(2) has conditions.
    &["arch_prctl", "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list", "get_thread_area", "getcpu",
      "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrlimit", "getrusage", "getsid", "gettid",
      "ioprio_get", "ioprio_set", "modify_ldt", "pause", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64",
      "process_mrelease", "restart_syscall", "rseq", "set_robust_list", "set_thread_area", "set_tid_address",
      "setpgid", "setpriority", "setrlimit", "setsid", "sysinfo", "times", "uname", "vfork", "wait4", "waitid"],
    &["process_vm_readv", "process_vm_writev", "ptrace"],
    &["futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake"],
    &["sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
      "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam",
      "sched_setscheduler", "sched_yield"],
    &["kill", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
      "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "tgkill", "tkill"],
    // Users, groups, rights. What a process may give up or take is the kernel's to say.
    &["capget", "capset", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid", "getuid", "setfsgid",
      "setfsuid", "setgid", "setgroups", "setregid", "setresgid", "setresuid", "setreuid", "setuid"],
    &["landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lsm_get_self_attr",
      "lsm_list_modules", "lsm_set_self_attr", "seccomp"],
    // Time. Setting it by adjtimex(2) needs a capability that is not given away.
    &["adjtimex", "alarm", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer",
      "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
      "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime"],
    // System V and POSIX communication: namespaces have them apart.
    &["mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget",
      "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget"],
    &["getrandom"],
];

/// Allowed with a capability: without it the kernel would refuse them, too, but
/// has been wrong about that.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::SysAdmin, &["bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount2", "unshare"]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "settimeofday"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Flags of clone(2) that make namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// Personalities that change no protection: `PER_LINUX`, `PER_LINUX32`, each with
/// `UNAME26` or without, and the question for the present one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The rules for a container with these capabilities.
pub(super) fn profile(capabilities: &Capabilities) -> LinuxSeccomp {
    let allow = |names: &[&str]| rule(names, LinuxSeccompAction::ScmpActAllow, None, &[]);
    let allow_if = |name: &str, op, value, value_two| {
        rule(
            &[name],
            LinuxSeccompAction::ScmpActAllow,
            None,
            &[argument(0, op, value, value_two)],
        )
    };
    let mut rules: Vec<LinuxSyscall> = ALWAYS.iter().map(|names| allow(names)).collect();
    let granted = WITH_CAPABILITY
        .iter()
        .filter(|(capability, _)| capabilities.contains(capability));
    rules.extend(granted.map(|(_, names)| allow(names)));
    // vsock leads to the host and has no namespace.
    rules.push(allow_if(
        "socket",
        LinuxSeccompOperator::ScmpCmpNe,
        libc::AF_VSOCK as u64,
        None,
    ));
    rules.extend(
        PERSONALITIES
            .map(|value| allow_if("personality", LinuxSeccompOperator::ScmpCmpEq, value, None)),
    );
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow_if(
            "clone",
            LinuxSeccompOperator::ScmpCmpMaskedEq,
            NAMESPACES,
            Some(0),
        ));
        // Its flags are in memory, where a filter cannot look; C libraries fall back to clone(2).
        let missing = Some(libc::ENOSYS.unsigned_abs());
        rules.push(rule(
            &["clone3"],
            LinuxSeccompAction::ScmpActErrno,
            missing,
            &[],
        ));
    }
    with_rules(
        LinuxSeccompAction::ScmpActErrno,
        Some(libc::EPERM.unsigned_abs()),
        rules,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    fn rules_for(profile: &LinuxSeccomp, name: &str) -> Vec<LinuxSyscall> {
        let rules = profile.syscalls().iter().flatten();
        rules
            .filter(|rule| rule.names().iter().any(|other| other == name))
            .cloned()
            .collect()
    }

    #[test]
    fn no_call_is_named_twice() {
        let mut seen = BTreeSet::new();
        for name in ALWAYS.iter().copied().flatten() {
            assert!(seen.insert(name), "{name} is named twice");
        }
        for name in WITH_CAPABILITY.iter().flat_map(|(_, names)| names.iter()) {
            assert!(
                !seen.contains(name),
                "{name} is allowed without the capability"
            );
        }
    }

    #[test]
    fn dangerous_calls_are_left_out() {
        let all = profile(&HashSet::new());
        for name in [
            "mount",
            "umount2",
            "bpf",
            "reboot",
            "init_module",
            "kexec_load",
            "ptrace_x",
            "io_uring_setup",
            "userfaultfd",
            "add_key",
            "keyctl",
            "request_key",
            "perf_event_open",
            "setns",
            "unshare",
            "chroot",
            "open_by_handle_at",
            "swapon",
            "pivot_root",
            "move_pages",
            "iopl",
            "settimeofday",
            "nfsservctl",
            "uselib",
            "vhangup",
        ] {
            assert_eq!(rules_for(&all, name), [], "{name}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        for (capability, names) in WITH_CAPABILITY {
            let with = profile(&HashSet::from([*capability]));
            for name in *names {
                assert!(
                    rules_for(&with, name)
                        .iter()
                        .any(|rule| rule.args().is_none()),
                    "{capability}: {name}"
                );
            }
        }
    }

    #[test]
    fn namespaces_need_sys_admin() {
        let without = profile(&HashSet::new());
        let clone = rules_for(&without, "clone");
        let argument = clone[0].args().as_ref().expect("a condition")[0];
        assert_eq!(
            (argument.value(), argument.value_two()),
            (0x7e02_0000, Some(0))
        );
        assert_eq!(rules_for(&without, "clone3")[0].errno_ret(), Some(38));
        let with = profile(&HashSet::from([Capability::SysAdmin]));
        assert_eq!(rules_for(&with, "clone").len(), 1);
        assert_eq!(
            rules_for(&with, "clone3")[0].action(),
            LinuxSeccompAction::ScmpActAllow
        );
    }

    #[test]
    fn vsock_is_closed_and_personalities_are_chosen() {
        let profile = profile(&HashSet::new());
        let socket = rules_for(&profile, "socket")[0]
            .args()
            .as_ref()
            .expect("a condition")[0];
        assert_eq!(
            (socket.value(), socket.op()),
            (40, LinuxSeccompOperator::ScmpCmpNe)
        );
        assert_eq!(rules_for(&profile, "personality").len(), 5);
    }
}
