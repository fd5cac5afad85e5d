//! The outermost layer of every route: the request's id, its span and log line, its metric, its error body, and the net
//! under a handler that panics. I/O: it logs.
//!
//! Neither the path sent nor the query string is logged: both can hold what a person searched for.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::header::{AUTHORIZATION, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::dialect::Dialect;
use super::error::{ApiError, ErrorCode};
use super::search::FALLBACK;
use super::{ApiState, OTHER};
use crate::http::{MAXIMUM_HEADERS, PeerAddress};
use crate::search::{Caller, Client, FallbackReason, RequestContext};
use crate::stages::StageTimes;
use crate::traces::spans;

/// Header of the request's id, in requests and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken over from a client.
const LONGEST_REQUEST_ID: usize = 64;

/// The request's id, as an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The client's own where it is 1 to 64 letters, digits and `-_.:`, else a new UUID.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        match given.filter(|text| is_sane_id(text)) {
            Some(text) => Self(text.into()),
            None => Self(uuid::Uuid::new_v4().to_string().into()),
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_sane_id(text: &str) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// When the head arrived and from whom, as an extension.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// From whom.
    pub caller: Caller,
}

/// A request's context, and the guard that fires its token when the handler's future is dropped: hyper drops it when
/// the client leaves.
#[derive(Debug)]
pub struct ActiveRequest {
    /// For the use case.
    pub context: RequestContext,
    guard: DropGuard,
}

impl ActiveRequest {
    /// Begins.
    pub fn begin(arrival: Arrival) -> Self {
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let Arrival { at, caller } = arrival;
        Self { context: RequestContext { cancel, arrival: at, caller }, guard }
    }

    /// The answer is there: nothing is left to cancel.
    pub fn answered(self) {
        self.guard.disarm();
    }
}

