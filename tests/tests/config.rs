//! The configuration: file, environment and flags.

use std::path::PathBuf;
use std::process::Output;

use caisson_end_to_end::{Caisson, output, text};

fn file(caisson: &Caisson, content: &str) -> PathBuf {
    let path = caisson.folder("config").join("config.toml");
    std::fs::write(&path, content).expect("written");
    path
}

fn with_file(caisson: &Caisson, content: &str, arguments: &[&str]) -> Output {
    let mut command = caisson.command(arguments);
    command.env("CAISSON_CONFIG", file(caisson, content));
    output(command, b"")
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let caisson = Caisson::without_images();
    let path = file(
        &caisson,
        "memory = \"300MiB\"\ncpus = 2\nlog_level = \"error\"\n",
    );
    let mut command = caisson.command(["--log-level", "info", "config", "show"]);
    command
        .env("CAISSON_CONFIG", &path)
        .env("CAISSON_LOG_LEVEL", "debug")
        .env("CAISSON_CPUS", "3");
    let shown = text(&output(command, b"").stdout);
    for line in [
        format!("memory = \"300MiB\" # {}, line 1", path.display()),
        "cpus = 3 # CAISSON_CPUS".to_owned(),
        "log_level = \"info\" # --log-level".to_owned(),
        "scratch_size = \"10GiB\" # default".to_owned(),
        format!("root = \"{}\" # --root", caisson.root().display()),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

#[test]
fn what_is_shown_is_a_configuration_file() {
    let caisson = Caisson::without_images();
    let shown = caisson.ok(["config", "show"]);
    let again = with_file(&caisson, &shown, &["config", "show"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let values = |shown: &str| -> Vec<String> {
        shown
            .lines()
            .filter_map(|line| line.split(" # ").next().map(str::to_owned))
            .collect()
    };
    assert_eq!(values(&text(&again.stdout)), values(&shown));
}

#[test]
fn mistakes_are_named_with_line_and_column() {
    let caisson = Caisson::without_images();
    for (content, place, words) in [
        ("memory = \"1GiB\"\n  memry = 3\n", ":2:3: ", "memry"),
        ("\ncpus = \"two\"\n", ":2:8: ", "number"),
        ("cpus = 0\n", ":1:8: ", "1"),
        ("memory = \"3 quarks\"\n", ":1:10: ", "512m"),
        ("log_level = \"loud\"\n", ":1:13: ", "loud"),
        ("kernel = \"relative/vmlinux\"\n", ":1:10: ", "absolute"),
        ("insecure_registries = \"one\"\n", ":1:23: ", "list"),
        ("cpus = 1\ncpus = 2\n", ":2:1: ", "duplicate"),
        ("[cpus\n", ":1:", "cpus"),
    ] {
        let output = with_file(&caisson, content, &["ps"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{content}");
        assert!(
            error.contains(&format!("config.toml{place}")),
            "{content:?}: {error}"
        );
        assert!(
            place.ends_with(':') || error.contains(words),
            "{content:?}: {error}"
        );
    }
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let caisson = Caisson::without_images();
    for (name, value) in [
        ("CAISSON_CPUS", "many"),
        ("CAISSON_MEMORY", "1"),
        ("CAISSON_HYPERVISOR", "xen"),
    ] {
        let mut command = caisson.command(["ps"]);
        command.env(name, value);
        let output = output(command, b"");
        assert_eq!(output.status.code(), Some(125));
        assert!(
            text(&output.stderr).contains(&format!("{name}={value}: ")),
            "{}",
            text(&output.stderr)
        );
    }
    let mut command = caisson.command(["ps"]);
    command.env("CAISSON_CONFIG", "/no/such/file");
    assert!(text(&output(command, b"").stderr).contains("/no/such/file"));
}

#[test]
fn a_container_is_made_as_configured() {
    let caisson = Caisson::new();
    let config = "memory = \"256MiB\"\ncpus = 2\nscratch_size = \"128MiB\"\n";
    let script = "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo; df -m / | tail -1 | awk '{print $2}'";
    let output = with_file(
        &caisson,
        config,
        &["run", "--rm", "busybox", "sh", "-c", script],
    );
    let printed = text(&output.stdout);
    let numbers: Vec<u64> = printed
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert_eq!(numbers[0], 2, "{}", text(&output.stderr));
    assert!((200..256).contains(&numbers[1]), "{printed}");
    assert!((90..=128).contains(&numbers[2]), "{printed}");
    // Flags go over it.
    let output = with_file(
        &caisson,
        config,
        &["run", "--rm", "--cpus", "1", "busybox", "nproc"],
    );
    assert_eq!(text(&output.stdout), "1\n");
}

#[test]
fn the_shipped_example_says_what_is_so_anyway() {
    let caisson = Caisson::without_images();
    let example = caisson_end_to_end::programs::workspace().join("crates/cli/config.example.toml");
    let content = std::fs::read_to_string(example).expect("the example");
    let shown = caisson.ok(["config", "show"]);
    for line in shown.lines() {
        let key = line.split(" = ").next().expect("a key");
        assert!(
            content.lines().any(|line| line
                .trim_start_matches(['#', ' '])
                .starts_with(&format!("{key} = "))),
            "{key} is not in the example"
        );
    }
    let output = with_file(&caisson, &content, &["config", "show"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
