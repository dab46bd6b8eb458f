//! QEMU's command line.

use std::ffi::OsString;

use serde_json::json;

use super::Accelerator;
use crate::VmConfig;

/// Numbers, in QEMU, of the descriptors that it is given.
#[derive(Debug)]
pub(super) struct Inherited {
    /// The guest's serial port.
    pub(super) console: i32,
    /// The QMP connection.
    pub(super) monitor: i32,
    /// vhost-user connection of the vsock device.
    pub(super) vsock: i32,
    /// vhost-user connection of the file system device.
    pub(super) share: Option<i32>,
    /// Opened disks, in the order of the configuration.
    pub(super) disks: Vec<i32>,
    /// The kernel.
    pub(super) kernel: i32,
    /// The initramfs.
    pub(super) initramfs: i32,
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
            list.option("-cpu", "host");
        }
        Accelerator::Tcg => {
            list.option("-accel", "tcg,thread=multi");
            // TCG stores `rep stosb` byte by byte: without ERMS the kernel uses wider stores.
            list.option("-cpu", "max,-erms");
        }
    }
    list.option("-smp", config.cpus.to_string());
    list.option("-m", format!("{mebibytes}M"));
    // Shared, as the device processes read and write it too.
    list.option(
        "-object",
        format!("memory-backend-memfd,id=ram,size={mebibytes}M,share=on"),
    );
    list.option("-kernel", format!("/proc/self/fd/{}", inherited.kernel));
    list.option("-initrd", format!("/proc/self/fd/{}", inherited.initramfs));
    list.option("-append", kernel_command_line(config, accelerator, tsc_khz));

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
    list.option(
        "-chardev",
        format!("socket,id=vsock,fd={}", inherited.vsock),
    );
    list.option("-device", "vhost-user-vsock-device,chardev=vsock");
    if let (Some(share), Some(fd)) = (&config.share, inherited.share) {
        list.option("-chardev", format!("socket,id=share,fd={fd}"));
        list.option(
            "-device",
            format!(
                "vhost-user-fs-device,chardev=share,tag={},queue-size=1024",
                comma(&share.tag)
            ),
        );
    }
    for (index, (disk, fd)) in config.disks.iter().zip(&inherited.disks).enumerate() {
        list.option("-add-fd", format!("fd={fd},set={index}"));
        let node = json!({
            "driver": "raw",
            "node-name": format!("disk{index}"),
            "read-only": disk.read_only,
            "discard": "unmap",
            "detect-zeroes": "off",
            "file": {
                "driver": "file",
                "filename": format!("/dev/fdset/{index}"),
                "read-only": disk.read_only,
                "discard": "unmap",
                // Containers of one image share its disk, read-only.
                "locking": "off",
            },
        });
        list.option("-blockdev", node.to_string());
        list.option(
            "-device",
            format!(
                "virtio-blk-device,drive=disk{index},serial={}",
                comma(&disk.serial)
            ),
        );
    }
    list.0
}

fn machine(accelerator: Accelerator) -> &'static str {
    match accelerator {
        // The guest is told the frequency of its timers (see below) and needs
        // neither PIT nor PIC. Without the clock it would wait a second for it.
        Accelerator::Tcg => {
            "microvm,x-option-roms=off,acpi=off,pit=off,pic=off,rtc=on,isa-serial=on,memory-backend=ram"
        }
        Accelerator::Kvm => {
            "microvm,x-option-roms=off,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,memory-backend=ram"
        }
    }
}

fn kernel_command_line(config: &VmConfig, accelerator: Accelerator, tsc_khz: u32) -> String {
    // Restart by the keyboard controller or ACPI does not exist: triple fault. Mounts
    // wait for RCU grace periods, which an idle guest is slow to end by itself.
    let mut line = "console=ttyS0 reboot=t panic=-1 quiet rcupdate.rcu_expedited=1".to_owned();
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
mod tests {
    use super::*;
    use crate::{Disk, Share};

    fn config() -> VmConfig {
        VmConfig {
            name: "a,b".to_owned(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_parameters: vec!["one=1".to_owned()],
            cpus: 2,
            memory: (256 << 20) + 1,
            disks: vec![Disk {
                path: "/x,y\"z".into(),
                serial: "image".to_owned(),
                read_only: true,
            }],
            share: Some(Share {
                tag: "caisson".to_owned(),
                mounts: Vec::new(),
            }),
            interfaces: Vec::new(),
            host_ports: Vec::new(),
            cid: 3,
            console: "/c".into(),
            run_directory: "/r".into(),
        }
    }

    fn inherited() -> Inherited {
        Inherited {
            console: 3,
            monitor: 4,
            vsock: 5,
            share: Some(6),
            disks: vec![7],
            kernel: 8,
            initramfs: 9,
        }
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
        let arguments = arguments(&config(), Accelerator::Tcg, 2_000_000, &inherited());
        assert_eq!(values(&arguments, "-name"), ["guest=a,,b"]);
        let disk = &values(&arguments, "-blockdev")[0];
        assert!(!disk.contains("x,y"), "paths are opened by the driver");
        assert!(disk.contains("/dev/fdset/0"));
    }

    #[test]
    fn memory_is_rounded_up() {
        let arguments = arguments(&config(), Accelerator::Tcg, 2_000_000, &inherited());
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
}
