//! Templates of real machines.
//!
//! The guest's files and the device processes are those of `make build`;
//! `CAISSON_TEST_PROGRAMS` names another folder for the latter.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caisson_hypervisor::{
    Error, ExitReason, Hypervisor, RunningVm, Selection, Template, TemplateStore, VmConfig, select,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Where agents report (`caisson_protocol::LOG_PORT`), and where they listen.
const LOG_PORT: u32 = caisson_protocol::LOG_PORT;
const AGENT_PORT: u32 = caisson_protocol::AGENT_PORT;

fn built(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `make build`",
        path.display()
    );
    path
}

fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace.join(target)
}

struct Fixture {
    folder: tempfile::TempDir,
    hypervisor: Box<dyn Hypervisor>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(true)
    }

    /// Whether forks begin as copies of their template's QEMU is to be said.
    fn with(process_copies: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let programs = std::env::var_os("CAISSON_TEST_PROGRAMS").map_or_else(
            || target().join("release"),
            |chosen| target().join("..").join(chosen),
        );
        let selected = select(&Selection {
            hypervisor: "qemu",
            accelerator: "tcg",
            qemu_program: Path::new("qemu-system-x86_64"),
            devices_program: &built(programs.join("caisson-devices")),
            process_copies,
            host_cache: &folder.path().join("host.json"),
        });
        Self {
            hypervisor: selected.expect("a driver").hypervisor,
            folder,
        }
    }

    fn store(&self) -> TemplateStore {
        TemplateStore::new(self.folder.path().join("templates"))
    }

    fn config(&self, name: &str) -> VmConfig {
        let run_directory = self.folder.path().join(name);
        fs::create_dir_all(&run_directory).expect("a folder");
        VmConfig {
            name: name.to_owned(),
            kernel: built(target().join("guest/vmlinux")),
            initramfs: built(target().join("guest/initramfs")),
            kernel_parameters: Vec::new(),
            template_parameters: Vec::new(),
            rehearsal: None,
            cpus: 1,
            memory: 256 << 20,
            disks: Vec::new(),
            share: None,
            interfaces: Vec::new(),
            network_namespace: None,
            host_ports: vec![LOG_PORT],
            cid: 3,
            console: run_directory.join("console.log"),
            run_directory,
        }
    }

    async fn template(&self) -> Template {
        let (store, config) = (self.store(), self.config("template"));
        let made = store.obtain(self.hypervisor.as_ref(), &config, DEADLINE);
        made.await.expect("a template")
    }

    async fn fork(&self, template: &Template, name: &str) -> Box<dyn RunningVm> {
        let config = self.config(name);
        let vm = self
            .hypervisor
            .fork(template, &config)
            .await
            .expect("a fork");
        let accepted = tokio::time::timeout(DEADLINE, vm.accept()).await;
        match accepted.expect("the agent reports") {
            Ok((port, _)) => assert_eq!(port, LOG_PORT),
            Err(error) => panic!(
                "{error}: {:?}: {}",
                vm.wait().await,
                fs::read_to_string(&config.console).unwrap_or_default()
            ),
        }
        vm
    }
}

#[tokio::test]
async fn a_template_is_made_once_and_forked_as_often_as_one_likes() {
    let fixture = Fixture::new();
    let (template, same) = tokio::join!(fixture.template(), fixture.template());
    assert_eq!(template.directory, same.directory);
    let written = || {
        let memory = template.directory.join("memory").metadata();
        memory.and_then(|memory| memory.modified()).expect("a time")
    };
    let before = written();
    let (one, two, three) = tokio::join!(
        fixture.fork(&template, "one"),
        fixture.fork(&template, "two"),
        fixture.fork(&template, "three")
    );
    for vm in [&one, &two, &three] {
        vm.connect(AGENT_PORT).await.expect("the agent listens");
        let nobody = vm.connect(9).await;
        assert!(matches!(nobody, Err(Error::ConnectionRefused(9))));
    }
    // A template that is removed takes no fork with it.
    let removed = fixture.store().remove("").expect("removed");
    assert_eq!(removed, std::slice::from_ref(&template.key));
    two.connect(AGENT_PORT).await.expect("it lives on");
    assert_eq!(one.kill().await.expect("killed"), ExitReason::Killed);
    three.connect(AGENT_PORT).await.expect("it lives on");
    drop(three);
    let again = fixture.template().await;
    assert_eq!(again.key, template.key);
    assert_ne!(written(), before, "it is another one");
}

