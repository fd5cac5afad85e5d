//! Patterns of names that the schema checks, and the bounds of types that are Kubernetes's own. Pure.

use serde_json::{Value, json};

/// `name` or `organisation/name`: see [`check_model_id`](crate::catalog::check_model_id).
pub(super) const MODEL_ID: &str =
    r"^[A-Za-z0-9]([A-Za-z0-9_-]|\.[A-Za-z0-9_-])*(/[A-Za-z0-9]([A-Za-z0-9_-]|\.[A-Za-z0-9_-])*)?$";

/// A commit, tag or branch: see [`check_revision`](crate::catalog::check_revision).
pub(super) const REVISION: &str =
    r"^[A-Za-z0-9]([A-Za-z0-9_-]|\.[A-Za-z0-9_-])*(/[A-Za-z0-9]([A-Za-z0-9_-]|\.[A-Za-z0-9_-])*)*$";

/// A name that Kubernetes accepts for an object.
pub(super) const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The same, or empty text.
pub(super) const OBJECT_NAME_OR_NONE: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$";

/// A name that is a label of DNS, such as that of a claim in a pod.
pub(super) const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A name of a key in a Secret or ConfigMap.
pub(super) const SECRET_KEY: &str = r"^([-_a-zA-Z0-9]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$";

/// A reference of an image: a registry's host and port, a path, a tag, a digest.
pub(super) const IMAGE: &str = r"^(\[[0-9A-Fa-f:]+\][:/])?[A-Za-z0-9]([A-Za-z0-9._:/@+-]*[A-Za-z0-9])?$";

/// Of strings, lists and maps inside Kubernetes's own types, which name none.
const STRING_CHARACTERS: u64 = 1_024;
const LIST_ITEMS: u64 = 64;
const MAP_ENTRIES: u64 = 64;

/// CEL rules, each with the message that says what is allowed.
pub(super) fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

/// Gives a bound to every string, list and map of a schema that has none, and makes it one that rules and API servers read as
/// it is meant: no null that counts as a value, whole numbers as such, and no `additionalProperties: false`, which a structural
/// schema does not know.
pub(super) fn bound(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("nullable");
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                fields.remove("additionalProperties");
            }
            for name in ["minimum", "maximum"] {
                let Some(limit) = fields.get_mut(name) else { continue };
                if let Some(whole) = limit.as_f64().and_then(whole) {
                    *limit = json!(whole);
                }
            }
            let bounded = match fields.get("type").and_then(Value::as_str) {
                Some("string") if !fields.contains_key("enum") => Some(("maxLength", STRING_CHARACTERS)),
                Some("array") => Some(("maxItems", LIST_ITEMS)),
                Some("object") if fields.contains_key("additionalProperties") => Some(("maxProperties", MAP_ENTRIES)),
                _ => None,
            };
            if let Some((name, limit)) = bounded {
                fields.entry(name).or_insert(json!(limit));
            }
            fields.values_mut().for_each(bound);
        }
        Value::Array(items) => items.iter_mut().for_each(bound),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A limit as a whole number, where it is one.
fn whole(limit: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "limits are far below 2^53, and compared again")]
    let whole = limit as i64;
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    let same = (whole as f64).total_cmp(&limit).is_eq();
    same.then_some(whole)
}
