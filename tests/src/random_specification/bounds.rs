//! Values at the bounds of a schema, and one beyond each. Pure.

use serde_json::{Value, json};

use super::properties::shortest;
use super::{limit, text};

/// A value that stands at a bound or beyond it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The bound, by the schema's word.
    pub keyword: &'static str,
    /// The value.
    pub value: Value,
}

/// A value at each bound, which is allowed. A text is left out where its pattern refuses each of that length that is known.
pub fn within(schema: &Value) -> Vec<Case> {
    let numbers = numbers(schema).map(|(keyword, limit, _)| Case { keyword, value: json!(limit) });
    let texts = lengths(schema).filter_map(|(keyword, limit, _)| {
        text::of_length(schema, limit).map(|text| Case { keyword, value: json!(text) })
    });
    let sizes = sizes(schema).map(|(keyword, limit, _)| Case { keyword, value: filled(schema, limit) });
    let names = schema["enum"].as_array().into_iter().flatten().cloned().map(|value| Case { keyword: "enum", value });
    numbers.chain(texts).chain(sizes).chain(names).collect()
}

/// A value beyond each bound, which that bound refuses.
pub fn beyond(schema: &Value) -> Vec<Case> {
    let numbers = numbers(schema).map(|(keyword, _, beyond)| Case { keyword, value: json!(beyond) });
    let texts = lengths(schema).filter_map(|(keyword, _, beyond)| {
        beyond.map(|characters| Case { keyword, value: json!("a".repeat(characters)) })
    });
    let sizes = sizes(schema)
        .filter_map(|(keyword, _, beyond)| beyond.map(|entries| Case { keyword, value: filled(schema, entries) }));
    let mut cases: Vec<Case> = numbers.chain(texts).chain(sizes).collect();
    let strange = json!("\u{0}");
    if schema["enum"].is_array() {
        cases.push(Case { keyword: "enum", value: strange.clone() });
    }
    if schema["pattern"].is_string() {
        cases.push(Case { keyword: "pattern", value: strange });
    }
    if schema["required"].is_array() {
        cases.push(Case { keyword: "required", value: json!({}) });
    }
    if let Some(kind) = schema["type"].as_str() {
        let value = if kind == "string" { json!(1) } else { json!("1") };
        cases.push(Case { keyword: "type", value });
    }
    cases
}

/// Bounds of a number: the word, the last that is allowed, the first that is not.
fn numbers(schema: &Value) -> impl Iterator<Item = (&'static str, i64, i64)> {
    let lowest = limit(schema, "minimum").map(|limit| ("minimum", limit, limit - 1));
    let highest = limit(schema, "maximum").map(|limit| ("maximum", limit, limit + 1));
    lowest.into_iter().chain(highest)
}

fn lengths(schema: &Value) -> impl Iterator<Item = (&'static str, usize, Option<usize>)> {
    counts(schema, "minLength", "maxLength")
}

fn sizes(schema: &Value) -> impl Iterator<Item = (&'static str, usize, Option<usize>)> {
    counts(schema, "minItems", "maxItems").chain(counts(schema, "minProperties", "maxProperties"))
}

/// Bounds of a count: the word, the last that is allowed, the first that is not. Nothing is fewer than none.
fn counts(
    schema: &Value,
    least: &'static str,
    most: &'static str,
) -> impl Iterator<Item = (&'static str, usize, Option<usize>)> + use<> {
    let limit = |word: &str| schema[word].as_u64().and_then(|limit| usize::try_from(limit).ok());
    let lowest = limit(least).map(|limit| (least, limit, limit.checked_sub(1)));
    let highest = limit(most).map(|limit| (most, limit, Some(limit + 1)));
    lowest.into_iter().chain(highest)
}

/// A list or map of so many.
fn filled(schema: &Value, entries: usize) -> Value {
    if schema["type"] == "array" {
        return vec![shortest(&schema["items"]); entries].into();
    }
    let value = shortest(&schema["additionalProperties"]);
    (0..entries).map(|at| (format!("name{at}"), value.clone())).collect::<serde_json::Map<_, _>>().into()
}
