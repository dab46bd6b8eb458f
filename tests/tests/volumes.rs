//! Files and folders of the host in a container, and volumes with names.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use caisson_end_to_end::{Caisson, eventually, text};

#[test]
fn both_sides_see_what_the_other_writes() {
    let caisson = Caisson::new();
    let folder = caisson.folder("data");
    std::fs::write(folder.join("from-host"), "host").expect("written");
    let volume = format!("{}:/data", folder.display());
    caisson.ok([
        "run", "-d", "--name", "box", "-v", &volume, "busybox", "sleep", "1000",
    ]);
    let script = "cat /data/from-host; echo guest > /data/from-guest; mkdir /data/folder; chmod 751 /data/folder; chown 12:34 /data/from-guest";
    assert_eq!(caisson.ok(["exec", "box", "sh", "-ec", script]), "host");
    assert_eq!(
        std::fs::read_to_string(folder.join("from-guest")).expect("a file"),
        "guest\n"
    );
    let metadata = folder.join("from-guest").metadata().expect("a file");
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    assert_eq!(
        folder.join("folder").metadata().expect("a folder").mode() & 0o777,
        0o751
    );
    // Changes of the host are seen while the container runs.
    std::fs::write(folder.join("from-host"), "changed").expect("written");
    std::fs::write(folder.join("new"), "new").expect("written");
    std::fs::remove_file(folder.join("from-guest")).expect("removed");
    eventually("the changes are seen", || {
        let output = caisson.run([
            "exec",
            "box",
            "sh",
            "-c",
            "cat /data/from-host /data/new; ls /data",
        ]);
        text(&output.stdout) == "changednewfolder\nfrom-host\nnew\n"
    });
}

