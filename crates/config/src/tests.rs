use std::collections::HashMap;
use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../cli/config.example.toml");

/// A host on which nothing is configured.
struct Host {
    folder: tempfile::TempDir,
    variables: HashMap<&'static str, String>,
    superuser: bool,
}

impl Host {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            variables: HashMap::new(),
            superuser: true,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("written");
        path
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.variables.insert(name, value.to_owned());
    }

    fn settle(&self, overrides: &[Override]) -> Result<Settings> {
        let environment = |name: &str| self.variables.get(name).map(OsString::from);
        let surroundings = Surroundings {
            superuser: self.superuser,
            environment: &environment,
            program: self.path("target/release/caisson"),
            host_file: self.path("etc/config.toml"),
        };
        Settings::settle(&surroundings, overrides)
    }

    /// What is said about a host's file.
    fn mistake(&self, text: &str) -> String {
        let file = self.write("etc/config.toml", text);
        let error = self.settle(&[]).expect_err(text).to_string();
        let place = error
            .strip_prefix(&format!("{}:", file.display()))
            .expect("the file is named");
        place.to_owned()
    }
}

fn flag(key: &'static str, value: &str) -> Override {
    Override {
        key,
        flag: "--flag",
        value: value.to_owned(),
    }
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let mut host = Host::new();
    let file = host.write(
        "etc/config.toml",
        "cpus = 2\n\nmemory = \"1GiB\"\nboot_deadline = 7\n",
    );
    host.set("CAISSON_CPUS", "3");
    host.set("CAISSON_MEMORY", "2g");
    let settings = host.settle(&[flag("memory", "3g")]).expect("settled");
    assert_eq!(
        (settings.boot_deadline, settings.cpus, settings.memory),
        (7, 3, 3 << 30)
    );
    let shown = settings.show();
    for line in [
        format!("boot_deadline = 7 # {}, line 4", file.display()),
        "cpus = 3 # CAISSON_CPUS".to_owned(),
        "memory = \"3GiB\" # --flag".to_owned(),
        "hypervisor = \"auto\" # default".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

#[test]
fn what_is_shown_can_be_read() {
    let mut host = Host::new();
    host.set("CAISSON_INSECURE_REGISTRIES", "a:5000, b");
    let shown = host
        .settle(&[flag("root", "/a \"quoted\"")])
        .expect("settled")
        .show();
    host.variables.clear();
    host.write("etc/config.toml", &shown);
    let again = host.settle(&[]).expect(&shown);
    assert_eq!(again.insecure_registries, ["a:5000", "b"]);
    assert_eq!(again.root, Path::new("/a \"quoted\""));
}

#[test]
fn mistakes_have_a_line_and_a_column() {
    let host = Host::new();
    for (text, place, words) in [
        ("cpus = 1\n  memry = 1\n", "2:3: ", "memry"),
        ("memory = true", "1:10: ", "memory cannot be true or false"),
        ("ü = 1", "1:1: ", "expected"),
        ("\"ü\" = 1", "1:1: ", "no key"),
        (
            "run = \"/ü\" # ü\ncpus = \"one\"",
            "2:8: ",
            "expected a number",
        ),
        ("cpus = 0", "1:8: ", "from 1 to 128"),
        ("cpus = -1", "1:8: ", "negative"),
        ("memory = \"1MiB\"", "1:10: ", "from 64MiB"),
        ("memory = \"much\"", "1:10: ", "expected a size"),
        ("hypervisor = \"xen\"", "1:14: ", "auto, qemu"),
        ("root = \"here\"", "1:8: ", "absolute"),
        ("insecure_registries = \"a\"", "1:23: ", "list"),
        (
            "insecure_registries = [\"http://a\"]",
            "1:23: ",
            "HOST:PORT",
        ),
        ("[qemu]\nprogram = \"x\"", "1:", "qemu cannot be a table"),
        ("cpus = 1\ncpus = 2", "2:1: ", "duplicate"),
        ("cpus = ", "1:", ""),
    ] {
        let mistake = host.mistake(text);
        assert!(
            mistake.starts_with(place) && mistake.contains(words),
            "{text}: {mistake}"
        );
    }
}

#[test]
fn mistakes_in_variables_name_them() {
    let mut host = Host::new();
    host.set("CAISSON_CPUS", "many");
    let error = host.settle(&[]).expect_err("no number").to_string();
    assert_eq!(error, "CAISSON_CPUS=many: expected a number");
    let error = host
        .settle(&[flag("log_level", "loud")])
        .expect_err("first")
        .to_string();
    assert!(error.starts_with("CAISSON_CPUS"), "{error}");
    host.variables.clear();
    let error = host
        .settle(&[flag("log_level", "loud")])
        .expect_err("no level")
        .to_string();
    assert!(
        error.starts_with("--flag=loud: ") && error.contains("debug"),
        "{error}"
    );
}

#[test]
fn a_named_file_must_be_there_and_is_the_only_one() {
    let mut host = Host::new();
    host.write("etc/config.toml", "cpus = 2");
    host.set("CAISSON_CONFIG", "/nowhere/config.toml");
    let error = host.settle(&[]).expect_err("missing").to_string();
    assert!(error.contains("/nowhere/config.toml"), "{error}");
    host.set("CAISSON_CONFIG", "/dev/null");
    assert_eq!(host.settle(&[]).expect("settled").cpus, 1);
}

#[test]
fn ordinary_users_have_folders_and_a_file_of_their_own() {
    let mut host = Host::new();
    host.superuser = false;
    host.write("etc/config.toml", "cpus = 2");
    assert!(
        host.settle(&[])
            .expect_err("no home")
            .to_string()
            .contains("--root")
    );
    assert_eq!(
        host.settle(&[flag("root", "/r")]).expect("settled").run,
        Path::new("/r/run")
    );

    let home = host.path("home").to_string_lossy().into_owned();
    host.set("HOME", &home);
    let settings = host.settle(&[]).expect("settled");
    assert_eq!(settings.cpus, 2, "the file of the host");
    assert_eq!(settings.root, host.path("home/.local/share/caisson"));
    assert_eq!(settings.run, host.path("home/.local/share/caisson/run"));

    host.set("XDG_RUNTIME_DIR", "/run/user/7");
    host.write("home/.config/caisson/config.toml", "cpus = 3");
    let settings = host.settle(&[]).expect("settled");
    assert_eq!(
        (settings.cpus, settings.run.as_path()),
        (3, Path::new("/run/user/7/caisson"))
    );
}

#[test]
fn parts_are_found_beside_the_program() {
    let host = Host::new();
    let settings = host.settle(&[]).expect("settled");
    assert_eq!(
        settings.kernel,
        host.path("target/guest/vmlinux"),
        "where the build puts it"
    );
    std::fs::create_dir_all(host.path("target/release")).expect("a folder");
    host.write("target/lib/caisson/initramfs", "");
    let settings = host.settle(&[]).expect("settled");
    assert_eq!(
        settings.initramfs,
        host.path("target/lib/caisson/initramfs")
    );
    assert_eq!(
        settings.devices,
        host.path("target/release/caisson-devices")
    );
}

#[test]
fn the_example_names_every_key_with_its_default() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let host = Host::new();
    let defaults = host.settle(&[]).expect("settled");
    host.write("etc/config.toml", &uncommented);
    let example = host.settle(&[]).expect("the example reads");
    for key in KEYS {
        assert!(
            example.origins.contains_key(key.name),
            "{} is not in the example",
            key.name
        );
        if !["devices", "kernel", "initramfs"].contains(&key.name) {
            assert_eq!(key.get(&example), key.get(&defaults), "{}", key.name);
        }
    }
}

#[test]
fn the_drivers_that_can_be_configured_are_those_there_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = Settings::blank();
    settings.root = folder.path().to_owned();
    let error = settings
        .select_hypervisor(Some("xen"))
        .err()
        .expect("no driver")
        .to_string();
    assert!(error.ends_with(&key::HYPERVISORS.join(", ")), "{error}");
    settings.accelerator = "magic".to_owned();
    let error = settings
        .select_hypervisor(None)
        .err()
        .expect("no accelerator")
        .to_string();
    assert!(error.ends_with(&key::ACCELERATORS.join(", ")), "{error}");
}
