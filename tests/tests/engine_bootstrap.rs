//! How releases of containerd start a shim and want to be answered. The test speaks as they
//! do: those that run here know only two of the forms.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use caisson_end_to_end::engine::RUNTIME;
use caisson_end_to_end::{eventually, output, programs, text};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use containerd_shim_protos::{Client, TaskClient, api};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

/// Id of the container that the shim is started for.
const ID: &str = "one";

/// An engine that has made a bundle.
struct Engine {
    folder: tempfile::TempDir,
}

impl Engine {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let engine = Self { folder };
        std::fs::create_dir(engine.bundle()).expect("a folder");
        std::fs::write(
            engine.bundle().join("config.json"),
            r#"{"ociVersion":"1.0.2"}"#,
        )
        .expect("written");
        engine
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    /// A folder of sockets that is not the usual one.
    fn sockets(&self) -> String {
        let folder = self.folder.path().join("s");
        folder.to_string_lossy().into_owned()
    }

    fn shim(&self) -> Command {
        let mut shim = Command::new(programs::shim());
        shim.args(["-namespace", "default", "-address"])
            .arg(self.folder.path().join("c.sock"))
            .args(["-publish-binary", "/bin/false", "-id", ID])
            .current_dir(self.bundle())
            .env("CAISSON_CONFIG", "/dev/null")
            .envs(programs::places());
        shim
    }

    fn start(&self, input: &[u8], variables: &[(&str, &str)]) -> Output {
        let mut shim = self.shim();
        shim.arg("start").envs(variables.iter().copied());
        output(shim, input)
    }

    /// The process that holds the lock of the bundle.
    fn pid(&self) -> u32 {
        let pid = std::fs::read_to_string(self.bundle().join("shim.lock"));
        pid.expect("a lock").parse().expect("a number")
    }

    /// Calls the Task service at an address, version 3 of it, and ends the shim.
    fn use_up(&self, address: &str) {
        let task = TaskClient::new(Client::connect(address).expect("it listens"));
        let context = || {
            containerd_shim_protos::ttrpc::context::with_duration(
                caisson_end_to_end::COMMAND_DEADLINE,
            )
        };
        let request = api::ConnectRequest {
            id: ID.to_owned(),
            ..Default::default()
        };
        let answer = task.connect(context(), &request).expect("an answer");
        let pid = self.pid();
        assert_eq!(answer.shim_pid, pid);
        let written = std::fs::read_to_string(self.bundle().join("address"));
        assert_eq!(written.expect("for an engine that restarts"), address);
        let request = api::ShutdownRequest {
            id: ID.to_owned(),
            now: true,
            ..Default::default()
        };
        task.shutdown(context(), &request).expect("an answer");
        let socket = address.strip_prefix("unix://").expect("a socket");
        eventually("the shim and its socket are gone", || {
            !Path::new(&format!("/proc/{pid}")).exists() && !Path::new(socket).exists()
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Of a test that has failed, as an engine would.
        let mut delete = self.shim();
        delete.arg("-bundle").arg(self.bundle()).arg("delete");
        let deleted = output(delete, b"");
        assert!(
            std::thread::panicking() || deleted.status.success(),
            "{deleted:?}"
        );
    }
}

/// The options of a runtime, which every release but the newest writes to standard input.
fn options() -> Vec<u8> {
    let options = Any {
        type_url: "containerd.runc.v1.Options".to_owned(),
        value: b"\x0a\x01a".to_vec(),
        ..Default::default()
    };
    options.write_to_bytes().expect("written")
}

#[test]
fn the_oldest_reads_a_bare_address() {
    for input in [Vec::new(), options()] {
        let engine = Engine::new();
        let started = engine.start(&input, &[]);
        assert!(started.status.success(), "{started:?}");
        assert_eq!(text(&started.stderr), "");
        let address = text(&started.stdout);
        assert!(
            address.starts_with("unix:///run/containerd/s/") && !address.ends_with('\n'),
            "{address:?}"
        );
        engine.use_up(&address);
    }
}

#[test]
fn others_read_json_of_the_version_that_they_know() {
    for (newest, version) in [("2", 2), ("3", 3), ("4", 3)] {
        let engine = Engine::new();
        let sockets = engine.sockets();
        let said = [("MAX_SHIM_VERSION", newest), ("SHIM_SOCKET_DIR", &sockets)];
        let started = engine.start(&options(), &said);
        assert!(started.status.success(), "{started:?}");
        let answer: serde_json::Value =
            serde_json::from_slice(&started.stdout).expect("nothing but JSON");
        assert_eq!(answer["version"], version, "{answer}");
        assert_eq!(answer["protocol"], "ttrpc", "{answer}");
        let address = answer["address"].as_str().expect("an address");
        assert!(address.starts_with(&format!("unix://{sockets}/")));
        engine.use_up(address);
    }
}

#[test]
fn the_newest_says_and_reads_messages() {
    let engine = Engine::new();
    let sockets = engine.sockets();
    let said = BootstrapParams {
        instance_id: ID.to_owned(),
        namespace: "default".to_owned(),
        containerd_version: "2.3.0".to_owned(),
        containerd_grpc_address: "/run/c.sock".to_owned(),
        containerd_ttrpc_address: "/run/c.sock.ttrpc".to_owned(),
        socket_dir: Some(sockets.clone()),
        ..Default::default()
    };
    // It says the version as its predecessors do, too.
    let started = engine.start(
        &said.write_to_bytes().expect("written"),
        &[("MAX_SHIM_VERSION", "2")],
    );
    assert!(started.status.success(), "{started:?}");
    let answer = BootstrapResult::parse_from_bytes(&started.stdout).expect("a message");
    assert_eq!((answer.version, &*answer.protocol), (3, "ttrpc"));
    let folder = format!("unix://{sockets}/");
    assert!(answer.address.starts_with(&folder), "{answer:?}");
    engine.use_up(&answer.address);
}

#[test]
fn a_shim_that_does_not_start_says_why() {
    let engine = Engine::new();
    let config = engine.folder.path().join("config.toml");
    std::fs::write(&config, "colour = \"red\"\n").expect("written");
    let mut shim = engine.shim();
    shim.arg("start").env("CAISSON_CONFIG", &config);
    let failed = output(shim, b"");
    assert!(!failed.status.success() && failed.stdout.is_empty());
    let error = text(&failed.stderr);
    assert!(
        error.starts_with(&format!("{RUNTIME}: ")) && error.contains("colour"),
        "{error}"
    );
    assert_eq!(
        error.lines().filter(|line| line.contains(RUNTIME)).count(),
        1
    );
    assert!(!engine.bundle().join("address").exists(), "no shim is left");
}

#[test]
fn the_shim_says_what_it_is() {
    let say = |flag: &str| {
        let mut shim = Command::new(programs::shim());
        shim.arg(flag);
        let said = output(shim, b"");
        assert!(said.status.success(), "{said:?}");
        said.stdout
    };
    let info = RuntimeInfo::parse_from_bytes(&say("-info")).expect("a message");
    let version = info.version.get_or_default();
    assert_eq!(info.name, RUNTIME);
    let lines = text(&say("--version"));
    let field = |name: &str| {
        let line = lines
            .lines()
            .find_map(|line| line.trim().strip_prefix(name));
        line.map(|value| value.trim().to_owned()).expect(name)
    };
    assert!(lines.starts_with("containerd-shim-caisson-v2:"), "{lines}");
    assert_eq!(field("Version:"), version.version);
    assert_eq!(field("Revision:"), version.revision);
    assert!(!version.version.is_empty() && !version.revision.is_empty());
}
