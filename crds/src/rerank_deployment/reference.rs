//! The page of every field, made from the schema, so that it cannot say anything else. Pure.

use std::fmt::Write as _;

use serde_json::Value;

use super::DefinitionError;
use super::definition::value;

/// The reference as a Markdown page.
///
/// # Errors
/// See [`DefinitionError`].
pub fn markdown() -> Result<String, DefinitionError> {
    let definition = value()?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut page = HEAD.to_owned();
    rows("spec", &schema["properties"]["spec"], &mut page);
    page.push_str(RULES);
    write_rules("metadata", schema, &mut page);
    collect_rules("spec", &schema["properties"]["spec"], &mut page);
    page.push_str(STATUS);
    rows("status", &schema["properties"]["status"], &mut page);
    Ok(page)
}

const HEAD: &str = "# RerankDeployment\n\n\
    `rerank.semantik.dev/v1alpha1`, namespaced, short name `rrd`. Every field may be left out unless it says *required*, which then holds\n\
    where its section is present; unknown ones are refused by `kubectl`. `[]` stands for each entry of a list. An object speaks of its own\n\
    namespace only.\n\n\
    This page is made from the code; a test compares the two.\n\n\
    ## Fields\n\n\
    | field | default | allowed | meaning |\n|---|---|---|---|\n";

const RULES: &str =
    "\n## Rules\n\nWhat concerns more than one field. The API server refuses an object with these words.\n\n";

const STATUS: &str = "\n## Status\n\nWhat the operator says. Conditions and their reasons: see `docs/conditions.md`.\n\n\
    | field | default | allowed | meaning |\n|---|---|---|---|\n";

/// Types of Kubernetes's own, which its documentation explains.
const FOREIGN: [&str; 5] = [
    "spec.podTemplate.affinity",
    "spec.podTemplate.tolerations",
    "spec.podTemplate.topologySpreadConstraints",
    "spec.podTemplate.resources",
    "status.conditions",
];

fn rows(path: &str, schema: &Value, page: &mut String) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, property) in properties {
        let path = format!("{path}.{name}");
        let is_section = property["properties"].is_object() && !FOREIGN.contains(&path.as_str());
        let default = match &property["default"] {
            Value::Null if required.contains(&name.as_str()) => "*required*".to_owned(),
            Value::Null => "none".to_owned(),
            Value::Object(_) if is_section => "see below".to_owned(),
            value => format!("`{}`", cell(&value.to_string())),
        };
        let meaning = cell(property["description"].as_str().unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{path}` | {default} | {} | {meaning} |", cell(&allowed(property)));
        if FOREIGN.contains(&path.as_str()) {
            continue;
        }
        rows(&path, property, page);
        rows(&format!("{path}[]"), &property["items"], page);
    }
}

/// What a field may hold, in words.
fn allowed(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    }
    let bounds = |least: &str, most: &str| match (schema[least].as_i64(), schema[most].as_i64()) {
        (Some(least), Some(most)) => format!("{least} to {most} "),
        (None, Some(most)) => format!("up to {most} "),
        (Some(least), None) => format!("at least {least} "),
        (None, None) => String::new(),
    };
    match schema["type"].as_str() {
        Some("integer") => bounds("minimum", "maximum").trim_end().to_owned(),
        Some("string") => format!("{}characters", bounds("minLength", "maxLength")),
        Some("array") => format!("{}entries", bounds("minItems", "maxItems")),
        Some("object") if schema["additionalProperties"].is_object() => {
            let entries = format!("{}entries", bounds("minProperties", "maxProperties"));
            match allowed(&schema["additionalProperties"]) {
                each if each.is_empty() => entries,
                each => format!("{entries}, each of {each}"),
            }
        }
        Some("boolean") => "true, false".to_owned(),
        _ => String::new(),
    }
}

fn collect_rules(path: &str, schema: &Value, page: &mut String) {
    write_rules(path, schema, page);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect_rules(&path, property, page);
        collect_rules(&format!("{path}[]"), &property["items"], page);
    }
}

fn write_rules(path: &str, schema: &Value, page: &mut String) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let _ = writeln!(page, "- `{path}`: {}", rule["message"].as_str().unwrap_or_default());
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
