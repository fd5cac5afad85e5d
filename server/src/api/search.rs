//! `GET|POST /search` and `POST /search/batch`: wire types, and handlers that extract, call and map.

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, http};
use http::{HeaderMap, HeaderName, HeaderValue};
use rerank_crds::catalog::{InstructionTemplate, Quantization};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::error::{ApiError, ErrorBody, ErrorCode, reason_name};
use super::exchange::{ActiveRequest, Arrival, RequestId};
use super::request::{Fields, Parameters, parse_json, read_body};
use crate::search::{
    BatchSearchRequest, FallbackReason, InstructionChoice, RerankChoice, SearchRequest, SearchResponse, validate,
};

/// Results where a request does not say.
const DEFAULT_K: i64 = 10;

/// Why the answer is in vector order.
pub(super) const FALLBACK: HeaderName = HeaderName::from_static("x-rerank-fallback");

/// Names of the query string of `GET /search`.
const PARAMETERS: [&str; 11] = [
    "q",
    "query",
    "k",
    "use_reranker",
    "rerank_model",
    "rerank_quantization",
    "collection",
    "instruction",
    "instruction_template",
    "filter",
    "score_threshold",
];

/// What searches have in common, as sent.
#[derive(Debug, Default)]
struct SearchOptions {
    k: Option<i64>,
    use_reranker: Option<bool>,
    rerank_model: Option<String>,
    rerank_quantization: Option<String>,
    collection: Option<String>,
    instruction: Option<String>,
    instruction_template: Option<String>,
    filter: Option<Value>,
    score_threshold: Option<f64>,
}

/// Body of `POST /search`; the same names make the query string of `GET /search`.
#[derive(Debug, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchBody {
    /// What to search for. Also accepted as `query`.
    #[schema(value_type = String, required = true, min_length = 1)]
    #[param(value_type = String, required = true, min_length = 1)]
    q: Option<String>,
    #[schema(ignore)]
    #[param(ignore)]
    query: Option<String>,
    /// Results; while reranking not above `candidates.maximum`.
    #[schema(minimum = 1, maximum = 1000, default = 10)]
    #[param(minimum = 1, maximum = 1000, default = 10)]
    k: Option<i64>,
    /// False: vector order. Default: `reranker.enabled`.
    use_reranker: Option<bool>,
    /// A served reranker or an alias. Default: the deployed one.
    rerank_model: Option<String>,
    /// How its weights are held: float32, float16, bfloat16 or int8, where the service allows it.
    rerank_quantization: Option<String>,
    /// A configured collection. Default: the first.
    collection: Option<String>,
    /// What 'relevant' means, in words.
    #[schema(max_length = 4096)]
    instruction: Option<String>,
    /// What 'relevant' means, as a template: general, technical, code or qa; excludes `instruction`.
    instruction_template: Option<String>,
    /// Filter in Qdrant's own JSON; in the query string as text.
    #[schema(value_type = Option<Object>)]
    #[param(value_type = Option<String>)]
    filter: Option<Value>,
    /// Results whose rerank score is less are left out; never applied to vector scores.
    #[schema(minimum = 0, maximum = 1)]
    #[param(minimum = 0, maximum = 1)]
    score_threshold: Option<f64>,
}

impl Fields for SearchBody {
    const FIELDS: &'static [&'static str] = &PARAMETERS;
}

/// Body of `POST /search/batch`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchBody {
    /// Queries, answered in order.
    #[schema(min_items = 1, max_items = 64)]
    queries: Vec<String>,
    /// Results; while reranking not above `candidates.maximum`.
    #[schema(minimum = 1, maximum = 1000, default = 10)]
    k: Option<i64>,
    /// False: vector order. Default: `reranker.enabled`.
    use_reranker: Option<bool>,
    /// A served reranker or an alias. Default: the deployed one.
    rerank_model: Option<String>,
    /// How its weights are held: float32, float16, bfloat16 or int8, where the service allows it.
    rerank_quantization: Option<String>,
    /// A configured collection. Default: the first.
    collection: Option<String>,
    /// What 'relevant' means, in words.
    #[schema(max_length = 4096)]
    instruction: Option<String>,
    /// What 'relevant' means, as a template: general, technical, code or qa; excludes `instruction`.
    instruction_template: Option<String>,
    /// Filter in Qdrant's own JSON.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// Results whose rerank score is less are left out; never applied to vector scores.
    #[schema(minimum = 0, maximum = 1)]
    score_threshold: Option<f64>,
}

