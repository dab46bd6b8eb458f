//! Images of Debian's packages with all that they depend on.
//!
//! The packages' files go into one layer as they are; no maintainer script runs, so what those
//! would have made is among a recipe's own files. A finished image is kept in the cache.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tar::{Archive, Builder, EntryType};

use super::busybox::{FOLDERS, add_programs};
use super::layout::{Image, add, digest};
use crate::apt::{Apt, Source};
use crate::cache;
use crate::step::{shown, step};

/// The release whose packages these are.
const SOURCES: [Source; 2] = [
    Source::debian("bookworm"),
    Source::security("bookworm-security"),
];

/// Folders of packages that no program reads.
const LEFT_AWAY: [&str; 6] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/nodejs/@types/",
    "usr/share/bash-completion/",
];

/// What an image is made of.
pub struct Recipe {
    /// Name of the image.
    pub name: &'static str,
    packages: &'static [&'static str],
    /// Own files, in place of those of packages.
    files: &'static [(&'static str, &'static str)],
    /// Folders that maintainer scripts would make.
    folders: &'static [&'static str],
    /// The `config` of the image's configuration.
    config: &'static str,
    made_of: &'static str,
}

/// Users that servers drop to, with Debian's numbers.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    node:x:1000:1000:node:/home:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";

const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnode:x:1000:\nnogroup:x:65534:\n";

/// All of them.
pub const RECIPES: [&Recipe; 4] = [&WEB, &NGINX, &IDENTITY, &NETWORK];

/// A shop: an API and its page, in Express on Node.js.
const WEB: Recipe = Recipe {
    name: "web",
    packages: &["nodejs", "node-express"],
    files: &[
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("srv/shop/server.js", include_str!("web/server.js")),
        ("srv/shop/index.html", include_str!("web/index.html")),
    ],
    folders: &[],
    config: r#"{"User":"node","Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","NODE_ENV=production"],"Cmd":["node","/srv/shop/server.js"],"WorkingDir":"/srv/shop","ExposedPorts":{"3000/tcp":{}}}"#,
    made_of: "nodejs and node-express",
};

/// nginx with one page.
const NGINX: Recipe = Recipe {
    name: "nginx",
    packages: &["nginx-light"],
    files: &[
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nginx/nginx.conf", include_str!("nginx/nginx.conf")),
        ("var/www/html/index.html", include_str!("nginx/index.html")),
    ],
    folders: &["var/lib/nginx", "var/log/nginx", "run"],
    config: r#"{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["nginx","-g","daemon off;"],"WorkingDir":"/","ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}"#,
    made_of: "nginx-light",
};

/// What shows that two machines are not one: OpenSSL draws keys, and Perl sees what the guest's
/// kernel sends.
const IDENTITY: Recipe = Recipe {
    name: "identity",
    packages: &["openssl", "perl-base"],
    files: &[("etc/passwd", PASSWD), ("etc/group", GROUP)],
    folders: &[],
    config: r#"{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"],"WorkingDir":"/"}"#,
    made_of: "openssl and perl-base",
};

/// Servers whose network is measured, and what switches offloads.
const NETWORK: Recipe = Recipe {
    name: "network",
    packages: &["nginx-light", "iperf3", "ethtool"],
    files: &[
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nginx/nginx.conf", include_str!("network/nginx.conf")),
    ],
    made_of: "nginx-light, iperf3 and ethtool",
    config: r#"{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh","-c","iperf3 --server --daemon && exec nginx -g 'daemon off;'"],"WorkingDir":"/","ExposedPorts":{"80/tcp":{},"5201/tcp":{}},"StopSignal":"SIGQUIT"}"#,
    ..NGINX
};

impl Recipe {
    /// Gives the archive of the image, from the cache if it was made before.
    pub fn make(&self) -> Result<PathBuf> {
        let key = format!("{}-{}", self.name, &self.digest()[..16]);
        let entry = cache::entry("images", &key, |folder| {
            step(&format!("image {}", self.name), || self.pack(folder))
        })
        .with_context(|| format!("cannot make the image {}", self.name))?;
        Ok(entry.join("image.tar"))
    }

    /// Whatever makes another image gives another digest, newer packages excepted.
    fn digest(&self) -> String {
        let mut parts: Vec<&str> = vec![self.name, self.config, self.made_of];
        parts.extend(self.packages);
        parts.extend(self.folders);
        parts.extend(LEFT_AWAY);
        parts.extend(self.files.iter().flat_map(|(path, text)| [*path, *text]));
        digest(parts.join("\0").as_bytes())
    }

    fn pack(&self, folder: &Path) -> Result<()> {
        let scratch = folder.join("apt");
        let packages = Apt::new(&scratch, &SOURCES)?.download_with_dependencies(self.packages)?;
        eprintln!("    {} packages for {}", packages.len(), self.made_of);
        let image = Image {
            name: self.name,
            config: self.config.to_owned(),
            made_of: self.made_of,
            layer: self.layer(&packages)?,
        };
        image.write(&folder.join("image.tar"))?;
        std::fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))
    }

    fn layer(&self, packages: &[PathBuf]) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        let mut taken = BTreeSet::new();
        for (name, mode) in FOLDERS {
            add(&mut archive, EntryType::Directory, name, *mode, &[])?;
            taken.insert((*name).to_owned());
        }
        for (path, content) in self.files {
            let content = content.as_bytes();
            add(&mut archive, EntryType::Regular, path, 0o644, content)?;
            taken.insert((*path).to_owned());
        }
        for folder in self.folders {
            add(&mut archive, EntryType::Directory, folder, 0o755, &[])?;
            taken.insert((*folder).to_owned());
        }
        for package in packages {
            add_package(&mut archive, &mut taken, package)
                .with_context(|| format!("cannot read {}", package.display()))?;
        }
        add_programs(&mut archive, &taken)?;
        Ok(archive.into_inner()?)
    }
}

/// Adds the files of a package whose paths are not taken.
fn add_package<W: Write>(
    archive: &mut Builder<W>,
    taken: &mut BTreeSet<String>,
    package: &Path,
) -> Result<()> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(package);
    let mut unpacking = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(&command)))?;
    let stream = unpacking.stdout.take().context("dpkg-deb has no output")?;
    let mut files = Archive::new(stream);
    for entry in files.entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let name = path.trim_start_matches("./").trim_end_matches('/');
        let unread = LEFT_AWAY.iter().any(|folder| name.starts_with(folder));
        if name.is_empty() || unread || !taken.insert(name.to_owned()) {
            continue;
        }
        let mut header = entry.header().clone();
        header.set_mtime(0);
        match entry.link_name()? {
            Some(target) => archive.append_link(&mut header, name, target)?,
            None => archive.append_data(&mut header, name, entry)?,
        }
    }
    let status = unpacking.wait()?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(&command));
    }
    Ok(())
}
