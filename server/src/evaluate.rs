//! Whether reranking is worth it on one's own data: both orders of many queries, against people's judgements or, without
//! them, against each other. Pure: searching is `run::evaluate`'s business.

use serde::Serialize;

use crate::comparison::Grades;
use measures::{Interval, bootstrap, mean, ndcg, percentile, recall, reciprocal_rank};

pub mod measures;
mod page;
mod plots;
mod table;

pub use page::page;
pub use table::table;

/// Places of a ranking that count, and results asked for.
pub const DEPTH: usize = 10;
/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;
const SEED: u64 = 1;
/// A document of this grade or more is relevant for recall and reciprocal rank.
const RELEVANT_FROM: u32 = 1;
/// Differences of nDCG that count as none.
const NOTHING: f64 = 1e-9;

/// What was evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// Collection searched.
    pub collection: String,
    /// Embedding model.
    pub embedding: String,
    /// Reranker, with its quantization.
    pub reranker: String,
    /// Candidates of each query that the reranker reads, at most.
    pub candidates: usize,
}

/// What one query brought.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The query's id.
    pub id: String,
    /// Its text.
    pub query: String,
    /// All candidates in vector order.
    pub candidates: Vec<String>,
    /// The best of the reranked order.
    pub reranked: Vec<String>,
    /// Time of a search without the reranker.
    pub vector_milliseconds: f64,
    /// Time of a search with it.
    pub reranked_milliseconds: f64,
    /// Why the second order is the vector order.
    pub fallback: Option<String>,
    /// What people judged; None where only the orders are compared.
    pub grades: Option<Grades>,
}

/// Everything that is told.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was evaluated.
    pub setup: Setup,
    /// Queries.
    pub queries: usize,
    /// Queries answered in vector order though the reranker was asked for. They count as they were answered.
    pub fallbacks: usize,
    /// Against judgements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Between the two orders.
    pub change: Change,
    /// Of whole searches, in milliseconds.
    pub latency: Latency,
    /// Each query; with judgements the greatest loss first, else the greatest change.
    pub per_query: Vec<QueryReport>,
}

/// Means over queries of both orders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// nDCG of the first ten places, gain 2^grade - 1.
    pub ndcg_at_10: Measured,
    /// Reciprocal rank of the first relevant document among ten.
    pub mrr_at_10: Measured,
    /// Share of the relevant documents among the first ten places.
    pub recall_at_10: Measured,
    /// Share of the relevant documents among the candidates: more the reranker cannot find.
    pub recall_of_candidates: f64,
    /// Queries whose nDCG rose, stayed and fell.
    pub better_equal_worse: [usize; 3],
}

/// A measure of both orders, and what reranking adds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// In vector order.
    pub vector: f64,
    /// In reranked order.
    pub reranked: f64,
    /// Reranked less vector; 95 % bootstrap interval over queries.
    pub gain: Interval,
}

/// A value for both orders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// In vector order.
    pub vector: f64,
    /// In reranked order.
    pub reranked: f64,
}

/// How far the orders differ: means over queries, each with its 95 % bootstrap interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Share of queries whose first result is another.
    pub first_result: Interval,
    /// Share of the first ten results that vector order had among its first ten too.
    pub kept_of_first_10: Interval,
    /// Places that the reranked results had moved up.
    pub places_up: Interval,
    /// How many of the first ten results had the first, the second, ... place in vector order.
    pub came_from: Vec<usize>,
}

/// Percentiles of both searches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: Pair,
    /// 95th percentile.
    pub p95: Pair,
    /// 99th percentile.
    pub p99: Pair,
}

/// One query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryReport {
    /// Its id.
    pub id: String,
    /// Its text.
    pub query: String,
    /// Against judgements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ndcg_at_10: Option<Pair>,
    /// As [`Change::kept_of_first_10`].
    pub kept_of_first_10: f64,
    /// The place that each result of the reranked order had in vector order, from 1; null for one that was no candidate
    /// when the vector order was asked for.
    pub places_before: Vec<Option<usize>>,
    /// Of whole searches.
    pub milliseconds: Pair,
    /// Why its second order is the vector order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

impl QueryReport {
    /// What reranking adds to its nDCG; 0 without judgements.
    pub fn gain(&self) -> f64 {
        self.ndcg_at_10.map_or(0.0, |pair| pair.reranked - pair.vector)
    }

    /// Places that its results came up, mean.
    pub fn places_up(&self) -> f64 {
        let places = self.places_before.iter().enumerate();
        mean(places.filter_map(|(now, before)| Some(difference((*before)?, now + 1))))
    }
}

