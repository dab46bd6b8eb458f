//! What Kubernetes wants of a pod, as containerd's CRI plugin hands it to a sandbox that no
//! container stands for: the kubelet's own message, `runtime.v1.PodSandboxConfig`
//! (k8s.io/cri-api). It becomes the specification that the plugin would write for the
//! container that stands for a pod, so that both kinds of pods are the same machine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBuilder, Spec, SpecBuilder};
use prost::Message;
use protobuf::well_known_types::any::Any;

use crate::bundle::{Bundle, SANDBOX};
use crate::error::{Error, Result};
use crate::network;
use crate::pod::{POD_MEMORY, POD_PERIOD, POD_QUOTA};

/// Type of the message in its envelope.
const TYPE: &str = "runtime.v1.PodSandboxConfig";

/// `NamespaceMode` of the host's namespace.
const NODE: i32 = 2;

/// What containerd's CRI plugin puts before the names of systemd's units.
const UNIT_PREFIX: &str = "cri-containerd";

/// The fields that a machine can honour; the others are the plugin's own business.
#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
    #[prost(map = "string, string", tag = "3")]
    sysctls: HashMap<String, String>,
    #[prost(message, optional, tag = "5")]
    resources: Option<LinuxContainerResources>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerResources {
    #[prost(int64, tag = "1")]
    cpu_period: i64,
    #[prost(int64, tag = "2")]
    cpu_quota: i64,
    #[prost(int64, tag = "4")]
    memory_limit_in_bytes: i64,
}

/// Reads the options of a sandbox in `folder`. Other engines have others, or none.
pub fn read(options: &Any, id: &str, folder: &Path) -> Result<Option<Bundle>> {
    if options.type_url.rsplit('/').next() != Some(TYPE) {
        return Ok(None);
    }
    let config = PodSandboxConfig::decode(&*options.value)
        .map_err(|error| Error::Invalid(format!("the options of sandbox {id}: {error}")))?;
    Ok(Some(Bundle {
        path: folder.to_owned(),
        spec: specification(config, id)?,
    }))
}

fn specification(config: PodSandboxConfig, id: &str) -> Result<Spec> {
    let linux = config.linux.unwrap_or_default();
    let namespaces = linux
        .security_context
        .and_then(|context| context.namespace_options)
        .unwrap_or_default();
    if namespaces.network == NODE {
        return Err(network::host_network());
    }
    let resources = linux.resources.unwrap_or_default();
    let mut annotations: HashMap<_, _> = [
        (POD_MEMORY, resources.memory_limit_in_bytes),
        (POD_QUOTA, resources.cpu_quota),
        (POD_PERIOD, resources.cpu_period),
    ]
    .map(|(name, number)| (name.to_owned(), number.to_string()))
    .into();
    let (name, value) = SANDBOX;
    annotations.insert(name.to_owned(), value.to_owned());
    let mut own = LinuxBuilder::default().sysctl(linux.sysctls);
    if let Some(path) = cgroup(&linux.cgroup_parent, id) {
        own = own.cgroups_path(path);
    }
    let made = own.build().and_then(|own| {
        SpecBuilder::default()
            .hostname(config.hostname)
            .annotations(annotations)
            .linux(own)
            .build()
    });
    made.map_err(|error| Error::Invalid(format!("the options of sandbox {id}: {error}")))
}

/// Where the plugin would put the container that stands for the pod. It is told whether
/// that is systemd's business, which we see by the name.
fn cgroup(parent: &str, id: &str) -> Option<PathBuf> {
    let parent = Path::new(parent);
    let slice = parent.file_name()?.to_str()?;
    Some(if slice.ends_with(".slice") {
        PathBuf::from(format!("{slice}:{UNIT_PREFIX}:{id}"))
    } else {
        Path::new("/").join(parent).join(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Role;

    fn described(config: &PodSandboxConfig) -> Result<Option<Bundle>> {
        let options = Any {
            type_url: TYPE.to_owned(),
            value: config.encode_to_vec(),
            ..Default::default()
        };
        read(&options, "pod", Path::new("/bundle"))
    }

    #[test]
    fn a_pod_is_what_its_container_would_be() {
        let config = PodSandboxConfig {
            hostname: "web-0".to_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods/pod1".to_owned(),
                sysctls: [("net.core.somaxconn".to_owned(), "99".to_owned())].into(),
                resources: Some(LinuxContainerResources {
                    cpu_period: 100_000,
                    cpu_quota: 150_000,
                    memory_limit_in_bytes: 64 << 20,
                }),
                ..Default::default()
            }),
        };
        let bundle = described(&config).expect("read").expect("ours");
        assert_eq!(bundle.role(), Role::Sandbox);
        assert_eq!(bundle.spec.hostname().as_deref(), Some("web-0"));
        assert_eq!(bundle.annotation(POD_MEMORY), Some("67108864"));
        assert_eq!(bundle.annotation(POD_QUOTA), Some("150000"));
        assert_eq!(bundle.annotation(POD_PERIOD), Some("100000"));
        let linux = bundle.spec.linux().as_ref().expect("there is one");
        let sysctls = linux.sysctl().as_ref().expect("there are some");
        assert_eq!(sysctls["net.core.somaxconn"], "99");
        let cgroup = linux.cgroups_path().as_deref();
        assert_eq!(cgroup, Some(Path::new("/kubepods/pod1/pod")));
    }

    #[test]
    fn the_hosts_network_is_refused() {
        let config = PodSandboxConfig {
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption { network: NODE }),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let error = described(&config).expect_err("refused").to_string();
        assert!(error.contains("host's network"), "{error}");
    }

    #[test]
    fn options_of_others_are_left_alone() {
        assert!(
            read(&Any::new(), "pod", Path::new("/"))
                .expect("read")
                .is_none()
        );
        let broken = Any {
            type_url: format!("type.googleapis.com/{TYPE}"),
            value: vec![0x12, 9, b'x'],
            ..Default::default()
        };
        assert!(read(&broken, "pod", Path::new("/")).is_err());
    }

    #[test]
    fn the_cgroup_is_named_as_the_parent_is() {
        for (parent, path) in [
            ("", None),
            ("/", None),
            ("pods", Some("/pods/a")),
            (
                "/kubepods.slice/kubepods-pod1.slice",
                Some("kubepods-pod1.slice:cri-containerd:a"),
            ),
        ] {
            assert_eq!(cgroup(parent, "a").as_deref(), path.map(Path::new));
        }
    }
}
