use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::flags::ExecFlags;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Create {
    #[command(flatten)]
    flags: CreateFlags,
}

#[derive(Debug, Parser)]
struct Exec {
    #[command(flatten)]
    flags: ExecFlags,
}

/// What `caisson create` reads from these words.
pub(crate) fn flags(line: &str) -> CreateFlags {
    let words = std::iter::once("create").chain(line.split(' '));
    Create::try_parse_from(words).expect(line).flags
}

pub(crate) fn settings() -> Settings {
    crate::config::tests::settings(Path::new("/nowhere"))
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn image(config: ImageConfig) -> ImageFacts {
    ImageFacts {
        name: "busybox".to_owned(),
        id: "sha256:1".to_owned(),
        disk: "/disk".into(),
        config,
    }
}

fn shell() -> ImageFacts {
    image(ImageConfig {
        cmd: strings(&["sh"]),
        ..ImageConfig::default()
    })
}

fn try_record(line: &str, facts: &ImageFacts) -> Result<ContainerRecord> {
    build(&flags(line), facts, &settings(), ID, "box".to_owned())
}

fn record(line: &str, facts: &ImageFacts) -> ContainerRecord {
    try_record(line, facts).expect(line)
}

fn spec(line: &str) -> Value {
    serde_json::to_value(record(line, &shell()).spec).expect("JSON")
}

fn destinations(spec: &Value) -> Vec<&str> {
    let mounts = spec["mounts"].as_array().expect("mounts");
    mounts
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .collect()
}

fn mount_at<'a>(spec: &'a Value, destination: &str) -> &'a Value {
    let mounts = spec["mounts"].as_array().expect("mounts");
    mounts
        .iter()
        .find(|mount| mount["destination"] == destination)
        .expect(destination)
}

#[test]
fn without_flags_it_is_what_docker_tells_runc() {
    let spec = spec("busybox");
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    assert_eq!(spec["process"]["cwd"], "/");
    assert_eq!(spec["process"]["terminal"], false);
    assert_eq!(spec["process"]["oomScoreAdj"], 0);
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(
        spec["process"]["env"],
        json!([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=0123456789ab"
        ])
    );
    assert_eq!(spec["hostname"], "0123456789ab");
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(
        destinations(&spec),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/dev/shm"
        ]
    );
    assert_eq!(
        mount_at(&spec, "/sys")["options"],
        json!(["nosuid", "noexec", "nodev", "ro"])
    );
    assert_eq!(
        *mount_at(&spec, "/dev/shm"),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]})
    );
    let kinds: Vec<_> = spec["linux"]["namespaces"]
        .as_array()
        .expect("namespaces")
        .iter()
        .map(|n| &n["type"])
        .collect();
    assert_eq!(
        kinds,
        ["pid", "ipc", "uts", "mount", "cgroup"],
        "the network is the guest's"
    );
    for set in ["bounding", "effective", "permitted"] {
        let names = spec["process"]["capabilities"][set].as_array().expect(set);
        assert_eq!(names.len(), 14, "{set}");
    }
    assert_eq!(spec["process"]["capabilities"]["inheritable"], json!([]));
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert!(
        spec["linux"]["maskedPaths"]
            .as_array()
            .expect("paths")
            .contains(&json!("/proc/kcore"))
    );
    assert!(
        spec["linux"]["readonlyPaths"]
            .as_array()
            .expect("paths")
            .contains(&json!("/proc/sys"))
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"][0],
        json!({"allow": false, "type": "a", "access": "rwm"})
    );
    assert_eq!(spec["linux"]["resources"]["memory"], Value::Null);
}

#[test]
fn entrypoint_and_arguments_are_put_together_as_docker_does() {
    let both = image(ImageConfig {
        entrypoint: strings(&["/entry", "-x"]),
        cmd: strings(&["default"]),
        ..ImageConfig::default()
    });
    for (line, args) in [
        ("busybox", &["/entry", "-x", "default"][..]),
        ("busybox mine", &["/entry", "-x", "mine"]),
        ("--entrypoint /other busybox", &["/other"]),
        ("--entrypoint /other busybox mine", &["/other", "mine"]),
        ("--entrypoint= busybox mine", &["mine"]),
    ] {
        let record = record(line, &both);
        assert_eq!(
            record
                .spec
                .process()
                .as_ref()
                .and_then(|p| p.args().clone()),
            Some(strings(args)),
            "{line}"
        );
        assert_eq!([record.entrypoint, record.command].concat(), args, "{line}");
    }
    for (line, facts) in [
        ("--entrypoint= busybox", &both),
        ("busybox", &image(ImageConfig::default())),
    ] {
        let error = try_record(line, facts).expect_err(line).to_string();
        assert!(
            error.contains("busybox") && error.contains("no command"),
            "{error}"
        );
    }
}