impl Report {
    /// Sums up.
    pub fn of(setup: Setup, observations: &[Observation]) -> Self {
        let mut per_query: Vec<QueryReport> = observations.iter().map(query_report).collect();
        let judged = observations.iter().filter(|seen| seen.grades.is_some()).count();
        let quality = (judged > 0).then(|| quality(observations));
        per_query.sort_by(|a, b| a.gain().total_cmp(&b.gain()).then(a.kept_of_first_10.total_cmp(&b.kept_of_first_10)));
        Self {
            setup,
            queries: observations.len(),
            fallbacks: observations.iter().filter(|seen| seen.fallback.is_some()).count(),
            quality,
            change: change(observations, &per_query),
            latency: latency(observations),
            per_query,
        }
    }
}

/// Grades of a ranking, and every grade of the query.
fn grades(seen: &Observation, ranking: &[String]) -> (Vec<u32>, Vec<u32>) {
    let Some(judged) = &seen.grades else { return (Vec::new(), Vec::new()) };
    let ranked = ranking.iter().map(|id| judged.get(id).copied().map_or(0, u32::from)).collect();
    (ranked, judged.values().copied().map(u32::from).collect())
}

fn first_ten(seen: &Observation) -> &[String] {
    seen.candidates.get(..DEPTH).unwrap_or(&seen.candidates)
}

/// A measure of both orders of one query.
fn both(seen: &Observation, measure: impl Fn(&[u32], &[u32]) -> f64) -> Pair {
    let of = |ranking: &[String]| {
        let (ranked, judged) = grades(seen, ranking);
        measure(&ranked, &judged)
    };
    Pair { vector: of(first_ten(seen)), reranked: of(&seen.reranked) }
}

fn query_report(seen: &Observation) -> QueryReport {
    let place = |id: &String| seen.candidates.iter().position(|candidate| candidate == id).map(|before| before + 1);
    QueryReport {
        id: seen.id.clone(),
        query: seen.query.clone(),
        ndcg_at_10: seen.grades.is_some().then(|| both(seen, ndcg_at_10)),
        kept_of_first_10: kept(seen),
        places_before: seen.reranked.iter().map(place).collect(),
        milliseconds: Pair { vector: seen.vector_milliseconds, reranked: seen.reranked_milliseconds },
        fallback: seen.fallback.clone(),
    }
}

fn ndcg_at_10(ranked: &[u32], judged: &[u32]) -> f64 {
    ndcg(ranked, judged, DEPTH)
}

fn quality(observations: &[Observation]) -> Quality {
    let over = |measure: &dyn Fn(&[u32], &[u32]) -> f64| {
        let pairs: Vec<Pair> = observations.iter().map(|seen| both(seen, measure)).collect();
        let gains: Vec<f64> = pairs.iter().map(|pair| pair.reranked - pair.vector).collect();
        let measured = Measured {
            vector: mean(pairs.iter().map(|pair| pair.vector)),
            reranked: mean(pairs.iter().map(|pair| pair.reranked)),
            gain: bootstrap(&gains, RESAMPLES, SEED),
        };
        (measured, gains)
    };
    let (ndcg, gains) = over(&ndcg_at_10);
    let count = |sign: fn(f64) -> bool| gains.iter().filter(|gain| sign(**gain)).count();
    Quality {
        ndcg_at_10: ndcg,
        mrr_at_10: over(&|ranked, _| reciprocal_rank(ranked, DEPTH, RELEVANT_FROM)).0,
        recall_at_10: over(&|ranked, judged| recall(ranked, judged, DEPTH, RELEVANT_FROM)).0,
        recall_of_candidates: mean(observations.iter().map(|seen| {
            let (ranked, judged) = grades(seen, &seen.candidates);
            recall(&ranked, &judged, ranked.len(), RELEVANT_FROM)
        })),
        better_equal_worse: [
            count(|gain| gain > NOTHING),
            count(|gain| gain.abs() <= NOTHING),
            count(|gain| gain < -NOTHING),
        ],
    }
}

fn kept(seen: &Observation) -> f64 {
    let before = first_ten(seen);
    if before.is_empty() {
        return 1.0;
    }
    mean(before.iter().map(|id| if seen.reranked.contains(id) { 1.0 } else { 0.0 }))
}

