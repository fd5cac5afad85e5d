//! Filters in Qdrant's own JSON. Pure.
//!
//! Qdrant's parser ignores keys that it does not know and says of a wrong condition only that it is wrong. Here every
//! condition is looked at first, so that an error names its place and what is allowed there; ids of documents that
//! are plain text are put as the points' ids. What comes out is Qdrant's own type, for both stores.

use qdrant_edge::{Filter, GeoBoundingBox, GeoPolygon, GeoRadius, JsonPath, RangeInterface};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::StoreError;
use super::identity::PointKey;

/// Filters within filters, at most. Protocol Buffers stop decoding at 100 nested messages.
const MAXIMUM_DEPTH: usize = 16;

const CLAUSES: [&str; 4] = ["must", "should", "must_not", "min_should"];
const FIELD_TESTS: [&str; 8] =
    ["match", "range", "geo_bounding_box", "geo_radius", "geo_polygon", "values_count", "is_empty", "is_null"];
const MATCHES: [&str; 6] = ["value", "any", "except", "text", "text_any", "phrase"];
const BOUNDS: [&str; 4] = ["lt", "lte", "gt", "gte"];
const CONDITIONS: &str = "{\"key\", and one of match, range, geo_bounding_box, geo_radius, geo_polygon, \
                          values_count, is_empty, is_null}, is_empty, is_null, has_id, has_vector, nested, or \
                          a filter of must, should, must_not, min_should";

/// Reads a filter.
///
/// # Errors
/// [`StoreError::InvalidFilter`] with the place, such as `filter.must[1].range`, and what is allowed there.
pub fn parse(filter: &Value) -> Result<Filter, StoreError> {
    let normal = read_filter(filter, "filter", 1)?;
    serde_json::from_value(normal).map_err(|error| refuse("filter", &error.to_string()))
}

type Read = Result<Value, StoreError>;

fn refuse(place: &str, problem: &str) -> StoreError {
    StoreError::InvalidFilter { message: format!("{place}: {problem}") }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, StoreError> {
    value.as_object().ok_or_else(|| refuse(place, &format!("is {}; allowed: an object", kind_of(value))))
}

/// Refuses keys that are not allowed and an object with none of them.
fn known_keys(fields: &Map<String, Value>, allowed: &[&str], place: &str) -> Result<(), StoreError> {
    let list = allowed.join(", ");
    if let Some(unknown) = fields.keys().find(|key| !allowed.contains(&key.as_str())) {
        return Err(refuse(place, &format!("unknown key {unknown:?}; allowed: {list}")));
    }
    if fields.values().all(Value::is_null) {
        return Err(refuse(place, &format!("nothing is given; allowed: {list}")));
    }
    Ok(())
}

fn read_filter(value: &Value, place: &str, depth: usize) -> Read {
    if depth > MAXIMUM_DEPTH {
        return Err(refuse(place, &format!("is nested too deep; allowed: {MAXIMUM_DEPTH} levels")));
    }
    let clauses = object(value, place)?;
    let mut normal = Map::new();
    for (name, clause) in clauses {
        let place = format!("{place}.{name}");
        let read = match name.as_str() {
            _ if clause.is_null() => continue,
            "must" | "should" | "must_not" => read_conditions(clause, &place, depth)?,
            "min_should" => read_min_should(clause, &place, depth)?,
            _ => {
                let parent = place.rsplit_once('.').map_or("filter", |(parent, _)| parent);
                return Err(refuse(parent, &format!("unknown key {name:?}; allowed: {}", CLAUSES.join(", "))));
            }
        };
        normal.insert(name.clone(), read);
    }
    Ok(Value::Object(normal))
}

/// A list of conditions, or one alone.
fn read_conditions(value: &Value, place: &str, depth: usize) -> Read {
    match value {
        Value::Array(conditions) => conditions
            .iter()
            .enumerate()
            .map(|(index, condition)| read_condition(condition, &format!("{place}[{index}]"), depth))
            .collect(),
        Value::Object(_) => Ok(json!([read_condition(value, place, depth)?])),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(refuse(place, &format!("is {}; allowed: a list of conditions, or one", kind_of(value))))
        }
    }
}

