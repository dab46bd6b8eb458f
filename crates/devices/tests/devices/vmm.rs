//! The jail of a VMM, with a shell as the VMM.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::PipeWriter;
use std::os::unix::fs::PermissionsExt;

use crate::process::Device;

const GROUP: &str = "2000000000";

/// Starts a script in the jail, which sees the libraries, `visible` and its own program.
/// It reads descriptor 3, whose other end is returned.
fn start(visible: &[&str], script: &str, user: Option<u32>) -> (Device, PipeWriter) {
    let (read, write) = std::io::pipe().unwrap();
    let device = Device::start(arguments(visible, script), vec![read.into()], user);
    (device, write)
}

fn arguments(visible: &[&str], script: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["vmm".into(), format!("--group={GROUP}").into()];
    let libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
    for path in libraries.iter().chain(visible) {
        arguments.push(format!("--visible={path}").into());
    }
    arguments.extend(["--device=/dev/null", "--", "/bin/sh", "-c", script].map(OsString::from));
    arguments
}

/// What the script says.
fn output(visible: &[&str], script: &str) -> String {
    let (mut device, _input) = start(visible, script, None);
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
    words
}

/// Names of the namespaces of a process.
fn namespaces(process: &std::path::Path) -> BTreeSet<String> {
    ["ipc", "mnt", "net", "user", "uts"]
        .map(|kind| fs::read_link(process.join("ns").join(kind)).unwrap())
        .map(|name| name.into_os_string().into_string().unwrap())
        .into()
}

#[test]
fn it_has_no_rights_and_an_identity_of_its_own() {
    let wait = "echo ready >&2; read line <&3";
    let mut users = BTreeSet::new();
    let mut vmms = [start(&[], wait, None), start(&[], wait, None)];
    for (device, _input) in &mut vmms {
        assert_eq!(device.line(), "ready\n");
        assert_eq!(device.status("NoNewPrivs"), "1");
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(device.status(set), "0000000000000000", "{set}");
        }
        assert_eq!(device.status("Groups"), "");
        assert_eq!(device.status("Gid"), [GROUP; 4].join("\t"));
        let user = device.status("Uid").split('\t').next().unwrap().to_owned();
        assert_eq!(device.status("Uid"), [user.as_str(); 4].join("\t"));
        assert!(user.parse::<u32>().unwrap() > 2_000_000_000, "{user}");
        users.insert(user);
        // Of five namespaces only that of the users is the host's.
        let own = namespaces(&device.proc());
        let host = namespaces("/proc/self".as_ref());
        assert_eq!(own.intersection(&host).count(), 1, "{own:?} {host:?}");
    }
    assert_eq!(users.len(), 2, "{users:?}");
}

#[test]
fn it_sees_what_it_is_shown_and_can_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("firmware"), "bytes").unwrap();
    let path = folder.path().to_str().unwrap();
    let script = format!(
        "echo /* >&2
         echo /dev/* /etc/* /proc/* /proc/self/* >&2
         read line < {path}/firmware; echo $line >&2
         echo x > /dev/null && echo null >&2
         for file in /new {path}/firmware {path}/new /proc/self/new; do
             (echo x > $file) 2> /dev/null && echo wrote $file >&2
         done
         echo end >&2"
    );
    let top = path.split('/').nth(1).unwrap();
    let mut names = vec!["/dev", "/lib", "/lib64", "/proc", "/usr"];
    let top = format!("/{top}");
    names.push(&top);
    names.sort_unstable();
    assert_eq!(
        output(&[path], &script),
        format!(
            "{}\n/dev/null /etc/* /proc/self /proc/self/fd\nbytes\nnull\nend\n",
            names.join(" ")
        )
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("firmware")).unwrap(),
        "bytes"
    );
}

#[test]
fn its_group_can_open_what_it_was_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    fs::write(&path, "before\n").unwrap();
    std::os::unix::fs::chown(&path, None, Some(GROUP.parse().unwrap())).unwrap();
    let script = "read line < /proc/self/fd/3; echo $line >&2; echo after > /proc/self/fd/3";
    for (mode, readable) in [(0o660, true), (0o600, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = fs::File::open(&path).unwrap();
        let mut device = Device::start(arguments(&[], script), vec![file.into()], None);
        let (_, words) = device.wait();
        assert_eq!(words.starts_with("before\n"), readable, "{words}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
}

#[test]
fn an_ordinary_users_vmm_is_jailed_alike() {
    let script = "echo /* >&2; read line <&3";
    let (mut device, _input) = start(&[], script, Some(65_534));
    assert_eq!(device.line(), "/dev /lib /lib64 /proc /usr\n");
    assert_eq!(device.status("Uid"), ["65534"; 4].join("\t"));
    assert_eq!(device.status("NoNewPrivs"), "1");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(device.status(set), "0000000000000000", "{set}");
    }
    let own = namespaces(&device.proc());
    let host = namespaces("/proc/self".as_ref());
    assert_eq!(own.intersection(&host).count(), 0, "{own:?} {host:?}");
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let arguments = ["vmm", "--group=1", "--", "/no/such/vmm"].map(OsString::from);
    let (status, words) = Device::start(arguments.into(), Vec::new(), None).wait();
    assert!(!status.success());
    assert!(words.contains("cannot find /no/such/vmm"), "{words}");
}
