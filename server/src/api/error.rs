//! Errors as clients see them: a closed list of codes and the only table that knows HTTP status codes. Pure.
//!
//! An error becomes a response in two steps: a handler returns an [`ApiError`], which travels as an extension of an
//! empty response, and the outermost layer ([`super::exchange`]) writes the body, because only it knows the request's
//! id. The text of a 5xx says what to do and names at most what the configuration names; what happened stands in the log.

use std::fmt::Write as _;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::dialect::Dialect;
use crate::chain;
use crate::search::{FallbackReason, SearchError};
use crate::store::StoreError;

/// Longest text of the client's own that an error repeats, in characters.
const LONGEST_QUOTE: usize = 300;

/// Everything that can be wrong, as the value of `error.code`. The list is part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The body or query string cannot be read: not JSON, a wrong type, a field missing or given twice.
    Malformed,
    /// A field or parameter that does not exist.
    UnknownField,
    /// The filter is not one of Qdrant's.
    InvalidFilter,
    /// The API key is missing or unknown.
    Unauthorized,
    /// The caller may not do this.
    Forbidden,
    /// The model or quantization is not served.
    UnknownModel,
    /// The collection is not served.
    UnknownCollection,
    /// The service has no vector store.
    SearchNotConfigured,
    /// No such route.
    NotFound,
    /// The route does not know the method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The model cannot be unloaded while it is used.
    ModelInUse,
    /// The body or a list is too large.
    TooLarge,
    /// The content type is not JSON.
    UnsupportedMediaType,
    /// A value is out of its range.
    OutOfRange,
    /// The client has its share of the queue.
    TooManyRequests,
    /// Too many headers.
    HeadersTooLarge,
    /// The client left before it was answered; seen in metrics and in the log.
    ClientClosedRequest,
    /// A fault of the server.
    Internal,
    /// The vector store answered with a failure.
    StoreFailed,
    /// The vector store cannot be used: down, wrong key, collection missing or made for something else.
    StoreUnavailable,
    /// The vector store did not answer in time.
    StoreTimeout,
    /// The embedding model cannot run.
    EmbedderUnavailable,
    /// The reranker cannot run, on a route that has no vector order.
    RerankerUnavailable,
    /// Too much work is waiting.
    Overloaded,
    /// The device is lost and the process ends.
    EngineLost,
    /// The request's deadline passed.
    DeadlineExceeded,
}

impl ErrorCode {
    /// All codes, in the order of the documentation.
    pub const ALL: [Self; 27] = [
        Self::Malformed,
        Self::UnknownField,
        Self::InvalidFilter,
        Self::Unauthorized,
        Self::Forbidden,
        Self::UnknownModel,
        Self::UnknownCollection,
        Self::SearchNotConfigured,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::ModelInUse,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::OutOfRange,
        Self::TooManyRequests,
        Self::HeadersTooLarge,
        Self::ClientClosedRequest,
        Self::Internal,
        Self::StoreFailed,
        Self::StoreUnavailable,
        Self::StoreTimeout,
        Self::EmbedderUnavailable,
        Self::RerankerUnavailable,
        Self::Overloaded,
        Self::EngineLost,
        Self::DeadlineExceeded,
    ];