#[test]
fn a_read_only_volume_is_so_for_root_of_the_guest_too() {
    let caisson = Caisson::new();
    let folder = caisson.folder("data");
    std::fs::write(folder.join("file"), "untouched").expect("written");
    let volume = format!("{}:/data:ro", folder.display());
    let script = "cat /data/file; touch /data/new; echo x > /data/file; rm /data/file; true";
    let output = caisson.run(["run", "--rm", "-v", &volume, "busybox", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), "untouched");
    assert_eq!(
        text(&output.stderr)
            .matches("Read-only file system")
            .count(),
        3
    );
    // A guest that lifts its own lock finds that of the host.
    let script = "mount -o remount,rw,bind /data && grep -c ' /data .*rw' /proc/mounts; \
        touch /data/new; echo x > /data/file; rm /data/file; chmod 777 /data/file; true";
    caisson.run([
        "run",
        "--rm",
        "--privileged",
        "-v",
        &volume,
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(
        std::fs::read_to_string(folder.join("file")).expect("a file"),
        "untouched"
    );
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
    assert_ne!(
        folder.join("file").metadata().expect("a file").mode() & 0o777,
        0o777
    );
}

#[test]
fn a_single_file_can_be_shared() {
    let caisson = Caisson::new();
    let folder = caisson.folder("files");
    let file = folder.join("settings");
    std::fs::write(&file, "one\n").expect("written");
    std::fs::write(folder.join("neighbour"), "secret").expect("written");
    let (volume, read_only) = (
        format!("{}:/etc/settings", file.display()),
        format!("{}:/ro:ro", file.display()),
    );
    let script = "cat /etc/settings /ro; echo two >> /etc/settings; echo x >> /ro || true";
    let printed = caisson.shell(&["-v", &volume, "-v", &read_only], script);
    assert_eq!(printed, "one\none\n");
    assert_eq!(
        std::fs::read_to_string(&file).expect("a file"),
        "one\ntwo\n"
    );
    // What lies beside it on the host cannot be reached.
    let script = "find / -xdev -name neighbour 2>/dev/null || true; ls /proc/self/root/etc/settings/.. 2>&1 || true";
    assert!(
        !caisson
            .shell(&["--privileged", "-v", &volume], script)
            .contains("secret")
    );
}

#[test]
fn links_of_the_host_lead_nowhere_on_the_host() {
    let caisson = Caisson::new();
    let (folder, outside) = (caisson.folder("data"), caisson.folder("outside"));
    std::fs::write(outside.join("secret"), "secret").expect("written");
    symlink(&outside, folder.join("absolute")).expect("a link");
    symlink("../outside", folder.join("relative")).expect("a link");
    symlink("/etc/hostname", folder.join("own")).expect("a link");
    let volume = format!("{}:/data", folder.display());
    let script = "cat /data/absolute/secret /data/relative/secret; cat /data/own; mkdir -p /outside; echo mine > /outside/secret; cat /data/relative/secret";
    let output = caisson.run([
        "run",
        "--rm",
        "--hostname",
        "inside",
        "-v",
        &volume,
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    // As everywhere in a container, they are followed in its own files.
    assert_eq!(
        text(&output.stdout),
        "inside\nmine\n",
        "{}",
        text(&output.stderr)
    );
    assert_eq!(
        std::fs::read_to_string(outside.join("secret")).expect("a file"),
        "secret"
    );
}

#[test]
fn rights_and_owners_are_those_of_the_host() {
    let caisson = Caisson::new();
    let folder = caisson.folder("data");
    let file = folder.join("file");
    std::fs::write(&file, "content").expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    chown(&file, Some(4321), Some(1234)).expect("an owner");
    let volume = format!("{}:/data", folder.display());
    let printed = caisson.shell(&["-v", &volume], "stat -c '%u %g %a %s' /data/file");
    assert_eq!(printed, "4321 1234 600 7\n");
    assert_eq!(
        caisson.shell(&["-v", &volume, "-u", "4321"], "cat /data/file"),
        "content"
    );
    let error = caisson.fails(
        1,
        [
            "run",
            "--rm",
            "-v",
            &volume,
            "-u",
            "1",
            "busybox",
            "cat",
            "/data/file",
        ],
    );
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn large_files_pass_unchanged() {
    let caisson = Caisson::new();
    let folder = caisson.folder("data");
    let bytes: Vec<u8> = (0..24_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(folder.join("in"), &bytes).expect("written");
    let volume = format!("{}:/data", folder.display());
    caisson.shell(&["-v", &volume], "cp /data/in /tmp/x; cp /tmp/x /data/out");
    assert!(std::fs::read(folder.join("out")).expect("a file") == bytes);
}

#[test]
fn changes_of_an_overlay_stay_in_the_container() {
    let caisson = Caisson::new();
    let folder = caisson.folder("data");
    std::fs::create_dir(folder.join("deep")).expect("a folder");
    for name in ["kept", "gone", "deep/changed"] {
        std::fs::write(folder.join(name), "the host's\n").expect("a file");
    }
    let (data, file) = (folder.display().to_string(), folder.join("kept"));
    let script = "cat /data/kept /data/deep/changed /file
        rm -f /data/gone
        echo mine >/data/deep/changed
        echo mine >>/file
        echo new >/data/new
        chown 7 /data/kept
        ls /data";
    caisson.ok([
        "create",
        "--name",
        "box",
        "-v",
        &format!("{data}:/data:overlay"),
        "--mount",
        &format!("type=bind,source={},target=/file,overlay", file.display()),
        "busybox",
        "sh",
        "-ec",
        script,
    ]);
    let first = caisson.ok(["start", "-a", "box"]);
    assert_eq!(
        first,
        "the host's\nthe host's\nthe host's\ndeep\nkept\nnew\n"
    );
    // It goes on with its own version.
    let again = caisson.ok(["start", "-a", "box"]);
    assert_eq!(
        again,
        "the host's\nmine\nthe host's\nmine\ndeep\nkept\nnew\n"
    );
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["deep", "gone", "kept"]);
    for name in ["kept", "gone", "deep/changed"] {
        let path = folder.join(name);
        assert_eq!(
            std::fs::read_to_string(&path).expect("a file"),
            "the host's\n"
        );
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&path.metadata().expect("a file")),
            0
        );
    }
    // With `ro` it cannot change its own version either.
    let mount = format!("{data}:/data:ro,overlay");
    let printed = caisson.shell(&["-v", &mount], "touch /data/x 2>&1 || true");
    assert!(printed.contains("Read-only file system"), "{printed}");
    for wrong in ["name:/data:overlay", "/data:overlay"] {
        caisson.fails(125, ["run", "--rm", "-v", wrong, "busybox", "true"]);
    }
}

#[test]
fn a_volume_with_a_name_outlives_its_container() {
    let caisson = Caisson::new();
    caisson.shell(&["-v", "data:/data"], "echo kept > /data/file");
    assert_eq!(
        caisson.shell(&["-v", "data:/elsewhere:ro"], "cat /elsewhere/file"),
        "kept\n"
    );
    let error = caisson.fails(
        1,
        [
            "run",
            "--rm",
            "-v",
            "data:/data:ro",
            "busybox",
            "touch",
            "/data/x",
        ],
    );
    assert!(error.contains("Read-only file system"), "{error}");
    // A new one begins with what the image has there; one with files stays as it is.
    assert_eq!(
        caisson.shell(
            &["-v", "etc:/etc"],
            "grep -c root /etc/passwd; touch /etc/mine"
        ),
        "1\n"
    );
    assert_eq!(
        caisson
            .shell(&["-v", "etc:/data"], "ls /data")
            .matches("mine\n")
            .count(),
        1
    );
    assert_eq!(
        caisson.shell(
            &["-v", "bare:/etc:nocopy"],
            "ls /etc | grep -c passwd || true"
        ),
        "0\n"
    );
    assert_eq!(
        caisson.shell(
            &["-v", "data:/etc"],
            "cat /etc/file; ls /etc | grep -c passwd || true"
        ),
        "kept\n0\n"
    );
}

#[test]
fn mounts_can_be_spelled_out() {
    let caisson = Caisson::new();
    let folder = caisson.folder("da:ta");
    std::fs::write(folder.join("file"), "content\n").expect("written");
    let bind = format!(
        "type=bind,source={},target=/bind,readonly",
        folder.display()
    );
    let printed = caisson.shell(
        &[
            "--mount", &bind, "--mount", "type=volume,source=named,target=/named", "--mount", "target=/anonymous",
            "--mount", "type=tmpfs,target=/memory,tmpfs-size=1m,tmpfs-mode=700", "--mount", "target=/locked,readonly",
        ],
        "cat /bind/file; touch /bind/x || echo locked; touch /named/x /anonymous/x /memory/x; touch /locked/x || echo locked; \
         stat -c %a /memory; df -k /memory | tail -1 | awk '{print $2}'",
    );
    assert_eq!(printed, "content\nlocked\nlocked\n700\n1024\n");
    assert!(caisson.root().join("volumes/named/_data/x").exists());
}

#[test]
fn a_missing_source_is_made_or_refused() {
    let caisson = Caisson::new();
    let missing = caisson.folder("parent").join("not/yet");
    let bind = format!("type=bind,source={},target=/data", missing.display());
    let error = caisson.fails(125, ["run", "--rm", "--mount", &bind, "busybox", "true"]);
    assert!(
        error.contains("--mount") && error.contains("not/yet"),
        "{error}"
    );
    assert!(!missing.exists());
    caisson.shell(
        &["-v", &format!("{}:/data", missing.display())],
        "touch /data/file",
    );
    assert!(missing.join("file").exists());
}

#[test]
fn volumes_may_lie_within_each_other() {
    let caisson = Caisson::new();
    let (outer, inner) = (caisson.folder("outer"), caisson.folder("inner"));
    std::fs::write(inner.join("file"), "inner\n").expect("written");
    let (first, second) = (
        format!("{}:/a/b", inner.display()),
        format!("{}:/a", outer.display()),
    );
    let printed = caisson.shell(
        &["-v", &first, "-v", &second, "--tmpfs", "/a/c"],
        "cat /a/b/file; touch /a/b/new /a/outer /a/c/gone",
    );
    assert_eq!(printed, "inner\n");
    assert!(inner.join("new").exists() && outer.join("outer").exists());
    assert!(!outer.join("c/gone").exists());
}

#[test]
fn mounts_of_a_container_are_listed() {
    let caisson = Caisson::new();
    let folder = caisson.folder("data");
    let volume = format!("{}:/data:ro", folder.display());
    caisson.ok(["create", "--name", "box", "-v", &volume, "busybox", "true"]);
    let mount = &caisson.inspect("box")["Mounts"][0];
    assert_eq!(mount["Source"], folder.to_string_lossy().as_ref());
    assert_eq!(
        (&mount["Destination"], &mount["RW"]),
        (&"/data".into(), &false.into())
    );
}
