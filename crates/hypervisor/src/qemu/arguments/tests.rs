use super::*;
use crate::Disk;

fn config() -> VmConfig {
    VmConfig {
        name: "a,b".to_owned(),
        kernel_parameters: vec!["one=1".to_owned()],
        cpus: 2,
        memory: (256 << 20) + 1,
        disks: vec![Disk {
            path: "/x,y\"z".into(),
            serial: "image".to_owned(),
            read_only: true,
            new: None,
        }],
        share: Some(Share {
            tag: "caisson".to_owned(),
            mounts: Vec::new(),
            tree: None,
        }),
        ..VmConfig::sample()
    }
}

const FILES: BootFiles = BootFiles {
    kernel: 8,
    initramfs: 9,
};

const HOTPLUG_DEVICE: &str = "virtio-scsi-device,id=hotplug,bus=virtio-mmio-bus.3";

fn inherited(begin: Begin) -> Inherited {
    Inherited {
        console: 3,
        monitor: 4,
        begin,
        disks: vec![7],
        stand_ins: Vec::new(),
        devices: Devices {
            vsock: 5,
            share: Some(6),
            networks: Vec::new(),
        },
    }
}

/// An interface that leads nowhere.
fn idle() -> StandIn<i32> {
    StandIn {
        slot: slot::networks().next().expect("a slot"),
        tap: None,
    }
}

/// The arguments of a machine that boots.
fn booted() -> Vec<OsString> {
    let begin = inherited(Begin::Boot(FILES));
    arguments(&config(), Accelerator::Tcg, 2_000_000, &begin)
}

fn values(arguments: &[OsString], flag: &str) -> Vec<String> {
    arguments
        .windows(2)
        .filter(|pair| pair[0] == flag)
        .map(|pair| pair[1].to_string_lossy().into_owned())
        .collect()
}

#[test]
fn names_cannot_add_options() {
    let arguments = booted();
    assert_eq!(values(&arguments, "-name"), ["guest=a,,b"]);
    let disk = &values(&arguments, "-blockdev")[0];
    assert!(!disk.contains("x,y"), "paths are opened by the driver");
    assert!(disk.contains("/dev/fdset/0"));
}

#[test]
fn memory_is_rounded_up() {
    let arguments = booted();
    assert_eq!(values(&arguments, "-m"), ["257M"]);
}

#[test]
fn only_tcg_is_told_its_frequencies() {
    let tcg = kernel_command_line(&config(), Accelerator::Tcg, 2_000_000);
    assert!(tcg.contains(" tsc_early_khz=2000000 "));
    assert!(tcg.contains(" lpj=20000000 "));
    assert!(tcg.ends_with(" one=1"));
    let kvm = kernel_command_line(&config(), Accelerator::Kvm, 2_000_000);
    assert!(!kvm.contains("khz"));
}

#[test]
fn guests_on_kvm_run_no_guests() {
    let begin = Begin::Boot(FILES);
    let arguments = arguments(&config(), Accelerator::Kvm, 0, &inherited(begin));
    assert_eq!(values(&arguments, "-cpu"), ["host,-vmx,-svm"]);
}

#[test]
fn a_template_has_every_slot_and_is_connected_to() {
    let template = Inherited {
        disks: Vec::new(),
        ..inherited(Begin::Template {
            files: FILES,
            memory: 10,
        })
    };
    let config = VmConfig {
        share: None,
        ..config()
    };
    let arguments = arguments(&config, Accelerator::Tcg, 2_000_000, &template);
    let devices = values(&arguments, "-device");
    assert_eq!(devices, [HOTPLUG_DEVICE, &vsock_device().to_string()]);
    let line = &values(&arguments, "-append")[0];
    assert!(line.contains(" virtio_mmio.device=512@0xfeb00e00:12 "));
    assert!(line.ends_with(" caisson.template"));
    let memory = &values(&arguments, "-object")[0];
    assert!(memory.contains("/proc/self/fd/10,share=on"), "{memory}");
}