fn change(observations: &[Observation], per_query: &[QueryReport]) -> Change {
    let over = |values: Vec<f64>| bootstrap(&values, RESAMPLES, SEED);
    let is_another = |seen: &Observation| seen.candidates.first() != seen.reranked.first();
    let mut came_from = vec![0; observations.iter().map(|seen| seen.candidates.len()).max().unwrap_or(0)];
    for place in per_query.iter().flat_map(|query| &query.places_before).flatten() {
        if let Some(results) = came_from.get_mut(place - 1) {
            *results += 1;
        }
    }
    Change {
        first_result: over(observations.iter().map(|seen| if is_another(seen) { 1.0 } else { 0.0 }).collect()),
        kept_of_first_10: over(per_query.iter().map(|query| query.kept_of_first_10).collect()),
        places_up: over(per_query.iter().map(QueryReport::places_up).collect()),
        came_from,
    }
}

#[expect(clippy::cast_precision_loss, reason = "places are at most a thousand")]
fn difference(before: usize, now: usize) -> f64 {
    before as f64 - now as f64
}

fn latency(observations: &[Observation]) -> Latency {
    let vector: Vec<f64> = observations.iter().map(|seen| seen.vector_milliseconds).collect();
    let reranked: Vec<f64> = observations.iter().map(|seen| seen.reranked_milliseconds).collect();
    let at = |hundredths| Pair { vector: percentile(&vector, hundredths), reranked: percentile(&reranked, hundredths) };
    Latency { p50: at(50), p95: at(95), p99: at(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn setup() -> Setup {
        Setup {
            collection: "docs".to_owned(),
            embedding: "e".to_owned(),
            reranker: "r (float32)".to_owned(),
            candidates: 50,
        }
    }

    fn names(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// A query whose one relevant document is `good`.
    pub(super) fn seen(id: &str, candidates: &[&str], reranked: &[&str], judged: bool) -> Observation {
        Observation {
            id: id.to_owned(),
            query: format!("query <{id}>"),
            candidates: names(candidates),
            reranked: names(reranked),
            vector_milliseconds: 2.0,
            reranked_milliseconds: 20.0,
            fallback: None,
            grades: judged.then(|| Grades::from([("good".to_owned(), 3), ("far".to_owned(), 1)])),
        }
    }

    #[test]
    fn a_gain_and_a_loss_are_counted_and_the_loss_comes_first() {
        let observations = [
            seen("gain", &["a", "good", "b"], &["good", "a", "b"], true),
            seen("same", &["good", "a"], &["good", "a"], true),
            seen("loss", &["good", "a"], &["a", "good"], true),
        ];
        let report = Report::of(setup(), &observations);
        let quality = report.quality.unwrap();
        assert_eq!(quality.better_equal_worse, [1, 1, 1]);
        assert!((quality.mrr_at_10.vector - (0.5 + 1.0 + 1.0) / 3.0).abs() < 1e-9, "{quality:?}");
        assert!((quality.mrr_at_10.reranked - (1.0 + 1.0 + 0.5) / 3.0).abs() < 1e-9);
        assert!((quality.recall_at_10.vector - 0.5).abs() < 1e-9, "`far` is never found");
        assert!((quality.recall_of_candidates - 0.5).abs() < 1e-9);
        for gain in [quality.ndcg_at_10.gain, quality.mrr_at_10.gain] {
            assert!(gain.mean.abs() < 1e-9 && gain.low < 0.0 && gain.high > 0.0, "{gain:?}");
        }
        let ids: Vec<&str> = report.per_query.iter().map(|query| query.id.as_str()).collect();
        assert_eq!(ids, ["loss", "same", "gain"]);
        assert!((report.change.first_result.mean - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(report.per_query[2].places_before, [Some(2), Some(1), Some(3)]);
        assert_eq!(report.change.came_from, [3, 3, 1]);
        assert!((report.latency.p95.reranked - 20.0).abs() < 1e-9);
    }

    #[test]
    fn without_judgements_the_orders_are_compared() {
        let many: Vec<String> = (0..20).map(|id| id.to_string()).collect();
        let mut other = seen("q", &[], &[], false);
        other.reranked = many.iter().rev().take(10).cloned().collect();
        other.candidates = many;
        other.fallback = Some("deadline".to_owned());
        let report = Report::of(setup(), &[other]);
        assert_eq!((report.quality, report.fallbacks), (None, 1));
        let change = report.change;
        assert!(change.kept_of_first_10.mean.abs() < 1e-9);
        assert!((change.places_up.mean - 10.0).abs() < 1e-9, "{change:?}");
        assert_eq!(change.came_from[..10], [0; 10], "none of the first ten stayed");
        assert_eq!(change.came_from[10..], [1; 10]);
    }

    #[test]
    fn nothing_at_all_is_a_report_too() {
        let report = Report::of(setup(), &[]);
        assert_eq!((report.queries, report.quality), (0, None));
        assert!(table(&report).contains('0') && page(&report).contains("</html>"));
    }
}
