//! A report as text for a terminal.

use std::fmt::Write as _;

use super::{Pair, Report};

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
    writeln!(text, "\n{:<28}{:>10}{:>10}{:>10}", "", "vector", "reranked", "change")?;
    if let Some(quality) = &report.quality {
        row(text, "nDCG@10", quality.ndcg_at_10)?;
        row(text, "MRR@10", quality.mrr_at_10)?;
        row(text, "recall@10", quality.recall_at_10)?;
        writeln!(text, "{:<28}{:>10.3}", "recall of the candidates", quality.recall_of_candidates)?;
    }
    row(text, "latency p50, ms", report.latency.p50)?;
    row(text, "latency p95, ms", report.latency.p95)?;
    row(text, "latency p99, ms", report.latency.p99)?;
    if let Some(quality) = &report.quality {
        let gain = quality.ndcg_gain;
        let [better, equal, worse] = quality.better_equal_worse;
        writeln!(
            text,
            "\nnDCG@10 {:+.3}, 95 % interval {:+.3} to {:+.3}; {better} queries better, {equal} equal, {worse} worse",
            gain.mean, gain.low, gain.high
        )?;
    }
    let change = report.change;
    writeln!(
        text,
        "another first result for {:.0} % of the queries; {:.0} % of the first ten kept; results came up {:.1} places",
        100.0 * change.first_result,
        100.0 * change.kept_of_first_10,
        change.places_up
    )?;
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
        for words in
            ["MRR@10                           0.750     0.750    +0.000", "1 queries better, 0 equal, 1 worse"]
        {
            assert!(text.contains(words), "{text}");
        }
        let (gains, losses) = text.split_once("greatest losses").unwrap();
        assert!(gains.contains("gain  query <gain>") && losses.contains("loss  query <loss>"), "{text}");
    }
}
