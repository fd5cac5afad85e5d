//! Documents that come with the request, scored: one core, and for each family of clients a file of wire types.
//!
//! Here is the shape that Jina's, Cohere's (first version) and vLLM's clients speak, on `POST /v1/rerank` and `POST /rerank`.
//! Fields of theirs that have no meaning here are ignored, as their servers do.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::HeaderMap;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::dialect::Dialect;
use super::error::{ApiError, ErrorCode};
use super::exchange::{ActiveRequest, Arrival, RequestId};
use super::request::{Fields, WholeBody, parse_json, read_body};
use super::search::instruction_choice;
use crate::prompt::Reading;
use crate::search::{RerankChoice, RerankRequest, RerankResponse, validate};
use document::DocumentText;

pub(super) mod cohere;
pub(super) mod document;
mod tei;

/// A request of Jina's, vLLM's, or Cohere's first version.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RerankBody {
    query: String,
    #[schema(min_items = 1)]
    documents: Vec<DocumentText>,
    #[serde(default)]
    #[schema(ignore)]
    texts: Option<IgnoredAny>,
    /// The served reranker or an alias. Default: the deployed one.
    model: Option<String>,
    /// The best few. Default: all.
    #[schema(minimum = 1)]
    top_n: Option<i64>,
    /// Whether the texts come back. Default: true.
    return_documents: Option<bool>,
    /// Tokens read of each document, at most.
    #[schema(minimum = 1)]
    max_tokens_per_doc: Option<i64>,
    /// What 'relevant' means, in words.
    #[schema(max_length = 4096)]
    instruction: Option<String>,
    /// What 'relevant' means, as a template: general, technical, code or qa; excludes `instruction`.
    instruction_template: Option<String>,
}

impl Fields for RerankBody {
    const FIELDS: &'static [&'static str] = &[
        "query",
        "documents",
        "model",
        "top_n",
        "return_documents",
        "max_tokens_per_doc",
        "instruction",
        "instruction_template",
    ];
}

/// Documents, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RerankAnswer<'a> {
    id: &'a str,
    model: &'a str,
    usage: Usage,
    results: Vec<RankedAnswer<'a>>,
}

/// Tokens read, as `OpenAI` names them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(super) fn of(tokens: usize) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens }
    }
}

/// One document.
#[derive(Debug, Serialize, ToSchema)]
struct RankedAnswer<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentAnswer<'a>>,
    relevance_score: f32,
    /// Ours: whether only the document's beginning was read. Left out where it was read whole.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    truncated: bool,
}

/// Its text.
#[derive(Debug, Serialize, ToSchema)]
struct DocumentAnswer<'a> {
    text: &'a str,
}

/// Score documents, as Jina's, vLLM's and Cohere's first clients ask for it.
#[utoipa::path(post, path = "/v1/rerank", tag = "rerank",
    request_body(content = RerankBody,
                 example = json!({"query": "which planet is red", "documents": ["Venus is hot.", "Mars looks red."], "top_n": 1})),
    responses((status = 200, description = "Documents, best first", body = RerankAnswer)))]
pub(super) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = read(&state, &headers, body).await?;
    answer(&state, arrival, &id, parse_json(&headers, &bytes)?).await
}

/// Score documents: with `documents` as on `/v1/rerank`, with `texts` as clients of text-embeddings-inference ask for it.
#[utoipa::path(post, path = "/rerank", tag = "rerank",
    request_body(content = EitherBody, example = json!({"query": "which planet is red", "texts": ["Venus is hot.", "Mars looks red."]})),
    responses((status = 200, description = "Documents, best first", body = EitherAnswer)))]
pub(super) async fn post_either(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = read(&state, &headers, body).await?;
    if tei::is_meant(&bytes) {
        let answer = async { tei::answer(&state, arrival, parse_json(&headers, &bytes)?).await };
        return answer.await.map_err(|error: ApiError| error.in_dialect(Dialect::TextEmbeddingsInference));
    }
    answer(&state, arrival, &id, parse_json(&headers, &bytes)?).await
}

/// A body of `POST /rerank`, for its description.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the handler looks for `texts` itself")]
pub(super) enum EitherBody {
    Documents(RerankBody),
    Texts(tei::TeiBody),
}

/// An answer of `POST /rerank`, for its description.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the handler answers one or the other")]
pub(super) enum EitherAnswer<'a> {
    Documents(RerankAnswer<'a>),
    Texts(Vec<tei::Rank<'a>>),
}

/// The body, within the service's bounds.
pub(super) async fn read(state: &ApiState, headers: &HeaderMap, body: Body) -> Result<WholeBody, ApiError> {
    read_body(headers, body, &state.settings.bodies).await
}

/// What every family asks for: scores of documents, best first.
pub(super) async fn score(
    state: &ApiState,
    arrival: Arrival,
    request: RerankRequest,
) -> Result<RerankResponse, ApiError> {
    validate::query("query", &request.query)?;
    validate::documents("documents", request.documents.len(), state.settings.documents)?;
    let active = ActiveRequest::begin(arrival);
    let response = state.service.rerank(request, &active.context).await;
    active.answered();
    Ok(response?)
}

async fn answer(state: &ApiState, arrival: Arrival, id: &RequestId, body: RerankBody) -> Result<Response, ApiError> {
    if body.texts.is_some() {
        return Err(ApiError::new(ErrorCode::OutOfRange, "texts and documents exclude each other, give one of them")
            .field("texts")
            .allowed(["documents"]));
    }
    let documents: Vec<String> = body.documents.into_iter().map(DocumentText::into_text).collect();
    let top_n = at_most("top_n", body.top_n, documents.len())?;
    let request = RerankRequest {
        query: body.query,
        documents: documents.clone(),
        reranker: RerankChoice { model: body.model, quantization: None },
        instruction: instruction_choice(body.instruction, body.instruction_template.as_deref())?,
        reading: reading(body.max_tokens_per_doc)?,
    };
    let response = score(state, arrival, request).await?;
    let shown = body.return_documents.unwrap_or(true).then_some(documents.as_slice());
    let results = response.results.iter().take(top_n).map(|ranked| RankedAnswer {
        index: ranked.index,
        document: shown.and_then(|documents| documents.get(ranked.index)).map(|text| DocumentAnswer { text }),
        relevance_score: ranked.score,
        truncated: ranked.truncated,
    });
    let answer = RerankAnswer {
        id: id.as_str(),
        model: &response.reranker.model,
        usage: Usage::of(response.tokens),
        results: results.collect(),
    };
    Ok(Json(answer).into_response())
}

/// A wish for the best few of `count`; none: all.
fn at_most(field: &'static str, wanted: Option<i64>, count: usize) -> Result<usize, ApiError> {
    Ok(positive(field, wanted)?.map_or(count, |wanted| wanted.min(count)))
}

/// A wish for shorter documents.
fn reading(max_tokens_per_doc: Option<i64>) -> Result<Reading, ApiError> {
    Ok(Reading { document_tokens: positive("max_tokens_per_doc", max_tokens_per_doc)?, refuse_longer: false })
}

fn positive(field: &'static str, value: Option<i64>) -> Result<Option<usize>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    match usize::try_from(value) {
        Ok(value) if value > 0 => Ok(Some(value)),
        _ => Err(ApiError::new(ErrorCode::OutOfRange, format!("{field} is {value}"))
            .field(field)
            .allowed(["at least 1"])),
    }
}
