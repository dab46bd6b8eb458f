//! What an image says about how it is run.

use caisson_end_to_end::image::{Image, Layer};
use caisson_end_to_end::{Caisson, eventually};
use serde_json::json;

fn load(caisson: &Caisson, image: &Image) {
    let file = caisson.folder("images").join("image.tar");
    image.save_as_docker(&file);
    caisson.ok(["load", "-q", "-i", &file.to_string_lossy()]);
}

#[test]
fn entrypoint_and_command_are_joined_and_replaced() {
    let caisson = Caisson::new();
    let image = Image::on_busybox("app:1")
        .config("Entrypoint", json!(["echo", "entry"]))
        .config("Cmd", json!(["default"]));
    load(&caisson, &image);
    assert_eq!(caisson.ok(["run", "--rm", "app:1"]), "entry default\n");
    assert_eq!(
        caisson.ok(["run", "--rm", "app:1", "a b", "c"]),
        "entry a b c\n"
    );
    // An entrypoint of the user's leaves the image's command away.
    assert_eq!(
        caisson.ok(["run", "--rm", "--entrypoint", "pwd", "app:1"]),
        "/\n"
    );
    let printed = caisson.ok(["run", "--rm", "--entrypoint", "", "app:1", "echo", "bare"]);
    assert_eq!(printed, "bare\n");
}

#[test]
fn an_image_that_says_nothing_needs_a_command() {
    let caisson = Caisson::new();
    load(&caisson, &Image::on_busybox("mute:1"));
    let error = caisson.fails(125, ["run", "--rm", "mute:1"]);
    assert!(error.contains("no command is given"), "{error}");
    assert_eq!(caisson.ok(["ps", "-aq"]), "");
}

#[test]
fn user_folder_and_variables_are_the_images_unless_given() {
    let caisson = Caisson::new();
    let image = Image::on_busybox("app:1")
        .config("User", json!("nobody"))
        .config("WorkingDir", json!("/srv/app"))
        .config(
            "Env",
            json!(["PATH=/opt/bin:/bin", "MODE=image", "KEPT=yes"]),
        )
        .config(
            "Cmd",
            json!(["sh", "-c", "id -un; pwd; echo $PATH $MODE $KEPT"]),
        )
        .layer(Layer::new().folder("srv", 0o755).folder("srv/app", 0o755));
    load(&caisson, &image);
    assert_eq!(
        caisson.ok(["run", "--rm", "app:1"]),
        "nobody\n/srv/app\n/opt/bin:/bin image yes\n"
    );
    let printed = caisson.ok([
        "run",
        "--rm",
        "-u",
        "0",
        "-w",
        "/tmp",
        "-e",
        "MODE=flag",
        "app:1",
    ]);
    assert_eq!(printed, "root\n/tmp\n/opt/bin:/bin flag yes\n");
}

#[test]
fn the_program_is_looked_for_in_the_images_path() {
    let caisson = Caisson::new();
    let image = Image::on_busybox("app:1")
        .config("Env", json!(["PATH=/opt/tools"]))
        .config("Cmd", json!(["tool"]))
        .layer(
            Layer::new()
                .folder("opt", 0o755)
                .folder("opt/tools", 0o755)
                .file("opt/tools/tool", 0o755, "#!/bin/sh\necho a script runs\n"),
        );
    load(&caisson, &image);
    assert_eq!(caisson.ok(["run", "--rm", "app:1"]), "a script runs\n");
    caisson.fails(127, ["run", "--rm", "app:1", "sh"]);
}

#[test]
fn the_images_stop_signal_stops_it() {
    let caisson = Caisson::new();
    let script = "trap 'exit 9' USR2; while :; do sleep 1000 & wait; done";
    let image = Image::on_busybox("app:1")
        .config("StopSignal", json!("SIGUSR2"))
        .config("Cmd", json!(["sh", "-c", script]));
    load(&caisson, &image);
    caisson.ok(["run", "-d", "--name", "box", "app:1"]);
    eventually("it waits", || caisson.has("box", "sleep"));
    caisson.ok(["stop", "--time", "1000", "box"]);
    assert_eq!(caisson.inspect("box")["State"]["ExitCode"], 9);
    assert_eq!(caisson.inspect("box")["Config"]["StopSignal"], "SIGUSR2");
}

#[test]
fn a_volume_of_the_image_holds_what_the_image_has_there() {
    let caisson = Caisson::new();
    let image = Image::on_busybox("app:1")
        .config("Volumes", json!({"/data": {}, "/fresh": {}}))
        .layer(
            Layer::new()
                .folder("data", 0o700)
                .owned_file("data/seed", 0o640, 33, "seed"),
        );
    load(&caisson, &image);
    let script = "cat /data/seed; stat -c ' %a %u' /data/seed; echo kept > /data/new; touch /fresh/x; ls /data /fresh";
    // A volume can be written although the rest cannot.
    let printed = caisson.ok([
        "run",
        "--name",
        "box",
        "--read-only",
        "app:1",
        "sh",
        "-ec",
        script,
    ]);
    assert_eq!(printed, "seed 640 33\n/data:\nnew\nseed\n\n/fresh:\nx\n");
    // It lives as long as the container.
    let target = caisson.folder("out").join("new");
    caisson.ok(["cp", "box:/data/new", &target.to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(&target).expect("a file"), "kept\n");
    assert!(caisson.ok(["run", "--rm", "app:1", "ls", "/data"]) == "seed\n");
}

#[test]
fn labels_of_the_image_are_the_containers_too() {
    let caisson = Caisson::new();
    let image =
        Image::on_busybox("app:1").config("Labels", json!({"from": "image", "both": "image"}));
    load(&caisson, &image);
    caisson.ok([
        "create",
        "--name",
        "box",
        "--label",
        "both=flag",
        "app:1",
        "true",
    ]);
    let labels = &caisson.inspect("box")["Config"]["Labels"];
    assert_eq!(*labels, json!({"from": "image", "both": "flag"}));
}
