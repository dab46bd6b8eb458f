//! Profiles in Docker's format: OCI's, with rules that depend on capabilities,
//! architectures and the kernel.

use std::path::Path;

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSyscall,
};
use serde::Deserialize;

use super::super::capability::{self, CapabilityName};
use super::GUEST_KERNEL;

/// Largest profile that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// What Docker's words for architectures are for the guest's.
const ARCHITECTURE: &str = "amd64";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// One name, as the first versions of the format had it.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Reads a profile and decides its conditions.
pub(super) fn read(path: &Path, capabilities: &Capabilities) -> Result<LinuxSeccomp, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read it: {error}"))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, LIMIT + 1), &mut bytes)
        .map_err(|error| format!("cannot read it: {error}"))?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("it is longer than {LIMIT} bytes"));
    }
    parse(&bytes, capabilities)
}

fn parse(bytes: &[u8], capabilities: &Capabilities) -> Result<LinuxSeccomp, String> {
    let profile: Profile = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is no seccomp profile in Docker's format: {error}"))?;
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err("it has both architectures and archMap; leave one away".to_owned());
    }
    let mut architectures = profile.architectures;
    for map in profile.arch_map {
        if map.architecture == Arch::ScmpArchX86_64 {
            architectures.push(map.architecture);
            architectures.extend(map.sub_architectures.unwrap_or_default());
        }
    }
    let mut rules = Vec::new();
    for (number, rule) in (1..).zip(profile.syscalls) {
        let rule = rule
            .decide(capabilities)
            .map_err(|reason| format!("rule {number} of its syscalls: {reason}"))?;
        rules.extend(rule);
    }
    let mut result = LinuxSeccomp::default();
    result.set_default_action(profile.default_action);
    result.set_default_errno_ret(profile.default_errno_ret);
    result.set_architectures((!architectures.is_empty()).then_some(architectures));
    result.set_flags((!profile.flags.is_empty()).then_some(profile.flags));
    result.set_listener_path(
        profile
            .listener_path
            .filter(|path| !path.is_empty())
            .map(Into::into),
    );
    result.set_listener_metadata(profile.listener_metadata);
    result.set_syscalls(Some(rules));
    Ok(result)
}

impl Rule {
    /// The rule, unless its conditions leave it out.
    fn decide(self, capabilities: &Capabilities) -> Result<Option<LinuxSyscall>, String> {
        let names = match self.name {
            Some(_) if !self.names.is_empty() => {
                return Err("it has both name and names; leave one away".to_owned());
            }
            Some(name) => vec![name],
            None if self.names.is_empty() => return Err("it names no system call".to_owned()),
            None => self.names,
        };
        let includes = self.includes.unwrap_or_default();
        let excludes = self.excludes.unwrap_or_default();
        let arches =
            includes.arches.is_empty() || includes.arches.iter().any(|arch| arch == ARCHITECTURE);
        let included =
            arches && includes.holds_all(capabilities)? && includes.kernel()?.unwrap_or(true);
        let excluded = excludes.arches.iter().any(|arch| arch == ARCHITECTURE)
            || excludes.holds_any(capabilities)?
            || excludes.kernel()?.unwrap_or(false);
        if !included || excluded {
            return Ok(None);
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(self.action);
        rule.set_errno_ret(self.errno_ret);
        rule.set_args(self.args.filter(|args| !args.is_empty()));
        Ok(Some(rule))
    }
}

impl Filter {
    fn holds_all(&self, capabilities: &Capabilities) -> Result<bool, String> {
        self.caps
            .iter()
            .try_fold(true, |all, name| Ok(all && held(name, capabilities)?))
    }

    fn holds_any(&self, capabilities: &Capabilities) -> Result<bool, String> {
        self.caps
            .iter()
            .try_fold(false, |any, name| Ok(any || held(name, capabilities)?))
    }

    /// Whether the guest's kernel is new enough, if that is asked.
    fn kernel(&self) -> Result<Option<bool>, String> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let version = text
            .split_once('.')
            .and_then(|(major, minor)| {
                Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
            })
            .ok_or_else(|| format!("minKernel {text} is no version of a kernel, such as 4.8"))?;
        Ok(Some(GUEST_KERNEL >= version))
    }
}

fn held(name: &str, capabilities: &Capabilities) -> Result<bool, String> {
    match capability::parse(name) {
        Ok(CapabilityName::One(capability)) => Ok(capabilities.contains(&capability)),
        _ => Err(format!("{name} is not the name of a capability")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use oci_spec::runtime::Capability;

    use super::*;

    fn names(json: &str, capabilities: &[Capability]) -> Vec<String> {
        let profile = parse(json.as_bytes(), &capabilities.iter().copied().collect()).expect(json);
        profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn conditions_choose_rules() {
        let json = |conditions: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["bpf"],"action":"SCMP_ACT_ALLOW",{conditions}}}]}}"#
            )
        };
        for (conditions, capabilities, allowed) in [
            (r#""includes":{}"#, &[][..], true),
            (r#""includes":{"caps":["CAP_BPF"]}"#, &[], false),
            (
                r#""includes":{"caps":["CAP_BPF"]}"#,
                &[Capability::Bpf],
                true,
            ),
            (
                r#""includes":{"caps":["CAP_BPF","CAP_KILL"]}"#,
                &[Capability::Bpf],
                false,
            ),
            (
                r#""excludes":{"caps":["CAP_BPF","CAP_KILL"]}"#,
                &[Capability::Bpf],
                false,
            ),
            (r#""excludes":{"caps":["CAP_BPF"]}"#, &[], true),
            (r#""includes":{"arches":["amd64","x32"]}"#, &[], true),
            (r#""includes":{"arches":["s390x"]}"#, &[], false),
            (r#""excludes":{"arches":["amd64"]}"#, &[], false),
            (r#""includes":{"minKernel":"4.8"}"#, &[], true),
            (r#""includes":{"minKernel":"6.12"}"#, &[], true),
            (r#""includes":{"minKernel":"7.0"}"#, &[], false),
        ] {
            assert_eq!(
                names(&json(conditions), capabilities).len(),
                usize::from(allowed),
                "{conditions}"
            );
        }
    }

    #[test]
    fn both_spellings_of_names_and_architectures() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
                       {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
            "syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":[],"comment":"","includes":{},"excludes":{}},
                        {"names":["write"],"action":"SCMP_ACT_ALLOW","args":null}]}"#;
        assert_eq!(names(json, &[]), ["read", "write"]);
        let profile = parse(json.as_bytes(), &HashSet::new()).expect("reads");
        assert_eq!(
            *profile.architectures(),
            Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86])
        );
        assert_eq!(profile.default_errno_ret(), Some(1));
    }

    #[test]
    fn mistakes_are_explained() {
        for (json, words) in [
            ("{", "line 1"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscall":[]}"#,
                "syscall",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#,
                "rule 1",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW","includes":{"caps":["X"]}}]}"#,
                "X is not the name",
            ),
        ] {
            let error = parse(json.as_bytes(), &HashSet::new()).expect_err(json);
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
