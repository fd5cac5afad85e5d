//! Both orders of one search side by side, as a table for a terminal of 110 columns. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::search::{SearchResponse, SearchResult};

/// Columns of one half: two halves and the bar between them are 110.
const HALF_COLUMNS: usize = 54;

/// How good a document is for the query, as people judged it.
pub type Grades = HashMap<String, u8>;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No control sequences: for files and pipes.
    Plain,
    /// Colours, for a terminal.
    Colours,
}

impl Style {
    /// Colours only where standard output is a terminal and `NO_COLOR` is not set.
    pub fn of_standard_output() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && std::io::IsTerminal::is_terminal(&std::io::stdout()) { Self::Colours } else { Self::Plain }
    }

    fn paint(self, sequence: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colours => format!("\u{1b}[{sequence}m{text}\u{1b}[0m"),
        }
    }
}

/// One search to be shown.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// The question.
    pub query: &'a str,
    /// The answer in vector order.
    pub vector: &'a SearchResponse,
    /// The answer with the reranker; None where it was not asked for.
    pub reranked: Option<&'a SearchResponse>,
    /// Judgements, where there are any.
    pub grades: Option<&'a Grades>,
    /// Rows to show, at most.
    pub rows: usize,
}

impl Comparison<'_> {
    /// The table, with its heading and times.
    #[expect(clippy::missing_panics_doc, reason = "writing into a string does not fail")]
    pub fn render(&self, style: Style) -> String {
        let mut text = String::new();
        self.write(&mut text, style).expect("writing into a string does not fail");
        text
    }

    fn write(&self, text: &mut String, style: Style) -> std::fmt::Result {
        writeln!(text, "{} {}", style.paint("1", "Query:"), one_line(self.query))?;
        let left_title = format!("vector order  ({:.1} ms)", stage_one(self.vector));
        if let Some(reranked) = self.reranked {
            let right_title = match (&reranked.fallback, reranked.reranking_time_ms) {
                (Some(fallback), _) => format!("no reranking: {}", fallback.message),
                (None, Some(took)) => {
                    format!("reranked order  (+{took:.1} ms for {} candidates)", reranked.num_candidates)
                }
                (None, None) => "not reranked".to_owned(),
            };
            writeln!(text, "{}  {}", padded(&left_title, HALF_COLUMNS), fitted(&right_title, HALF_COLUMNS))?;
            writeln!(text, "{}  {}", "-".repeat(HALF_COLUMNS), "-".repeat(HALF_COLUMNS))?;
            for row in 0..self.rows.min(self.vector.results.len().max(reranked.results.len())) {
                let left = self.vector.results.get(row).map(|result| self.cell(row, result, None, style));
                let right = reranked.results.get(row).map(|result| {
                    let change = (reranked.reranking_used).then_some(result.rank_change);
                    self.cell(row, result, change, style)
                });
                let left = left.unwrap_or_else(|| " ".repeat(HALF_COLUMNS));
                writeln!(text, "{left}  {}", right.unwrap_or_default().trim_end())?;
            }
        } else {
            writeln!(text, "{left_title}")?;
            writeln!(text, "{}", "-".repeat(HALF_COLUMNS))?;
            for (row, result) in self.vector.results.iter().take(self.rows).enumerate() {
                writeln!(text, "{}", self.cell(row, result, None, style).trim_end())?;
            }
        }
        if self.vector.results.is_empty() {
            writeln!(text, "no document was found")?;
        }
        Ok(())
    }

    /// `rank score [change] [mark] beginning`, exactly [`HALF_COLUMNS`] wide.
    fn cell(&self, row: usize, result: &SearchResult, change: Option<i64>, style: Style) -> String {
        let mut head = format!("{:>2}  {:>6.3} ", row + 1, result.score);
        if let Some(change) = change {
            let _ = write!(head, " {:>4}", signed(change));
        }
        let grade = self.grades.map(|grades| grades.get(&result.id.in_judgements()).copied().unwrap_or(0));
        if let Some(grade) = grade {
            let _ = write!(head, " {}", mark(grade));
        }
        head.push(' ');
        let title = result.payload.get("title").and_then(|title| title.as_str()).filter(|title| !title.is_empty());
        let beginning = title.unwrap_or(&result.text);
        let rest = padded(&one_line(beginning), HALF_COLUMNS.saturating_sub(head.width()));
        match (grade, change) {
            (Some(1..), _) => format!("{head}{}", style.paint("1;32", &rest)),
            (None, Some(1..)) => format!("{head}{}", style.paint("32", &rest)),
            _ => format!("{head}{rest}"),
        }
    }
}

