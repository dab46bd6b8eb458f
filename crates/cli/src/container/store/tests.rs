use super::*;
use crate::container::Machine;

fn record(name: &str) -> ContainerRecord {
    let id = format!("{name:0<64}").replace(|c: char| !c.is_ascii_hexdigit(), "0");
    ContainerRecord {
        id,
        name: name.to_owned(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        image: "busybox".to_owned(),
        image_id: "sha256:1".to_owned(),
        image_disk: "/disk".into(),
        entrypoint: Vec::new(),
        command: vec!["true".to_owned()],
        spec: oci_spec::runtime::Spec::default(),
        shares: Vec::new(),
        machine: Machine {
            cpus: 1,
            memory: 1,
            hypervisor: "auto".to_owned(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
        },
        interactive: false,
        auto_remove: false,
        init: false,
        privileged: false,
        stop_signal: 15,
        stop_timeout: 10,
        labels: Default::default(),
        network: Default::default(),
        extra_hosts: Vec::new(),
        scratch_size: 1,
        copy_of: None,
    }
}

fn store() -> (tempfile::TempDir, ContainerStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ContainerStore::open(&folder.path().join("root"), &folder.path().join("run"))
        .expect("a store");
    (folder, store)
}

fn running() -> State {
    State {
        status: Status::Running,
        supervisor_pid: 42,
        machine_pids: vec![43],
        ..State::default()
    }
}

#[test]
fn containers_are_found_by_name_and_by_the_beginning_of_an_id() {
    let (_folder, store) = store();
    let (a, b) = (
        store.create(&record("aa1")).expect("made"),
        store.create(&record("aa2")).expect("made"),
    );
    assert_eq!(store.find("aa1").expect("by name").record.id, a.record.id);
    assert_eq!(
        store.find(&b.record.id[..3]).expect("by id").record.name,
        "aa2"
    );
    assert!(matches!(store.find("aa"), Err(StoreError::Ambiguous(_))));
    assert!(matches!(store.find("bb"), Err(StoreError::NotFound(_))));
    assert!(matches!(store.find(""), Err(StoreError::NotFound(_))));
    let taken = store.create(&ContainerRecord {
        id: "f".repeat(64),
        ..record("aa1")
    });
    assert!(matches!(taken, Err(StoreError::NameTaken { .. })));
}

#[test]
fn a_container_whose_supervisor_vanished_is_dead_and_can_be_removed() {
    let (_folder, store) = store();
    let container = store.create(&record("abc")).expect("made");
    let lock = container.hold().expect("held");
    container.set_state(&running()).expect("written");
    assert_eq!(container.state().expect("a state").status, Status::Running);
    assert!(matches!(container.hold(), Err(StoreError::Live(_))));
    // As when its last holder ends: a child that another test starts at this moment has the
    // descriptor as well, until it executes its program.
    lock.unlock().expect("unlocked");

    let state = container.state().expect("a state");
    assert_eq!(
        (state.status, state.exit_code, state.supervisor_pid),
        (Status::Dead, 137, 0)
    );
    assert!(state.machine_pids.is_empty());
    assert!(state.error.expect("a reason").contains("42"));
    container.make_run_directory().expect("made");
    let lock = container.hold().expect("held");
    container.remove(lock).expect("removed");
    assert!(!container.run_directory().exists());
    assert!(store.list().expect("a list").is_empty());
}

#[test]
fn damage_stays_with_the_container_that_has_it() {
    let (_folder, store) = store();
    let container = store.create(&record("abc")).expect("made");
    let other = store.create(&record("def")).expect("made");
    std::fs::write(container.directory.join("state.json"), "{\"status\":").expect("written");
    let state = container.state().expect("a state");
    assert_eq!(state.status, Status::Dead);
    assert!(state.error.expect("a reason").contains("state.json"));
    std::fs::remove_file(container.directory.join("state.json")).expect("removed");
    assert_eq!(container.state().expect("a state").status, Status::Dead);

    std::fs::write(container.directory.join("container.json"), "").expect("written");
    let names: Vec<_> = store
        .list()
        .expect("a list")
        .into_iter()
        .map(|container| container.record.name)
        .collect();
    assert_eq!(names, [other.record.name]);
}

#[test]
fn what_was_half_made_is_gone_with_the_next_container() {
    let (_folder, store) = store();
    let half = store.containers.join(format!(".{}", "a".repeat(64)));
    std::fs::create_dir(&half).expect("made");
    assert!(store.list().expect("a list").is_empty());
    store.create(&record("abc")).expect("made");
    assert!(!half.exists());
}

#[test]
fn nobody_else_may_look() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, store) = store();
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&store.containers), mode(&store.run)), (0o700, 0o700));
}
