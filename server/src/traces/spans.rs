//! Every span with its attributes: the closed list of what leaves the process this way. Pure.
//!
//! No attribute holds text of a query, a document or a key. What a client chooses appears where it was checked against
//! names of the configuration (collection, model), or is made of safe characters and short (the request's id).
//! `docs/tracing.md` is made from [`DESCRIPTIONS`]; a test holds the two and the spans together.

use std::fmt::Write as _;

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::propagation;
use crate::engine::ModelRole;
use crate::metrics::LoadOutcome;
use crate::pool::ModelKey;

/// What tells these spans from those of the log: the log's hold what log lines hold, and never leave the process.
pub(crate) const TARGET: &str = "rerank_server::traces";

/// One row of `docs/tracing.md`.
struct Description {
    name: &'static str,
    parents: &'static str,
    attributes: &'static [&'static str],
    meaning: &'static str,
}

const DESCRIPTIONS: [Description; 12] = [
    Description {
        name: "{method} {route}",
        parents: "the client's span, else none",
        attributes: &[
            "http.request.method",
            "http.route",
            "url.path",
            "http.response.status_code",
            "error.type",
            "rerank.request_id",
            "rerank.fallback.reason",
        ],
        meaning: "A request, from its head to its answer; kind server",
    },
    Description {
        name: "search",
        parents: "request",
        attributes: &["db.collection.name", "rerank.k", "rerank.fallback.reason"],
        meaning: "One query; a batch of queries has one for each",
    },
    Description {
        name: "embed",
        parents: "request, search",
        attributes: &["rerank.model", "rerank.texts"],
        meaning: "Texts to vectors, waiting for the embedder included",
    },
    Description {
        name: "store",
        parents: "search",
        attributes: &[
            "db.system.name",
            "db.operation.name",
            "db.collection.name",
            "rerank.candidates.limit",
            "rerank.candidates",
        ],
        meaning: "Candidates from the vector store; kind client; its context goes on to Qdrant",
    },
    Description {
        name: "rerank",
        parents: "request, search",
        attributes: &["rerank.model", "rerank.quantization", "rerank.documents"],
        meaning: "Stage 2, waiting for the reranker included",
    },
    Description {
        name: "tokenize",
        parents: "rerank",
        attributes: &["rerank.documents"],
        meaning: "Texts to token ids",
    },
    Description {
        name: "batch",
        parents: "rerank",
        attributes: &["rerank.pairs", "rerank.tokens", "rerank.half"],
        meaning: "Pairs that run together, from when they begin to wait; all of one request",
    },
    Description { name: "queue", parents: "batch, embed", attributes: &[], meaning: "Waiting for the model's turn" },
    Description { name: "score", parents: "batch", attributes: &["rerank.model"], meaning: "Engine time" },
    Description {
        name: "load",
        parents: "whatever asked for the model first, else none",
        attributes: &["rerank.model", "rerank.quantization", "rerank.role", "rerank.load.outcome"],
        meaning: "A model's load, until it is ready",
    },
    Description {
        name: "warm_up",
        parents: "load",
        attributes: &["rerank.model"],
        meaning: "The largest batch after a load",
    },
    Description {
        name: "self_test",
        parents: "load",
        attributes: &["rerank.model"],
        meaning: "The known scores after a load",
    },
];

