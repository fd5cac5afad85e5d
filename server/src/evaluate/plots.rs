//! The plots of the page, as inline SVG. Hovering a bar tells which it is.

use maud::{Markup, html};

use super::{DEPTH, Pair, QueryReport};

/// Width and height of a plot.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;
/// Left for a line of text below and above.
const MARGIN: f64 = 18.0;

/// A bar for each query, up for a gain and down for a loss, greatest gain first.
pub(super) fn gains(per_query: &[QueryReport]) -> Markup {
    let middle = HEIGHT / 2.0;
    let width = WIDTH / float(per_query.len().max(1));
    html! {
        svg viewBox=(view()) role="img" aria-label="gain of each query" {
            line.axis x1="0" x2=(WIDTH) y1=(middle) y2=(middle) {}
            @for (at, query) in per_query.iter().rev().enumerate() {
                @let tall = query.gain().abs() * (middle - 5.0);
                @let class = if query.gain() < 0.0 { "down" } else { "up" };
                @let top = if query.gain() < 0.0 { middle } else { middle - tall };
                (bar(class, width * float(at), width, top, tall, &format!("{}: {:+.3}", query.query, query.gain())))
            }
        }
    }
}

/// A bar for each place in vector order: how many of the first ten results had it.
pub(super) fn came_from(results: &[usize]) -> Markup {
    let floor = HEIGHT - MARGIN;
    let width = WIDTH / float(results.len().max(1));
    let most = float(results.iter().copied().max().unwrap_or(0).max(1));
    html! {
        svg viewBox=(view()) role="img" aria-label="places in vector order that the first ten results come from" {
            line.axis x1="0" x2=(WIDTH) y1=(floor) y2=(floor) {}
            @for (at, count) in results.iter().enumerate() {
                @let tall = float(*count) / most * (floor - MARGIN);
                @let class = if at < DEPTH { "kept" } else { "up" };
                (bar(class, width * float(at), width, floor - tall, tall, &format!("place {}: {count} results", at + 1)))
                @if at == 0 || (at + 1) % DEPTH == 0 {
                    text x=(format!("{:.1}", width * float(at))) y=(HEIGHT - 4.0) { (at + 1) }
                }
            }
        }
    }
}

/// For both orders the share of the searches that took no longer than so many milliseconds, on a logarithmic axis.
pub(super) fn latency(per_query: &[QueryReport]) -> Markup {
    let of = |order: fn(&Pair) -> f64| {
        // A tenth of a millisecond is as fast as is told apart.
        let mut times: Vec<f64> = per_query.iter().map(|query| order(&query.milliseconds).max(0.1)).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let (vector, reranked) = (of(|pair| pair.vector), of(|pair| pair.reranked));
    let all = || vector.iter().chain(&reranked).copied();
    let first = all().fold(f64::INFINITY, f64::min).min(1.0).log10().floor();
    let last = all().fold(1.0, f64::max).log10().ceil().max(first + 1.0);
    let floor = HEIGHT - MARGIN;
    let x = |milliseconds: f64| (milliseconds.log10() - first) / (last - first) * (WIDTH - MARGIN);
    let points = |times: &[f64]| {
        let point = |(at, time): (usize, &f64)| {
            let y = floor - float(at + 1) / float(times.len()) * (floor - MARGIN);
            format!("{:.1},{y:.1}", x(*time))
        };
        times.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
    };
    let decades = std::iter::successors(Some(first), |decade| Some(decade + 1.0)).take_while(|decade| *decade <= last);
    html! {
        svg viewBox=(view()) role="img" aria-label="share of the searches answered within so many milliseconds" {
            line.axis x1="0" x2=(WIDTH) y1=(floor) y2=(floor) {}
            @for milliseconds in decades.map(|decade| 10_f64.powf(decade)) {
                line.axis x1=(format!("{:.1}", x(milliseconds))) x2=(format!("{:.1}", x(milliseconds))) y1=(floor) y2=(floor + 4.0) {}
                text x=(format!("{:.1}", x(milliseconds))) y=(HEIGHT - 4.0) { (milliseconds) }
            }
            polyline.vector points=(points(&vector)) {}
            polyline.reranked points=(points(&reranked)) {}
        }
    }
}

fn view() -> String {
    format!("0 0 {WIDTH} {HEIGHT}")
}

fn bar(class: &str, left: f64, width: f64, top: f64, tall: f64, title: &str) -> Markup {
    html! {
        rect class=(class) x=(format!("{left:.2}")) width=(format!("{:.2}", width * 0.9)) y=(format!("{top:.2}"))
            height=(format!("{tall:.2}")) {
            title { (title) }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "queries and places are far fewer than 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use super::super::tests::{seen, setup};
    use super::*;

    #[test]
    fn a_gain_stands_on_the_axis_and_a_loss_hangs_from_it() {
        let observations = [
            seen("gain", &["a", "good", "b"], &["good", "a", "b"], true),
            seen("loss", &["good", "a"], &["a", "good"], true),
        ];
        let svg = gains(&Report::of(setup(), &observations).per_query).into_string();
        assert_eq!(svg.matches("<rect").count(), 2);
        let (up, down) = (svg.find("class=\"up\"").unwrap(), svg.find("class=\"down\"").unwrap());
        assert!(up < down, "the greatest gain first: {svg}");
    }

    #[test]
    fn results_from_beyond_the_tenth_place_are_told_apart_and_the_most_frequent_fills_the_height() {
        let mut results = vec![0; 20];
        (results[0], results[14]) = (4, 2);
        let svg = came_from(&results).into_string();
        assert_eq!((svg.matches("class=\"kept\"").count(), svg.matches("class=\"up\"").count()), (10, 10));
        assert!(svg.contains("place 15: 2 results"), "{svg}");
        let full = HEIGHT - 2.0 * MARGIN;
        assert!(
            svg.contains(&format!("height=\"{full:.2}\"")) && svg.contains(&format!("height=\"{:.2}\"", full / 2.0))
        );
    }

    #[test]
    fn times_rise_from_left_to_right_within_the_plot() {
        let svg = latency(&Report::of(setup(), &[seen("a", &["a"], &["a"], false)]).per_query).into_string();
        assert_eq!(svg.matches("<polyline").count(), 2);
        for decade in ["1", "10", "100"] {
            assert!(svg.contains(&format!(">{decade}</text>")), "{decade}: {svg}");
        }
        let nothing = latency(&[]).into_string();
        assert!(!nothing.contains("NaN") && !nothing.contains("inf"), "{nothing}");
    }
}
