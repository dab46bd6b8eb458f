//! The rehearsal of a template: a container that is made, run and deleted before the template
//! is frozen, in the way in which forks will be asked for theirs.
//!
//! A guest that is emulated runs code that was translated before much faster than new code.
//! What forks of a template share is what its guest has done; so it does once all that each
//! fork does. Nothing of any workload is in it: the container has no image, and a program that
//! this module makes.

use std::sync::Arc;

use async_trait::async_trait;
use caisson_hypervisor::template::TEMPLATE_MAC;
use caisson_hypervisor::{Ports, Rehearsal};
use caisson_network::Guest;
use caisson_protocol::agent::{
    self as api, ConfigureRequest, ContainerRequest, CreateContainerRequest, Empty, ProcessRequest,
    Stdio,
};
use caisson_protocol::{AGENT_PORT, STREAM_PORT};
use oci_spec::runtime::{
    LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder, ProcessBuilder, RootBuilder, Spec,
};
use protobuf::{Message, MessageField};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::sandbox::realtime_ns;
use crate::{Error, Result, agent, describe, network, seccomp};

/// Name of the container, and path of its program.
const NAME: &str = "rehearsal";
const PROGRAM: &str = "/rehearsal";

/// Numbers of its streams.
const STDOUT: u64 = 1;
const STDERR: u64 = 2;

/// The host name that a guest has before it is given one.
const NO_NAME: &str = "(none)";

/// The rehearsal of templates whose forks have this network, if any.
pub fn rehearsal(network: Option<&Guest>) -> Arc<dyn Rehearsal> {
    let mut network = network.map(network::describe);
    let interfaces = network
        .iter_mut()
        .flat_map(|network| &mut network.interfaces);
    for interface in interfaces {
        interface.mac = TEMPLATE_MAC.to_vec();
    }
    Arc::new(Container { network })
}

/// A container that is rehearsed.
#[derive(Debug)]
struct Container {
    network: Option<api::Network>,
}

#[async_trait]
impl Rehearsal for Container {
    async fn rehearse(
        &self,
        guest: &dyn Ports,
        layer: Option<&str>,
    ) -> std::result::Result<(), String> {
        let rehearsed = self.run(guest, layer).await;
        rehearsed.map_err(|error| error.to_string())
    }
}

impl Container {
    async fn run(&self, guest: &dyn Ports, layer: Option<&str>) -> Result<()> {
        let doing = "rehearsing";
        let client = agent::connect(guest.connect(AGENT_PORT).await?)?;
        let configured = client.configure(agent::bounded(), &self.identity()?).await;
        configured.map_err(agent::failed(doing))?;

        let mut streams = Vec::new();
        for number in [STDOUT, STDERR] {
            let stream = guest.connect(STREAM_PORT).await?;
            streams.push(agent::number(stream, number).await?);
        }
        let request = request(layer)?;
        let created = client.create_container(agent::bounded(), &request);
        created.await.map_err(agent::failed(doing))?;
        let container = ContainerRequest {
            id: NAME.to_owned(),
            ..Default::default()
        };
        let started = client.start_container(agent::bounded(), &container);
        started.await.map_err(agent::failed(doing))?;
        let process = ProcessRequest {
            container_id: NAME.to_owned(),
            ..Default::default()
        };
        let ended = client.wait_process(agent::bounded(), &process);
        let ended = ended.await.map_err(agent::failed(doing))?;
        if ended.exit_code != 0 {
            return Err(Error::Agent {
                doing,
                message: format!("its program ended with status {}", ended.exit_code),
            });
        }
        for stream in &mut streams {
            drain(stream).await?;
        }
        let deleted = client.delete_container(agent::bounded(), &container);
        deleted.await.map_err(agent::failed(doing))?;
        let nothing = Empty::new();
        let ready = client.stand_by(agent::bounded(), &nothing);
        ready.await.map_err(agent::failed(doing)).map(drop)
    }

    fn identity(&self) -> Result<ConfigureRequest> {
        Ok(ConfigureRequest {
            entropy: agent::entropy()?,
            realtime_ns: realtime_ns(),
            hostname: NO_NAME.to_owned(),
            network: self.network.clone().into(),
            ..Default::default()
        })
    }
}

/// Reads what there is of a standard stream, to the end.
async fn drain(stream: &mut UnixStream) -> Result<()> {
    let mut said = Vec::new();
    let read = stream.take(1 << 10).read_to_end(&mut said).await;
    read.map_err(Error::host("reading from the guest"))
        .map(drop)
}

