//! QEMU's command line.

use std::ffi::OsString;

use caisson_protocol::{NEW_DISK_PARAMETER, TEMPLATE_PARAMETER};
use serde_json::{Value, json};

use super::Accelerator;
use super::descriptor_set::DescriptorSet;
use super::interface::StandIn;
use super::slot::{self, Slot};
use crate::{NetworkBackend, NetworkInterface, Share, VmConfig};

/// Numbers, in QEMU, of the descriptors that it is given.
#[derive(Debug)]
pub(super) struct Inherited {
    /// The guest's serial port.
    pub(super) console: i32,
    /// The QMP connection.
    pub(super) monitor: i32,
    /// How the machine begins.
    pub(super) begin: Begin,
    /// The files of its disks, in the order of the configuration.
    pub(super) disks: Vec<i32>,
    /// Network interfaces that it has in the places of others, which come later.
    pub(super) stand_ins: Vec<StandIn<i32>>,
    /// Its other devices.
    pub(super) devices: Devices,
}

/// Where a machine's memory comes from and what its CPUs do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// New memory, and the kernel's first instruction.
    Boot(BootFiles),
    /// As a boot, with memory that is a file and stays.
    Template { files: BootFiles, memory: i32 },
    /// In the middle: the state of a template is on its way.
    Fork {
        /// The memory, or the template's.
        memory: i32,
        /// Whether what is written stays in this machine.
        private: bool,
    },
}

/// What is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BootFiles {
    pub(super) kernel: i32,
    pub(super) initramfs: i32,
}

/// Descriptors of devices.
#[derive(Debug)]
pub(super) struct Devices {
    /// vhost-user connection of the vsock device.
    pub(super) vsock: i32,
    /// vhost-user connection of the file system device.
    pub(super) share: Option<i32>,
    /// Network interfaces, in the order of the configuration.
    pub(super) networks: Vec<i32>,
}

/// What QEMU is started with: a `microvm`, which has virtio-mmio devices and no PCI.
pub(super) fn arguments(
    config: &VmConfig,
    accelerator: Accelerator,
    tsc_khz: u32,
    inherited: &Inherited,
) -> Vec<OsString> {
    let mebibytes = config.memory.div_ceil(1 << 20);
    let mut list = List::default();
    list.flag("-nodefaults");
    list.flag("-no-user-config");
    // The guest ends its machine by a reset: a microvm without ACPI cannot be switched off.
    list.flag("-no-reboot");
    list.option("-display", "none");
    list.option("-name", format!("guest={}", comma(&config.name)));
    list.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    list.option("-machine", machine(accelerator));
    match accelerator {
        Accelerator::Kvm => {
            list.option("-accel", "kvm");
            // A guest that runs guests of its own would reach a large part of the host's
            // KVM that it has no use for.
            list.option("-cpu", "host,-vmx,-svm");
        }
        Accelerator::Tcg => {
            list.option("-accel", "tcg,thread=multi");
            // TCG stores `rep stosb` byte by byte: without ERMS the kernel uses wider stores.
            // What RDRAND and RDSEED give comes from a generator in QEMU's memory, which is
            // the same in all copies of one QEMU.
            list.option("-cpu", "max,-erms,-rdrand,-rdseed");
        }
    }
    list.option("-smp", config.cpus.to_string());
    list.option("-m", format!("{mebibytes}M"));
    // Shared, as the device processes read and write it too.
    let (backend, files) = match inherited.begin {
        Begin::Boot(files) => ("memory-backend-memfd,share=on".to_owned(), Some(files)),
        Begin::Template { files, memory } => (memory_file(memory, "on"), Some(files)),
        Begin::Fork { memory, private } => {
            let share = if private { "off" } else { "on" };
            (memory_file(memory, share), None)
        }
    };
    list.option("-object", format!("{backend},id=ram,size={mebibytes}M"));
    match files {
        Some(files) => {
            let mut line = kernel_command_line(config, accelerator, tsc_khz);
            line.push_str(&slot::kernel_parameters());
            if matches!(inherited.begin, Begin::Template { .. }) {
                line.push(' ');
                line.push_str(TEMPLATE_PARAMETER);
                if let Some(disk) = config.new_disk() {
                    line.push_str(&format!(" {NEW_DISK_PARAMETER}={}", disk.serial));
                }
                for parameter in &config.template_parameters {
                    line.push(' ');
                    line.push_str(parameter);
                }
            }
            list.option("-kernel", format!("/proc/self/fd/{}", files.kernel));
            list.option("-initrd", format!("/proc/self/fd/{}", files.initramfs));
            list.option("-append", line);
        }
        // The kernel has been in memory since the template was made.
        None => {
            list.option("-incoming", "defer");
            // The state is that of the devices alone, with nothing before it.
            list.option("-global", "migration.send-configuration=off");
        }
    }

    list.option(
        "-chardev",
        format!("socket,id=console,fd={}", inherited.console),
    );
    list.option("-serial", "chardev:console");
    list.option(
        "-chardev",
        format!("socket,id=monitor,fd={}", inherited.monitor),
    );
    list.option("-mon", "chardev=monitor,mode=control");
    add_disks(&mut list, config, &inherited.disks);
    add_devices(&mut list, config, &inherited.devices, inherited.begin);
    add_networks(&mut list, config, inherited);
    list.0
}

