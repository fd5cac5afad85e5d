//! A report as text for a terminal.

use std::fmt::Write as _;

use super::measures::Interval;
use super::{Measured, Pair, Report};

/// Queries shown of the greatest gains and of the greatest losses.
const SHOWN: usize = 5;

/// The report as text.
#[expect(clippy::missing_panics_doc, reason = "writing into a string does not fail")]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    write(report, &mut text).expect("writing into a string does not fail");
    text
}

fn write(report: &Report, text: &mut String) -> std::fmt::Result {
    let setup = &report.setup;
    writeln!(
        text,
        "{} queries on {}: {} against {} reading up to {} candidates",
        report.queries, setup.collection, setup.embedding, setup.reranker, setup.candidates
    )?;
    if report.fallbacks > 0 {
        writeln!(text, "{} of them were answered in vector order, and count as they were answered", report.fallbacks)?;
    }
    writeln!(text, "\n{:<28}{:>10}{:>10}{:>10}  95 % interval", "", "vector", "reranked", "change")?;
    if let Some(quality) = &report.quality {
        measured(text, "nDCG@10", quality.ndcg_at_10)?;
        measured(text, "MRR@10", quality.mrr_at_10)?;
        measured(text, "recall@10", quality.recall_at_10)?;
        writeln!(text, "{:<28}{:>10.3}", "recall of the candidates", quality.recall_of_candidates)?;
    }
    row(text, "latency p50, ms", report.latency.p50)?;
    row(text, "latency p95, ms", report.latency.p95)?;
    row(text, "latency p99, ms", report.latency.p99)?;
    let change = &report.change;
    writeln!(text, "\n{:<38}{:>10}  95 % interval", "", "mean")?;
    share(text, "queries with another first result", change.first_result)?;
    share(text, "kept of the first ten", change.kept_of_first_10)?;
    let Interval { mean, low, high } = change.places_up;
    writeln!(text, "{:<38}{mean:>10.1}  {low:.1} to {high:.1}", "places that results came up")?;
    if let Some(quality) = &report.quality {
        let [better, equal, worse] = quality.better_equal_worse;
        writeln!(text, "\n{better} queries better, {equal} equal, {worse} worse by their nDCG@10")?;
    }
    if report.quality.is_some() {
        let losses = report.per_query.iter().filter(|query| query.gain() < 0.0).take(SHOWN);
        let gains = report.per_query.iter().rev().filter(|query| query.gain() > 0.0).take(SHOWN);
        for (heading, queries) in
            [("greatest gains", gains.collect::<Vec<_>>()), ("greatest losses", losses.collect::<Vec<_>>())]
        {
            writeln!(text, "\n{heading}")?;
            for query in queries {
                writeln!(text, "  {:+.3}  {}  {}", query.gain(), query.id, query.query)?;
            }
        }
    }
    Ok(())
}

fn row(text: &mut String, name: &str, Pair { vector, reranked }: Pair) -> std::fmt::Result {
    writeln!(text, "{name:<28}{vector:>10.3}{reranked:>10.3}{:>+10.3}", reranked - vector)
}

fn measured(text: &mut String, name: &str, Measured { vector, reranked, gain }: Measured) -> std::fmt::Result {
    let Interval { mean, low, high } = gain;
    writeln!(text, "{name:<28}{vector:>10.3}{reranked:>10.3}{mean:>+10.3}  {low:+.3} to {high:+.3}")
}

fn share(text: &mut String, name: &str, Interval { mean, low, high }: Interval) -> std::fmt::Result {
    writeln!(text, "{name:<38}{:>8.0} %  {:.0} to {:.0} %", 100.0 * mean, 100.0 * low, 100.0 * high)
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use super::super::tests::{seen, setup};
    use super::table;

    #[test]
    fn a_report_is_readable() {
        let observations = [
            seen("gain", &["a", "good", "b"], &["good", "a", "b"], true),
            seen("loss", &["good", "a"], &["a", "good"], true),
        ];
        let text = table(&Report::of(setup(), &observations));
        assert!(text.starts_with("2 queries on docs: e against r (float32) reading up to 50 candidates\n"), "{text}");
        for words in [
            "MRR@10                           0.750     0.750    +0.000  -0.500 to +0.500",
            "1 queries better, 0 equal, 1 worse",
        ] {
            assert!(text.contains(words), "{text}");
        }
        let (gains, losses) = text.split_once("greatest losses").unwrap();
        assert!(gains.contains("gain  query <gain>") && losses.contains("loss  query <loss>"), "{text}");
    }
}
