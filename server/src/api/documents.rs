//! `POST /documents`: embeds documents and stores them. The route exists only where `vectorStore.writable` says so.

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorCode};
use super::exchange::{ActiveRequest, Arrival};
use super::request::{Fields, parse_json, read_body};
use super::service::{IndexRequest, NewDocument};
use crate::search::validate;
use crate::store::DocumentId;

/// Body of `POST /documents`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentsBody {
    /// A configured collection. Default: the first.
    collection: Option<String>,
    /// Each has `id` (a whole number or a text), `text`, and any payload.
    #[schema(value_type = Vec<NewDocumentBody>, min_items = 1)]
    documents: Vec<Map<String, Value>>,
}

impl Fields for DocumentsBody {
    const FIELDS: &'static [&'static str] = &["collection", "documents"];
}

/// A document to be stored; further fields are its payload.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `document` reads from an object of any fields")]
struct NewDocumentBody {
    id: DocumentId,
    text: String,
    #[serde(flatten)]
    payload: std::collections::BTreeMap<String, Value>,
}

/// What was stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DocumentsAnswer {
    /// Where.
    collection: String,
    /// How many documents.
    indexed: usize,
}

/// Embed documents and store them; durable when answered. Exists where `vectorStore.writable` is set.
#[utoipa::path(post, path = "/documents", tag = "search",
    request_body(content = DocumentsBody,
                 example = json!({"documents": [{"id": "mine-1", "text": "A document of my own.", "page": 3}]})),
    responses((status = 200, description = "Stored", body = DocumentsAnswer)))]
pub(super) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = read_body(&headers, body, &state.settings.bodies).await?;
    let DocumentsBody { collection, documents } = parse_json(&headers, &bytes)?;
    validate::documents("documents", documents.len(), state.settings.documents)?;
    let documents = documents.into_iter().enumerate().map(|(index, fields)| document(index, fields));
    let documents: Vec<NewDocument> = documents.collect::<Result<_, _>>()?;
    check_ids(&documents)?;
    let request = IndexRequest { collection, documents };
    let active = ActiveRequest::begin(arrival);
    let response = state.service.index(request, &active.context).await;
    active.answered();
    let response = response?;
    Ok(Json(DocumentsAnswer { collection: response.collection, indexed: response.indexed }).into_response())
}

/// Of two documents with one id only the second would stay.
fn check_ids(documents: &[NewDocument]) -> Result<(), ApiError> {
    let mut seen = HashSet::new();
    match documents.iter().position(|document| !seen.insert(&document.id)) {
        None => Ok(()),
        Some(index) => Err(ApiError::new(ErrorCode::OutOfRange, "the id is given twice in one request")
            .field(format!("documents[{index}].id"))
            .allowed(["an id of its own for each document"])),
    }
}

/// One document: `id`, `text`, and whatever else is payload.
fn document(index: usize, mut fields: Map<String, Value>) -> Result<NewDocument, ApiError> {
    let at = |name: &str| format!("documents[{index}].{name}");
    let malformed = |name: &str, message: &str| ApiError::new(ErrorCode::Malformed, message).field(at(name));
    let id =
        match fields.remove("id") {
            Some(Value::Number(number)) => DocumentId::Number(number.as_u64().ok_or_else(|| {
                malformed("id", "a number as id must be a whole one, from 0 to 18446744073709551615")
            })?),
            Some(Value::String(text)) if !text.is_empty() => DocumentId::Text(text),
            Some(_) => return Err(malformed("id", "the id is neither a whole number nor a text that is not empty")),
            None => return Err(malformed("id", "the id is missing")),
        };
    let text = match fields.remove("text") {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        Some(Value::String(_)) => {
            return Err(ApiError::new(ErrorCode::OutOfRange, "the text is empty")
                .field(at("text"))
                .allowed(["a text to find"]));
        }
        Some(_) => return Err(malformed("text", "the text is not a string")),
        None => return Err(malformed("text", "the text is missing")),
    };
    Ok(NewDocument { id, text, payload: fields })
}
