//! `POST /rerank` with `texts`, as clients of text-embeddings-inference speak it. Source: the API document of its router.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::score;
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorCode};
use crate::api::exchange::Arrival;
use crate::api::request::Fields;
use crate::api::search::instruction_choice;
use crate::prompt::Reading;
use crate::search::{RerankChoice, RerankRequest, RerankResponse};

/// A request of text-embeddings-inference.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct TeiBody {
    query: String,
    #[schema(min_items = 1)]
    texts: Vec<String>,
    /// Log-odds instead of scores.
    #[serde(default)]
    raw_scores: bool,
    /// Whether the texts come back.
    #[serde(default)]
    return_text: bool,
    /// Longer texts are cut unless this says no.
    truncate: Option<bool>,
    /// `Right`: a text's beginning is kept.
    truncation_direction: Option<String>,
    /// Ours: what 'relevant' means, in words.
    #[schema(max_length = 4096)]
    instruction: Option<String>,
    /// Ours: a served reranker.
    model: Option<String>,
    /// Ours: what 'relevant' means, as a template: general, technical, code or qa; excludes `instruction`.
    instruction_template: Option<String>,
}

impl Fields for TeiBody {
    const FIELDS: &'static [&'static str] = &[
        "query",
        "texts",
        "raw_scores",
        "return_text",
        "truncate",
        "truncation_direction",
        "instruction",
        "instruction_template",
        "model",
    ];
}

/// One text.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Rank<'a> {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

/// Whether a body is meant for this format: it has `texts` and no `documents`.
pub(super) fn is_meant(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Peek {
        texts: Option<IgnoredAny>,
        documents: Option<IgnoredAny>,
    }
    serde_json::from_slice(bytes).is_ok_and(|Peek { texts, documents }| texts.is_some() && documents.is_none())
}

/// Scores the texts; a bare array, best first.
pub(super) async fn answer(state: &ApiState, arrival: Arrival, body: TeiBody) -> Result<Response, ApiError> {
    // We keep a text's beginning, as the models were trained.
    if let Some(direction) = body.truncation_direction.filter(|direction| !direction.eq_ignore_ascii_case("right")) {
        return Err(ApiError::new(ErrorCode::OutOfRange, format!("truncation_direction is {direction:?}"))
            .field("truncation_direction")
            .allowed(["Right"]));
    }
    let request = RerankRequest {
        query: body.query,
        documents: body.texts.clone(),
        instruction: instruction_choice(body.instruction, body.instruction_template.as_deref())?,
        reranker: RerankChoice { model: body.model, quantization: None },
        reading: Reading { document_tokens: None, refuse_longer: body.truncate == Some(false) },
    };
    let response = score(state, arrival, request).await.map_err(|error| error.rename_field("documents", "texts"))?;
    let mut results: Vec<_> = response.results.iter().collect();
    if body.raw_scores {
        // Scores near one are equal where their log-odds are not.
        results.sort_by(|left, right| right.log_odds.total_cmp(&left.log_odds));
    }
    let ranks = results.into_iter().map(|ranked| Rank {
        index: ranked.index,
        score: if body.raw_scores { ranked.log_odds } else { ranked.score },
        text: body.texts.get(ranked.index).filter(|_| body.return_text).map(String::as_str),
    });
    Ok((times(&response), Json(ranks.collect::<Vec<_>>())).into_response())
}

/// Where the time went, in milliseconds, in the headers that its users know.
fn times(response: &RerankResponse) -> HeaderMap {
    let timings = &response.timings;
    let whole = [
        ("x-total-time", timings.total),
        ("x-tokenization-time", timings.tokenize),
        ("x-queue-time", timings.queue),
        ("x-inference-time", timings.score),
        ("x-compute-time", timings.total),
    ];
    let mut headers = HeaderMap::new();
    for (name, time) in whole {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        headers.insert(HeaderName::from_static(name), HeaderValue::from(milliseconds));
    }
    headers.insert(HeaderName::from_static("x-compute-tokens"), HeaderValue::from(response.tokens));
    headers
}
