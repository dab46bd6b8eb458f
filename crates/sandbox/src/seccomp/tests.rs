//! What compiled filters answer, asked of the kernel.

use super::young::X32_BIT;
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