#[test]
fn the_image_says_what_the_flags_do_not() {
    let facts = image(ImageConfig {
        cmd: strings(&["serve"]),
        env: strings(&["PATH=/app", "MODE=image"]),
        user: "app:web".to_owned(),
        working_dir: "/srv/../app".to_owned(),
        stop_signal: Some("SIGQUIT".to_owned()),
        labels: [("a".to_owned(), "image".to_owned())].into(),
        ..ImageConfig::default()
    });
    let from_image = record("busybox", &facts);
    let process = serde_json::to_value(from_image.spec.process()).expect("JSON");
    assert_eq!(process["user"]["username"], "app:web");
    assert_eq!(process["cwd"], "/app");
    assert_eq!(
        process["env"],
        json!(["PATH=/app", "HOSTNAME=0123456789ab", "MODE=image"])
    );
    assert_eq!(
        (from_image.stop_signal, from_image.stop_timeout),
        (libc::SIGQUIT, 10)
    );
    assert_eq!(from_image.labels["a"], "image");

    let line =
        "-t -u 7:8 -w /x -e MODE=flag -l a=flag --stop-signal INT --stop-timeout 3 -h host busybox";
    let from_flags = record(line, &facts);
    let process = serde_json::to_value(from_flags.spec.process()).expect("JSON");
    assert_eq!(process["user"]["username"], "7:8");
    assert_eq!(process["cwd"], "/x");
    assert_eq!(
        process["env"],
        json!(["PATH=/app", "HOSTNAME=host", "TERM=xterm", "MODE=flag"])
    );
    assert_eq!(
        (from_flags.stop_signal, from_flags.stop_timeout),
        (libc::SIGINT, 3)
    );
    assert_eq!(from_flags.labels["a"], "flag");

    let mut odd = facts;
    odd.config.stop_signal = Some("SIGNOPE".to_owned());
    let error = try_record("busybox", &odd)
        .expect_err("no signal")
        .to_string();
    assert!(
        error.contains("busybox") && error.contains("SIGNOPE"),
        "{error}"
    );
}

#[test]
fn nothing_is_held_back_from_a_privileged_container() {
    let spec = spec("--privileged busybox");
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .expect("a set")
            .len(),
        41
    );
    assert_eq!(spec["linux"]["seccomp"], Value::Null);
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(
        mount_at(&spec, "/sys")["options"],
        json!(["nosuid", "noexec", "nodev", "rw"])
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([{"allow": true, "type": "a", "access": "rwm"}])
    );
    let devices = spec["linux"]["devices"].as_array().expect("devices");
    assert!(devices.iter().any(|device| device["path"] == "/dev/fuse"));
}

#[test]
fn security_options_have_their_effect() {
    assert_eq!(
        spec("--security-opt seccomp=unconfined busybox")["linux"]["seccomp"],
        Value::Null
    );
    assert_eq!(
        spec("--security-opt no-new-privileges busybox")["process"]["noNewPrivileges"],
        true
    );
    assert_eq!(
        spec("--security-opt systempaths=unconfined busybox")["linux"]["maskedPaths"],
        json!([])
    );
    let privileged = spec("--privileged --security-opt seccomp=builtin busybox");
    assert!(
        privileged["linux"]["seccomp"].is_object(),
        "asked for by name"
    );
}

#[test]
fn limits_are_those_of_the_cgroup_and_of_the_machine() {
    let record = record(
        "-m 64m --cpus 0.5 --pids-limit 9 --shm-size 1m --read-only busybox",
        &shell(),
    );
    let spec = serde_json::to_value(&record.spec).expect("JSON");
    assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(
        spec["linux"]["resources"]["cpu"],
        json!({"quota": 50_000, "period": 100_000})
    );
    assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 9);
    assert_eq!(spec["root"]["readonly"], true);
    assert!(
        mount_at(&spec, "/dev/shm")["options"]
            .as_array()
            .expect("options")
            .contains(&json!("size=1048576"))
    );
    assert_eq!(record.machine.cpus, 1);
    assert!(record.machine.memory > 64 << 20);
}

#[test]
fn kernel_parameters_of_flags_go_over_dockers() {
    let spec =
        spec("--sysctl net.ipv4.ip_unprivileged_port_start=1024 --sysctl vm.swappiness=1 busybox");
    assert_eq!(
        spec["linux"]["sysctl"],
        json!({"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "0 2147483647",
               "vm.swappiness": "1"})
    );
}

