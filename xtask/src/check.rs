//! `make test`: everything that must hold before a change lands.

use anyhow::Result;

use crate::step::{cargo, run, step};
use crate::{advisories, build, engines, image, matrix, packages, testbed};

/// `xtask setup`, second half: what the checks need beyond Debian's packages.
pub fn install_tools() -> Result<()> {
    step("cargo tools", || advisories::install().map(drop))?;
    engines::install()
}

/// What is quick to fail comes first; the tests come last and are the end of
/// the output.
pub fn test() -> Result<()> {
    packages::install()?;
    step("format", || run(&mut cargo(&["fmt", "--all", "--check"])))?;
    build::build()?;
    step("clippy", || {
        run(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("documentation", || {
        run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    install_tools()?;
    for recipe in image::RECIPES {
        image::write_packaged(recipe)?;
    }
    step("dependencies", advisories::check)?;
    step("compile tests", || {
        run(&mut cargo(&["test", "--workspace", "--no-run"]))
    })?;
    matrix::clear()?;
    eprintln!("==> tests");
    // All that fails, not the first of it only.
    let tests = run(&mut cargo(&["test", "--workspace", "--no-fail-fast"]));
    eprintln!("==> tests on KVM, in a test bed");
    let on_kvm = testbed::test();
    // What a failed test did not show is no second failure.
    tests.and(on_kvm).and(step("engines", matrix::check))
}