fn read_min_should(value: &Value, place: &str, depth: usize) -> Read {
    let fields = object(value, place)?;
    known_keys(fields, &["conditions", "min_count"], place)?;
    let conditions = fields.get("conditions").unwrap_or(&Value::Null);
    let conditions = read_conditions(conditions, &format!("{place}.conditions"), depth)?;
    match fields.get("min_count").and_then(Value::as_u64) {
        Some(count) if count > 0 => Ok(json!({"conditions": conditions, "min_count": count})),
        Some(_) | None => Err(refuse(&format!("{place}.min_count"), "allowed: a whole number of 1 or more")),
    }
}

fn read_condition(value: &Value, place: &str, depth: usize) -> Read {
    let fields = object(value, place)?;
    if fields.contains_key("key") {
        return read_field_condition(fields, place);
    }
    if fields.keys().any(|key| CLAUSES.contains(&key.as_str())) {
        return read_filter(value, place, depth + 1);
    }
    let mut entries = fields.iter();
    let (Some((name, inner)), None) = (entries.next(), entries.next()) else {
        let keys: Vec<&String> = fields.keys().collect();
        return Err(refuse(place, &format!("keys {keys:?} are no condition; allowed: {CONDITIONS}")));
    };
    let place = format!("{place}.{name}");
    let read = match name.as_str() {
        "is_empty" | "is_null" => {
            let inner = object(inner, &place)?;
            known_keys(inner, &["key"], &place)?;
            json!({"key": read_key(inner, &place)?})
        }
        "has_id" => read_ids(inner, &place)?,
        "has_vector" if inner.is_string() => inner.clone(),
        "has_vector" => {
            return Err(refuse(&place, &format!("is {}; allowed: a vector's name", kind_of(inner))));
        }
        "nested" => {
            let inner = object(inner, &place)?;
            known_keys(inner, &["key", "filter"], &place)?;
            let filter = inner.get("filter").unwrap_or(&Value::Null);
            let filter = read_filter(filter, &format!("{place}.filter"), depth + 1)?;
            json!({"key": read_key(inner, &place)?, "filter": filter})
        }
        _ => {
            let parent = place.rsplit_once('.').map_or("filter", |(parent, _)| parent);
            return Err(refuse(parent, &format!("unknown condition {name:?}; allowed: {CONDITIONS}")));
        }
    };
    Ok(json!({name: read}))
}

