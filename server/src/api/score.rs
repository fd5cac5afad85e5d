//! `POST /v1/score` and `POST /score`, as vLLM's clients speak it: scores in the order given. Source: vLLM's
//! documentation of its score API.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorCode};
use super::exchange::{Arrival, RequestId};
use super::request::{Fields, parse_json};
use super::rerank::{self, Usage};
use super::search::instruction_choice;
use crate::search::{RerankChoice, RerankRequest, validate};

/// A request of vLLM's score API.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ScoreBody {
    /// The served reranker or an alias. Default: the deployed one.
    model: Option<String>,
    /// One query for all, or one for each document. Also accepted as `queries`.
    #[serde(alias = "queries")]
    text_1: OneOrMany,
    /// Documents. Also accepted as `documents`.
    #[serde(alias = "documents")]
    text_2: OneOrMany,
    /// Ours: what 'relevant' means, in words.
    #[schema(max_length = 4096)]
    instruction: Option<String>,
    /// Ours: what 'relevant' means, as a template: general, technical, code or qa; excludes `instruction`.
    instruction_template: Option<String>,
}

impl Fields for ScoreBody {
    const FIELDS: &'static [&'static str] = &["model", "text_1", "text_2", "instruction", "instruction_template"];
}

/// A text or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// Scores in the order given.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScoreAnswer {
    id: String,
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    data: Vec<ScoreEntry>,
    usage: Usage,
}

/// One document's score.
#[derive(Debug, Serialize, ToSchema)]
struct ScoreEntry {
    index: usize,
    object: &'static str,
    score: f32,
}

/// Score documents in the order given, as vLLM's clients ask for it.
#[utoipa::path(post, path = "/v1/score", tag = "rerank",
    request_body(content = ScoreBody,
                 example = json!({"text_1": "which planet is red", "text_2": ["Venus is hot.", "Mars looks red."]})),
    responses((status = 200, description = "Scores in the order given", body = ScoreAnswer)))]
pub(super) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ScoreAnswer>, ApiError> {
    let bytes = rerank::read(&state, &headers, body).await?;
    let ScoreBody { model, text_1, text_2, instruction, instruction_template } = parse_json(&headers, &bytes)?;
    let (queries, documents) = (text_1.into_list(), text_2.into_list());
    validate::documents("text_2", documents.len(), state.settings.documents)?;
    let instruction = instruction_choice(instruction, instruction_template.as_deref())?;
    let reranker = RerankChoice { model, quantization: None };

    let mut scores: Vec<f32> = vec![0.0; documents.len()];
    let (mut served, mut tokens) = (String::new(), 0);
    for (query, positions) in by_query(queries, documents.len())? {
        let documents = positions.iter().filter_map(|at| documents.get(*at).cloned()).collect();
        let request = RerankRequest {
            query,
            documents,
            reranker: reranker.clone(),
            instruction: instruction.clone(),
            ..RerankRequest::default()
        };
        let response = rerank::score(&state, arrival.clone(), request).await;
        let response =
            response.map_err(|error| error.rename_field("query", "text_1").rename_field("documents", "text_2"))?;
        for ranked in response.results {
            if let Some(score) = positions.get(ranked.index).and_then(|at| scores.get_mut(*at)) {
                *score = ranked.score;
            }
        }
        tokens += response.tokens;
        served = response.reranker.model;
    }

    let data = scores.into_iter().enumerate().map(|(index, score)| ScoreEntry { index, object: "score", score });
    Ok(Json(ScoreAnswer {
        id: format!("score-{}", id.as_str()),
        object: "list",
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        model: served,
        data: data.collect(),
        usage: Usage::of(tokens),
    }))
}

/// Each query once, with the positions of its documents: what is said of a query is read once for all of them.
fn by_query(queries: Vec<String>, documents: usize) -> Result<Vec<(String, Vec<usize>)>, ApiError> {
    if queries.len() != 1 && queries.len() != documents {
        return Err(ApiError::new(
            ErrorCode::OutOfRange,
            format!("text_1 has {} entries and text_2 {documents}", queries.len()),
        )
        .field("text_1")
        .allowed(["one text", "as many texts as text_2"]));
    }
    for (at, query) in queries.iter().enumerate() {
        validate::query("text_1", query).map_err(|error| {
            let error = ApiError::from(error);
            if queries.len() == 1 { error } else { error.field(format!("text_1[{at}]")) }
        })?;
    }
    let mut queries = queries;
    if queries.len() == 1 {
        return Ok(queries.drain(..).map(|query| (query, (0..documents).collect())).collect());
    }
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for (at, query) in queries.into_iter().enumerate() {
        if let Some((_, positions)) = numbers.get(&query).and_then(|number| groups.get_mut(*number)) {
            positions.push(at);
        } else {
            numbers.insert(query.clone(), groups.len());
            groups.push((query, vec![at]));
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(queries: &[&str], documents: usize) -> Option<Vec<(String, Vec<usize>)>> {
        by_query(queries.iter().map(|query| (*query).to_owned()).collect(), documents).ok()
    }

    #[test]
    fn one_query_is_for_all_documents_and_equal_queries_are_read_once() {
        let named = |groups: &[(&str, &[usize])]| {
            Some(groups.iter().map(|(query, at)| ((*query).to_owned(), at.to_vec())).collect::<Vec<_>>())
        };
        assert_eq!(groups(&["a"], 3), named(&[("a", &[0, 1, 2])]));
        assert_eq!(groups(&["a", "b", "a"], 3), named(&[("a", &[0, 2]), ("b", &[1])]));
        assert_eq!(groups(&["a", "b"], 3), None);
        assert_eq!(groups(&[], 3), None);
    }
}
