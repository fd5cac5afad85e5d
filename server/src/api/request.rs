//! Reading requests: bodies with a bound and a deadline, JSON whose errors name the field, query strings that refuse
//! what they do not know. Pure but for reading the body.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ErrorCode};

/// How long a body may take to arrive.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that is too large is read and thrown away, so that its client gets to read the answer instead of
/// a reset connection, and for how long.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// A request body of ours: which fields it knows, for the error that lists them.
pub trait Fields {
    /// Names of all fields, as written in JSON.
    const FIELDS: &'static [&'static str];
}

/// Memory that bodies may take together, from their first byte until they are parsed. What is parsed counts in the queue.
#[derive(Clone, Debug)]
pub struct BodyRoom(Arc<Semaphore>);

/// What a permit of [`BodyRoom`] stands for.
const ROOM_UNIT_BYTES: usize = 1_024;

impl BodyRoom {
    /// Room for so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / ROOM_UNIT_BYTES).min(Semaphore::MAX_PERMITS))))
    }

    /// Takes what room is missing until so many bytes are held, in however many pieces they came.
    fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let there = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(ROOM_UNIT_BYTES).saturating_sub(there);
        let units = u32::try_from(missing).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.0).try_acquire_many_owned(units) else {
            let message = "the bodies of other requests fill the memory for them (api.limits.queueBytes)";
            return Err(ApiError::new(ErrorCode::Overloaded, message).retry_after(1));
        };
        match held {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }
}

/// A whole body, which gives its room back when it is dropped.
#[derive(Debug, Default)]
pub struct WholeBody {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl Deref for WholeBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a body may take.
#[derive(Clone, Debug)]
pub struct BodyBounds {
    /// Bytes of one, at most.
    pub bytes: usize,
    /// How long one may take to arrive; [`BODY_READ_TIMEOUT`] outside tests.
    pub read_timeout: Duration,
    /// Of all together.
    pub room: BodyRoom,
}

/// Reads a whole body: 413 above its bound, 408 after its time, 503 where others leave no room.
pub async fn read_body(headers: &HeaderMap, mut body: Body, bounds: &BodyBounds) -> Result<WholeBody, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let outcome = if announced.is_some_and(|bytes| bytes > bounds.bytes as u64) {
        Err(body_too_large(bounds.bytes))
    } else {
        tokio::time::timeout(bounds.read_timeout, collect(&mut body, bounds)).await.unwrap_or_else(|_| {
            let seconds = bounds.read_timeout.as_secs_f64();
            let message = format!("the body did not arrive within {seconds} seconds");
            Err(ApiError::new(ErrorCode::RequestTimeout, message))
        })
    };
    if outcome.as_ref().is_err_and(|error| matches!(error.code, ErrorCode::TooLarge | ErrorCode::Overloaded)) {
        discard(body).await;
    }
    outcome
}

async fn collect(body: &mut Body, bounds: &BodyBounds) -> Result<WholeBody, ApiError> {
    let mut whole = WholeBody::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(ErrorCode::Malformed, "the body ended before it was complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.bytes.len() + data.len();
        if length > bounds.bytes {
            return Err(body_too_large(bounds.bytes));
        }
        bounds.room.grow(&mut whole.room, length)?;
        whole.bytes.extend_from_slice(&data);
    }
    Ok(whole)
}

fn body_too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, "the body is too large (api.limits.bodyBytes)")
        .allowed([format!("at most {limit} bytes")])
}

async fn discard(mut body: Body) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_BYTES {
                break;
            }
        }
    };
    // Whether or not it was read to its end, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

/// Parses a JSON body. A missing content type is taken for JSON, any other than JSON is 415.
pub fn parse_json<Wire: DeserializeOwned + Fields>(headers: &HeaderMap, bytes: &[u8]) -> Result<Wire, ApiError> {
    require_json(headers)?;
    if bytes.trim_ascii().is_empty() {
        return Err(ApiError::new(ErrorCode::Malformed, "the body is empty, a JSON object is needed")
            .allowed(Wire::FIELDS.iter().copied()));
    }
    // A struct could also be read from an array, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
    {
        return Err(
            ApiError::new(ErrorCode::Malformed, "the body is no JSON object").allowed(Wire::FIELDS.iter().copied())
        );
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| json_error::<Wire>(&error))?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, format!("the content type is {essence:?}"))
        .field("Content-Type")
        .allowed(["application/json"]))
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::Malformed, format!("the body is not valid JSON: {error}"))
}

fn json_error<Wire: Fields>(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let inner = error.inner();
    if !inner.is_data() {
        return not_json(inner);
    }
    let message = inner.to_string();
    let path = error.path().to_string();
    if let Some(name) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        return ApiError::new(ErrorCode::UnknownField, format!("there is no field {name:?}"))
            .field(name)
            .allowed(Wire::FIELDS.iter().copied());
    }
    let message = ["i64", "u32", "u64"]
        .iter()
        .fold(message, |message, name| message.replace(&format!("expected {name}"), "expected a whole number"));
    let message = message.replace("expected f64", "expected a number");
    let error = ApiError::new(ErrorCode::Malformed, message);
    // The path of the whole body is a dot, which names nothing.
    if path == "." { error } else { error.field(path) }
}

