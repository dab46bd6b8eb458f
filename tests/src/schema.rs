//! Whether a `report.json` is what `docs/compare-schema.json` says.

use boon::{Compiler, Schemas};
use serde_json::Value;

use crate::programs;

/// What is wrong with the document; nothing if it holds.
///
/// # Panics
/// If the schema itself is none.
pub fn fault(document: &Value) -> Option<String> {
    let file = programs::workspace().join("docs/compare-schema.json");
    let text = std::fs::read_to_string(&file).expect("the schema");
    let schema = serde_json::from_str(&text).expect("the schema is JSON");
    let name = "report.json";
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    compiler.add_resource(name, schema).expect("a schema");
    let index = compiler.compile(name, &mut schemas).expect("a schema");
    let error = schemas.validate(document, index).err()?;
    Some(error.to_string())
}

/// Ids of rows that a sentence cites and that do not exist, and ids that two rows
/// have.
pub fn broken_references(report: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let sections = list(&report["sections"]);
    let mut ids: Vec<Value> = sections
        .iter()
        .flat_map(|section| list(&section["rows"]))
        .map(|row| row["id"].clone())
        .collect();
    let cites = ["findings", "advice"]
        .into_iter()
        .flat_map(|part| list(&report[part]))
        .flat_map(|statement| list(&statement["cites"]));
    let mut broken: Vec<String> = cites
        .filter(|id| !ids.contains(id))
        .map(|id| format!("no row {id}"))
        .collect();
    ids.sort_by_key(Value::to_string);
    let twice = ids.windows(2).filter(|pair| pair[0] == pair[1]);
    broken.extend(twice.map(|pair| format!("two rows {}", pair[0])));
    broken
}
