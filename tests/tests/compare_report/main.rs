//! The report of `caisson compare`, made of a fixture, in a real browser.

mod fixture;

use std::fs;
use std::path::Path;

use caisson_compare::model::Report;
use caisson_compare::report;
use caisson_end_to_end::{legibility, schema};
use serde_json::{Value, json};

/// Where pictures stay, for people to look at.
fn pictures() -> &'static Path {
    let folder = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/compare-report"));
    fs::create_dir_all(folder).expect("a folder");
    folder
}

#[test]
fn report_is_legible_in_a_browser() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = fixture::report(folder.path());
    report::write(&fixture, folder.path()).expect("a report");
    let saved = legibility::check(&folder.path().join("report.html"), pictures());
    assert_eq!(saved.len(), 4);
    for picture in saved {
        let size = fs::metadata(&picture).expect("a picture").len();
        assert!(size > 10_000, "{}: {size} bytes", picture.display());
    }
}

#[test]
fn hostile_outputs_do_nothing_in_any_rendering() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = fixture::report(folder.path());
    report::write(&fixture, folder.path()).expect("a report");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
    let summary = report::summary(&fixture, folder.path());
    for (name, text) in [
        ("report.html", read("report.html")),
        ("report.md", read("report.md")),
        ("report.json", read("report.json")),
        ("summary", summary),
    ] {
        let acts = |character: char| {
            (character.is_control() && character != '\n' && character != '\t')
                || ('\u{202a}'..='\u{202e}').contains(&character)
        };
        let found: Vec<char> = text.chars().filter(|one| acts(*one)).collect();
        assert!(found.is_empty(), "{name}: {found:?}");
    }
    let page = read("report.html");
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert!(page.contains("&lt;script&gt;pwned=1&lt;/script&gt;"));
    // The raw output is what came, to the byte.
    let raw = fs::read(folder.path().join("raw/kernel-hostile-caisson.txt")).expect("a file");
    let hostile = fixture::HOSTILE.as_bytes();
    assert!(raw.windows(hostile.len()).any(|window| window == hostile));
}

#[test]
fn json_is_what_the_schema_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = fixture::report(folder.path());
    report::write(&fixture, folder.path()).expect("a report");
    let text = fs::read_to_string(folder.path().join("report.json")).expect("report.json");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(schema::fault(&document), None);
    assert_eq!(schema::broken_references(&document), Vec::<String>::new());
    // It can be read again, and is the same then.
    let read: Report = serde_json::from_str(&text).expect("a report");
    assert_eq!(serde_json::to_value(&read).expect("JSON"), document);
    for (place, wrong) in [
        ("/schema", json!(2)),
        ("/sections/0/rows/0/cells/host/value/kind", json!("guess")),
        ("/sections/0/rows/0/cells/host/raw", json!("/etc/passwd")),
        (
            "/sections/2/rows/0/cells/runc/value/verdict",
            json!("passed"),
        ),
        ("/sections/3/rows/0/cells/runc/value/samples", json!([])),
        ("/findings/0/cites", json!([])),
        ("/environment/hardware", json!({})),
        ("/runtimes/0", json!({ "subject": "podman" })),
    ] {
        let mut changed = document.clone();
        *changed
            .pointer_mut(place)
            .unwrap_or_else(|| panic!("{place}")) = wrong;
        assert!(schema::fault(&changed).is_some(), "{place} is accepted");
    }
    let mut longer = document;
    longer["sections"][0]["extra"] = json!(1);
    assert!(
        schema::fault(&longer).is_some(),
        "an unknown field is accepted"
    );
}