fn memory_file(descriptor: i32, share: &str) -> String {
    format!("memory-backend-file,mem-path=/proc/self/fd/{descriptor},share={share}")
}

/// Every device has a slot of its own, which its fork has too.
fn add_devices(list: &mut List, config: &VmConfig, devices: &Devices, begin: Begin) {
    list.option("-chardev", format!("socket,id=vsock,fd={}", devices.vsock));
    if let Some(fd) = devices.share {
        list.option("-chardev", format!("socket,id=share,fd={fd}"));
    }
    list.option(
        "-device",
        format!("virtio-scsi-device,id=hotplug,bus={}", slot::UNTOLD.bus()),
    );
    if !matches!(begin, Begin::Fork { .. }) {
        for (_, device) in vhost_user_devices(config) {
            list.option("-device", device.to_string());
        }
    }
}

/// A template that has disks has them where its forks have theirs.
fn add_disks(list: &mut List, config: &VmConfig, files: &[i32]) {
    let disks = config.disks.iter().zip(files).zip(slot::disks());
    for (index, ((disk, fd), slot)) in disks.enumerate() {
        let set = DescriptorSet::Disk(index).number();
        list.option("-add-fd", format!("fd={fd},set={set}"));
        let file = disk_file(index, "file", disk.read_only);
        let node = disk_node(index, file, disk.read_only);
        list.option("-blockdev", node.to_string());
        let device = disk_device(index, &disk.serial, slot);
        list.option("-device", device.to_string());
    }
}

/// Name of the block node of a disk.
pub(super) fn disk_name(number: usize) -> String {
    format!("disk{number}")
}

/// Name of the device of a disk.
pub(super) fn disk_device_name(number: usize) -> String {
    format!("disk{number}-device")
}

/// What is behind a disk, of which `file` has the bytes.
pub(super) fn disk_node(number: usize, file: Value, read_only: bool) -> Value {
    json!({
        "driver": "raw",
        "node-name": disk_name(number),
        "read-only": read_only,
        "discard": "unmap",
        "detect-zeroes": "off",
        "file": file,
    })
}

/// The descriptor set of a disk's number, read by a driver of QEMU's.
pub(super) fn disk_file(number: usize, driver: &str, read_only: bool) -> Value {
    json!({
        "driver": driver,
        "filename": DescriptorSet::Disk(number).path(),
        "read-only": read_only,
        "discard": "unmap",
        // Containers of one image share its disk, read-only.
        "locking": "off",
    })
}

/// The device of a disk.
pub(super) fn disk_device(number: usize, serial: &str, slot: Slot) -> Value {
    json!({
        "driver": "virtio-blk-device",
        "id": disk_device_name(number),
        "drive": disk_name(number),
        "serial": serial,
        "bus": slot.bus(),
    })
}

fn add_networks(list: &mut List, config: &VmConfig, inherited: &Inherited) {
    let interfaces = config
        .interfaces
        .iter()
        .zip(&inherited.devices.networks)
        .zip(slot::networks());
    let stand_ins = &inherited.stand_ins;
    for ((interface, fd), slot) in interfaces {
        // QEMU 7.2 takes no stream later: it looks for its descriptor in another thread than
        // that in which the monitor has noted it.
        list.option(
            "-netdev",
            netdev(interface, slot, &fd.to_string()).to_string(),
        );
        // A template's guest has an interface only if its forks' have just the same.
        let later =
            matches!(inherited.begin, Begin::Template { .. }) && !config.has_plain_network();
        if !later && stand_ins.iter().all(|stand_in| stand_in.slot != slot) {
            list.option("-device", network_device(interface, slot).to_string());
        }
    }
    for stand_in in stand_ins {
        add_stand_in(list, stand_in);
    }
}

fn add_stand_in(list: &mut List, stand_in: &StandIn<i32>) {
    let slot = stand_in.slot;
    let mut device = json!({
        "driver": NETWORK,
        "guest_announce": false,
        "id": slot.interface(),
        "bus": slot.bus(),
    });
    if let Some(fd) = stand_in.tap {
        let name = slot.stand_in();
        list.option("-netdev", tap(&name, &fd.to_string()).to_string());
        device["netdev"] = name.into();
    }
    list.option("-device", device.to_string());
}

fn tap(name: &str, descriptor: &str) -> Value {
    json!({
        "type": "tap",
        "id": name,
        "fd": descriptor,
    })
}

