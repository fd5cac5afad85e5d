//! A report as one HTML page that needs nothing beside it: style and plots are part of it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Pair, QueryReport, Report};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:left;border-bottom:1px solid #ddd}\
    td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:2rem}svg{max-width:100%;height:auto}\
    .up{fill:#2a7}.down{fill:#c43}.axis{stroke:#999}small{color:#666}";

/// Width and height of a plot.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;

/// The whole page.
pub fn page(report: &Report) -> String {
    let setup = &report.setup;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Reranking of " (setup.collection) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Reranking of " (setup.collection) }
                p {
                    (report.queries) " queries. Vector order by " (setup.embedding) ", reranked by " (setup.reranker)
                    ", which reads up to " (setup.candidates) " candidates of each."
                    @if report.fallbacks > 0 {
                        " " (report.fallbacks) " were answered in vector order and count as they were answered."
                    }
                }
                (summary(report))
                @if report.quality.is_some() {
                    h2 { "Gain of each query" }
                    p { small { "nDCG@10 of the reranked order less that of the vector order, greatest first" } }
                    (gains(&report.per_query))
                }
                h2 { "Queries" }
                (queries(report))
            }
        }
    }
    .into_string()
}

fn summary(report: &Report) -> Markup {
    html! {
        table {
            tr { th {} th.n { "vector" } th.n { "reranked" } th.n { "change" } }
            @if let Some(quality) = &report.quality {
                (row("nDCG@10", quality.ndcg_at_10))
                (row("MRR@10", quality.mrr_at_10))
                (row("recall@10", quality.recall_at_10))
                tr { td { "recall of the candidates" } td.n { (format!("{:.3}", quality.recall_of_candidates)) } td {} td {} }
            }
            (row("latency p50, ms", report.latency.p50))
            (row("latency p95, ms", report.latency.p95))
            (row("latency p99, ms", report.latency.p99))
        }
        @if let Some(quality) = &report.quality {
            p {
                "nDCG@10 " (format!("{:+.3}", quality.ndcg_gain.mean)) ", 95 % interval "
                (format!("{:+.3} to {:+.3}", quality.ndcg_gain.low, quality.ndcg_gain.high)) " by bootstrap over queries. "
                (quality.better_equal_worse[0]) " queries better, " (quality.better_equal_worse[1]) " equal, "
                (quality.better_equal_worse[2]) " worse."
            }
        }
        p {
            "Another first result for " (format!("{:.0} %", 100.0 * report.change.first_result)) " of the queries; "
            (format!("{:.0} %", 100.0 * report.change.kept_of_first_10)) " of the first ten kept; results came up "
            (format!("{:.1}", report.change.places_up)) " places."
        }
    }
}

fn row(name: &str, Pair { vector, reranked }: Pair) -> Markup {
    html! {
        tr {
            td { (name) }
            td.n { (format!("{vector:.3}")) }
            td.n { (format!("{reranked:.3}")) }
            td.n { (format!("{:+.3}", reranked - vector)) }
        }
    }
}

/// A bar for each query, up for a gain and down for a loss; hovering tells which.
fn gains(per_query: &[QueryReport]) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "queries are far fewer than 2^52")]
    let width = WIDTH / per_query.len().max(1) as f64;
    let middle = HEIGHT / 2.0;
    let bars = per_query.iter().rev().scan(0.0, |left, query| {
        let at = *left;
        *left += width;
        Some((at, query))
    });
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" {
            line.axis x1="0" x2=(WIDTH) y1=(middle) y2=(middle) {}
            @for (left, query) in bars {
                @let tall = query.gain().abs() * (middle - 5.0);
                rect class=(if query.gain() < 0.0 { "down" } else { "up" })
                    x=(format!("{left:.2}")) width=(format!("{:.2}", width * 0.9)) height=(format!("{tall:.2}"))
                    y=(format!("{:.2}", if query.gain() < 0.0 { middle } else { middle - tall })) {
                    title { (query.query) ": " (format!("{:+.3}", query.gain())) }
                }
            }
        }
    }
}

fn queries(report: &Report) -> Markup {
    let judged = report.quality.is_some();
    html! {
        table {
            tr {
                th { "query" }
                @if judged { th.n { "vector" } th.n { "reranked" } th.n { "change" } }
                th.n { "kept of the first ten" }
                th {}
            }
            @for query in &report.per_query {
                tr {
                    td { (query.query) " " small { (query.id) } }
                    @if let Some(pair) = query.ndcg_at_10 {
                        td.n { (format!("{:.3}", pair.vector)) }
                        td.n { (format!("{:.3}", pair.reranked)) }
                        td.n { (format!("{:+.3}", query.gain())) }
                    }
                    td.n { (format!("{:.0} %", 100.0 * query.kept_of_first_10)) }
                    td { (query.fallback.as_deref().unwrap_or_default()) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use super::super::tests::{seen, setup};
    use super::page;

    #[test]
    fn the_page_needs_nothing_beside_it_and_text_of_queries_is_text() {
        let observations = [
            seen("gain", &["a", "good", "b"], &["good", "a", "b"], true),
            seen("loss", &["good", "a"], &["a", "good"], true),
        ];
        let html = page(&Report::of(setup(), &observations));
        assert!(html.contains("query &lt;gain&gt;") && !html.contains("query <gain>"), "{html}");
        assert_eq!(html.matches("<rect").count(), 2);
        assert!(html.contains("class=\"up\"") && html.contains("class=\"down\""));
        for foreign in ["http://", "https://", "src=", "href="] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }
}