/// Parameters of a query string, each at most once, in the order sent.
#[derive(Debug, Default)]
pub struct Parameters {
    values: Vec<(String, String)>,
}

impl Parameters {
    /// Decodes a query string. Refuses unknown names, with the list, and repeated ones.
    pub fn parse(query: Option<&str>, allowed: &[&str]) -> Result<Self, ApiError> {
        let mut values: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| {
                ApiError::new(ErrorCode::Malformed, "the name of a parameter is not UTF-8 in percent-encoding")
            })?;
            let value = decode(value).ok_or_else(|| {
                ApiError::new(ErrorCode::Malformed, format!("{name} is not UTF-8 in percent-encoding")).field(&name)
            })?;
            if !allowed.contains(&name.as_str()) {
                return Err(ApiError::new(ErrorCode::UnknownField, format!("there is no parameter {name:?}"))
                    .field(name)
                    .allowed(allowed.iter().copied()));
            }
            if values.iter().any(|(seen, _)| *seen == name) {
                return Err(ApiError::new(ErrorCode::Malformed, format!("{name} is given twice")).field(name));
            }
            values.push((name, value));
        }
        Ok(Self { values })
    }

    /// A parameter as it is.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.parsed(name, "a whole number")
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        self.parsed(name, "a number")
    }

    /// `true`, `True`, `1` or their negatives.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        const ALLOWED: [&str; 6] = ["true", "True", "1", "false", "False", "0"];
        match self.text(name) {
            None => Ok(None),
            Some("true" | "True" | "1") => Ok(Some(true)),
            Some("false" | "False" | "0") => Ok(Some(false)),
            Some(other) => Err(ApiError::new(ErrorCode::Malformed, format!("{name} is {other:?}, no boolean"))
                .field(name)
                .allowed(ALLOWED)),
        }
    }

    fn parsed<Value: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<Value>, ApiError> {
        self.text(name).map_or(Ok(None), |text| {
            text.parse()
                .map(Some)
                .map_err(|_| ApiError::new(ErrorCode::Malformed, format!("{name} is {text:?}, not {what}")).field(name))
        })
    }
}

/// Decodes `application/x-www-form-urlencoded`. None where the bytes are not UTF-8: replacing them would search for
/// something the client did not ask.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        #[serde(default)]
        sizes: Vec<u8>,
    }

    impl Fields for Sample {
        const FIELDS: &'static [&'static str] = &["name", "sizes"];
    }

    fn parse(text: &str) -> Result<Sample, ApiError> {
        parse_json(&HeaderMap::new(), text.as_bytes())
    }

    #[test]
    fn an_error_names_the_field_down_to_the_position() {
        let error = parse(r#"{"name": "a", "sizes": [1, 2, "three"]}"#).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("sizes[2]"));
        assert_eq!(error.code, ErrorCode::Malformed);
    }

    #[test]
    fn an_unknown_field_is_named_with_those_that_exist() {
        let error = parse(r#"{"name": "a", "colour": 1}"#).unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::UnknownField, Some("colour")));
        assert_eq!(error.allowed, ["name", "sizes"]);
    }

    #[test]
    fn what_follows_the_object_is_refused() {
        assert_eq!(parse(r#"{"name": "a"} x"#).unwrap_err().code, ErrorCode::Malformed);
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let error = parse(r#"{"name": "a", "name": "b"}"#).unwrap_err();
        assert!(error.message.contains("duplicate field `name`"), "{error:?}");
    }

    #[test]
    fn query_strings_are_decoded_as_browsers_and_python_send_them() {
        let parameters = Parameters::parse(Some("q=a+b%20c%2B&k=3&&x="), &["q", "k", "x"]).unwrap();
        assert_eq!(parameters.text("q"), Some("a b c+"));
        assert_eq!(parameters.integer("k").unwrap(), Some(3));
        assert_eq!(parameters.text("x"), Some(""));
        assert_eq!(parameters.text("absent"), None);
    }

    #[test]
    fn bytes_that_are_no_utf8_are_refused_not_replaced() {
        let error = Parameters::parse(Some("q=%ff"), &["q"]).unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Malformed, Some("q")));
    }

    #[test]
    fn booleans_are_those_of_json_and_python() {
        for (text, expected) in
            [("true", true), ("True", true), ("1", true), ("false", false), ("False", false), ("0", false)]
        {
            let query = format!("b={text}");
            assert_eq!(Parameters::parse(Some(&query), &["b"]).unwrap().boolean("b").unwrap(), Some(expected));
        }
        for text in ["", "TRUE", "yes", "2"] {
            let query = format!("b={text}");
            let error = Parameters::parse(Some(&query), &["b"]).unwrap().boolean("b").unwrap_err();
            assert_eq!(error.allowed.len(), 6, "{text}");
        }
    }
}