fn read_field_condition(fields: &Map<String, Value>, place: &str) -> Read {
    let key = read_key(fields, place)?;
    let tests: Map<String, Value> = fields
        .iter()
        .filter(|(name, value)| *name != "key" && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    known_keys(&tests, &FIELD_TESTS, place)?;
    for (name, test) in &tests {
        let place = format!("{place}.{name}");
        match name.as_str() {
            "match" => check_match(test, &place)?,
            "range" => {
                known_keys(object(test, &place)?, &BOUNDS, &place)?;
                leaf::<RangeInterface>(test, &place).map_err(|_| {
                    refuse(&place, "allowed: all bounds numbers, or all RFC 3339 dates such as 2014-01-01T00:00:00Z")
                })?;
            }
            "values_count" => {
                let bounds = object(test, &place)?;
                known_keys(bounds, &BOUNDS, &place)?;
                if bounds.values().any(|bound| !bound.is_null() && bound.as_u64().is_none()) {
                    return Err(refuse(&place, "allowed: bounds that are whole numbers of 0 or more"));
                }
            }
            "geo_bounding_box" => {
                known_keys(object(test, &place)?, &["top_left", "bottom_right"], &place)?;
                leaf::<GeoBoundingBox>(test, &place)?;
            }
            "geo_radius" => {
                known_keys(object(test, &place)?, &["center", "radius"], &place)?;
                leaf::<GeoRadius>(test, &place)?;
            }
            "geo_polygon" => {
                known_keys(object(test, &place)?, &["exterior", "interiors"], &place)?;
                leaf::<GeoPolygon>(test, &place)?;
            }
            _ if test.is_boolean() => {}
            _ => return Err(refuse(&place, &format!("is {}; allowed: true, false", kind_of(test)))),
        }
    }
    let mut normal = tests;
    normal.insert("key".to_owned(), key);
    Ok(Value::Object(normal))
}

fn check_match(value: &Value, place: &str) -> Result<(), StoreError> {
    let fields = object(value, place)?;
    known_keys(fields, &MATCHES, place)?;
    let mut entries = fields.iter();
    let (Some((name, value)), None) = (entries.next(), entries.next()) else {
        return Err(refuse(place, &format!("allowed: exactly one of {}", MATCHES.join(", "))));
    };
    let place = format!("{place}.{name}");
    let (fits, allowed) = match name.as_str() {
        "value" => (is_keyword(value) || is_integer(value) || value.is_boolean(), "a string, an integer, a boolean"),
        "any" | "except" => (
            value.as_array().is_some_and(|values| values.iter().all(is_keyword) || values.iter().all(is_integer)),
            "a list of strings, or a list of integers",
        ),
        _ => (is_keyword(value), "a string"),
    };
    if fits { Ok(()) } else { Err(refuse(&place, &format!("allowed: {allowed}"))) }
}

fn is_keyword(value: &Value) -> bool {
    value.is_string()
}

fn is_integer(value: &Value) -> bool {
    value.is_i64()
}

fn read_key(fields: &Map<String, Value>, place: &str) -> Read {
    match fields.get("key") {
        Some(Value::String(key)) if key.parse::<JsonPath>().is_ok() => Ok(Value::String(key.clone())),
        Some(other) => Err(refuse(
            &format!("{place}.key"),
            &format!("{other} is no payload path; allowed: keys joined by dots, [] for every element of a list"),
        )),
        None => Err(refuse(place, "key is missing; allowed: a payload path")),
    }
}

/// Ids of documents become ids of points.
fn read_ids(value: &Value, place: &str) -> Read {
    let ids = value.as_array().ok_or_else(|| refuse(place, &format!("is {}; allowed: a list", kind_of(value))))?;
    ids.iter()
        .enumerate()
        .map(|(index, id)| match id {
            Value::Number(number) if number.is_u64() => Ok(id.clone()),
            Value::String(text) => match PointKey::of_text(text) {
                PointKey::Uuid(uuid) => Ok(Value::String(uuid.to_string())),
                PointKey::Number(number) => Ok(json!(number)),
            },
            _ => Err(refuse(&format!("{place}[{index}]"), "allowed: an unsigned integer, a string")),
        })
        .collect()
}

fn leaf<T: DeserializeOwned>(value: &Value, place: &str) -> Result<T, StoreError> {
    serde_json::from_value(value.clone()).map_err(|error| refuse(place, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(filter: &Value) -> String {
        parse(filter).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_condition_is_read() {
        for condition in [
            json!({"key": "lang", "match": {"value": "en"}}),
            json!({"key": "year", "match": {"value": 2001}}),
            json!({"key": "open", "match": {"value": true}}),
            json!({"key": "lang", "match": {"any": ["en", "de"]}}),
            json!({"key": "year", "match": {"except": [1, 2]}}),
            json!({"key": "text", "match": {"text": "word"}}),
            json!({"key": "text", "match": {"text_any": "word other"}}),
            json!({"key": "text", "match": {"phrase": "two words"}}),
            json!({"key": "year", "range": {"gte": 2000, "lt": 2010.5}}),
            json!({"key": "at", "range": {"gt": "2014-01-01T00:00:00Z"}}),
            json!({"key": "tags", "values_count": {"gt": 2}}),
            json!({"key": "place", "geo_radius": {"center": {"lon": 13.4, "lat": 52.5}, "radius": 1000.0}}),
            json!({"key": "place", "geo_bounding_box":
                {"top_left": {"lon": 13.0, "lat": 53.0}, "bottom_right": {"lon": 14.0, "lat": 52.0}}}),
            json!({"key": "place", "geo_polygon": {"exterior": {"points": [
                {"lon": 0.0, "lat": 0.0}, {"lon": 1.0, "lat": 0.0}, {"lon": 1.0, "lat": 1.0}, {"lon": 0.0, "lat": 0.0}]}}}),
            json!({"key": "tags", "is_empty": true}),
            json!({"is_empty": {"key": "tags"}}),
            json!({"is_null": {"key": "tags"}}),
            json!({"has_id": [1, "550e8400-e29b-41d4-a716-446655440000", "doc-1"]}),
            json!({"has_vector": "title"}),
            json!({"nested": {"key": "parts", "filter": {"must": [{"key": "n", "match": {"value": 1}}]}}}),
            json!({"should": [{"key": "a", "match": {"value": "b"}}]}),
        ] {
            for filter in [
                json!({"must": [condition]}),
                json!({"must_not": condition}),
                json!({"min_should": {"conditions": [condition], "min_count": 1}}),
            ] {
                assert!(parse(&filter).is_ok(), "{filter}: {}", refusal(&filter));
            }
        }
        assert!(parse(&json!({})).is_ok());
    }

    #[test]
    fn text_ids_become_the_ids_of_their_points() {
        let of_text = parse(&json!({"must": [{"has_id": ["doc-1"]}]})).unwrap();
        let PointKey::Uuid(uuid) = PointKey::of_text("doc-1") else { panic!("text is never a number") };
        let of_point = parse(&json!({"must": [{"has_id": [uuid.to_string()]}]})).unwrap();
        assert_eq!(of_text, of_point);
    }

    #[test]
    fn an_error_names_the_place_and_what_is_allowed() {
        for (filter, place, allowed) in [
            (json!([]), "filter: ", "an object"),
            (json!({"most": []}), "filter: unknown key \"most\"", "must, should, must_not, min_should"),
            (json!({"must": 3}), "filter.must: ", "a list of conditions"),
            (json!({"must": [3]}), "filter.must[0]: ", "an object"),
            (json!({"must": [{}]}), "filter.must[0]: ", "has_id"),
            (json!({"must": [{"near": {}}]}), "filter.must[0]: unknown condition \"near\"", "has_id"),
            (json!({"must": [{"key": "a"}]}), "filter.must[0]: ", "match, range"),
            (json!({"must": [{"key": 3, "match": {"value": 1}}]}), "filter.must[0].key: ", "payload path"),
            (json!({"must": [{"key": "a", "mach": {}}]}), "filter.must[0]: unknown key \"mach\"", "match, range"),
            (json!({"must": [{"key": "a", "match": {"value": 1.5}}]}), "filter.must[0].match.value: ", "an integer"),
            (json!({"must": [{"key": "a", "match": {"any": ["a", 1]}}]}), "filter.must[0].match.any: ", "a list of"),
            (json!({"must": [{"key": "a", "match": {"value": 1, "text": "a"}}]}), "filter.must[0].match: ", "one of"),
            (json!({"should": [{"key": "a", "range": {"ge": 1}}]}), "filter.should[0].range: ", "lt, lte, gt, gte"),
            (json!({"should": [{"key": "a", "range": {"gt": "soon"}}]}), "filter.should[0].range: ", "RFC 3339"),
            (json!({"should": [{"key": "a", "values_count": {"gt": -1}}]}), "filter.should[0].values_count: ", "0 or"),
            (json!({"should": [{"key": "a", "is_null": 1}]}), "filter.should[0].is_null: ", "true, false"),
            (json!({"must_not": [{"has_id": [-1]}]}), "filter.must_not[0].has_id[0]: ", "an unsigned integer"),
            (json!({"min_should": {"conditions": [], "min_count": 0}}), "filter.min_should.min_count: ", "1 or more"),
            (
                json!({"must": [{"nested": {"key": "a", "filter": {"must": [{"no": 1}]}}}]}),
                "filter.must[0].nested.filter.must[0]: ",
                "has_id",
            ),
        ] {
            let message = refusal(&filter);
            assert!(message.contains(place), "{message} does not name {place}");
            assert!(message.contains(allowed), "{message} does not say {allowed}");
        }
    }

    #[test]
    fn a_filter_nested_too_deep_is_refused() {
        let deep = (0..100).fold(json!({"must": []}), |inner, _| json!({"must": [inner]}));
        assert!(refusal(&deep).contains("16 levels"));
    }
}
