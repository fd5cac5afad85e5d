//! Every metric moves, for a reason, to the right value. A metric that no one looks at here fails the test.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::whole::{EMBEDDER, RERANKER, WholeApi};
use super::*;
use crate::http::{self, ListenerOptions};
use crate::pool::UnloadOutcome;

/// A scrape that remembers which metrics were looked at.
struct Scraped<'a> {
    metrics: &'a Metrics,
    looked_at: BTreeSet<String>,
}

impl Scraped<'_> {
    /// The value of a series, such as `requests_total{route="/search",code="2xx"}`; 0 where it does not exist.
    fn value(&mut self, series: &str) -> f64 {
        let series = format!("rerank_{series}");
        let name = series.split('{').next().unwrap_or(&series);
        let of_histogram = ["_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        self.looked_at.insert(of_histogram.unwrap_or(name).to_owned());
        let text = self.metrics.encode();
        let found = text.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0.0)
    }

    #[track_caller]
    fn assert(&mut self, series: &str, expected: f64) {
        let found = self.value(series);
        assert!((found - expected).abs() < 1e-5, "{series} is {found}, not {expected}");
    }
}

/// Pairs, tokens and bytes that wait, once some do.
async fn queued(scraped: &mut Scraped<'_>) -> (f64, f64, f64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let waiting = (scraped.value("queue_pairs"), scraped.value("queue_tokens"), scraped.value("queue_bytes"));
        if scraped.value("queue_pairs") > 0.0 && scraped.metrics.encode().contains("stage=\"tokenize\"} 4") {
            return waiting;
        }
        assert!(std::time::Instant::now() < deadline, "{}", scraped.metrics.encode());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
#[expect(clippy::cast_precision_loss, reason = "a few hundred tokens")]
async fn every_metric_moves_for_a_reason_to_the_right_value() {
    let api = WholeApi::new(None, |config| config.api.limits.documents = 10);
    let mut scraped = Scraped { metrics: &api.metrics, looked_at: BTreeSet::new() };

    // Before anything is asked.
    scraped.assert("device_memory_capacity_bytes", 1_000.0);
    scraped.assert("device_memory_free_bytes", 1_000.0);
    scraped.assert("device_memory_used_bytes", 0.0);
    scraped.assert("device_memory_predicted_bytes", 0.0);

    // A search loads two models of 100 bytes and turns five candidates round.
    assert_eq!(api.get("/search?q=plain&k=3").await.status, 200);
    scraped.assert("requests_total{route=\"/search\",code=\"2xx\"}", 1.0);
    for stage in ["tokenize", "embed", "search", "queue", "score", "total"] {
        scraped.assert(&format!("stage_duration_seconds_count{{stage=\"{stage}\"}}"), 1.0);
    }
    scraped.assert("scored_pairs_total", 5.0);
    let tokens: usize = api.controls.seen().tokens.iter().sum();
    assert!(tokens > 500, "{tokens}");
    scraped.assert("scored_tokens_total", tokens as f64);
    scraped.assert("batch_pairs_count", 1.0);
    scraped.assert("batch_pairs_sum", 5.0);
    scraped.assert("score_ratio_count", 5.0);
    let scores: f64 = (0..5).map(|log_odds| 1.0 / (1.0 + (-f64::from(log_odds)).exp())).sum();
    scraped.assert("score_ratio_sum", scores);
    // From places 5, 4, 3 to places 1, 2, 3.
    scraped.assert("rank_change_places_count", 1.0);
    scraped.assert("rank_change_places_sum", 2.0);
    for model in [EMBEDDER, RERANKER] {
        scraped.assert(&format!("model_loads_total{{model=\"{model}\",outcome=\"ready\"}}"), 1.0);
        scraped.assert(&format!("model_load_duration_seconds_count{{model=\"{model}\"}}"), 1.0);
    }
    scraped.assert("device_memory_free_bytes", 800.0);
    scraped.assert("device_memory_used_bytes", 200.0);
    scraped.assert("device_memory_predicted_bytes", 200.0);

    // One document of two is longer than the model reads.
    scraped.assert("truncated_documents_total", 0.0);
    let documents = json!({"query": "q", "documents": ["short", "long ".repeat(1_000)]});
    assert_eq!(api.post("/v1/rerank", &documents).await.status, 200);
    scraped.assert("truncated_documents_total", 1.0);
    scraped.assert("scored_pairs_total", 7.0);
    scraped.assert("batch_pairs_sum", 7.0);

    // The engine fails once.
    api.controls.fail_score(crate::fakes::EngineFault::Failed);
    assert_eq!(api.get("/search?q=plain&k=3").await.json["reranking_used"], false);
    scraped.assert("fallbacks_total{reason=\"engine_failed\"}", 1.0);
    scraped.assert("scored_pairs_total", 7.0);
    scraped.assert("rank_change_places_count", 1.0);

    // A request that is refused, and one that is wrong.
    let documents = json!({"query": "q", "documents": vec!["d"; 11]});
    assert_eq!(api.post("/v1/rerank", &documents).await.status, 413);
    assert_eq!(api.get("/search?q=x&k=0").await.status, 422);
    scraped.assert("requests_total{route=\"/v1/rerank\",code=\"4xx\"}", 1.0);
    scraped.assert("errors_total{error=\"too_large\"}", 1.0);
    scraped.assert("errors_total{error=\"out_of_range\"}", 1.0);
    scraped.assert("refusals_total{reason=\"too_large\"}", 1.0);
    scraped.assert("refusals_total{reason=\"out_of_range\"}", 0.0);

    // Three pairs wait while the engine works, and none when it is done.
    api.controls.set_score_time(Duration::from_millis(300));
    let documents = json!({"query": "q", "documents": ["a", "b", "c"]});
    let (answer, (pairs, tokens, bytes)) = tokio::join!(api.post("/v1/rerank", &documents), queued(&mut scraped));
    assert_eq!(answer.status, 200);
    assert!((pairs - 3.0).abs() < 1e-5, "{pairs}");
    let scored = api.controls.seen().tokens.last().copied().unwrap();
    assert!((tokens - scored as f64).abs() < 1e-5, "{tokens} wait, {scored} were scored");
    assert!(bytes > 0.0);
    for series in ["queue_pairs", "queue_tokens", "queue_bytes"] {
        scraped.assert(series, 0.0);
    }

    // The reranker is sent away.
    let reranker = crate::fakes::model_key(ModelRole::Reranker, RERANKER, Quantization::Float16);
    assert!(matches!(api.pool.unload(&reranker).await, UnloadOutcome::Unloaded { freed_bytes: 100 }));
    scraped.assert(&format!("model_unloads_total{{model=\"{RERANKER}\"}}"), 1.0);
    scraped.assert("device_memory_used_bytes", 100.0);
    scraped.assert("device_memory_predicted_bytes", 100.0);

    // Two connections come, and go.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let options = ListenerOptions { drain_timeout: Duration::from_secs(1), ..ListenerOptions::default() };
    let serving =
        tokio::spawn(http::serve(listener, api.router.clone(), options, Some(Arc::clone(&api.metrics)), stop.clone()));
    let connections = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    wait_for(&mut scraped, "connections", 2.0).await;
    drop(connections);
    wait_for(&mut scraped, "connections", 0.0).await;
    stop.cancel();
    serving.await.unwrap();

    let registered: BTreeMap<&str, &str> =
        api.metrics.descriptions().iter().map(|row| (row.name.as_str(), row.help)).collect();
    let unseen: Vec<_> = registered.iter().filter(|(name, _)| !scraped.looked_at.contains(**name)).collect();
    assert!(unseen.is_empty(), "no test sees these move; give each its part in the story above: {unseen:#?}");
    let unknown: Vec<_> = scraped.looked_at.iter().filter(|name| !registered.contains_key(name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

async fn wait_for(scraped: &mut Scraped<'_>, series: &str, expected: f64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while (scraped.value(series) - expected).abs() > 1e-5 {
        assert!(std::time::Instant::now() < deadline, "{series} is not {expected}: {}", scraped.metrics.encode());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
