//! Docker's `daemon.json`: a name for the runtime. Docker 23 and later takes the runtime's
//! own name without any configuration.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{Changed, NAME, RUNTIME};

/// Adds the runtime to a configuration.
pub fn add(text: &str) -> Result<Changed> {
    let mut root = if text.trim().is_empty() {
        Value::Object(Map::new())
    } else {
        serde_json::from_str(text)?
    };
    let wanted = json!({ "runtimeType": RUNTIME });
    let runtimes = root
        .as_object_mut()
        .context("it is no JSON object")?
        .entry("runtimes")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .context("`runtimes` is no JSON object")?;
    if runtimes.get(NAME) == Some(&wanted) {
        return Ok(Changed {
            text: text.to_owned(),
            note: None,
        });
    }
    runtimes.insert(NAME.to_owned(), wanted);
    Ok(Changed {
        text: format!("{:#}\n", root),
        note: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_added_once() {
        let text = r#"{"data-root": "/d", "runtimes": {"other": {"path": "/o"}}}"#;
        let once = add(text).expect("changed").text;
        let value: Value = serde_json::from_str(&once).expect("JSON");
        assert_eq!(value["data-root"], "/d");
        assert_eq!(value["runtimes"]["other"]["path"], "/o");
        assert_eq!(value["runtimes"]["caisson"]["runtimeType"], RUNTIME);
        assert_eq!(add(&once).expect("unchanged").text, once);
        assert!(add("[]").is_err());
    }

    #[test]
    fn the_order_of_keys_stays() {
        let once = add(r#"{"z": 1, "a": 2}"#).expect("changed").text;
        assert!(once.find("\"z\"") < once.find("\"a\""), "{once}");
    }
}