impl Fields for BatchBody {
    const FIELDS: &'static [&'static str] = &[
        "queries",
        "k",
        "use_reranker",
        "rerank_model",
        "rerank_quantization",
        "collection",
        "instruction",
        "instruction_template",
        "filter",
        "score_threshold",
    ];
}

/// Answer of `POST /search/batch`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchAnswer<'a> {
    /// An answer or an error for each query, in order.
    responses: Vec<BatchItem<'a>>,
}

/// What one query of a batch came to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum BatchItem<'a> {
    Answer(&'a SearchResponse),
    Error(ErrorBody<'a>),
}

/// Search in two stages.
#[utoipa::path(get, path = "/search", tag = "search", params(SearchBody),
    responses((status = 200, description = "Results, best first", body = SearchResponse)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let request = request_of_query(query.as_deref())?;
    search(&state, request, arrival).await
}

/// Search in two stages.
#[utoipa::path(post, path = "/search", tag = "search",
    request_body(content = SearchBody, example = json!({"q": "must a pool be fenced", "k": 3})),
    responses((status = 200, description = "Results, best first", body = SearchResponse)))]
pub(super) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    Parameters::parse(query.as_deref(), &[])?;
    let bytes = read_body(&headers, body, &state.settings.bodies).await?;
    let SearchBody {
        q,
        query,
        k,
        use_reranker,
        rerank_model,
        rerank_quantization,
        collection,
        instruction,
        instruction_template,
        filter,
        score_threshold,
    } = parse_json(&headers, &bytes)?;
    let options = SearchOptions {
        k,
        use_reranker,
        rerank_model,
        rerank_quantization,
        collection,
        instruction,
        instruction_template,
        filter,
        score_threshold,
    };
    let request = SearchRequest { query: one_query(q, query)?, ..request_of(options)? };
    search(&state, request, arrival).await
}

/// Search for several queries at once.
#[utoipa::path(post, path = "/search/batch", tag = "search",
    request_body(content = BatchBody, example = json!({"queries": ["must a pool be fenced", "bread that does not rise"], "k": 2})),
    responses((status = 200, description = "One answer or error for each query", body = BatchAnswer)))]
pub(super) async fn batch(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = read_body(&headers, body, &state.settings.bodies).await?;
    let BatchBody {
        queries,
        k,
        use_reranker,
        rerank_model,
        rerank_quantization,
        collection,
        instruction,
        instruction_template,
        filter,
        score_threshold,
    } = parse_json(&headers, &bytes)?;
    validate::queries(queries.len())?;
    let options = SearchOptions {
        k,
        use_reranker,
        rerank_model,
        rerank_quantization,
        collection,
        instruction,
        instruction_template,
        filter,
        score_threshold,
    };
    let request = BatchSearchRequest { queries, template: request_of(options)? };
    let active = ActiveRequest::begin(arrival);
    let answers = state.service.search_batch(request, &active.context).await;
    active.answered();
    let answers: Vec<Result<SearchResponse, ApiError>> =
        answers?.into_iter().map(|answer| answer.map_err(ApiError::from)).collect();
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        if error.code.is_refusal() {
            state.metrics.count_refusal(error.code.as_str());
        }
        if let Some(cause) = &error.internal {
            tracing::error!(code = error.code.as_str(), cause, "Query of a batch failed");
        }
    }
    let responses = answers
        .iter()
        .map(|answer| match answer {
            Ok(answer) => BatchItem::Answer(answer),
            Err(error) => BatchItem::Error(error.body(id.as_str())),
        })
        .collect();
    let mut response = Json(BatchAnswer { responses }).into_response();
    let reason = answers.iter().flatten().find_map(|answer| answer.fallback.as_ref()).map(|fallback| fallback.reason);
    mark_fallback(&mut response, reason);
    Ok(response)
}

async fn search(state: &ApiState, request: SearchRequest, arrival: Arrival) -> Result<Response, ApiError> {
    let active = ActiveRequest::begin(arrival);
    let answer = state.service.search(request, &active.context).await;
    active.answered();
    let answer = answer?;
    let mut response = Json(&answer).into_response();
    mark_fallback(&mut response, answer.fallback.as_ref().map(|fallback| fallback.reason));
    Ok(response)
}

/// Says in the headers that the order is the vector order though the reranker was asked for.
fn mark_fallback(response: &mut Response, reason: Option<FallbackReason>) {
    let Some(reason) = reason.map(reason_name) else { return };
    let headers = response.headers_mut();
    headers.insert(FALLBACK, HeaderValue::from_static(reason));
    if let Ok(warning) = HeaderValue::from_str(&format!("199 rerank-server \"vector order: {reason}\"")) {
        headers.insert(http::header::WARNING, warning);
    }
}