/// A container as engines ask for by default.
fn request(layer: Option<&str>) -> Result<CreateContainerRequest> {
    let unlikely = |error: oci_spec::OciSpecError| Error::Host {
        doing: "describing the rehearsal",
        source: std::io::Error::other(error),
    };
    let mut spec = Spec::default();
    let process = ProcessBuilder::default()
        .args([PROGRAM.to_owned()])
        .cwd("/")
        .no_new_privileges(false);
    spec.set_process(Some(process.build().map_err(unlikely)?));
    let root = RootBuilder::default().path("rootfs").readonly(false);
    spec.set_root(Some(root.build().map_err(unlikely)?));
    let description = describe::container(&spec)?.write_to_bytes();
    let rootfs = api::Rootfs {
        scratch_disk: layer.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let file = |path: &str, content: Vec<u8>, mode| api::File {
        path: path.to_owned(),
        content,
        mode,
        ..Default::default()
    };
    let stdio = Stdio {
        stdout: STDOUT,
        stderr: STDERR,
        ..Default::default()
    };
    Ok(CreateContainerRequest {
        id: NAME.to_owned(),
        rootfs: MessageField::some(rootfs),
        stdio: MessageField::some(stdio),
        seccomp_bpf: filter()
            .map_err(unlikely)
            .and_then(|filter| seccomp::compile(&filter))?,
        files: vec![
            file("/etc/hostname", b"rehearsal\n".to_vec(), 0o644),
            file("/etc/hosts", b"127.0.0.1 localhost\n".to_vec(), 0o644),
            file("/etc/resolv.conf", Vec::new(), 0o644),
            file(PROGRAM, program(), 0o755),
        ],
        description: description.map_err(|error| Error::Host {
            doing: "describing the rehearsal",
            source: error.into(),
        })?,
        ..Default::default()
    })
}

/// A filter that allows what the program calls.
fn filter() -> std::result::Result<oci_spec::runtime::LinuxSeccomp, oci_spec::OciSpecError> {
    const ALLOWED: [&str; 8] = [
        "brk",
        "capset",
        "close",
        "execve",
        "exit_group",
        "mmap",
        "read",
        "write",
    ];
    let allowed = LinuxSyscallBuilder::default()
        .names(ALLOWED.map(str::to_owned))
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()?;
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .syscalls([allowed])
        .build()
}

/// Where the program is loaded, and how much more memory it has than bytes.
const ADDRESS: u64 = 0x40_0000;
const ZEROS: u64 = 0x3000;

/// An ELF executable (System V ABI, 4) for x86-64 that asks for memory, writes a byte to its
/// standard output and ends with status 0.
fn program() -> Vec<u8> {
    const HEADER: u16 = 64;
    const SEGMENT: u16 = 56;
    #[rustfmt::skip]
    const CODE: &[u8] = &[
        0xb8, 12, 0, 0, 0,                // mov eax, SYS_brk
        0x31, 0xff,                       // xor edi, edi
        0x0f, 0x05,                       // syscall
        0x48, 0x8d, 0xb8, 0, 0x20, 0, 0,  // lea rdi, [rax + 0x2000]
        0xb8, 12, 0, 0, 0,                // mov eax, SYS_brk
        0x0f, 0x05,                       // syscall
        0xc6, 0x47, 0xff, 1,              // mov byte ptr [rdi - 1], 1
        0xbf, 1, 0, 0, 0,                 // mov edi, 1
        0x48, 0x89, 0xe6,                 // mov rsi, rsp
        0xba, 1, 0, 0, 0,                 // mov edx, 1
        0xb8, 1, 0, 0, 0,                 // mov eax, SYS_write
        0x0f, 0x05,                       // syscall
        0x31, 0xff,                       // xor edi, edi
        0xb8, 231, 0, 0, 0,               // mov eax, SYS_exit_group
        0x0f, 0x05,                       // syscall
    ];
    let length = u64::from(HEADER + SEGMENT) + CODE.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    let half = |program: &mut Vec<u8>, value: u16| program.extend(value.to_le_bytes());
    let word = |program: &mut Vec<u8>, value: u32| program.extend(value.to_le_bytes());
    let long = |program: &mut Vec<u8>, value: u64| program.extend(value.to_le_bytes());
    half(&mut program, 2); // executable
    half(&mut program, 62); // x86-64
    word(&mut program, 1);
    long(&mut program, ADDRESS + u64::from(HEADER + SEGMENT)); // entry
    long(&mut program, HEADER.into()); // program headers
    long(&mut program, 0);
    word(&mut program, 0);
    half(&mut program, HEADER);
    half(&mut program, SEGMENT);
    half(&mut program, 1);
    program.resize(HEADER.into(), 0);
    word(&mut program, 1); // loaded
    word(&mut program, 1 | 2 | 4); // executed, written, read
    long(&mut program, 0);
    long(&mut program, ADDRESS);
    long(&mut program, ADDRESS);
    long(&mut program, length);
    long(&mut program, length + ZEROS);
    long(&mut program, 0x1000);
    program.extend(CODE);
    program
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_program_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        std::fs::write(&path, program()).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        let output = Command::new(&path).stdin(Stdio::null()).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, [1], "how many arguments there are");
    }

    #[test]
    fn the_container_is_an_ordinary_one() {
        let request = request(Some("scratch")).expect("a request");
        let description = api::ContainerDescription::parse_from_bytes(&request.description);
        let description = description.expect("a description");
        assert!(
            description
                .mounts
                .iter()
                .any(|mount| mount.destination == "/dev/pts")
        );
        assert!(!request.seccomp_bpf.is_empty());
        assert_eq!(request.rootfs.scratch_disk, "scratch");
    }
}
