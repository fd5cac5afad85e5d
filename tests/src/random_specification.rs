//! Random specifications of a `RerankDeployment`, read from the schema of its definition, so that a new field is covered by itself.
//!
//! Every type, bound, pattern and list key counts; a field that is not required is there by chance. What the schema cannot say has its
//! places: texts that mean something in `text`, rules between fields in `repair`, and parts of Kubernetes's own pods, whose schemas
//! are large and pass through unread, in [`HAND_WRITTEN`].

use std::collections::BTreeSet;

use proptest::collection::{SizeRange, btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

pub mod bounds;
mod hand_written;
pub mod properties;
mod repair;
mod text;

pub use hand_written::HAND_WRITTEN;
use properties::{Path, Step};

/// How often a field is there that is not required.
const PRESENT: f64 = 0.6;

/// The most entries of a list or map; those that a bound asks for are [`bounds`]'s.
const ENTRIES: u64 = 3;

/// What may stand in a schema. Another word would say something that the values here do not keep to.
const KNOWN_WORDS: [&str; 21] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
];

/// Specifications, most of which the schema accepts, rules between fields included.
pub fn specification(schema: &Value) -> BoxedStrategy<Value> {
    let parts = (value(schema, &Path::default()), repair::choices());
    let repaired = |(mut specification, choices): (Value, repair::Choices)| {
        repair::repair(&mut specification, &choices);
        specification
    };
    parts.prop_map(repaired).boxed()
}

/// Values of one property, without regard to another.
pub fn value(schema: &Value, path: &Path) -> BoxedStrategy<Value> {
    if let Some((_, values)) = HAND_WRITTEN.iter().find(|(part, _)| *part == path.to_string()) {
        return select(values()).boxed();
    }
    for word in schema.as_object().into_iter().flatten().map(|(word, _)| word) {
        assert!(KNOWN_WORDS.contains(&word.as_str()), "{path}: no values are made for `{word}`");
    }
    if let Some(names) = schema["enum"].as_array() {
        return select(names.clone()).boxed();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return prop_oneof![integer(schema), text::text(schema, path)].boxed();
    }
    match schema["type"].as_str() {
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("integer") => integer(schema),
        Some("string") => text::text(schema, path),
        Some("array") => list(schema, path),
        Some("object") if schema["additionalProperties"].is_object() => map(schema, path),
        Some("object") => object(schema, path),
        other => panic!("{path}: no values are made for the type {other:?}"),
    }
}

/// The bounds of a number; where the schema names none, those of its format.
fn range(schema: &Value) -> (i64, i64) {
    let (lowest, highest) = match schema["format"].as_str() {
        Some("int64") => (i64::MIN, i64::MAX),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    };
    (limit(schema, "minimum").unwrap_or(lowest), limit(schema, "maximum").unwrap_or(highest))
}

/// A bound of a number. Kubernetes's type of a schema makes 1.0 of 1.
fn limit(schema: &Value, word: &str) -> Option<i64> {
    let limit = &schema[word];
    #[expect(clippy::cast_possible_truncation, reason = "bounds are whole and far below 2^53")]
    let whole = || limit.as_f64().filter(|limit| limit.fract().abs() < f64::EPSILON).map(|limit| limit as i64);
    limit.as_i64().or_else(whole)
}

fn integer(schema: &Value) -> BoxedStrategy<Value> {
    let (minimum, maximum) = range(schema);
    let near = minimum.saturating_add(1_000).min(maximum);
    prop_oneof![1 => Just(minimum), 1 => Just(maximum), 3 => minimum..=near, 3 => minimum..=maximum]
        .prop_map(Value::from)
        .boxed()
}

/// From the fewest to a few more.
fn entries(fewest: &Value, most: &Value) -> SizeRange {
    let fewest = fewest.as_u64().unwrap_or(0);
    let most = most.as_u64().unwrap_or(u64::MAX).min(fewest + ENTRIES);
    let size = |number: u64| usize::try_from(number).unwrap();
    (size(fewest)..=size(most)).into()
}

fn list(schema: &Value, path: &Path) -> BoxedStrategy<Value> {
    let key = schema["x-kubernetes-list-map-keys"][0].as_str().map(str::to_owned);
    let once = move |mut items: Vec<Value>| {
        let mut seen = BTreeSet::new();
        items.retain(|item| key.as_ref().is_none_or(|key| seen.insert(item[key].to_string())));
        Value::from(items)
    };
    let items = value(&schema["items"], &path.then(Step::Item));
    vec(items, entries(&schema["minItems"], &schema["maxItems"])).prop_map(once).boxed()
}

fn map(schema: &Value, path: &Path) -> BoxedStrategy<Value> {
    let values = value(&schema["additionalProperties"], &path.then(Step::Entry));
    btree_map(text::key(), values, entries(&Value::Null, &schema["maxProperties"]))
        .prop_map(|entries| entries.into_iter().collect::<Map<_, _>>().into())
        .boxed()
}

fn object(schema: &Value, path: &Path) -> BoxedStrategy<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let field = |(name, inner): (&String, &Value)| {
        let name = name.clone();
        let values = value(inner, &path.then(Step::Field(name.clone())));
        let values = if required.contains(&json!(name)) {
            values.prop_map(Some).boxed()
        } else {
            proptest::option::weighted(PRESENT, values).boxed()
        };
        values.prop_map(move |value| Some((name.clone(), value?))).boxed()
    };
    let fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().map(field).collect();
    fields.prop_map(|fields| fields.into_iter().flatten().collect::<Map<_, _>>().into()).boxed()
}