fn request_of_query(query: Option<&str>) -> Result<SearchRequest, ApiError> {
    let parameters = Parameters::parse(query, &PARAMETERS)?;
    let text = |name| parameters.text(name).map(str::to_owned);
    let filter = parameters.text("filter").map(|text| {
        serde_json::from_str(text).map_err(|error| {
            ApiError::new(ErrorCode::Malformed, format!("filter is not valid JSON: {error}")).field("filter")
        })
    });
    let options = SearchOptions {
        k: parameters.integer("k")?,
        use_reranker: parameters.boolean("use_reranker")?,
        rerank_model: text("rerank_model"),
        rerank_quantization: text("rerank_quantization"),
        collection: text("collection"),
        instruction: text("instruction"),
        instruction_template: text("instruction_template"),
        filter: filter.transpose()?,
        score_threshold: parameters.number("score_threshold")?,
    };
    Ok(SearchRequest { query: one_query(text("q"), text("query"))?, ..request_of(options)? })
}

fn one_query(q: Option<String>, query: Option<String>) -> Result<String, ApiError> {
    match (q, query) {
        (Some(_), Some(_)) => {
            Err(ApiError::new(ErrorCode::Malformed, "q and query are the same field, give one of them").field("query"))
        }
        (Some(text), None) => validate::query("q", &text).map(|()| text).map_err(ApiError::from),
        (None, Some(text)) => validate::query("query", &text).map(|()| text).map_err(ApiError::from),
        (None, None) => Err(ApiError::new(ErrorCode::Malformed, "q is missing").field("q")),
    }
}

fn request_of(options: SearchOptions) -> Result<SearchRequest, ApiError> {
    let SearchOptions {
        k,
        use_reranker,
        rerank_model,
        rerank_quantization,
        collection,
        instruction,
        instruction_template,
        filter,
        score_threshold,
    } = options;
    let k = validate::results(k.unwrap_or(DEFAULT_K))?;
    if let Some(filter) = &filter
        && !filter.is_object()
    {
        return Err(ApiError::new(ErrorCode::InvalidFilter, "filter is not a JSON object such as {\"must\": [...]}")
            .field("filter"));
    }
    Ok(SearchRequest {
        query: String::new(),
        k,
        collection,
        use_reranker,
        reranker: RerankChoice {
            model: rerank_model,
            quantization: rerank_quantization.map(|wanted| quantization(&wanted, "rerank_quantization")).transpose()?,
        },
        instruction: instruction_choice(instruction, instruction_template.as_deref())?,
        filter,
        score_threshold: score_threshold.map(threshold).transpose()?,
    })
}

/// How weights are held, by its name.
pub(super) fn quantization(text: &str, field: &'static str) -> Result<Quantization, ApiError> {
    match text {
        "float32" => Ok(Quantization::Float32),
        "float16" => Ok(Quantization::Float16),
        "bfloat16" => Ok(Quantization::Bfloat16),
        "int8" => Ok(Quantization::Int8),
        other => Err(ApiError::new(ErrorCode::OutOfRange, format!("there is no quantization {other:?}"))
            .field(field)
            .allowed(["float32", "float16", "bfloat16", "int8"])),
    }
}

/// A template by name or a text of one's own, not both.
pub(super) fn instruction_choice(
    text: Option<String>,
    template: Option<&str>,
) -> Result<Option<InstructionChoice>, ApiError> {
    let template = match template {
        None => None,
        Some("general") => Some(InstructionTemplate::General),
        Some("technical") => Some(InstructionTemplate::Technical),
        Some("code") => Some(InstructionTemplate::Code),
        Some("qa") => Some(InstructionTemplate::Qa),
        Some(other) => {
            return Err(ApiError::new(ErrorCode::OutOfRange, format!("there is no instruction template {other:?}"))
                .field("instruction_template")
                .allowed(["general", "technical", "code", "qa"]));
        }
    };
    match (text, template) {
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorCode::OutOfRange,
            "instruction and instruction_template exclude each other, give one of them",
        )
        .field("instruction")
        .allowed(["instruction", "instruction_template"])),
        (Some(text), None) => {
            validate::instruction_text(&text)?;
            Ok(Some(InstructionChoice::Text(text)))
        }
        (None, template) => Ok(template.map(InstructionChoice::Template)),
    }
}

fn threshold(value: f64) -> Result<f32, ApiError> {
    validate::score_threshold(value)?;
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and 1 only digits beyond float32 are lost")]
    Ok(value as f32)
}