/// Where the frames of an interface go: to a descriptor of QEMU's, by its number, or by the
/// name that it was given under.
pub(super) fn netdev(interface: &NetworkInterface, slot: Slot, descriptor: &str) -> Value {
    match interface.backend {
        NetworkBackend::Stream(_) => json!({
            "type": "stream",
            "id": slot.netdev(),
            "server": false,
            "addr": { "type": "fd", "str": descriptor },
        }),
        NetworkBackend::Tap(_) => tap(&slot.netdev(), descriptor),
    }
}

/// A copy of a snapshot does not announce itself (`guest_announce`): its addresses are
/// about to change. Linux 6.12 would do so holding up the work that `virtnet_close` waits
/// for, which in turn waits for the lock that the latter holds.
const NETWORK: &str = "virtio-net-device";

/// The device of an interface. With a tap, it offers the guest what the tap can do.
pub(super) fn network_device(interface: &NetworkInterface, slot: Slot) -> Value {
    json!({
        "driver": NETWORK,
        "guest_announce": false,
        "id": slot.interface(),
        "netdev": slot.netdev(),
        "mac": interface.mac.map(|byte| format!("{byte:02x}")).join(":"),
        "bus": slot.bus(),
    })
}

/// Name of the vsock device, and of the connection to the process that serves it.
pub(super) const VSOCK: &str = "vsock";

/// The devices that other processes serve, and the slots they are in.
///
/// A machine that has them cannot load a state: QEMU takes their part of it, which no
/// template has, for one that it could not load (`qemu_savevm_state_blocked`). A fork
/// is given them when it has loaded its state, before its guest looks. That virtio-mmio
/// has no hot-plug is for want of an object that approves of it; see [`HOTPLUG`].
pub(super) fn vhost_user_devices(config: &VmConfig) -> Vec<(Slot, Value)> {
    let share = config.share.as_ref().map(share_device);
    std::iter::once((slot::VSOCK, vsock_device()))
        .chain(share.map(|share| (slot::SHARE, share)))
        .collect()
}

/// Name of the file system device, and of the connection to the process that serves it.
pub(super) const SHARE: &str = "share";

/// The file system device.
pub(super) fn share_device(share: &Share) -> Value {
    json!({
        "driver": "vhost-user-fs-device",
        "id": SHARE,
        "chardev": SHARE,
        "tag": share.tag,
        "queue-size": 1024,
        "bus": slot::SHARE.bus(),
    })
}

/// The vsock device.
pub(super) fn vsock_device() -> Value {
    json!({
        "driver": "vhost-user-vsock-device",
        "id": VSOCK,
        "chardev": VSOCK,
        "bus": slot::VSOCK.bus(),
    })
}

/// Approves of devices that are plugged in: the bus of a SCSI controller, of all objects
/// that can do so the one without conditions. The guest is not told of the controller.
const HOTPLUG: &str = "hotplug.0";

/// Arguments of `qom-set` with which a slot lets devices come and go.
pub(super) fn approve(slot: Slot) -> Value {
    json!({
        "path": slot.bus(),
        "property": "hotplug-handler",
        "value": HOTPLUG,
    })
}

fn machine(accelerator: Accelerator) -> &'static str {
    match accelerator {
        // The guest is told the frequency of its timers (see below) and needs
        // neither PIT nor PIC. Without the clock it would wait a second for it.
        Accelerator::Tcg => {
            "microvm,x-option-roms=off,acpi=off,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,memory-backend=ram"
        }
        Accelerator::Kvm => {
            "microvm,x-option-roms=off,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off,memory-backend=ram"
        }
    }
}

fn kernel_command_line(config: &VmConfig, accelerator: Accelerator, tsc_khz: u32) -> String {
    // Restart by the keyboard controller or ACPI does not exist: triple fault. Mounts
    // wait for RCU grace periods, which an idle guest is slow to end by itself.
    let mut line =
        "console=ttyS0 reboot=t panic=-1 quiet rcupdate.rcu_expedited=1 dummy.numdummies=0"
            .to_owned();
    if accelerator == Accelerator::Tcg {
        // Nothing in a microvm is timed well enough by TCG to calibrate clocks
        // against: boot hangs now and then when the kernel tries. TCG's APIC
        // timer runs at 1 GHz; HZ is 100, hence loops per jiffy. Patching
        // the lock prefixes out costs more than they do.
        line.push_str(&format!(
            " tsc_early_khz={tsc_khz} tsc=reliable lapic_timer_khz=1000000 lpj={} no_timer_check noreplace-smp",
            u64::from(tsc_khz) * 10
        ));
    }
    for parameter in &config.kernel_parameters {
        line.push(' ');
        line.push_str(parameter);
    }
    line
}

/// A value within QEMU's `key=value,...`, where a comma is written twice.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

#[derive(Default)]
struct List(Vec<OsString>);

impl List {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn option(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests;