#[test]
fn a_template_has_disks_where_its_forks_have_theirs() {
    let mut config = VmConfig {
        share: None,
        ..config()
    };
    config.disks.push(Disk {
        path: "/scratch".into(),
        serial: "scratch".to_owned(),
        read_only: false,
        new: Some("/empty".into()),
    });
    let template = Inherited {
        disks: vec![11, 7],
        stand_ins: vec![idle()],
        ..inherited(Begin::Template {
            files: FILES,
            memory: 10,
        })
    };
    let arguments = arguments(&config, Accelerator::Tcg, 2_000_000, &template);
    let devices = values(&arguments, "-device");
    let devices: Vec<Value> = devices
        .iter()
        .filter(|device| *device != HOTPLUG_DEVICE)
        .map(|device| serde_json::from_str(device).expect("JSON"))
        .collect();
    let slots = slot::disks().zip(["image", "scratch"]).enumerate();
    let mut expected: Vec<_> = slots
        .map(|(number, (slot, serial))| disk_device(number, serial, slot))
        .collect();
    expected.push(vsock_device());
    let network = slot::networks().next().expect("a slot");
    expected.push(json!({
        "driver": NETWORK, "guest_announce": false, "id": network.interface(), "bus": network.bus(),
    }));
    assert_eq!(devices, expected);
    assert_eq!(values(&arguments, "-add-fd"), ["fd=11,set=0", "fd=7,set=1"]);
    let line = &values(&arguments, "-append")[0];
    assert!(line.ends_with(" caisson.template caisson.new_disk=scratch"));
}

#[test]
fn a_copy_of_a_snapshot_has_the_interfaces_that_its_state_has() {
    let (stream, _) = std::os::unix::net::UnixStream::pair().expect("pair");
    let stream = NetworkInterface {
        mac: [2; 6],
        backend: NetworkBackend::Stream(std::sync::Arc::new(stream.into())),
    };
    let begin = Begin::Fork {
        memory: 10,
        private: true,
    };
    let stand_in = |tap| {
        let stand_in = StandIn { tap, ..idle() };
        let copy = Inherited {
            stand_ins: vec![stand_in],
            ..inherited(begin)
        };
        let mut config = config();
        config.interfaces = vec![stream.clone()];
        let copy = Inherited {
            devices: Devices {
                networks: vec![12],
                ..copy.devices
            },
            ..copy
        };
        arguments(&config, Accelerator::Tcg, 2_000_000, &copy)
    };
    for tap in [None, Some(11)] {
        let arguments = stand_in(tap);
        let mut expected = json!({
            "driver": NETWORK,
            "guest_announce": false,
            "id": "interface0",
            "bus": "virtio-mmio-bus.0",
        });
        let mut ends = vec![netdev(
            &stream,
            slot::networks().next().expect("a slot"),
            "12",
        )];
        if tap.is_some() {
            expected["netdev"] = "stand-in0".into();
            ends.push(json!({ "type": "tap", "id": "stand-in0", "fd": "11" }));
        }
        let devices = values(&arguments, "-device");
        let interfaces: Vec<_> = devices
            .iter()
            .filter(|device| device.contains(NETWORK))
            .collect();
        assert_eq!(interfaces, [&expected.to_string()], "the other comes later");
        let ends: Vec<_> = ends.iter().map(ToString::to_string).collect();
        assert_eq!(values(&arguments, "-netdev"), ends);
    }
}

#[test]
fn a_fork_has_its_devices_where_the_template_expects_them() {
    let fork = inherited(Begin::Fork {
        memory: 10,
        private: true,
    });
    let arguments = arguments(&config(), Accelerator::Tcg, 2_000_000, &fork);
    assert_eq!(values(&arguments, "-kernel"), [""; 0]);
    let memory = &values(&arguments, "-object")[0];
    assert!(memory.contains("share=off"), "{memory}");
    let devices = values(&arguments, "-device");
    let disk = disk_device(0, "image", slot::disks().next().expect("a slot"));
    assert_eq!(disk["bus"], "virtio-mmio-bus.5");
    assert_eq!(devices, [&disk.to_string(), HOTPLUG_DEVICE]);
    let without = ["migration.send-configuration=off"];
    assert_eq!(values(&arguments, "-global"), without);
    let later = vhost_user_devices(&config());
    let buses: Vec<_> = later.iter().map(|(slot, _)| slot.bus()).collect();
    assert_eq!(buses, ["virtio-mmio-bus.7", "virtio-mmio-bus.6"]);
}
