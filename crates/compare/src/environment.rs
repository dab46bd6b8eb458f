//! The machine and the tools: what a figure means nothing without.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::model::{Engine, Environment, Hardware, Hypervisor, Tool};
use crate::runtime::{Interrupt, Kind, Program, Runtimes, output};

const DEADLINE: Duration = Duration::from_secs(60);

/// What there is. What cannot be read is said to be unknown.
pub fn environment(
    runtimes: &Runtimes,
    reason: &str,
    caisson: &Path,
    scratch: &Path,
    interrupt: &Interrupt,
) -> Environment {
    let ask = Ask { interrupt };
    Environment {
        hardware: hardware(),
        kernel: format!(
            "{} {}",
            line("/proc/sys/kernel/osrelease"),
            line("/proc/sys/kernel/version")
        ),
        distribution: distribution(),
        cgroup_mode: cgroup_mode(Path::new("/sys/fs/cgroup")).to_owned(),
        engine: Engine {
            name: runtimes.engine().name().to_string(),
            version: runtimes.engine().version(),
            reason: reason.to_owned(),
        },
        hypervisor: hypervisor(&ask.doctor(caisson, scratch)),
        tools: ask.tools(caisson),
    }
}

/// What a runtime says of its version.
pub fn version(kind: Kind, caisson: &Path, interrupt: &Interrupt) -> Option<String> {
    let ask = Ask { interrupt };
    match kind {
        Kind::Caisson => ask.first_line(caisson, "version"),
        other => ask.first_line(&Program::find(other.as_str())?, "--version"),
    }
}

fn line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn hardware() -> Hardware {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kind = match (field(&processors, "flags"), dmi()) {
        (Some(flags), dmi) if flags.split(' ').any(|flag| flag == "hypervisor") => Some(format!(
            "a virtual machine{}",
            dmi.map_or(String::new(), |name| format!(" ({name})"))
        )),
        (_, dmi) => dmi,
    };
    Hardware {
        processor: field(&processors, "model name")
            .unwrap_or("unknown")
            .to_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        memory: field(&memory, "MemTotal")
            .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1024,
        kind,
    }
}

fn dmi() -> Option<String> {
    let read = |name| std::fs::read_to_string(format!("/sys/class/dmi/id/{name}")).ok();
    let text = format!(
        "{} {}",
        read("sys_vendor")?.trim(),
        read("product_name")?.trim()
    );
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// `key : value`, as files of `/proc` have it.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// `PRETTY_NAME` of os-release(5).
fn distribution() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

fn cgroup_mode(root: &Path) -> &'static str {
    if root.join("cgroup.controllers").exists() {
        return "v2";
    }
    let unified = root.join("unified/cgroup.controllers");
    match std::fs::read_to_string(unified) {
        // Controllers are in one version or the other.
        Ok(controllers) if controllers.trim().is_empty() => "hybrid (v1 controllers)",
        Ok(_) => "hybrid (some controllers in v2)",
        Err(_) if root.exists() => "v1",
        Err(_) => "none",
    }
}

/// From what `caisson doctor --json` says: `qemu with TCG: why`.
fn hypervisor(doctor: &Value) -> Hypervisor {
    let unknown = "caisson doctor did not say";
    let said = doctor["hypervisor"].as_str().unwrap_or(unknown);
    let (name, reason) = said.split_once(": ").unwrap_or((said, said));
    Hypervisor {
        name: name.to_owned(),
        reason: reason.to_owned(),
        hardware_virtualisation: doctor["hypervisor"].is_string() && !name.contains("TCG"),
    }
}

struct Ask<'a> {
    interrupt: &'a Interrupt,
}

impl Ask<'_> {
    fn doctor(&self, caisson: &Path, scratch: &Path) -> Value {
        let mut command = Command::new(caisson);
        command
            .arg("--root")
            .arg(scratch.join("doctor"))
            .arg("--run-directory")
            .arg(scratch.join("doctor-run"))
            .args(["doctor", "--json"]);
        let said = output(command, DEADLINE, self.interrupt);
        let said = said.map(|outcome| outcome.stdout).unwrap_or_default();
        serde_json::from_slice(&said).unwrap_or_default()
    }

    fn first_line(&self, program: &Path, argument: &str) -> Option<String> {
        let mut command = Command::new(program);
        command.arg(argument);
        let outcome = output(command, DEADLINE, self.interrupt).ok()?;
        let text = outcome.text();
        text.lines().next().map(str::to_owned)
    }

    fn tools(&self, caisson: &Path) -> Vec<Tool> {
        let tool = |name: &str, version| Tool {
            name: name.to_owned(),
            version,
        };
        let mut tools = vec![
            tool("caisson", self.first_line(caisson, "version")),
            tool(
                "containerd-shim-caisson-v2",
                Program::shim(caisson).and_then(|path| self.shim(&path)),
            ),
        ];
        for name in [
            "runc",
            "crun",
            "runsc",
            "containerd",
            "docker",
            "qemu-system-x86_64",
            "passt",
        ] {
            let version = Program::find(name).and_then(|path| self.first_line(&path, "--version"));
            tools.push(tool(name, version));
        }
        tools
    }

    /// `-v` prints a name, and version and revision below it.
    fn shim(&self, path: &Path) -> Option<String> {
        let mut command = Command::new(path);
        command.arg("-v");
        let text = output(command, DEADLINE, self.interrupt).ok()?.text();
        let version = field(&text, "Version")?;
        Some(match field(&text, "Revision") {
            Some(revision) => format!("{version}, revision {revision}"),
            None => version.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulation_is_told_from_hardware() {
        let said = |text: &str| hypervisor(&serde_json::json!({ "hypervisor": text }));
        let emulated = said("qemu with TCG: /dev/kvm is not there");
        assert_eq!(emulated.name, "qemu with TCG");
        assert_eq!(emulated.reason, "/dev/kvm is not there");
        assert!(!emulated.hardware_virtualisation);
        assert!(said("qemu with KVM: it is fast").hardware_virtualisation);
        assert!(!hypervisor(&Value::Null).hardware_virtualisation);
    }

    #[test]
    fn cgroups_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        assert_eq!(cgroup_mode(&root.join("none")), "none");
        assert_eq!(cgroup_mode(root), "v1");
        std::fs::create_dir(root.join("unified")).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text);
        write("unified/cgroup.controllers", "").expect("written");
        assert_eq!(cgroup_mode(root), "hybrid (v1 controllers)");
        write("cgroup.controllers", "cpu memory\n").expect("written");
        assert_eq!(cgroup_mode(root), "v2");
    }
}
