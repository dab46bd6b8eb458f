//! OCI images made here: what the demo, the comparison and the tests run.

mod busybox;
mod layout;
mod packaged;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::step::target;

pub use busybox::REFERENCE;
pub use packaged::RECIPES;

/// Writes `target/demo/busybox.tar` and gives its path.
pub fn write() -> Result<PathBuf> {
    put("busybox", |path| busybox::image()?.write(path))
}

/// [`write_packaged`] of the recipe of that name.
pub fn write_named(name: &str) -> Result<PathBuf> {
    let found = RECIPES.into_iter().find(|recipe| recipe.name == name);
    let names = RECIPES.map(|recipe| recipe.name).join(", ");
    let recipe = found.with_context(|| format!("no image is called {name}: there are {names}"))?;
    write_packaged(recipe)
}

/// Writes `target/demo/<name>.tar`, the image of a recipe, and gives its path.
pub fn write_packaged(recipe: &packaged::Recipe) -> Result<PathBuf> {
    let made = recipe.make()?;
    put(recipe.name, |path| {
        // It is in the cache and only ever replaced as a whole: where both are on one file
        // system, a second name is enough.
        fs::hard_link(&made, path).or_else(|_| fs::copy(&made, path).map(drop))?;
        Ok(())
    })
}

/// Puts an archive where it is looked for, whole or not at all.
fn put(name: &str, write: impl FnOnce(&std::path::Path) -> Result<()>) -> Result<PathBuf> {
    let folder = target().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("{name}.tar"));
    let partial = folder.join(format!(".{name}.tar.{}", std::process::id()));
    write(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