/// The layer of the API port.
pub async fn handle(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let arrival = Instant::now();
    let id = RequestId::of(request.headers());
    let route = super::route_of(request.uri().path());
    request.extensions_mut().insert(id.clone());
    let method = known_method(request.method()).to_owned();
    let trace = spans::request(&method, Some(route).filter(|route| *route != OTHER), id.as_str(), request.headers());
    let span = tracing::info_span!(
        "request",
        request_id = id.as_str(),
        method,
        route,
        client = tracing::field::Empty,
        trace_id = spans::sampled_trace_id(&trace)
    );
    let times = Arc::new(StageTimes::default());
    let left = Exchange { state: &state, id: &id, route, arrival, span, trace, times: &times, answered: false };
    let answer = times.of(answer(&state, arrival, request, next)).instrument(left.span.clone());
    let answer = answer.instrument(left.trace.clone());
    let mut response = tokio::select! {
        biased;
        // Whatever a lost device still lets through is not to be trusted, and what hangs on it would hang for ever.
        () = state.fatal.tripped() => ApiError::engine_lost().into_response(),
        outcome = AssertUnwindSafe(answer).catch_unwind() => outcome.unwrap_or_else(|_| {
            // The panic hook has logged where it happened; what it said may hold text of the request.
            ApiError::new(ErrorCode::Internal, "the server failed to answer; its log has the details").into_response()
        }),
    };
    if state.fatal.reason().is_some() {
        response = ApiError::engine_lost().into_response();
    }
    left.answered(&mut response);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    if state.readiness.is_draining() {
        // Moves clients with open connections over to another replica before this one goes.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Tells metrics, log and trace of a request, also of one whose client left before the answer: hyper drops the handler, and
/// this with it.
struct Exchange<'a> {
    state: &'a ApiState,
    id: &'a RequestId,
    route: &'static str,
    arrival: Instant,
    span: tracing::Span,
    trace: tracing::Span,
    times: &'a StageTimes,
    answered: bool,
}

impl Exchange<'_> {
    /// Writes an error's body, too, which only now is known to be the answer.
    fn answered(mut self, response: &mut Response) {
        self.answered = true;
        let _trace = self.trace.enter();
        let _entered = self.span.enter();
        let error = response.extensions_mut().remove::<ApiError>();
        if let Some(error) = &error {
            let dialect = error.dialect.unwrap_or(Dialect::of_route(self.route));
            *response = render(error, dialect, self.id);
            report(self.state, error);
        }
        let reason = error.as_ref().and_then(|error| error.reason).map(FallbackReason::as_str);
        let fallback = response.headers().get(FALLBACK).and_then(|reason| reason.to_str().ok());
        let code = error.as_ref().map(|error| error.code);
        self.tell(response.status().as_u16(), code, reason.or(fallback), "Answered request");
    }

    fn tell(&self, status: u16, error: Option<ErrorCode>, fallback: Option<&str>, message: &'static str) {
        let total = self.arrival.elapsed();
        self.state.metrics.count_request(self.route, status, error.map(ErrorCode::as_str));
        spans::answered(&self.trace, status, error.map(ErrorCode::as_str), fallback);
        tracing::info!(status, duration_ms = milliseconds(total), "{message}");
        if self.state.settings.slow_request.is_some_and(|limit| total > limit) {
            let (stage, took) = self.times.longest(total);
            tracing::warn!(
                request_id = self.id.as_str(),
                route = self.route,
                status,
                duration_ms = milliseconds(total),
                slowest_stage = stage.as_str(),
                slowest_stage_ms = milliseconds(took),
                "Slow request"
            );
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let _trace = self.trace.enter();
            let _entered = self.span.enter();
            let code = ErrorCode::ClientClosedRequest;
            self.tell(code.status().as_u16(), Some(code), None, "The client left");
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn answer(state: &ApiState, at: Instant, mut request: Request, next: Next) -> Response {
    if request.headers().len() > MAXIMUM_HEADERS {
        return ApiError::new(ErrorCode::HeadersTooLarge, "the request has too many headers")
            .allowed([format!("at most {MAXIMUM_HEADERS}")])
            .into_response();
    }
    let caller = if let Some(keys) = &state.keys {
        let mut given = request.headers().get_all(AUTHORIZATION).iter();
        let (first, second) = (given.next(), given.next());
        // Two headers could be read differently here and in a proxy in front.
        let header = if second.is_some() { None } else { first };
        match keys.current().client_of_header(header.map(HeaderValue::as_bytes)) {
            Some(client) => {
                tracing::Span::current().record("client", client);
                let collections = state.settings.restricted_clients.get(client).cloned();
                Caller { client: Client::Key(client.into()), collections }
            }
            None => {
                return ApiError::new(
                    ErrorCode::Unauthorized,
                    "the API key is missing or unknown; send `Authorization: Bearer <key>`",
                )
                .into_response();
            }
        }
    } else {
        let peer = request.extensions().get::<PeerAddress>();
        Caller::unrestricted(peer.map_or(Client::Local, |peer| Client::at(peer.0.ip())))
    };
    request.extensions_mut().insert(Arrival { at, caller });
    next.run(request).await
}

/// A method of the client's own invention is text of the client.
fn known_method(method: &http::Method) -> &str {
    match *method {
        http::Method::GET
        | http::Method::POST
        | http::Method::PUT
        | http::Method::DELETE
        | http::Method::HEAD
        | http::Method::OPTIONS
        | http::Method::PATCH => method.as_str(),
        _ => "other",
    }
}

/// The error's body and headers.
fn render(error: &ApiError, dialect: Dialect, id: &RequestId) -> Response {
    let mut response = (dialect.status(error), Json(dialect.body(error, id.as_str()))).into_response();
    let headers = response.headers_mut();
    if let Some(seconds) = error.retry_after_seconds {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match error.code {
        ErrorCode::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        ErrorCode::MethodNotAllowed => {
            if let Ok(allow) = HeaderValue::from_str(&error.allowed.join(", ")) {
                headers.insert(http::header::ALLOW, allow);
            }
        }
        // What is left of the body is not read, so the connection cannot be used again.
        ErrorCode::TooLarge | ErrorCode::RequestTimeout => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

fn report(state: &ApiState, error: &ApiError) {
    let code = error.code.as_str();
    if error.code.is_refusal() {
        state.metrics.count_refusal(code);
    }
    if error.code.is_refusal() {
        // Counted, and under overload there are thousands.
        tracing::debug!(code, "Request refused");
    } else if error.code.status().is_server_error() {
        tracing::error!(code, cause = error.internal.as_deref().unwrap_or(&error.message), "Request failed");
    } else {
        // The message can repeat what the client sent.
        tracing::debug!(code, detail = %error.message, "Request refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(value: &str) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("abc-1.2_3:4").as_str(), "abc-1.2_3:4");
        for odd in ["", "a b", "a\"b", &"x".repeat(65), "<script>"] {
            let id = id_for(odd);
            assert!(uuid::Uuid::parse_str(id.as_str()).is_ok(), "{odd:?} gave {id:?}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }

    fn arrival() -> Arrival {
        Arrival { at: Instant::now(), caller: Caller::default() }
    }

    #[test]
    fn a_dropped_request_fires_its_token_and_an_answered_one_does_not() {
        let dropped = ActiveRequest::begin(arrival());
        let token = dropped.context.cancel.clone();
        drop(dropped);
        assert!(token.is_cancelled());

        let answered = ActiveRequest::begin(arrival());
        let token = answered.context.cancel.clone();
        answered.answered();
        assert!(!token.is_cancelled());
    }
}
