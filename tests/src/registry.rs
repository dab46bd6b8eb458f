//! A registry of a test's own: Debian's docker-registry on a port of this host.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::image::Image;

/// A bcrypt of `secret`, at the lowest cost.
const PASSWORDS: &str = "user:$2b$04$caissoncaissoncaissonOwnrnNqltsa6IN8zniR/5PhulmRQr7sy\n";

/// A running registry.
pub struct Registry {
    process: Child,
    address: String,
    locked: bool,
}

impl Registry {
    /// Starts one that keeps its files in `folder`; a locked one lets in `user`
    /// with `secret` only.
    ///
    /// # Panics
    /// If docker-registry is not installed or does not start.
    pub fn start(folder: &Path, locked: bool) -> Self {
        let (config, passwords) = (folder.join("config.yml"), folder.join("passwords"));
        std::fs::write(&passwords, PASSWORDS).expect("written");
        let mut text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            folder.join("registry").display(),
        );
        if locked {
            let path = passwords.display();
            text += &format!("auth: {{htpasswd: {{realm: test, path: '{path}'}}}}\n");
        }
        std::fs::write(&config, text).expect("written");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry: run `make setup`");
        let mut lines = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let listening = lines.find_map(|line| {
            let line = line.expect("text");
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.chars().take_while(|c| !"\", ".contains(*c)).collect())
        });
        // Somebody has to read what it says, or it would stop when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address: listening.expect("docker-registry listens"),
            locked,
        }
    }

    /// The full name of an image in it.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Pushes an image.
    ///
    /// # Panics
    /// If skopeo is not installed or does not like it.
    pub fn push(&self, image: &Image, name: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        image.save_as_folder(folder.path());
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args([
                "copy",
                "--insecure-policy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .arg(format!("oci:{}", folder.path().display()))
            .arg(format!("docker://{}", self.name(name)))
            .env("REGISTRY_AUTH_FILE", "/nonexistent");
        if self.locked {
            skopeo.args(["--dest-creds", "user:secret"]);
        }
        let output = skopeo.output().expect("skopeo: run `make setup`");
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
