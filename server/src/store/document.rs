//! Documents on their way into and out of a store: what may be kept, where the text stands, how answers are ordered.
//! Pure.

use qdrant_edge::JsonPath;
use rerank_crds::server_config::Collection;
use serde_json::{Map, Value};

use super::identity::{ID_KEY, PointKey, text_to_keep};
use super::{Candidate, Document, StoreError};

/// Levels of objects and lists in a payload, at most. Protocol Buffers stop decoding at 100 nested messages and each
/// level of JSON is up to three of them.
pub const MAXIMUM_PAYLOAD_DEPTH: usize = 24;

/// Payload path of a document's text, in Qdrant's own notation: `text`, `body.text`, `"key.with.dots".text`,
/// `parts[].text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextField(JsonPath);

impl TextField {
    /// Reads a path.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(path: &str) -> Result<Self, String> {
        path.parse().map(Self).map_err(|()| {
            format!(
                "{path:?} is no payload path; allowed: keys of letters, digits, _ and - joined by dots, other keys in \
                 double quotes, [] for every element of a list"
            )
        })
    }

    /// The text of a payload; several texts are joined by a line break. Empty where there is none.
    pub fn text(&self, payload: &Map<String, Value>) -> String {
        let values = self.0.value_get(payload);
        let texts: Vec<&str> = values.iter().filter_map(|value| value.as_str()).collect();
        texts.join("\n")
    }

    /// The text of a payload, or nothing where there is no text at the path.
    pub fn find(&self, payload: &Map<String, Value>) -> Option<String> {
        let values = self.0.value_get(payload);
        (!values.is_empty() && values.iter().all(|value| value.is_string())).then(|| self.text(payload))
    }
}

/// What the configuration says of one collection.
#[derive(Clone, Debug)]
pub(crate) struct CollectionSettings {
    /// Named vector; the unnamed one where absent.
    pub(crate) vector_name: Option<String>,
    /// Where the text stands.
    pub(crate) text_field: TextField,
}

impl CollectionSettings {
    /// Reads the settings of every configured collection.
    pub(crate) fn read(collections: &[Collection]) -> Result<Vec<(String, Self)>, StoreError> {
        let mut settings: Vec<(String, Self)> = Vec::with_capacity(collections.len());
        for collection in collections {
            let text_field = TextField::parse(&collection.text_field).map_err(|message| StoreError::Configuration {
                message: format!("textField of collection {:?}: {message}", collection.name),
            })?;
            if settings.iter().any(|(name, _)| *name == collection.name) {
                return Err(StoreError::Configuration {
                    message: format!("collection {:?} stands twice in collections", collection.name),
                });
            }
            let vector_name = collection.vector_name.clone().filter(|name| !name.is_empty());
            settings.push((collection.name.clone(), Self { vector_name, text_field }));
        }
        Ok(settings)
    }
}

/// A document that may be kept.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) key: PointKey,
    pub(crate) vector: Vec<f32>,
    pub(crate) payload: Map<String, Value>,
}

impl Point {
    /// Checks a document and makes a point of it.
    ///
    /// # Errors
    /// [`StoreError::InvalidDocument`] with the field and what is allowed.
    pub(crate) fn prepare(document: Document) -> Result<Self, StoreError> {
        let Document { id, vector, mut payload } = document;
        let key = PointKey::of(&id);
        if let Err(message) = check_content(key, &payload).and_then(|()| check_vector(&vector)) {
            return Err(StoreError::InvalidDocument { id, message });
        }
        if let Some(text) = text_to_keep(&id) {
            payload.insert(ID_KEY.to_owned(), Value::String(text.to_owned()));
        }
        Ok(Self { key, vector, payload })
    }
}

/// Makes points of documents; where an id stands twice, the last one wins, as if they came one after the other.
///
/// Vectors of unequal lengths are refused here: a store would write those before the wrong one.
pub(crate) fn prepare_all(documents: Vec<Document>) -> Result<Vec<Point>, StoreError> {
    let mut points: Vec<Point> = Vec::with_capacity(documents.len());
    let length = documents.first().map_or(0, |document| document.vector.len());
    if let Some(other) = documents.iter().find(|document| document.vector.len() != length) {
        return Err(StoreError::InvalidDocument {
            id: other.id.clone(),
            message: format!("its vector has {} values, the first of its batch {length}", other.vector.len()),
        });
    }
    let mut positions = std::collections::HashMap::with_capacity(documents.len());
    for document in documents {
        let point = Point::prepare(document)?;
        if let Some(earlier) = positions.get(&point.key).and_then(|position: &usize| points.get_mut(*position)) {
            *earlier = point;
        } else {
            positions.insert(point.key, points.len());
            points.push(point);
        }
    }
    Ok(points)
}

/// Makes an answer of a point that a store found.
///
/// # Errors
/// [`StoreError::Failed`] where the score is not finite: such a score is an error, never passed on.
pub(crate) fn candidate(
    key: PointKey,
    score: f32,
    mut payload: Map<String, Value>,
    text_field: &TextField,
) -> Result<Candidate, StoreError> {
    let id = key.document_id(&mut payload);
    if !score.is_finite() {
        return Err(StoreError::Failed {
            message: format!("it answered a score that is not finite for document {id}"),
        });
    }
    let text = text_field.text(&payload);
    Ok(Candidate { id, vector_score: score, text, payload })
}