#[tokio::test]
async fn a_fork_with_other_devices_than_the_last_has_them() {
    let fixture = Fixture::new();
    let template = fixture.template().await;
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).expect("a folder");
    let mut config = fixture.config("with-share");
    config.share = Some(caisson_hypervisor::Share {
        tag: "caisson".to_owned(),
        mounts: vec![caisson_hypervisor::ShareMount {
            source: volume,
            name: "v".to_owned(),
            read_only: true,
        }],
        tree: None,
    });
    let recipe = |config: &VmConfig| fixture.hypervisor.recipe(config).expect("a recipe").key();
    assert_eq!(recipe(&config), template.key, "devices are the fork's own");
    config.cpus = 2;
    assert_ne!(recipe(&config), template.key, "CPUs are not");
    config.cpus = 1;
    let vm = fixture
        .hypervisor
        .fork(&template, &config)
        .await
        .expect("a fork");
    let accepted = tokio::time::timeout(DEADLINE, vm.accept()).await;
    assert_eq!(accepted.expect("in time").expect("a stream").0, LOG_PORT);
    assert_eq!(vm.processes().len(), 3, "QEMU and two devices");
}

#[tokio::test]
async fn a_state_that_is_no_state_is_told_apart_from_a_machine_that_ended() {
    let fixture = Fixture::with(false);
    let template = fixture.template().await;
    fs::write(template.directory.join("state"), "rubbish").expect("written");
    let error = fixture
        .hypervisor
        .fork(&template, &fixture.config("fork"))
        .await
        .err()
        .expect("refused");
    let text = error.to_string();
    assert!(text.contains("continuing from the template"), "{text}");
    assert!(text.contains("migration"), "QEMU's words: {text}");
}

#[tokio::test]
async fn a_process_that_cannot_be_copied_is_made_up_for() {
    let fixture = Fixture::new();
    let template = fixture.template().await;
    let executed = |vm: &dyn RunningVm| {
        let qemu = vm.processes()[0];
        let program = fs::read_link(format!("/proc/{qemu}/exe")).expect("a link");
        program.ends_with("qemu-system-x86_64")
    };
    let copy = fixture.fork(&template, "copy").await;
    assert!(!executed(copy.as_ref()), "it is a copy");
    // As if a library had been replaced.
    let path = template.directory.join("process.json");
    let image = fs::read_to_string(&path).expect("an image");
    let mut image: serde_json::Value = serde_json::from_str(&image).expect("JSON");
    image["files"][0]["inode"] = 1.into();
    fs::write(&path, image.to_string()).expect("written");
    let (one, two, three) = tokio::join!(
        fixture.fork(&template, "one"),
        fixture.fork(&template, "two"),
        fixture.fork(&template, "three")
    );
    for fork in [one, two, three] {
        assert!(executed(fork.as_ref()), "it loads the state");
    }
    copy.connect(AGENT_PORT).await.expect("it lives on");
    // The next one finds a template of which there can be copies.
    let again = fixture.template().await;
    let copy = fixture.fork(&again, "again").await;
    assert!(!executed(copy.as_ref()), "it is a copy again");

    // One that does not answer is not waited for.
    let path = again.directory.join("given.json");
    let given = fs::read_to_string(&path).expect("a list");
    let swapped = given
        .replace("console", "other")
        .replace("monitor", "console");
    fs::write(&path, swapped.replace("other", "monitor")).expect("written");
    let fork = fixture.fork(&again, "mute").await;
    assert!(executed(fork.as_ref()), "it loads the state");
    assert!(!path.exists(), "the next one has a new template");
}

#[tokio::test]
async fn a_guest_that_does_not_come_up_is_no_template() {
    let fixture = Fixture::new();
    let mut config = fixture.config("template");
    config.initramfs = fixture.folder.path().join("initramfs");
    fs::write(&config.initramfs, "no archive").expect("written");
    let store = fixture.store();
    let made = store.obtain(fixture.hypervisor.as_ref(), &config, DEADLINE);
    let error = made.await.expect_err("no template").to_string();
    assert!(error.contains("Kernel panic"), "{error}");
    assert!(fixture.store().list().expect("a list").is_empty());
    assert!(!fixture.folder.path().join("templates/.new").exists());
}