/// A request. `route`: the route's pattern; None for a path that is none of ours, which is text of the client.
pub(crate) fn request(method: &str, route: Option<&'static str>, id: &str, headers: &HeaderMap) -> Span {
    let (method, named) = if method == "other" { ("_OTHER", "HTTP") } else { (method, method) };
    let name = route.map_or_else(|| named.to_owned(), |route| format!("{named} {route}"));
    let span = info_span!(
        target: TARGET,
        "request",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        url.path = route,
        http.response.status_code = Empty,
        "error.type" = Empty,
        rerank.request_id = id,
        rerank.fallback.reason = Empty,
    );
    if !span.is_disabled()
        && let Some(parent) = propagation::parent(headers)
    {
        // It fails only for a span that has begun already.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    span
}

/// What became of a request. `error`: a code of ours; `fallback`: a reason of the closed list.
pub(crate) fn answered(span: &Span, status: u16, error: Option<&'static str>, fallback: Option<&str>) {
    span.record("http.response.status_code", i64::from(status));
    if let Some(error) = error {
        span.record("error.type", error);
    }
    if let Some(reason) = fallback {
        span.record("rerank.fallback.reason", reason);
    }
    // By the conventions a client's own mistake is no error of the server's span.
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// The trace's id, where the trace is kept: what a log line is found by.
pub(crate) fn sampled_trace_id(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_sampled().then(|| format!("{:032x}", context.trace_id()))
}

/// The headers that make what is called now part of the trace.
pub(crate) fn outgoing_headers() -> Option<(String, Option<String>)> {
    let context: SpanContext = Context::map_current(|current| current.span().span_context().clone());
    propagation::headers(&context)
}

/// One query of a search.
pub(crate) fn search(collection: &str, k: usize) -> Span {
    info_span!(
        target: TARGET,
        "search",
        db.collection.name = collection,
        rerank.k = whole(k),
        rerank.fallback.reason = Empty,
    )
}

/// The query that is being answered is answered in vector order.
pub(crate) fn note_fallback(reason: &'static str) {
    Span::current().record("rerank.fallback.reason", reason);
}

/// Texts to vectors.
pub(crate) fn embed(model: &str, texts: usize) -> Span {
    info_span!(target: TARGET, "embed", rerank.model = model, rerank.texts = whole(texts))
}

/// Candidates from the store.
pub(crate) fn store(collection: &str, limit: usize) -> Span {
    info_span!(
        target: TARGET,
        "store",
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "qdrant",
        db.operation.name = "query",
        db.collection.name = collection,
        rerank.candidates.limit = whole(limit),
        rerank.candidates = Empty,
    )
}

/// What the store answered; None for an error.
pub(crate) fn found(span: &Span, candidates: Option<usize>) {
    match candidates {
        Some(candidates) => span.record("rerank.candidates", whole(candidates)),
        None => span.record("otel.status_code", "ERROR"),
    };
}

/// Stage 2.
pub(crate) fn rerank(key: &ModelKey, documents: usize) -> Span {
    info_span!(
        target: TARGET,
        "rerank",
        otel.status_code = Empty,
        rerank.model = key.model,
        rerank.quantization = key.quantization.as_str(),
        rerank.documents = whole(documents),
    )
}

/// Stage 2 or the engine failed.
pub(crate) fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// Texts to token ids.
pub(crate) fn tokenize(documents: usize) -> Span {
    info_span!(target: TARGET, "tokenize", rerank.documents = whole(documents))
}

/// Pairs that run together.
pub(crate) fn batch(pairs: usize, tokens: usize, is_half: bool) -> Span {
    info_span!(
        target: TARGET,
        "batch",
        rerank.pairs = whole(pairs),
        rerank.tokens = whole(tokens),
        rerank.half = is_half,
    )
}

/// Waiting for the model's turn.
pub(crate) fn queue() -> Span {
    info_span!(target: TARGET, "queue")
}

/// Engine time.
pub(crate) fn score(model: &str) -> Span {
    info_span!(target: TARGET, "score", otel.status_code = Empty, rerank.model = model)
}

/// A model's load.
pub(crate) fn load(key: &ModelKey) -> Span {
    let role = match key.role {
        ModelRole::Embedder => "embedder",
        ModelRole::Reranker => "reranker",
    };
    info_span!(
        target: TARGET,
        "load",
        otel.status_code = Empty,
        rerank.model = key.model,
        rerank.quantization = key.quantization.as_str(),
        rerank.role = role,
        rerank.load.outcome = Empty,
    )
}

/// How a load ended.
pub(crate) fn loaded(span: &Span, outcome: LoadOutcome) {
    span.record("rerank.load.outcome", outcome.as_str());
    if outcome != LoadOutcome::Ready {
        failed(span);
    }
}

/// The largest batch after a load.
pub(crate) fn warm_up(model: &str) -> Span {
    info_span!(target: TARGET, "warm_up", rerank.model = model)
}

/// The known scores after a load.
pub(crate) fn self_test(model: &str) -> Span {
    info_span!(target: TARGET, "self_test", rerank.model = model)
}

/// OpenTelemetry's whole numbers are signed.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// `docs/tracing.md`.
pub fn documentation() -> String {
    let mut text = String::from(HEAD);
    for Description { name, parents, attributes, meaning } in DESCRIPTIONS {
        let attributes = attributes.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "| `{name}` | {parents} | {meaning} | {attributes} |")
            .expect("writing into a string does not fail");
    }
    text
}

const HEAD: &str = include_str!("spans.md");

/// The attributes of each documented span.
#[cfg(test)]
pub(crate) fn documented() -> super::testing::Documented {
    DESCRIPTIONS.iter().map(|row| (row.name, row.attributes.iter().copied().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::golden;

    #[test]
    fn the_documentation_of_spans_is_current() {
        golden::assert_current("docs/tracing.md", &documentation());
    }
}
