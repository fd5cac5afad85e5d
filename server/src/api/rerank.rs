//! `POST /v1/rerank` and `POST /rerank`: documents that come with the request, in the shape that Jina's, Cohere's (v1)
//! and vLLM's clients speak. Fields of theirs that have no meaning here are ignored, as their servers do.

use std::fmt;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::ApiState;
use super::error::{ApiError, ErrorCode};
use super::exchange::{ActiveRequest, Arrival, RequestId};
use super::request::{Fields, parse_json, read_body};
use super::search::instruction_choice;
use crate::search::{RerankChoice, RerankRequest, RerankResponse, validate};

#[derive(Debug, Deserialize)]
struct RerankBody {
    query: String,
    documents: Vec<DocumentText>,
    #[serde(default)]
    texts: Option<serde::de::IgnoredAny>,
    model: Option<String>,
    top_n: Option<i64>,
    return_documents: Option<bool>,
    instruction: Option<String>,
    instruction_template: Option<String>,
}

impl Fields for RerankBody {
    const FIELDS: &'static [&'static str] =
        &["query", "documents", "model", "top_n", "return_documents", "instruction", "instruction_template"];
}

/// A document: a text, or an object with the text under `text`.
#[derive(Debug)]
struct DocumentText(String);

impl<'de> Deserialize<'de> for DocumentText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Document;

        impl<'de> Visitor<'de> for Document {
            type Value = DocumentText;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or an object with the string `text`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DocumentText, E> {
                Ok(DocumentText(text.to_owned()))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<DocumentText, E> {
                Ok(DocumentText(text))
            }

            fn visit_map<Access: MapAccess<'de>>(self, mut map: Access) -> Result<DocumentText, Access::Error> {
                let mut text = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == "text" {
                        if text.is_some() {
                            return Err(Access::Error::duplicate_field("text"));
                        }
                        text = Some(map.next_value::<String>()?);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                text.map(DocumentText).ok_or_else(|| Access::Error::missing_field("text"))
            }
        }

        deserializer.deserialize_any(Document)
    }
}

#[derive(Debug, Serialize)]
struct RerankAnswer<'a> {
    id: &'a str,
    model: &'a str,
    usage: Usage,
    results: Vec<RankedAnswer<'a>>,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Debug, Serialize)]
struct RankedAnswer<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentAnswer<'a>>,
    relevance_score: f32,
    /// Ours: whether only the document's beginning was read. Left out where it was read whole.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct DocumentAnswer<'a> {
    text: &'a str,
}

/// `POST /v1/rerank` and `POST /rerank`.
pub(super) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = read_body(&headers, body, state.settings.body_bytes, state.settings.body_read_timeout).await?;
    let RerankBody { query, documents, texts, model, top_n, return_documents, instruction, instruction_template } =
        parse_json(&headers, &bytes)?;
    if texts.is_some() {
        return Err(ApiError::new(ErrorCode::OutOfRange, "texts and documents exclude each other, give one of them")
            .field("texts")
            .allowed(["documents"]));
    }
    validate::query("query", &query)?;
    validate::documents(documents.len(), state.settings.documents)?;
    let top_n = top_n.map(|top_n| count(top_n, documents.len())).transpose()?;
    let documents: Vec<String> = documents.into_iter().map(|DocumentText(text)| text).collect();
    let request = RerankRequest {
        query,
        documents: documents.clone(),
        reranker: RerankChoice { model, quantization: None },
        instruction: instruction_choice(instruction, instruction_template.as_deref())?,
    };
    let active = ActiveRequest::begin(arrival);
    let response = state.service.rerank(request, &active.context).await;
    active.answered();
    let response = response?;
    let shown = return_documents.unwrap_or(true).then_some(documents.as_slice());
    Ok(Json(answer_of(&response, id.as_str(), shown, top_n.unwrap_or(documents.len()))).into_response())
}

fn answer_of<'a>(
    response: &'a RerankResponse,
    id: &'a str,
    documents: Option<&'a [String]>,
    top_n: usize,
) -> RerankAnswer<'a> {
    let results = response.results.iter().take(top_n).map(|ranked| RankedAnswer {
        index: ranked.index,
        document: documents
            .and_then(|documents| documents.get(ranked.index))
            .map(|text| DocumentAnswer { text: text.as_str() }),
        relevance_score: ranked.score,
        truncated: ranked.truncated,
    });
    RerankAnswer {
        id,
        model: &response.reranker.model,
        usage: Usage { prompt_tokens: response.tokens, total_tokens: response.tokens },
        results: results.collect(),
    }
}

fn count(top_n: i64, documents: usize) -> Result<usize, ApiError> {
    match usize::try_from(top_n) {
        Ok(top_n) if top_n > 0 => Ok(top_n.min(documents)),
        _ => Err(ApiError::new(ErrorCode::OutOfRange, format!("top_n is {top_n}"))
            .field("top_n")
            .allowed(["at least 1"])),
    }
}
