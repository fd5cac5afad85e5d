//! `POST /v2/rerank`, as Cohere's clients speak it. Source: Cohere's API reference, version 2.

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::document::DocumentText;
use super::{at_most, read, reading, score};
use crate::api::ApiState;
use crate::api::error::ApiError;
use crate::api::exchange::{Arrival, RequestId};
use crate::api::request::{Fields, parse_json};
use crate::api::search::instruction_choice;
use crate::search::{RankedDocument, RerankChoice, RerankRequest};

/// Documents that Cohere bills as one search.
const DOCUMENTS_OF_A_SEARCH_UNIT: usize = 100;
/// Tokens read of a document where the request does not say.
const DEFAULT_TOKENS_PER_DOCUMENT: i64 = 4_096;

/// A request of Cohere's second version.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct CohereBody {
    /// The served reranker or an alias. Default: the deployed one.
    model: Option<String>,
    query: String,
    #[schema(min_items = 1)]
    documents: Vec<DocumentText>,
    /// The best few. Default: all.
    #[schema(minimum = 1)]
    top_n: Option<i64>,
    /// Tokens read of each document, at most.
    #[schema(minimum = 1, default = 4096)]
    max_tokens_per_doc: Option<i64>,
    /// Ours: what 'relevant' means, in words.
    #[schema(max_length = 4096)]
    instruction: Option<String>,
    /// Ours: what 'relevant' means, as a template: general, technical, code or qa; excludes `instruction`.
    instruction_template: Option<String>,
}

impl Fields for CohereBody {
    const FIELDS: &'static [&'static str] =
        &["model", "query", "documents", "top_n", "max_tokens_per_doc", "instruction", "instruction_template"];
}

/// Documents, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct CohereAnswer {
    id: String,
    results: Vec<CohereResult>,
    meta: Meta,
}

#[derive(Debug, Serialize, ToSchema)]
struct CohereResult {
    index: usize,
    relevance_score: f32,
}

#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ApiVersion {
    version: &'static str,
}

/// Nothing is billed here; clients read the field.
#[derive(Debug, Serialize, ToSchema)]
struct BilledUnits {
    search_units: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct Tokens {
    input_tokens: usize,
    output_tokens: usize,
}

/// Score documents, as Cohere's second version has it.
#[utoipa::path(post, path = "/v2/rerank", tag = "rerank",
    request_body(content = CohereBody,
                 example = json!({"query": "which planet is red", "documents": ["Venus is hot.", "Mars looks red."], "top_n": 1})),
    responses((status = 200, description = "Documents, best first", body = CohereAnswer)))]
pub(in crate::api) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CohereAnswer>, ApiError> {
    let bytes = read(&state, &headers, body).await?;
    let body: CohereBody = parse_json(&headers, &bytes)?;
    let documents: Vec<String> = body.documents.into_iter().map(DocumentText::into_text).collect();
    let count = documents.len();
    let top_n = at_most("top_n", body.top_n, count)?;
    let request = RerankRequest {
        query: body.query,
        documents,
        reranker: RerankChoice { model: body.model, quantization: None },
        instruction: instruction_choice(body.instruction, body.instruction_template.as_deref())?,
        reading: reading(body.max_tokens_per_doc.or(Some(DEFAULT_TOKENS_PER_DOCUMENT)))?,
    };
    let response = score(&state, arrival, request).await?;
    let results = response.results.iter().take(top_n);
    Ok(Json(CohereAnswer {
        id: id.as_str().to_owned(),
        results: results.map(|ranked| CohereResult { index: ranked.index, relevance_score: ranked.score }).collect(),
        meta: Meta {
            api_version: ApiVersion { version: "2" },
            billed_units: BilledUnits { search_units: count.div_ceil(DOCUMENTS_OF_A_SEARCH_UNIT) },
            tokens: Tokens { input_tokens: response.tokens, output_tokens: 0 },
            warnings: warning(&response.results).into_iter().collect(),
        },
    }))
}

/// Which documents were not read to their end.
fn warning(results: &[RankedDocument]) -> Option<String> {
    let mut cut: Vec<usize> = results.iter().filter(|ranked| ranked.truncated).map(|ranked| ranked.index).collect();
    cut.sort_unstable();
    let names: Vec<String> = cut.iter().map(usize::to_string).collect();
    (!names.is_empty()).then(|| format!("only the beginning was read of documents {}", names.join(", ")))
}