/// Best first; equal scores by id.
pub(crate) fn sort(candidates: &mut [Candidate]) {
    candidates
        .sort_by(|left, right| right.vector_score.total_cmp(&left.vector_score).then_with(|| left.id.cmp(&right.id)));
}

/// Refuses a query vector that no store can compare.
pub(crate) fn check_query(vector: &[f32]) -> Result<(), StoreError> {
    check_vector(vector).map_err(|message| StoreError::Failed { message: format!("the query's {message}") })
}

/// Refuses an id and a payload that no store can keep, with a sentence that names the field.
pub(crate) fn check_content(key: PointKey, payload: &Map<String, Value>) -> Result<(), String> {
    if key.is_record() {
        return Err("this id is reserved".to_owned());
    }
    if payload.contains_key(ID_KEY) {
        return Err(format!("payload field {ID_KEY:?} is reserved"));
    }
    for (name, value) in payload {
        check_value(value, 1).map_err(|problem| format!("payload field {name:?} {problem}"))?;
    }
    Ok(())
}

fn check_vector(vector: &[f32]) -> Result<(), String> {
    if vector.is_empty() {
        return Err("vector is empty".to_owned());
    }
    match vector.iter().position(|value| !value.is_finite()) {
        Some(position) => Err(format!("vector holds a value that is not finite at position {position}")),
        None => Ok(()),
    }
}

/// Qdrant's protocol carries signed 64-bit integers; a larger one would come back rounded, so it is refused.
fn check_value(value: &Value, depth: usize) -> Result<(), String> {
    if depth > MAXIMUM_PAYLOAD_DEPTH {
        return Err(format!("is nested too deep; allowed: {MAXIMUM_PAYLOAD_DEPTH} levels"));
    }
    match value {
        Value::Number(number) if number.is_u64() && !number.is_i64() => {
            Err(format!("holds {number}; allowed: integers from {} to {}", i64::MIN, i64::MAX))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Array(values) => values.iter().try_for_each(|value| check_value(value, depth + 1)),
        Value::Object(fields) => fields.values().try_for_each(|value| check_value(value, depth + 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::DocumentId;

    fn payload(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    fn document(value: Value) -> Document {
        Document { id: DocumentId::Number(1), vector: vec![1.0, 0.0], payload: payload(value) }
    }

    fn refusal(document: Document) -> String {
        Point::prepare(document).unwrap_err().to_string()
    }

    #[test]
    fn the_text_is_found_by_path() {
        let payload = payload(json!({
            "text": "top", "body": {"text": "nested"}, "a.b": {"c d": "quoted"},
            "parts": [{"text": "one"}, {"text": "two"}, {"other": 3}], "number": 7
        }));
        for (path, text) in [
            ("text", "top"),
            ("body.text", "nested"),
            (r#""a.b"."c d""#, "quoted"),
            ("parts[].text", "one\ntwo"),
            ("parts[1].text", "two"),
            ("number", ""),
            ("absent.path", ""),
        ] {
            assert_eq!(TextField::parse(path).unwrap().text(&payload), text, "{path}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_read_says_what_is_allowed() {
        for path in ["", "a..b", "with space", ".text", "a[x]"] {
            let message = TextField::parse(path).unwrap_err();
            assert!(message.contains("allowed"), "{path}: {message}");
        }
    }

    #[test]
    fn reserved_keys_and_numbers_out_of_range_are_refused() {
        assert!(refusal(document(json!({"_rerank_id": "x"}))).contains("reserved"));
        let message = refusal(document(json!({"a": [{"b": 18_446_744_073_709_551_615_u64}]})));
        assert!(message.contains("\"a\"") && message.contains("9223372036854775807"), "{message}");
        assert!(Point::prepare(document(json!({"a": i64::MAX, "b": i64::MIN, "c": 1.5}))).is_ok());
    }

    #[test]
    fn a_payload_nested_too_deep_is_refused() {
        let nested = |depth: usize| (0..depth).fold(json!("leaf"), |value, _| json!({ "k": value }));
        assert!(Point::prepare(document(json!({"a": nested(MAXIMUM_PAYLOAD_DEPTH - 1)}))).is_ok());
        assert!(refusal(document(json!({"a": nested(MAXIMUM_PAYLOAD_DEPTH)}))).contains("levels"));
    }

    #[test]
    fn vectors_that_are_empty_or_not_finite_are_refused() {
        for vector in [vec![], vec![0.0, f32::NAN], vec![f32::INFINITY]] {
            let document = Document { id: DocumentId::Number(1), vector, payload: Map::new() };
            assert!(refusal(document).contains("vector"));
        }
    }

    #[test]
    fn a_score_that_is_not_finite_is_an_error() {
        let field = TextField::parse("text").unwrap();
        assert!(candidate(PointKey::Number(3), f32::NAN, Map::new(), &field).is_err());
    }

    #[test]
    fn the_last_of_two_documents_with_one_id_wins() {
        let points = prepare_all(vec![document(json!({"v": 1})), document(json!({"v": 2}))]).unwrap();
        assert_eq!(points.len(), 1);
        assert_eq!(points[0].payload["v"], json!(2));
    }
}
