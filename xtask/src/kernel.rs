//! The guest's kernel: linux-source-6.12 of Debian, `guest/patches/` and
//! `guest/kernel.config`, built once for each combination of them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::progress::{Line, watch};
use crate::step::{command, output, root, run};
use crate::{artefact, cache, kconfig};

/// Debian package with the source, and where it puts it.
const SOURCE_PACKAGE: &str = "linux-source-6.12";
const SOURCE_ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Changes when this file builds something else from the same inputs.
const RECIPE: &str = "1";

/// Compiler flags beyond the kernel's own: copies and clears of known size are
/// unrolled moves or calls. GCC's choice is string instructions, which are
/// slow to start on most CPUs and run element by element under emulation.
const COMPILER_FLAGS: &str = "-mmemcpy-strategy=unrolled_loop:256:noalign,libcall:-1:noalign \
     -mmemset-strategy=unrolled_loop:256:noalign,libcall:-1:noalign";

/// What a build leaves in its cache entry and in `target/guest/`.
const IMAGE: &str = "vmlinux";
const SYMBOLS: &str = "System.map";
const CONFIGURATION: &str = "kernel.config";

/// Everything that decides what is built.
struct Inputs {
    fragment: String,
    patches: Vec<PathBuf>,
    key: String,
}

/// Brings `target/guest/vmlinux` up to date.
pub fn build(line: &Line) -> Result<()> {
    let inputs = Inputs::read()?;
    let start = Instant::now();
    let mut built = false;
    let entry = cache::entry("kernel", &inputs.key, |folder| {
        built = true;
        compile(&inputs, folder, line)
            .with_context(|| format!("cannot build the guest's kernel in {}", folder.display()))
    })?;
    for name in [SYMBOLS, CONFIGURATION, IMAGE] {
        artefact::copy(&entry.join(name), name)?;
    }
    let size = fs::metadata(entry.join(IMAGE))
        .with_context(|| format!("cannot read {}", entry.join(IMAGE).display()))?
        .len();
    let origin = match built {
        true => format!("built in {:.0} s", start.elapsed().as_secs_f64()),
        false => "from the cache".to_owned(),
    };
    line.conclude(format!("{} MiB, {origin}", size >> 20));
    Ok(())
}

impl Inputs {
    fn read() -> Result<Self> {
        let fragment_path = root().join("guest/kernel.config");
        let fragment = fs::read_to_string(&fragment_path)
            .with_context(|| format!("cannot read {}", fragment_path.display()))?;
        kconfig::check_unique(&fragment)?;
        let patches = patches(&root().join("guest/patches"))?;

        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            // With their lengths, so that no two lists of parts look the same.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(RECIPE.as_bytes());
        add(COMPILER_FLAGS.as_bytes());
        add(fragment.as_bytes());
        for patch in &patches {
            add(&fs::read(patch).with_context(|| format!("cannot read {}", patch.display()))?);
        }
        add(source_version()?.as_bytes());
        for tool in ["gcc", "ld"] {
            add(output(command(tool).arg("--version"))?.as_bytes());
        }
        let key = hash
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            fragment,
            patches,
            key,
        })
    }
}

fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut patches = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.extension() == Some(OsStr::new("patch")) {
            patches.push(path);
        }
    }
    patches.sort();
    Ok(patches)
}

fn source_version() -> Result<String> {
    output(Command::new("dpkg-query").args([
        "--show",
        "--showformat",
        "${Version}",
        SOURCE_PACKAGE,
    ]))
    .with_context(|| format!("{SOURCE_PACKAGE} is not installed: run `make setup`"))
}

/// Unpacks, patches, configures and builds in `folder`, and leaves only the results.
fn compile(inputs: &Inputs, folder: &Path, line: &Line) -> Result<()> {
    let source = folder.join("source");
    let objects = folder.join("objects");
    for folder in [&source, &objects] {
        fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }

    line.say("unpacks the source");
    run(command("tar")
        .args([
            "--extract",
            "--strip-components=1",
            "--file",
            SOURCE_ARCHIVE,
            "--directory",
        ])
        .arg(&source))?;
    for patch in &inputs.patches {
        run(command("patch")
            .args(["--quiet", "--strip=1", "--fuzz=0", "--directory"])
            .arg(&source)
            .arg("--input")
            .arg(patch))?;
    }

    line.say("configures");
    // allnoconfig reads the fragment itself: what it does not name is off,
    // instead of taking the default as it would after a merge.
    let fragment = folder.join("fragment");
    fs::write(&fragment, &inputs.fragment)
        .with_context(|| format!("cannot write {}", fragment.display()))?;
    let log = folder.join("log");
    watch(
        line,
        make(&source, &objects)
            .env("KCONFIG_ALLCONFIG", &fragment)
            .arg("allnoconfig"),
        &log,
        |_| None,
    )?;
    let configuration = objects.join(".config");
    kconfig::check(
        &inputs.fragment,
        &fs::read_to_string(&configuration)
            .with_context(|| format!("cannot read {}", configuration.display()))?,
    )?;

    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut compiled = 0_u32;
    watch(
        line,
        make(&source, &objects)
            // The source's own date: the same inputs give the same kernel.
            .env("KBUILD_BUILD_TIMESTAMP", source_date(&source)?)
            .env("KBUILD_BUILD_USER", "caisson")
            .env("KBUILD_BUILD_HOST", "caisson")
            .arg(format!("KCFLAGS={COMPILER_FLAGS}"))
            .arg(format!("-j{jobs}"))
            .arg("vmlinux"),
        &log,
        |output| {
            let (action, file) = output.trim_start().split_once(' ')?;
            compiled += u32::from(action == "CC");
            Some(format!("{compiled} files compiled: {}", file.trim_start()))
        },
    )?;

    line.say("strips");
    let image = folder.join(IMAGE);
    run(command("strip")
        .arg("-o")
        .arg(&image)
        .arg(objects.join(IMAGE)))?;
    check_entry(&image)?;
    for (from, name) in [(".config", CONFIGURATION), (SYMBOLS, SYMBOLS)] {
        fs::rename(objects.join(from), folder.join(name))
            .with_context(|| format!("the kernel's build left no {from}"))?;
    }
    for folder in [source, objects] {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn make(source: &Path, objects: &Path) -> Command {
    let mut make = Command::new("make");
    // Called by make itself: its jobserver and flags are not for the kernel.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    let mut output = std::ffi::OsString::from("O=");
    output.push(objects);
    make.arg("--no-print-directory")
        .arg("-C")
        .arg(source)
        .arg(output)
        .env("LC_ALL", "C");
    make
}

fn source_date(source: &Path) -> Result<String> {
    output(
        Command::new("date")
            .arg("--utc")
            .arg("--reference")
            .arg(source.join("Makefile"))
            .env("LC_ALL", "C"),
    )
}

/// Refuses an image that a VMM could not start: the PVH entry is an ELF note
/// that `strip` or a linker script may lose.
fn check_entry(image: &Path) -> Result<()> {
    let notes = output(
        Command::new("readelf")
            .args(["--notes", "--wide"])
            .arg(image)
            .env("LC_ALL", "C"),
    )?;
    // XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h.
    if !notes.contains("Xen") || !notes.contains("0x00000012") {
        bail!("{} has no PVH entry note", image.display());
    }
    Ok(())
}