#[test]
fn host_folders_are_shared_and_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let new = folder.path().join("a/b");
    let line = format!(
        "-v {}:/data/deep:ro -v {}:/data busybox",
        link.display(),
        new.display()
    );
    let record = record(&line, &shell());
    assert!(new.is_dir(), "made, as Docker does");
    let spec = serde_json::to_value(&record.spec).expect("JSON");
    assert_eq!(
        destinations(&spec)[7..],
        ["/data", "/data/deep"],
        "outer folders first"
    );
    assert_eq!(
        *mount_at(&spec, "/data/deep"),
        json!({"destination": "/data/deep", "type": "bind", "source": format!("{}/1", caisson_protocol::SHARE_ROOT),
               "options": ["rbind", "rprivate", "ro"]})
    );
    let shared: Vec<_> = record
        .shares
        .iter()
        .map(|s| (s.name.as_str(), s.source.clone(), s.read_only))
        .collect();
    let real = file.canonicalize().expect("there");
    assert_eq!(
        shared,
        [
            ("0", new.canonicalize().expect("there"), false),
            ("1", real, true)
        ]
    );

    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    for (line, words) in [
        (format!("-v {}:/x busybox", socket.display()), "sockets"),
        (
            format!(
                "--mount type=bind,source={}/none,target=/x busybox",
                folder.path().display()
            ),
            "none",
        ),
        (
            "--tmpfs /x -v /x busybox".to_owned(),
            "mounted there already",
        ),
    ] {
        let error = try_record(&line, &shell()).expect_err(&line).to_string();
        assert!(
            error.contains(words) && error.starts_with("--"),
            "{line}: {error}"
        );
    }
}

#[test]
fn volumes_are_folders_of_the_host_or_of_the_writable_layer() {
    let root = tempfile::tempdir().expect("a folder");
    let settings = crate::config::tests::settings(root.path());
    let config = ImageConfig {
        cmd: strings(&["sh"]),
        volumes: BTreeSet::from(["/data".to_owned(), "var//lib/./db/".to_owned()]),
        ..ImageConfig::default()
    };
    let facts = image(config);
    let record = build(
        &flags("-v name:/data busybox"),
        &facts,
        &settings,
        ID,
        "box".to_owned(),
    )
    .expect("a record");
    let spec = serde_json::to_value(&record.spec).expect("JSON");
    let source = root.path().join("volumes/name/_data");
    assert!(source.is_dir());
    assert_eq!(
        (record.shares.len(), &record.shares[0].source),
        (1, &source)
    );
    assert_eq!(
        mount_at(&spec, "/data")["options"],
        json!(["rbind", "rprivate", "rw", "copyup"])
    );
    assert_eq!(
        *mount_at(&spec, "/var/lib/db"),
        json!({"destination": "/var/lib/db", "type": "volume", "options": ["rw"]})
    );
    for path in ["/", "/proc/x", "../.."] {
        let mut hostile = shell();
        hostile.config.volumes = BTreeSet::from([path.to_owned()]);
        let error = try_record("busybox", &hostile).expect_err(path).to_string();
        assert!(
            error.starts_with("the image busybox: its volume"),
            "{error}"
        );
    }
}

#[test]
fn mounts_of_the_user_replace_those_of_the_system() {
    let shm = spec("--tmpfs /dev/shm:size=1m busybox");
    assert_eq!(
        destinations(&shm)
            .iter()
            .filter(|path| **path == "/dev/shm")
            .count(),
        1
    );
    assert!(
        mount_at(&shm, "/dev/shm")["options"]
            .as_array()
            .expect("options")
            .contains(&json!("size=1m"))
    );
    let dev = spec("--tmpfs /dev busybox");
    assert_eq!(
        destinations(&dev),
        ["/proc", "/sys", "/sys/fs/cgroup", "/dev"]
    );
}

#[test]
fn a_further_process_is_like_the_first() {
    let record = record("-u app -w /srv -e A=1 --cap-drop ALL busybox", &shell());
    let exec = |line: &str| {
        let flags = Exec::try_parse_from(std::iter::once("exec").chain(line.split(' ')))
            .expect(line)
            .flags;
        serde_json::to_value(exec_process(&flags, &record).expect(line)).expect("JSON")
    };
    let plain = exec("box ls -l");
    assert_eq!(plain["args"], json!(["ls", "-l"]));
    assert_eq!(
        (&plain["user"]["username"], &plain["cwd"]),
        (&json!("app"), &json!("/srv"))
    );
    assert_eq!(plain["capabilities"]["bounding"], json!([]));
    assert_eq!(
        plain["env"].as_array().and_then(|env| env.last()),
        Some(&json!("A=1"))
    );

    let changed = exec("-t -u root -w /x -e A=2 --privileged box ls");
    assert_eq!(
        (&changed["user"]["username"], &changed["cwd"]),
        (&json!("root"), &json!("/x"))
    );
    assert_eq!(changed["terminal"], true);
    assert_eq!(
        changed["capabilities"]["bounding"]
            .as_array()
            .expect("a set")
            .len(),
        41
    );
    let variables = changed["env"].as_array().expect("variables");
    assert!(
        variables.contains(&json!("A=2")) && variables.contains(&json!("TERM=xterm")),
        "{variables:?}"
    );
}
