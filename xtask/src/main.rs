//! What `make` calls: set-up, the guest's kernel and initramfs, builds, checks
//! and the demo.

mod advisories;
mod agent;
mod apt;
mod artefact;
mod build;
mod cache;
mod check;
mod cpio;
mod demo;
mod engines;
mod image;
mod initramfs;
mod kconfig;
mod kernel;
mod matrix;
mod packages;
mod progress;
mod step;
mod testbed;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: xtask <task>
  setup      install the Debian packages and cargo tools that the others need
  engines    unpack the engines that the tests drive into the cache
  kernel     build the guest's kernel (cached): target/guest/vmlinux
  agent      build the static agent
  probe      build what caisson compare runs: target/guest/caisson-probe
  initramfs  build the agent and pack it: target/guest/initramfs
  image      pack the demo image: target/demo/busybox.tar
  image NAME pack Debian's packages (cached): nginx; web, a shop on Node.js; identity,
             with OpenSSL and Perl; or network, with iperf3
  build      all of these and the programs in target/release, side by side
  demo       setup, build, and show a container beside its host
  test       setup, build, and everything that must hold before a change lands
  bench      setup, build, and measure the start of a container
  testbed [--deadline=SECONDS] [COMMAND...]
             run a command, or a shell, in an emulated machine that has a KVM
  kvm        run the tests that need a KVM there";

fn main() -> ExitCode {
    match dispatch() {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the task, and gives our exit status.
fn dispatch() -> Result<u8> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let ["testbed", command @ ..] = &arguments[..] {
        return testbed::run(command);
    }
    match arguments[..] {
        ["setup"] => {
            packages::install()?;
            check::install_tools()
        }
        ["engines"] => engines::install(),
        ["kernel"] => kernel::build(&progress::Line::single("kernel")),
        ["agent"] => agent::build(&progress::Line::single("agent")),
        ["probe"] => agent::build_probe(&progress::Line::single("probe")),
        ["initramfs"] => initramfs::build(&progress::Line::single("initramfs")),
        ["image"] => image::write().map(drop),
        ["image", name] => image::write_named(name).map(drop),
        ["build"] => build::build(),
        ["demo"] => demo::demo(),
        ["test"] => check::test(),
        ["bench"] => demo::bench(),
        ["kvm"] => testbed::test(),
        _ => bail!("{USAGE}"),
    }
    .map(|()| 0)
}