/// `**` very relevant, `* ` relevant, two blanks otherwise.
pub fn mark(grade: u8) -> &'static str {
    match grade {
        0 => "  ",
        1 => "* ",
        2.. => "**",
    }
}

fn stage_one(response: &SearchResponse) -> f64 {
    response.embedding_time_ms + response.search_time_ms
}

fn signed(change: i64) -> String {
    match change {
        0 => "=".to_owned(),
        change => format!("{change:+}"),
    }
}

/// Control characters and line breaks of a document would break the table, or the terminal.
fn one_line(text: &str) -> String {
    let visible: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Cut to so many columns, with an ellipsis where something is missing.
fn fitted(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for letter in text.chars() {
        let width = letter.width().unwrap_or(0);
        if used + width + 1 > columns {
            break;
        }
        used += width;
        kept.push(letter);
    }
    kept.push('…');
    kept
}

fn padded(text: &str, columns: usize) -> String {
    let fitted = fitted(text, columns);
    let missing = columns.saturating_sub(fitted.width());
    format!("{fitted}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use rerank_crds::catalog::Quantization;
    use serde_json::Map;

    use super::*;
    use crate::search::{RerankerName, Timings};
    use crate::store::DocumentId;

    fn result(id: u64, score: f32, rank: usize, change: i64, text: &str) -> SearchResult {
        SearchResult {
            id: DocumentId::Number(id),
            score,
            rerank_score: None,
            vector_score: score,
            vector_rank: rank,
            rank_change: change,
            text: text.to_owned(),
            payload: Map::new(),
            truncated: false,
        }
    }

    fn response(results: Vec<SearchResult>, reranked: bool) -> SearchResponse {
        SearchResponse {
            results,
            num_candidates: 20,
            embedding_time_ms: 1.0,
            search_time_ms: 2.0,
            reranking_time_ms: reranked.then_some(30.0),
            reranking_used: reranked,
            reranker: reranked.then(|| RerankerName { model: "tiny".to_owned(), quantization: Quantization::Float32 }),
            fallback: None,
            timings: Timings::default(),
        }
    }

    #[test]
    fn both_orders_stand_side_by_side_with_rank_change_and_marks() {
        let vector = response(vec![result(1, 0.6, 1, 0, "Venus\nis hot"), result(2, 0.5, 2, 0, "Mars is red")], false);
        let reranked = response(vec![result(2, 0.9, 2, 1, "Mars is red"), result(1, 0.1, 1, -1, "Venus is hot")], true);
        let grades = Grades::from([("2".to_owned(), 2)]);
        let comparison = Comparison {
            query: "the red planet",
            vector: &vector,
            reranked: Some(&reranked),
            grades: Some(&grades),
            rows: 5,
        };
        let text = comparison.render(Style::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Query: the red planet");
        assert!(lines[1].starts_with("vector order  (3.0 ms)"));
        assert!(lines[1].contains("reranked order  (+30.0 ms for 20 candidates)"));
        let gap = " ".repeat(HALF_COLUMNS - " 1   0.600     Venus is hot".width());
        assert_eq!(lines[3], format!(" 1   0.600     Venus is hot{gap}   1   0.900    +1 ** Mars is red"));
        let gap = " ".repeat(HALF_COLUMNS - " 2   0.500  ** Mars is red".width());
        assert_eq!(lines[4], format!(" 2   0.500  ** Mars is red{gap}   2   0.100    -1    Venus is hot"));
    }

    #[test]
    fn no_line_is_wider_than_the_table_whatever_the_script() {
        let long = "火星は赤い惑星として知られている。".repeat(20);
        let vector = response(vec![result(1, 0.6, 1, 0, &long)], false);
        let reranked = response(vec![result(1, 0.6, 1, 0, &"long words ".repeat(50))], true);
        let comparison = Comparison { query: "q", vector: &vector, reranked: Some(&reranked), grades: None, rows: 5 };
        for line in comparison.render(Style::Plain).lines() {
            assert!(line.width() <= 110, "{} columns: {line}", line.width());
        }
    }

    #[test]
    fn a_document_cannot_steer_the_terminal() {
        let vector = response(vec![result(1, 0.6, 1, 0, "a\u{1b}[31mb\u{7}c")], false);
        let comparison = Comparison { query: "\u{1b}[2J", vector: &vector, reranked: None, grades: None, rows: 5 };
        assert!(!comparison.render(Style::Plain).contains('\u{1b}'));
    }

    #[test]
    fn nothing_found_is_said() {
        let empty = response(Vec::new(), false);
        let comparison = Comparison { query: "q", vector: &empty, reranked: None, grades: None, rows: 5 };
        assert!(comparison.render(Style::Plain).contains("no document was found"));
    }
}
