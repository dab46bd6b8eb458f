//! The file system device.

use std::ffi::OsString;
use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;

use crate::fuse::{Client, ROOT, User};
use crate::process::{Device, connection};

const NOBODY: u32 = 65_534;

/// A folder `x=y:ro` with a file, as `plain`; the same read-only, as `kept`; the file
/// alone, as `file`.
fn start(user: Option<u32>) -> (TempDir, Device, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("x=y:ro");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    if let Some(user) = user {
        for path in [folder.path(), &source, &source.join("file")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let (listener, connection) = connection();
    let argument = |flag: &str, path: &Path| {
        let mut argument = OsString::from(flag);
        argument.push(path);
        argument
    };
    let arguments = vec![
        "fs".into(),
        "--listener-fd=3".into(),
        argument("--mount=plain=", &source),
        argument("--mount-ro=kept=", &source),
        argument("--mount-ro=file=", &source.join("file")),
    ];
    let device = Device::start(arguments, vec![listener], user);
    (folder, device, connection)
}

/// Puts the calling thread into a mount namespace of its own, in which nobody else mounts
/// anything. What a process that it starts mounted for its host would be seen there.
fn leave_the_hosts_mounts() {
    // SAFETY: no descriptor is closed; what other threads share with this one stays theirs.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    for how in [
        MountPropagationFlags::PRIVATE,
        MountPropagationFlags::SHARED,
    ] {
        mount_change("/", how | MountPropagationFlags::REC).unwrap();
    }
}

fn mount_table() -> String {
    std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

#[test]
fn it_is_jailed_and_leaves_no_mount() {
    leave_the_hosts_mounts();
    let before = mount_table();
    let (folder, mut device, connection) = start(None);
    let client = Client::new(connection);
    assert_eq!(mount_table(), before);

    assert_eq!(device.root(), ["file", "kept", "plain"]);
    assert_eq!(device.status("NoNewPrivs"), "1");
    assert_eq!(device.status("Seccomp"), "2");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(device.status(set), "00000000880000db", "{set}");
    }
    // Not even root writes through the read-only mounts and the tree's root.
    let root = device.proc().join("root");
    for path in ["kept/file", "file", "new"] {
        let error = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join(path))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{path}");
    }
    std::fs::write(root.join("plain/new"), "x").unwrap();
    assert!(folder.path().join("x=y:ro/new").exists());
    let mounts = std::fs::read_to_string(device.proc().join("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 4, "{mounts}");
    for mount in mounts.lines() {
        assert!(mount.contains("nosuid,nodev,noexec"), "{mount}");
    }

    drop(client);
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
    assert_eq!(mount_table(), before);
}

#[test]
fn the_guest_reads_and_writes_what_it_may() {
    let (folder, _device, connection) = start(None);
    let source = folder.path().join("x=y:ro");
    let mut client = Client::new(connection);
    let plain = client.lookup(ROOT, "plain").unwrap();
    let kept = client.lookup(ROOT, "kept").unwrap();
    let file = client.lookup(ROOT, "file").unwrap();
    assert!(plain.submount && kept.submount);
    assert_eq!(file.mode & libc::S_IFMT, libc::S_IFREG);
    // Not that a well-behaved kernel would ask.
    let up = client.lookup(ROOT, "..").unwrap();
    for parent in [ROOT, plain.node, up.node] {
        for name in ["etc", "/etc", "../etc", "../../etc"] {
            let answer = client.lookup(parent, name);
            assert_eq!(answer.unwrap_err(), libc::ENOENT, "{name}");
        }
    }

    for parent in [plain.node, kept.node] {
        let node = client.lookup(parent, "file").unwrap().node;
        let handle = client.open(node, libc::O_RDONLY).unwrap();
        assert_eq!(client.read(node, handle).unwrap(), b"content");
    }
    std::fs::write(source.join("file"), "changed").unwrap();
    let handle = client.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(file.node, handle).unwrap(), b"changed");

    let refused = [
        client.open(file.node, libc::O_RDWR).unwrap_err(),
        client.create(kept.node, "new", User(0)).unwrap_err(),
        client.create(ROOT, "new", User(0)).unwrap_err(),
    ];
    assert_eq!(refused, [libc::EROFS; 3]);

    let (entry, handle) = client.create(plain.node, "new", User(0)).unwrap();
    client.write(entry.node, handle, b"from the guest").unwrap();
    let text = std::fs::read_to_string(source.join("new")).unwrap();
    assert_eq!(text, "from the guest");
    // A user of the guest is that user on the host as well.
    std::fs::set_permissions(&source, Permissions::from_mode(0o777)).unwrap();
    let (entry, _) = client.create(plain.node, "mine", User(1000)).unwrap();
    assert_eq!(entry.uid, 1000);
    assert_eq!(source.join("mine").metadata().unwrap().uid(), 1000);
    std::fs::set_permissions(&source, Permissions::from_mode(0o755)).unwrap();
    let denied = client.create(plain.node, "other", User(1000)).unwrap_err();
    assert_eq!(denied, libc::EACCES);
}

#[test]
fn extended_attributes_and_special_files_are_served() {
    let (folder, _device, connection) = start(None);
    let source = folder.path().join("x=y:ro");
    let mut client = Client::new(connection);
    let plain = client.lookup(ROOT, "plain").unwrap().node;
    // FUSE_MKNOD of a FIFO, then FUSE_OPEN of it, which would block.
    let mode = (libc::S_IFIFO | 0o600).to_le_bytes();
    let parts = [&mode[..], &[0; 12], b"fifo\0"];
    client.call(8, plain, User(0), &parts).unwrap();
    let fifo = client.lookup(plain, "fifo").unwrap();
    assert_eq!(fifo.mode & libc::S_IFMT, libc::S_IFIFO);
    assert!(client.open(fifo.node, libc::O_RDONLY).is_err());
    // FUSE_SETXATTR and FUSE_GETXATTR, also of what cannot be opened: by a detour.
    let file = client.lookup(plain, "file").unwrap().node;
    for (node, name) in [(file, &b"user.a\0"[..]), (fifo.node, b"trusted.a\0")] {
        let size = 5_u32.to_le_bytes();
        let set = client.call(21, node, User(0), &[&size, &[0; 4], name, b"value"]);
        // `trusted` attributes need more than the device has.
        let expected = if node == file {
            Ok(())
        } else {
            Err(libc::EPERM)
        };
        assert_eq!(set.map(drop), expected);
    }
    let room = 16_u32.to_le_bytes();
    let got = client.call(22, file, User(0), &[&room, &[0; 4], b"user.a\0"]);
    assert_eq!(got.unwrap(), b"value");
    // FUSE_UNLINK, FUSE_SYMLINK, FUSE_READLINK, FUSE_STATFS.
    client.call(10, plain, User(0), &[b"fifo\0"]).unwrap();
    assert!(!source.join("fifo").exists());
    client
        .call(6, plain, User(0), &[b"link\0/etc/passwd\0"])
        .unwrap();
    let link = client.lookup(plain, "link").unwrap();
    assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
    assert!(client.open(link.node, libc::O_RDONLY).is_err());
    let target = client.call(5, link.node, User(0), &[]).unwrap();
    assert_eq!(target, b"/etc/passwd");
    client.call(17, plain, User(0), &[]).unwrap();
}

/// Numbers of 64 bits as they lie in a request.
fn words<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[test]
fn every_operation_gets_past_the_filter_of_system_calls() {
    let (folder, _device, connection) = start(None);
    let source = folder.path().join("x=y:ro");
    let mut client = Client::new(connection);
    let root = User(0);
    let plain = client.lookup(ROOT, "plain").unwrap().node;
    let (entry, file) = client.create(plain, "a", root).unwrap();
    let node = entry.node;
    client.write(node, file, b"0123456789").unwrap();

    // FUSE_WRITE with FUSE_WRITE_KILL_SUIDGID: the file is no longer set-user-ID.
    std::fs::set_permissions(source.join("a"), Permissions::from_mode(0o4755)).unwrap();
    let write = [words([file, 0, 1 | 4 << 32, 0, 0]), b"x".to_vec()].concat();
    client.call(16, node, root, &[&write]).unwrap();
    assert_eq!(source.join("a").metadata().unwrap().mode() & 0o7777, 0o755);

    // FUSE_SETATTR: mode, owner, size and times, with the file open and without.
    let times = [7, 8, 0, 0, 0o600 << 32, 5 << 32, 6];
    for (valid, handle) in [(0x3f, 0), (0x7f, file)] {
        let [atime, mtime, ctime, nsec, mode, uid, gid] = times;
        let body = words([
            valid, handle, 4, 0, atime, mtime, ctime, nsec, mode, uid, gid,
        ]);
        client.call(4, node, root, &[&body]).unwrap();
    }
    let status = source.join("a").metadata().unwrap();
    assert_eq!((status.uid(), status.gid(), status.size()), (5, 6, 4));
    assert_eq!((status.mode() & 0o7777, status.mtime()), (0o600, 8));

    // Open files: FALLOCATE, LSEEK, FSYNC, FLUSH, COPY_FILE_RANGE, RELEASE.
    let (other, copy) = client.create(plain, "b", root).unwrap();
    for (operation, body) in [
        (43, words([file, 0, 8192, 0])),
        (46, words([file, 0, libc::SEEK_HOLE as u64])),
        (20, words([file, 0])),
        (20, words([file, 1])),
        (25, words([file, 0, 0])),
        (47, words([file, 0, other.node, copy, 0, 4, 0])),
        (18, words([file, 0, 0])),
    ] {
        let answer = client.call(operation, node, root, &[&body]);
        assert!(answer.is_ok(), "operation {operation}: {answer:?}");
    }
    assert_eq!(source.join("b").metadata().unwrap().len(), 4);

    // The names are not checked for slashes; the root of the process bounds them all.
    // MKDIR, LINK, RENAME2, RENAME, ACCESS, LISTXATTR, SYNCFS, RMDIR.
    let names = |first: &[u64], names: &[u8]| {
        let mut body: Vec<u8> = first.iter().flat_map(|n| n.to_le_bytes()).collect();
        body.extend_from_slice(names);
        body
    };
    for (operation, node, body) in [
        (9, plain, names(&[0o755], b"folder\0")),
        (13, plain, names(&[node], b"linked\0")),
        (45, plain, names(&[plain, 1], b"linked\0moved\0")),
        (12, plain, names(&[plain], b"moved\0folder/../again\0")),
        (34, node, words([4])),
        (23, node, words([100])),
        (50, plain, words([0])),
        (11, plain, b"folder\0".to_vec()),
    ] {
        let answer = client.call(operation, node, root, &[&body]);
        assert!(answer.is_ok(), "operation {operation}: {answer:?}");
    }
    assert!(source.join("again").exists());

    // OPENDIR, READDIR, READDIRPLUS, FSYNCDIR, RELEASEDIR.
    let handle = client.call(27, plain, root, &[&words([0])]).unwrap();
    let handle = u64::from_le_bytes(handle[..8].try_into().unwrap());
    for operation in [28, 44, 30, 29] {
        let body = words([handle, 0, 4096, 0, 0]);
        let body = if operation < 30 || operation == 44 {
            body
        } else {
            words([handle, 0])
        };
        client.call(operation, plain, root, &[&body]).unwrap();
    }
    // GETXATTR and LISTXATTR of a symbolic link, which no descriptor gives.
    client.call(6, plain, root, &[b"link\0nowhere\0"]).unwrap();
    let link = client.lookup(plain, "link").unwrap().node;
    client.call(23, link, root, &[&words([100])]).unwrap();
    let answer = client.call(22, link, root, &[&words([100]), b"user.a\0"]);
    assert_eq!(answer, Err(libc::ENODATA));
}

#[test]
fn an_ordinary_users_device_acts_as_that_user() {
    let (folder, mut device, connection) = start(Some(NOBODY));
    let source = folder.path().join("x=y:ro");
    let mut client = Client::new(connection);
    assert_eq!(device.root(), ["file", "kept", "plain"]);
    let plain = client.lookup(ROOT, "plain").unwrap();
    assert_eq!(plain.uid, 0);
    for (name, user) in [("root", 0), ("user", 1000)] {
        client.create(plain.node, name, User(user)).unwrap();
        assert_eq!(source.join(name).metadata().unwrap().uid(), NOBODY);
    }
    let file = client.lookup(ROOT, "file").unwrap().node;
    assert_eq!(client.open(file, libc::O_RDWR), Err(libc::EROFS));
    drop(client);
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
}

#[test]
fn wrong_arguments_are_named() {
    let missing = OsString::from_vec(b"--mount=a=/nowhere/\xff".to_vec());
    for (argument, message) in [
        ("--mount=a".into(), "there is no `=` after the name"),
        ("--mount-ro=a/b=/".into(), "not a single path component"),
        ("--mount=a=etc".into(), "not an absolute path"),
        (missing, "cannot share /nowhere/"),
    ] {
        let (listener, _connection) = connection();
        let arguments = vec!["fs".into(), "--listener-fd=3".into(), argument];
        let (status, words) = Device::start(arguments, vec![listener], None).wait();
        assert!(!status.success());
        assert!(words.contains(message), "{words}");
    }
    let twice = ["fs", "--listener-fd=3", "--mount=a=/", "--mount-ro=a=/"];
    let (listener, _connection) = connection();
    let arguments = twice.map(Into::into).to_vec();
    let (status, words) = Device::start(arguments, vec![listener], None).wait();
    assert!(!status.success());
    assert!(words.contains("cannot make the entry a"), "{words}");
    let (status, words) = Device::start(
        vec!["fs".into(), "--listener-fd=99999".into()],
        vec![],
        None,
    )
    .wait();
    assert!(!status.success());
    assert!(words.contains("descriptor 99999 was not passed"), "{words}");
}