    /// The code as written, its status, and what it means: the one table.
    fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::Malformed => (
                "malformed",
                400,
                "the body or query string cannot be read: not JSON, a wrong type, a field missing or given twice",
            ),
            Self::UnknownField => {
                ("unknown_field", 400, "a field or parameter that does not exist; `allowed` lists those that do")
            }
            Self::InvalidFilter => ("invalid_filter", 400, "the filter is not one of Qdrant's"),
            Self::Unauthorized => ("unauthorized", 401, "the API key is missing or unknown"),
            Self::Forbidden => ("forbidden", 403, "the caller may not do this; `allowed` tells what would let them"),
            Self::UnknownModel => {
                ("unknown_model", 404, "the model or quantization is not served; `allowed` lists what is")
            }
            Self::UnknownCollection => {
                ("unknown_collection", 404, "the collection is not served; `allowed` lists those that are")
            }
            Self::SearchNotConfigured => {
                ("search_not_configured", 404, "the service has no vector store, it only reranks")
            }
            Self::NotFound => ("not_found", 404, "no such route; `allowed` lists those that exist"),
            Self::MethodNotAllowed => {
                ("method_not_allowed", 405, "the route does not know the method; `allowed` lists those it does")
            }
            Self::RequestTimeout => ("request_timeout", 408, "the body did not arrive within 30 seconds"),
            Self::ModelInUse => ("model_in_use", 409, "the model cannot be unloaded while requests use it"),
            Self::TooLarge => ("too_large", 413, "the body or a list is too large; `allowed` tells the limit"),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415, "the content type is not `application/json`"),
            Self::OutOfRange => ("out_of_range", 422, "a value is out of its range; `allowed` tells the range"),
            Self::TooManyRequests => {
                ("too_many_requests", 429, "the client has its share of the queue already; others have theirs")
            }
            Self::HeadersTooLarge => ("headers_too_large", 431, "more than 64 headers"),
            Self::ClientClosedRequest => {
                ("client_closed_request", 499, "the client left; seen in metrics and in the log")
            }
            Self::Internal => ("internal", 500, "a fault of the server; its log has the details under the request id"),
            Self::StoreFailed => ("store_failed", 502, "the vector store answered with a failure"),
            Self::StoreUnavailable => (
                "store_unavailable",
                503,
                "the vector store cannot be used: down, wrong key, or its collection is missing or does not fit",
            ),
            Self::StoreTimeout => ("store_timeout", 504, "the vector store did not answer in time"),
            Self::EmbedderUnavailable => ("embedder_unavailable", 503, "the embedding model cannot run"),
            Self::RerankerUnavailable => (
                "reranker_unavailable",
                503,
                "the reranker cannot run, on a route without vector order; `reason` tells why",
            ),
            Self::Overloaded => ("overloaded", 503, "too much work is waiting"),
            Self::EngineLost => (
                "engine_lost",
                503,
                "the device or an engine met an error that only a new process mends; this one answers nothing any more and ends",
            ),
            Self::DeadlineExceeded => ("deadline_exceeded", 504, "the request's deadline passed"),
        }
    }

    /// As it stands in `error.code`.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// HTTP status.
    #[expect(clippy::missing_panics_doc, reason = "every status of the table is valid, as a test shows")]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).expect("every status of the table lies between 100 and 999")
    }

    /// Whether the request was refused for a lack of room, before any work was done for it.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Overloaded | Self::TooManyRequests | Self::TooLarge | Self::Unauthorized)
    }
}

/// `docs/errors.md`.
pub fn documentation() -> String {
    let mut text = String::from(
        "# Errors\n\nEvery error of the API has this body and carries the request's id, which is also the header `X-Request-Id` and a \
         field of the log lines that are written while it is answered:\n\n```json\n{\"error\": {\"code\": \"out_of_range\", \"message\": \"k is 0\", \"field\": \"k\", \
         \"allowed\": [\"1 to 1000\"], \"request_id\": \"...\"}}\n```\n\n`field`, `allowed` and `reason` are left out where they say \
         nothing. Every 429 and 503 has the header `Retry-After`. The text of a 5xx says what to do; what happened stands in the log. A head that is \
         no HTTP, or larger than 16 KiB, is answered by the HTTP library itself (400, 431) without a body. Made from the code: \
         `UPDATE_GOLDEN=1 cargo test --workspace --lib error` writes this file.\n\n| code | status | meaning |\n|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let (name, status, meaning) = code.row();
        writeln!(text, "| `{name}` | {status} | {meaning} |").expect("writing into a string does not fail");
    }
    text
}

/// One error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What is wrong, from the closed list.
    pub code: ErrorCode,
    /// A sentence for the client.
    pub message: String,
    /// Field of the request.
    pub field: Option<String>,
    /// What would do.
    pub allowed: Vec<String>,
    /// Why the reranker cannot run.
    pub reason: Option<FallbackReason>,
    /// When to come back, in seconds.
    pub retry_after_seconds: Option<u64>,
    /// The chain of causes, for the log alone.
    pub internal: Option<String>,
    /// How it is told, where the body of the request decides and not the route.
    pub(super) dialect: Option<Dialect>,
}

