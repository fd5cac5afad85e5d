//! `POST /v1/embeddings`, as `OpenAI`'s clients speak it. Source: `OpenAI`'s API reference.

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorCode};
use super::exchange::{ActiveRequest, Arrival};
use super::request::{Fields, parse_json};
use super::rerank::{self, Usage};
use crate::search::{EmbedInput, EmbedRequest, SearchError, TextKind, validate};

/// A request for vectors, as `OpenAI` has it.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingsBody {
    /// The served embedding model or an alias. Default: that one.
    model: Option<String>,
    input: Input,
    #[serde(default)]
    #[schema(inline)]
    encoding_format: EncodingFormat,
    /// Components of a vector, up to the model's own. Default: all.
    #[schema(minimum = 1)]
    dimensions: Option<i64>,
    /// Ours: with the model's query instruction, or without.
    #[serde(default)]
    #[schema(inline)]
    input_type: InputType,
}

impl Fields for EmbeddingsBody {
    const FIELDS: &'static [&'static str] = &["model", "input", "encoding_format", "dimensions", "input_type"];
}

/// What to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string, a list of strings, a list of token ids, or a list of lists of token ids")]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

impl Input {
    fn into_list(self) -> Vec<EmbedInput> {
        match self {
            Self::Text(text) => vec![EmbedInput::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(EmbedInput::Text).collect(),
            Self::Tokens(tokens) => vec![EmbedInput::Tokens(tokens)],
            Self::ManyTokens(many) => many.into_iter().map(EmbedInput::Tokens).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum InputType {
    Query,
    #[default]
    Document,
}

/// Vectors in order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingsAnswer {
    object: &'static str,
    data: Vec<EmbeddingEntry>,
    model: String,
    usage: Usage,
}

/// One vector.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingEntry {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// As asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    /// float32 in little-endian order.
    Base64(String),
}

impl Vector {
    fn of(vector: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Numbers(vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Embed texts, as `OpenAI`'s clients ask for it.
#[utoipa::path(post, path = "/v1/embeddings", tag = "embeddings",
    request_body(content = EmbeddingsBody, example = json!({"input": ["Mars looks red.", "Venus is hot."]})),
    responses((status = 200, description = "Vectors of length one, in order", body = EmbeddingsAnswer)))]
pub(super) async fn post(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<EmbeddingsAnswer>, ApiError> {
    let bytes = rerank::read(&state, &headers, body).await?;
    let EmbeddingsBody { model, input, encoding_format, dimensions, input_type } = parse_json(&headers, &bytes)?;
    let inputs = input.into_list();
    validate::documents("input", inputs.len(), state.settings.documents)?;
    let dimensions = dimensions.map(|wanted| {
        usize::try_from(wanted).ok().filter(|wanted| *wanted > 0).ok_or_else(|| {
            ApiError::new(ErrorCode::OutOfRange, format!("dimensions is {wanted}"))
                .field("dimensions")
                .allowed(["1 to the model's own"])
        })
    });
    let kind = match input_type {
        InputType::Query => TextKind::Query,
        InputType::Document => TextKind::Document,
    };
    let request = EmbedRequest { inputs, kind, model, dimensions: dimensions.transpose()? };
    let active = ActiveRequest::begin(arrival);
    let response = state.service.embed(request, &active.context).await;
    active.answered();
    let response = response.map_err(|error| match error {
        // Nothing is cut here: the vector of a beginning would pass for that of the whole.
        SearchError::TooLarge { field: "documents", message, .. } => {
            ApiError::new(ErrorCode::TooLarge, message).field("input").allowed(["shorter texts"])
        }
        other => ApiError::from(other).rename_field("query", "input"),
    })?;
    let entries = response.vectors.into_iter().enumerate().map(|(index, vector)| EmbeddingEntry {
        object: "embedding",
        index,
        embedding: Vector::of(vector, encoding_format),
    });
    Ok(Json(EmbeddingsAnswer {
        object: "list",
        data: entries.collect(),
        model: response.model,
        usage: Usage::of(response.tokens),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_holds_the_numbers_in_little_endian_order() {
        let Vector::Base64(text) = Vector::of(vec![1.0, -2.5], EncodingFormat::Base64) else {
            panic!("asked for base64")
        };
        let bytes = STANDARD.decode(text).unwrap();
        assert_eq!(bytes, [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat());
    }
}
