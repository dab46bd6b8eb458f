//! containerd's `config.toml`: a runtime of its CRI plugin. ctr, nerdctl and Docker name
//! the shim themselves and need none.

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Item, Table, value};

use super::{Changed, NAME, RUNTIME};

/// The CRI plugin's name in each version of the file.
fn plugin(version: i64) -> Result<&'static str> {
    match version {
        1 => Ok("cri"),
        2 => Ok("io.containerd.grpc.v1.cri"),
        3 => Ok("io.containerd.cri.v1.runtime"),
        _ => bail!("it has version {version}, which this Caisson does not know (1 to 3)"),
    }
}

/// Adds the runtime to a configuration; everything else stays, comments too.
pub fn add(text: &str) -> Result<Changed> {
    let mut document: DocumentMut = text.parse()?;
    if text.trim().is_empty() {
        // Read by every containerd since 1.3.
        document["version"] = value(2);
    }
    // Without one, a file is of version 1 (containerd's man page config.toml.5).
    let version = document.get("version").map_or(Some(1), Item::as_integer);
    let version = version.context("`version` is no number")?;
    let plugin = plugin(version)?;
    let note = is_disabled(&document, plugin).then(|| {
        "containerd's CRI plugin is switched off by `disabled_plugins`; ctr and nerdctl take \
         `--runtime io.containerd.caisson.v2` without any configuration"
            .to_owned()
    });

    let mut table = document.as_table_mut();
    for key in ["plugins", plugin, "containerd", "runtimes"] {
        table = below(table, key)?;
    }
    let runtime = below(table, NAME)?;
    set(runtime, "runtime_type", value(RUNTIME));
    // The host's devices do not exist in the guest, for the privileged neither.
    set(runtime, "privileged_without_host_devices", value(true));
    runtime.set_implicit(false);
    Ok(Changed {
        text: document.to_string(),
        note,
    })
}

/// A table in a table. A new one has no line of its own unless something stands in it.
fn below<'a>(table: &'a mut Table, key: &str) -> Result<&'a mut Table> {
    let item = table.entry(key).or_insert_with(|| {
        let mut new = Table::new();
        new.set_implicit(true);
        Item::Table(new)
    });
    if let Some(inline) = item.as_inline_table() {
        *item = Item::Table(inline.clone().into_table());
    }
    item.as_table_mut()
        .with_context(|| format!("`{key}` is no table"))
}

/// Leaves a value as it is written if it says the same.
fn set(table: &mut Table, key: &str, new: Item) {
    let same = table.get(key).is_some_and(|old| {
        old.as_str()
            .zip(new.as_str())
            .is_some_and(|(old, new)| old == new)
            || old
                .as_bool()
                .zip(new.as_bool())
                .is_some_and(|(old, new)| old == new)
    });
    if !same {
        table[key] = new;
    }
}

fn is_disabled(document: &DocumentMut, plugin: &str) -> bool {
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    disabled.is_some_and(|list| {
        list.iter()
            .filter_map(toml_edit::Value::as_str)
            .any(|name| name == plugin || name == "cri" || name == "io.containerd.grpc.v1.cri")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(text: &str) -> String {
        let once = add(text).expect("changed").text;
        assert_eq!(add(&once).expect("changed").text, once, "idempotent");
        once
    }

    #[test]
    fn each_version_has_its_place() {
        for (text, header) in [
            (
                "root = \"/r\"\n",
                "[plugins.cri.containerd.runtimes.caisson]",
            ),
            (
                "version = 2\n",
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.caisson]",
            ),
            (
                "version = 3\n",
                "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.caisson]",
            ),
        ] {
            let changed = added(text);
            assert!(changed.starts_with(text), "{changed}");
            assert!(changed.contains(header), "{changed}");
            assert!(
                changed.contains("runtime_type = \"io.containerd.caisson.v2\""),
                "{changed}"
            );
        }
        assert!(add("version = 4\n").is_err());
        assert!(added("").starts_with("version = 2\n"));
    }

    #[test]
    fn what_is_there_stays() {
        let text = "# by hand\nversion = 2\n\n[plugins]\n  # indented\n  \
            [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\n    \
            runtime_type = 'io.containerd.runc.v2' # the usual\n";
        let changed = added(text);
        assert!(changed.starts_with(text), "{changed}");
        assert_eq!(changed.matches("[plugins]").count(), 1, "{changed}");
    }

    #[test]
    fn an_older_entry_is_brought_up_to_date() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.caisson]\n\
            runtime_type = \"io.containerd.caisson.v1\"\npod_annotations = [\"x\"]\n";
        let changed = added(text);
        assert!(
            changed.contains("runtime_type = \"io.containerd.caisson.v2\""),
            "{changed}"
        );
        assert!(changed.contains("pod_annotations = [\"x\"]"), "{changed}");
    }

    #[test]
    fn a_plugin_that_is_off_is_told() {
        let text = "version = 2\ndisabled_plugins = [\"cri\"]\n";
        assert!(add(text).expect("changed").note.is_some());
    }
}