/// The body, once the request's id is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail<'a> {
    code: ErrorCode,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schema(required = false)]
    allowed: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<FallbackReason>,
    request_id: &'a str,
}

impl ApiError {
    /// An error with nothing but a code and a message. Text of the client's own in it is cut to a readable length.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: shortened(message.into()),
            field: None,
            allowed: Vec::new(),
            reason: None,
            retry_after_seconds: None,
            internal: None,
            dialect: None,
        }
    }

    /// Names the field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(shortened(field.into()));
        self
    }

    /// Says what would do.
    #[must_use]
    pub fn allowed<Text: Into<String>>(mut self, allowed: impl IntoIterator<Item = Text>) -> Self {
        self.allowed = allowed.into_iter().map(Into::into).collect();
        self
    }

    /// Tells it in a dialect.
    #[must_use]
    pub(super) fn in_dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// Names the field as the client's own dialect does.
    #[must_use]
    pub(super) fn rename_field(mut self, ours: &str, theirs: &str) -> Self {
        if self.field.as_deref() == Some(ours) {
            self.field = Some(theirs.to_owned());
            self.message = self.message.replacen(ours, theirs, 1);
        }
        self
    }

    /// The body for one request.
    pub fn body<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        ErrorBody {
            error: ErrorDetail {
                code: self.code,
                message: &self.message,
                field: self.field.as_deref(),
                allowed: &self.allowed,
                reason: self.reason,
                request_id,
            },
        }
    }

    /// The process is about to end.
    pub(super) fn engine_lost() -> Self {
        let message =
            "the engine met an error that only a new process mends, and this one ends; come back after `Retry-After`";
        Self::new(ErrorCode::EngineLost, message).retry_after(10)
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        // Zero would have clients come back at once, all together.
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    fn internal(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.internal = Some(chain::describe(error));
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The reason as it stands in the answer, in the header and in the metric.
pub fn reason_name(reason: FallbackReason) -> &'static str {
    match reason {
        FallbackReason::InsufficientMemory => "insufficient_memory",
        FallbackReason::Loading => "loading",
        FallbackReason::EngineFailed => "engine_failed",
        FallbackReason::Deadline => "deadline",
        FallbackReason::BreakerOpen => "breaker_open",
        FallbackReason::Disabled => "disabled",
        FallbackReason::SelfTestFailed => "self_test_failed",
    }
}

const MODEL_ADVICE: &str =
    "come back after `Retry-After`; the server's log and `/v1/models` on its control port tell why";

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        let message = error.to_string();
        let internal = chain::describe(&error);
        match error {
            SearchError::OutOfRange { field, message, allowed } => {
                Self::new(ErrorCode::OutOfRange, message).field(field).allowed([allowed])
            }
            SearchError::TooLarge { field, message, allowed } => {
                Self::new(ErrorCode::TooLarge, message).field(field).allowed([allowed])
            }
            SearchError::UnknownModel { field, served, .. } => {
                Self::new(ErrorCode::UnknownModel, message).field(field).allowed(served)
            }
            SearchError::UnknownCollection { served, .. } => {
                Self::new(ErrorCode::UnknownCollection, message).field("collection").allowed(served)
            }
            SearchError::ForbiddenCollection { own } => {
                Self::new(ErrorCode::Forbidden, message).field("collection").allowed(own)
            }
            SearchError::NotConfigured => Self::new(ErrorCode::SearchNotConfigured, message),
            SearchError::Store(source) => Self { internal: Some(internal), ..source.into() },
            SearchError::EmbedderUnavailable { retry_after_seconds, .. } => Self {
                internal: Some(internal),
                ..Self::new(
                    ErrorCode::EmbedderUnavailable,
                    format!("the embedding model cannot run at the moment; {MODEL_ADVICE}"),
                )
                .retry_after(retry_after_seconds)
            },
            SearchError::RerankerUnavailable { reason, retry_after_seconds, .. } => Self {
                internal: Some(internal),
                reason: Some(reason),
                ..Self::new(
                    ErrorCode::RerankerUnavailable,
                    format!("the reranker cannot run at the moment ({}); {MODEL_ADVICE}", reason_name(reason)),
                )
                .retry_after(retry_after_seconds)
            },
            SearchError::Overloaded { retry_after_seconds } => {
                Self::new(ErrorCode::Overloaded, message).retry_after(retry_after_seconds)
            }
            SearchError::TooManyRequests { retry_after_seconds } => {
                Self::new(ErrorCode::TooManyRequests, message).retry_after(retry_after_seconds)
            }
            SearchError::DeadlineExceeded => Self::new(ErrorCode::DeadlineExceeded, message),
            SearchError::Cancelled => Self::new(ErrorCode::ClientClosedRequest, message),
            SearchError::ModelInUse { .. } => Self::new(ErrorCode::ModelInUse, message),
            SearchError::Internal { .. } => Self {
                internal: Some(internal),
                ..Self::new(ErrorCode::Internal, "the server failed to answer; its log has the details")
            },
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let unavailable = |text: &str| Self::new(ErrorCode::StoreUnavailable, text).retry_after(5).internal(&error);
        match &error {
            StoreError::InvalidFilter { .. } => Self::new(ErrorCode::InvalidFilter, error.to_string()).field("filter"),
            StoreError::InvalidDocument { .. } => {
                Self::new(ErrorCode::OutOfRange, error.to_string()).field("documents")
            }
            StoreError::Configuration { .. } => unavailable(
                "the vector store is not configured correctly; the server's log and `rerank-server preflight` tell why",
            ),
            // Names only what the configuration names: a collection of a client's own invention is refused before.
            StoreError::CollectionMissing { collection } => unavailable(&format!(
                "collection {collection:?} does not exist in the vector store; make it with `POST /documents` \
                 (vectorStore.writable) or, before serving an embedded store, with `rerank-server index`; or correct its name",
            )),
            StoreError::Mismatch { .. } => unavailable(&format!(
                "{error}; configure the model that indexed the collection, or index it again into another one"
            )),
            StoreError::Unauthorized => unavailable(
                "the vector store refused this service; check the API key that vectorStore.qdrant.apiKeyFile names",
            ),
            StoreError::Unavailable { .. } => {
                unavailable("the vector store cannot be reached; `rerank-server preflight` tells more")
            }
            StoreError::Resting { left } => Self::new(ErrorCode::StoreUnavailable, error.to_string())
                .retry_after(left.as_secs() + 1)
                .internal(&error),
            StoreError::Timeout => Self::new(
                ErrorCode::StoreTimeout,
                "the vector store did not answer in time (timeouts.vectorSearchSeconds)",
            )
            .internal(&error),
            StoreError::Failed { .. } => {
                Self::new(ErrorCode::StoreFailed, "the vector store failed; its log and this server's tell why")
                    .internal(&error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::golden;

    #[test]
    fn the_documented_list_of_codes_is_current() {
        golden::assert_current("docs/errors.md", &documentation());
    }

    #[test]
    fn the_code_in_the_body_is_the_code_of_the_table() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn the_reason_in_the_body_is_the_reason_of_the_header() {
        for reason in [
            FallbackReason::InsufficientMemory,
            FallbackReason::Loading,
            FallbackReason::EngineFailed,
            FallbackReason::Deadline,
            FallbackReason::BreakerOpen,
            FallbackReason::Disabled,
            FallbackReason::SelfTestFailed,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason_name(reason));
        }
    }

    #[test]
    fn the_text_of_a_server_error_hides_the_chain_and_the_log_has_it() {
        let error = ApiError::from(SearchError::Store(StoreError::Failed { message: "canary".to_owned() }));
        assert_eq!(error.code, ErrorCode::StoreFailed);
        assert!(!serde_json::to_string(&error.body("id")).unwrap().contains("canary"));
        assert_eq!(error.internal.as_deref(), Some("failed to use the vector store: the vector store failed: canary"));
    }

    #[test]
    fn a_text_of_the_client_s_own_is_cut() {
        let error = ApiError::new(ErrorCode::Malformed, "ä".repeat(10_000));
        assert_eq!(error.message.chars().count(), LONGEST_QUOTE + 3);
    }

    #[test]
    fn retrying_at_once_is_never_advised() {
        assert_eq!(ApiError::from(SearchError::Overloaded { retry_after_seconds: 0 }).retry_after_seconds, Some(1));
    }
}
