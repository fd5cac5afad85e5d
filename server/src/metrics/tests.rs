//! What is registered is documented, bounded and counted right.

use std::collections::BTreeSet;

use super::*;
use crate::api::{ErrorCode, ROUTES, golden};
use crate::search::FallbackReason;

fn touched() -> Metrics {
    let metrics = Metrics::new();
    metrics.observe_stage(Stage::Embed, Duration::from_millis(3));
    metrics.count_request("/search", 200, None);
    metrics.count_request("/search", 422, Some("out_of_range"));
    metrics.count_scored(50, 17_000);
    metrics.count_truncated(2);
    metrics.count_fallback("loading");
    metrics.change_queue(50, 17_000, 68_000);
    metrics.observe_load("tiny", LoadOutcome::Ready, Duration::from_millis(150));
    metrics.count_unload("tiny");
    metrics.observe_rank_change(2.5);
    metrics.observe_score(0.97);
    metrics.count_refusal("overloaded");
    metrics.set_device_memory(3, 10, 5);
    metrics.change_connections(1);
    metrics
}

/// Name and kind of every metric of the text, as a scraper reads them.
fn scraped(text: &str) -> BTreeSet<(String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            (name, kind.to_owned())
        })
        .collect()
}

#[test]
fn every_metric_that_is_scraped_is_documented_and_the_reverse() {
    let metrics = touched();
    let documented: BTreeSet<(String, String)> =
        metrics.descriptions().iter().map(|row| (row.name.clone(), row.kind.to_owned())).collect();
    assert_eq!(scraped(&metrics.encode()), documented);
}

#[test]
fn the_documentation_is_current() {
    golden::assert_current("docs/metrics.md", &Metrics::new().documentation());
}

#[test]
fn every_label_that_is_scraped_is_documented() {
    let metrics = touched();
    for row in metrics.descriptions() {
        let text = metrics.encode();
        let series = text.lines().filter(|line| line.starts_with(row.name.as_str()));
        let labels: BTreeSet<String> = series
            .filter_map(|line| line.split_once('{'))
            .filter_map(|(_, rest)| rest.split_once('}'))
            .flat_map(|(labels, _)| labels.split(',').map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|label| label.split_once('=').map(|(name, _)| name.to_owned()))
            .filter(|name| name != "le")
            .collect();
        let documented: BTreeSet<String> = row.labels.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(labels, documented, "{}", row.name);
    }
}

#[test]
fn values_are_those_that_were_given() {
    let text = touched().encode();
    for line in [
        "rerank_requests_total{route=\"/search\",code=\"2xx\"} 1",
        "rerank_requests_total{route=\"/search\",code=\"4xx\"} 1",
        "rerank_errors_total{error=\"out_of_range\"} 1",
        "rerank_scored_pairs_total 50",
        "rerank_scored_tokens_total 17000",
        "rerank_truncated_documents_total 2",
        "rerank_fallbacks_total{reason=\"loading\"} 1",
        "rerank_queue_pairs 50",
        "rerank_queue_tokens 17000",
        "rerank_queue_bytes 68000",
        "rerank_model_loads_total{model=\"tiny\",outcome=\"ready\"} 1",
        "rerank_model_unloads_total{model=\"tiny\"} 1",
        "rerank_device_memory_used_bytes 7",
        "rerank_device_memory_free_bytes 3",
        "rerank_device_memory_capacity_bytes 10",
        "rerank_device_memory_predicted_bytes 5",
        "rerank_stage_duration_seconds_bucket{le=\"0.005\",stage=\"embed\"} 1",
        "rerank_stage_duration_seconds_bucket{le=\"0.002\",stage=\"embed\"} 0",
        "rerank_rank_change_places_sum 2.5",
        "rerank_score_ratio_count 1",
        "rerank_batch_pairs_sum 50.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_failed_load_counts_but_has_no_duration() {
    let metrics = Metrics::new();
    metrics.observe_load("tiny", LoadOutcome::InsufficientMemory, Duration::from_secs(1));
    let text = metrics.encode();
    assert!(text.contains("rerank_model_loads_total{model=\"tiny\",outcome=\"insufficient_memory\"} 1"));
    assert!(!text.contains("rerank_model_load_duration_seconds_count{"));
}

/// A server with four models after everything that can happen has happened.
fn everything() -> Metrics {
    let metrics = Metrics::new();
    for route in ROUTES.iter().map(|(route, _)| *route).chain(["other"]) {
        metrics.count_request(route, 200, None);
        for code in ErrorCode::ALL {
            metrics.count_request(route, code.status().as_u16(), Some(code.as_str()));
        }
    }
    for code in ErrorCode::ALL.into_iter().filter(|code| code.is_refusal()) {
        metrics.count_refusal(code.as_str());
    }
    for reason in FallbackReason::ALL {
        metrics.count_fallback(reason.as_str());
    }
    for model in ["embedder", "reranker", "override", "other override"] {
        for outcome in LoadOutcome::ALL {
            metrics.observe_load(model, outcome, Duration::from_secs(1));
        }
        metrics.count_unload(model);
    }
    metrics
}

#[test]
fn a_server_with_four_models_exposes_at_most_three_hundred_lines_whatever_it_was_asked() {
    let text = everything().encode();
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(samples.len() <= MAXIMUM_SERIES, "{} lines:\n{text}", samples.len());
    let metrics = touched();
    let names = |text: &str| scraped(text).into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    assert_eq!(names(&text), names(&metrics.encode()), "nothing was left out");
    assert!(samples.len() > MAXIMUM_SERIES - 60, "{} lines: the bound is no bound any more", samples.len());
}
