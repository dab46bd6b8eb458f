//! Users and groups, as the image knows them.

use caisson_end_to_end::Caisson;
use caisson_end_to_end::image::{Image, Layer};
use serde_json::json;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:1000:An app:/home/app:/bin/sh\n\
    homeless:x:1001:4242::/nowhere:/bin/sh\n";

const GROUP: &str = "root:x:0:\napp:x:1000:\nadm:x:4:syslog,app\naudio:x:29:app\nother:x:30:root\n";

const WHO: &str = "echo $(id -u):$(id -g) $(id -G) $HOME";

fn with_users() -> Caisson {
    let caisson = Caisson::new();
    let file = caisson.folder("images").join("image.tar");
    Image::on_busybox("users:1")
        .layer(
            Layer::new()
                .file("etc/passwd", 0o644, PASSWD)
                .file("etc/group", 0o644, GROUP)
                .folder("home/app", 0o700),
        )
        .config("Env", json!(["PATH=/bin"]))
        .save_as_docker(&file);
    caisson.ok(["load", "-q", "-i", &file.to_string_lossy()]);
    caisson
}

#[test]
fn names_are_resolved_in_the_image() {
    let caisson = with_users();
    for (user, expected) in [
        // Supplementary groups come with a name and with a number that has one.
        ("app", "1000:1000 1000 4 29 /home/app\n"),
        ("1000", "1000:1000 1000 4 29 /home/app\n"),
        // A group that is given is the only one, as with Docker.
        ("app:adm", "1000:4 4 /home/app\n"),
        ("app:4242", "1000:4242 4242 /home/app\n"),
        ("homeless", "1001:4242 4242 /nowhere\n"),
        // Numbers need no entry.
        ("5000", "5000:0 0 /\n"),
        ("5000:6000", "5000:6000 6000 /\n"),
        ("0", "0:0 0 30 /root\n"),
    ] {
        let printed = caisson.ok(["run", "--rm", "-u", user, "users:1", "sh", "-c", WHO]);
        assert_eq!(printed, expected, "{user}");
    }
}

#[test]
fn exec_resolves_names_too() {
    let caisson = with_users();
    caisson.ok([
        "run", "-d", "--name", "box", "-u", "app", "users:1", "sleep", "1000",
    ]);
    let who = |user: &[&str]| {
        let begin = ["exec"].iter().chain(user);
        caisson.ok(begin.chain(&["box", "sh", "-c", WHO]))
    };
    assert_eq!(who(&[]), "1000:1000 1000 4 29 /home/app\n");
    assert_eq!(who(&["-u", "homeless"]), "1001:4242 4242 /nowhere\n");
    assert_eq!(who(&["-u", "root"]), "0:0 0 30 /root\n");
    let error = caisson.fails(125, ["exec", "-u", "stranger", "box", "true"]);
    assert!(error.contains("stranger"), "{error}");
}

#[test]
fn who_is_unknown_is_refused() {
    let caisson = with_users();
    let error = caisson.fails(125, ["run", "--rm", "-u", "stranger", "users:1", "true"]);
    assert!(error.contains("stranger"), "{error}");
    let error = caisson.fails(
        125,
        ["run", "--rm", "-u", "app:strangers", "users:1", "true"],
    );
    assert!(error.contains("strangers"), "{error}");
    let error = caisson.fails(125, ["run", "--rm", "-u", "a:b:c", "users:1", "true"]);
    assert!(error.contains("--user"), "{error}");
}

#[test]
fn an_ordinary_user_is_not_root() {
    let caisson = with_users();
    let script = "echo own > /home/app/file; cat /home/app/file; \
        touch /etc/x 2>&1; ls /root 2>&1; grep CapEff /proc/self/status";
    let printed = caisson.ok([
        "run",
        "--rm",
        "-u",
        "0",
        "users:1",
        "sh",
        "-c",
        "chown app /home/app; ls -ld /home/app",
    ]);
    assert!(printed.contains("app"), "{printed}");
    let output = caisson.run(["run", "--rm", "-u", "app", "users:1", "sh", "-c", script]);
    let printed = caisson_end_to_end::text(&output.stdout);
    assert!(printed.contains("/etc/x: Permission denied"), "{printed}");
    assert!(
        printed.contains("/root: Permission denied")
            || printed.contains("'/root': Permission denied"),
        "{printed}"
    );
    assert!(
        printed.ends_with("CapEff:\t0000000000000000\n"),
        "{printed}"
    );
}
