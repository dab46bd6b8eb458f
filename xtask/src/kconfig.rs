//! The kernel fragment: what was asked for, and whether Kconfig granted it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Symbols that a fragment or a `.config` sets, as `CONFIG_X` to the text
/// after `=`. A symbol that is not set is not listed.
fn symbols(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter_map(|line| line.split_once('='))
        .collect()
}

/// Fails when a line of the fragment is not in force in the final
/// configuration, and names every such line: Kconfig drops a symbol whose
/// dependencies are off without a word.
pub fn check(fragment: &str, configuration: &str) -> Result<()> {
    let granted = symbols(configuration);
    let lost: Vec<String> = symbols(fragment)
        .into_iter()
        .filter(|(symbol, value)| match *value {
            "n" => granted.contains_key(symbol),
            _ => granted.get(symbol) != Some(value),
        })
        .map(|(symbol, value)| match granted.get(symbol) {
            Some(other) => format!("{symbol}={value} (is {other})"),
            None => format!("{symbol}={value} (is not set)"),
        })
        .collect();
    if !lost.is_empty() {
        bail!(
            "Kconfig did not accept these lines of guest/kernel.config: {}. \
             Look for a dependency that is off or a symbol that no longer exists",
            lost.join(", ")
        );
    }
    Ok(())
}

/// Fails when a symbol occurs twice in the fragment: one of the reasons
/// beside it would be wrong.
pub fn check_unique(fragment: &str) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (index, line) in fragment.lines().enumerate() {
        let number = index + 1;
        let Some((symbol, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        if let Some(first) = seen.insert(symbol, number) {
            bail!("guest/kernel.config sets {symbol} twice, in lines {first} and {number}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_lines_are_named() {
        let fragment = "# why\nCONFIG_A=y\nCONFIG_B=64\nCONFIG_C=n\nCONFIG_D=\"x\"\n";
        check(fragment, "CONFIG_A=y\nCONFIG_B=64\nCONFIG_D=\"x\"\n").unwrap();
        let error = check(
            fragment,
            "CONFIG_B=8\n# CONFIG_A is not set\nCONFIG_C=y\nCONFIG_D=\"x\"\n",
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("CONFIG_A=y (is not set)"), "{error}");
        assert!(error.contains("CONFIG_B=64 (is 8)"), "{error}");
        assert!(error.contains("CONFIG_C=n (is y)"), "{error}");
        assert!(!error.contains("CONFIG_D"), "{error}");
    }

    #[test]
    fn a_symbol_set_twice_is_refused() {
        let error = check_unique("CONFIG_A=y\n\nCONFIG_A=n\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("lines 1 and 3"), "{error}");
    }

    #[test]
    fn the_fragment_sets_nothing_twice() {
        check_unique(include_str!("../../guest/kernel.config")).unwrap();
    }
}
