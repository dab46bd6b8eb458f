//! What `ctr run` is told.

use std::path::Path;

use super::container::Container;
use super::installed::{Kind, Program};

/// gVisor's own shim, which its packages have.
const RUNSC_SHIM: &str = "containerd-shim-runsc-v1";

/// runsc with the option that the private containerd's `PATH` has for it.
pub const RUNSC: &str = "runsc-without-network";

/// The runtime's name and what else `ctr run` has to be told for it.
pub fn runtime(kind: Kind) -> Vec<String> {
    let words: &[&str] = match kind {
        Kind::Runc => &["--runtime", "io.containerd.runc.v2"],
        Kind::Crun => &[
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
            "crun",
        ],
        Kind::Runsc if Program::find(RUNSC_SHIM).is_some() => {
            &["--runtime", "io.containerd.runsc.v1"]
        }
        // Debian's package has no shim; runsc understands what runc's asks of it.
        Kind::Runsc => &["--runtime", "io.containerd.runc.v2", "--runc-binary", RUNSC],
        Kind::Caisson => &["--runtime", "io.containerd.caisson.v2"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What a container asks for.
pub fn flags(container: &Container, network: Option<&Path>) -> Vec<String> {
    let mut flags = Vec::new();
    let mut push = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
    for mount in &container.mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        let source = mount.source.display();
        let target = &mount.target;
        push(
            "--mount",
            format!("type=bind,src={source},dst={target},options=rbind:{mode}"),
        );
    }
    for capability in &container.capabilities {
        push("--cap-add", capability.clone());
    }
    if let Some(network) = network {
        push("--with-ns", format!("network:{}", network.display()));
    }
    if let Some(folder) = &container.workdir {
        push("--cwd", folder.clone());
    }
    if let Some(memory) = container.memory {
        push("--memory-limit", memory.to_string());
    }
    if container.privileged {
        flags.push("--privileged".to_owned());
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Image, Mount};

    #[test]
    fn a_container_is_asked_for_in_ctrs_words() {
        let image = Image {
            name: "busybox".to_owned(),
            unpacked: None,
        };
        let mut container = Container::new(&image, ["true"]);
        assert_eq!(flags(&container, None), Vec::<String>::new());
        container.mounts = vec![Mount::read_only("/srv", "/data")];
        container.capabilities = vec!["CAP_SYSLOG".to_owned()];
        container.memory = Some(1 << 20);
        container.privileged = true;
        assert_eq!(
            flags(&container, Some(Path::new("/run/netns/a"))).join(" "),
            "--mount type=bind,src=/srv,dst=/data,options=rbind:ro --cap-add CAP_SYSLOG \
             --with-ns network:/run/netns/a --memory-limit 1048576 --privileged"
        );
    }

    #[test]
    fn every_runtime_has_a_name() {
        assert_eq!(
            runtime(Kind::Caisson),
            ["--runtime", "io.containerd.caisson.v2"]
        );
        for kind in Kind::ALL {
            assert_eq!(runtime(kind)[0], "--runtime");
        }
    }
}
