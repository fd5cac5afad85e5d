//! A report as one HTML page that needs nothing beside it: style and plots are part of it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::measures::Interval;
use super::{Measured, Pair, Report, plots};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:left;border-bottom:1px solid #ddd}\
    td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:2rem}svg{max-width:100%;height:auto}\
    .up{fill:#2a7}.down{fill:#c43}.kept{fill:#888}.axis{stroke:#999}.vector{stroke:#888}.reranked{stroke:#27a}\
    polyline{fill:none;stroke-width:2}svg text{font-size:12px;fill:#666}small{color:#666}";

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
                    (plots::gains(&report.per_query))
                }
                h2 { "Where the first ten results come from" }
                p { small { "how many of them had which place in vector order; those beyond the tenth are green" } }
                (plots::came_from(&report.change.came_from))
                h2 { "Time of a search" }
                p { small { "share of the searches that were answered within so many milliseconds: vector order grey, reranked blue" } }
                (plots::latency(&report.per_query))
                h2 { "Queries" }
                (queries(report))
            }
        }
    }
    .into_string()
}

fn summary(report: &Report) -> Markup {
    let change = &report.change;
    html! {
        table {
            tr { th {} th.n { "vector" } th.n { "reranked" } th.n { "change" } th.n { "95 % interval" } }
            @if let Some(quality) = &report.quality {
                (measured("nDCG@10", quality.ndcg_at_10))
                (measured("MRR@10", quality.mrr_at_10))
                (measured("recall@10", quality.recall_at_10))
                tr {
                    td { "recall of the candidates" }
                    td.n { (format!("{:.3}", quality.recall_of_candidates)) }
                    td {} td {} td {}
                }
            }
            (row("latency p50, ms", report.latency.p50))
            (row("latency p95, ms", report.latency.p95))
            (row("latency p99, ms", report.latency.p99))
        }
        table {
            tr { th {} th.n { "mean" } th.n { "95 % interval" } }
            (share("queries with another first result", change.first_result))
            (share("kept of the first ten", change.kept_of_first_10))
            tr {
                td { "places that results came up" }
                td.n { (format!("{:.1}", change.places_up.mean)) }
                td.n { (format!("{:.1} to {:.1}", change.places_up.low, change.places_up.high)) }
            }
        }
        p {
            @if let Some(quality) = &report.quality {
                (quality.better_equal_worse[0]) " queries better, " (quality.better_equal_worse[1]) " equal, "
                (quality.better_equal_worse[2]) " worse by their nDCG@10. "
            }
            "Intervals: bootstrap over queries."
        }
    }
}

fn measured(name: &str, Measured { vector, reranked, gain }: Measured) -> Markup {
    html! {
        tr {
            td { (name) }
            td.n { (format!("{vector:.3}")) }
            td.n { (format!("{reranked:.3}")) }
            td.n { (format!("{:+.3}", gain.mean)) }
            td.n { (format!("{:+.3} to {:+.3}", gain.low, gain.high)) }
        }
    }
}

fn share(name: &str, Interval { mean, low, high }: Interval) -> Markup {
    html! {
        tr {
            td { (name) }
            td.n { (format!("{:.0} %", 100.0 * mean)) }
            td.n { (format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high)) }
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
            td {}
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
                th { "places before" }
                th.n { "ms" }
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
                    td { small { (places(&query.places_before)) } }
                    td.n { (format!("{:.0} / {:.0}", query.milliseconds.vector, query.milliseconds.reranked)) }
                    td { (query.fallback.as_deref().unwrap_or_default()) }
                }
            }
        }
    }
}

/// Where each result stood in vector order.
fn places(before: &[Option<usize>]) -> String {
    let place = |before: &Option<usize>| before.map_or_else(|| "-".to_owned(), |place| place.to_string());
    before.iter().map(place).collect::<Vec<_>>().join(" ")
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
        for plot in ["Gain of each query", "Where the first ten results come from", "Time of a search"] {
            assert!(html.contains(plot), "{plot}");
        }
        assert_eq!(html.matches("<svg").count(), 3);
        assert!(html.contains("class=\"up\"") && html.contains("class=\"down\""));
        for foreign in ["http://", "https://", "src=", "href="] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn without_judgements_the_page_shows_where_results_come_from_and_how_long_they_take() {
        let html = page(&Report::of(setup(), &[seen("a", &["a", "b", "c"], &["c", "a"], false)]));
        assert_eq!(html.matches("<svg").count(), 2);
        assert!(html.contains("3 1") && html.contains("2 / 20"), "{html}");
        assert!(!html.contains("nDCG") && !html.contains("MRR"), "{html}");
    }
}
