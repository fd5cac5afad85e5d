//! Whose client is answered: each vendor's status codes and error body. Pure.
//!
//! The codes are those of `error`; a dialect changes how they are told. Vendors' bodies have no place for what is allowed,
//! so it is part of the sentence.

use http::StatusCode;
use serde_json::{Value, json};

use super::error::{ApiError, ErrorCode};

/// A family of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Our own, also spoken on the routes of Jina and of Cohere's first version: their clients read status codes only.
    #[default]
    Own,
    /// Cohere's second version.
    Cohere,
    /// `OpenAI` and vLLM.
    OpenAi,
    /// text-embeddings-inference.
    TextEmbeddingsInference,
}

impl Dialect {
    /// Spoken on a route. `/rerank` speaks text-embeddings-inference too, as the body decides.
    pub(super) fn of_route(route: &str) -> Self {
        match route {
            "/v2/rerank" => Self::Cohere,
            "/v1/score" | "/score" | "/v1/embeddings" => Self::OpenAi,
            _ => Self::Own,
        }
    }

    /// The status that its clients know for an error.
    pub(super) fn status(self, error: &ApiError) -> StatusCode {
        let own = error.code.status();
        match (self, error.code) {
            // Cohere's list has no 413, and 429 where ours says 503 for too much work.
            (Self::Cohere, ErrorCode::TooLarge) | (Self::OpenAi, ErrorCode::OutOfRange) => StatusCode::BAD_REQUEST,
            (Self::Cohere | Self::TextEmbeddingsInference, ErrorCode::Overloaded) => StatusCode::TOO_MANY_REQUESTS,
            (Self::TextEmbeddingsInference, ErrorCode::OutOfRange) if error.field.as_deref() == Some("texts") => {
                StatusCode::BAD_REQUEST
            }
            (Self::TextEmbeddingsInference, ErrorCode::Malformed | ErrorCode::UnknownField) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            (Self::TextEmbeddingsInference, ErrorCode::Internal | ErrorCode::DeadlineExceeded) => {
                StatusCode::FAILED_DEPENDENCY
            }
            _ => own,
        }
    }

    /// The body of an error.
    pub(super) fn body(self, error: &ApiError, request_id: &str) -> Value {
        match self {
            Self::Own => json!(error.body(request_id)),
            Self::Cohere => json!({"id": request_id, "message": sentence(error)}),
            Self::OpenAi => json!({"error": {
                "message": sentence(error),
                "type": match self.status(error).as_u16() {
                    401 => "authentication_error",
                    429 => "rate_limit_error",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                },
                "param": error.field,
                "code": error.code,
            }}),
            Self::TextEmbeddingsInference => {
                json!({"error": sentence(error), "error_type": match self.status(error).as_u16() {
                    400 => "Empty",
                    424 => "Backend",
                    429 => "Overloaded",
                    500.. => "Unhealthy",
                    _ => "Validation",
                }})
            }
        }
    }
}

fn sentence(error: &ApiError) -> String {
    if error.allowed.is_empty() {
        return error.message.clone();
    }
    format!("{} (allowed: {})", error.message, error.allowed.join(", "))
}
