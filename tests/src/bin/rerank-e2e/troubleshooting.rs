//! The table of `docs/troubleshooting.md`, held against the failures that stories meet: each of these is in it, and each of its rows is met.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::world::file;

const PAGE: &str = "docs/troubleshooting.md";
/// Stands for what differs.
const ANYTHING: char = '…';

/// The table, and which of its rows were met.
pub(crate) struct Troubleshooting {
    rows: Vec<Row>,
    met: Mutex<BTreeSet<usize>>,
}

struct Row {
    place: String,
    message: String,
}

impl Troubleshooting {
    /// Reads the page.
    pub(crate) fn read() -> Self {
        Self { rows: rows(&file(PAGE)), met: Mutex::default() }
    }

    /// A failure was met. `place`: where it is told, a condition's reason or what somebody was answered.
    pub(crate) fn meets(&self, place: &str, message: &str) {
        println!("{place}: {message}");
        let is_it = |row: &Row| row.place.replace('`', "") == place && matches(&row.message, message);
        let found = self.rows.iter().position(is_it);
        let found = found.unwrap_or_else(|| panic!("{PAGE} has no row for {place}: {message}"));
        self.met.lock().unwrap_or_else(PoisonError::into_inner).insert(found);
    }

    /// Rows that were not met.
    pub(crate) fn unmet(&self) -> Vec<String> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let unmet = self.rows.iter().enumerate().filter(|(number, _)| !met.contains(number));
        unmet.map(|(_, row)| format!("{}: {}", row.place, row.message)).collect()
    }
}

fn rows(page: &str) -> Vec<Row> {
    let lines = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
        Row { place: cells.next().unwrap_or_default(), message: cells.next().unwrap_or_default() }
    };
    lines.map(row).collect()
}

/// Whether a message has all parts of a pattern, in their order.
fn matches(pattern: &str, message: &str) -> bool {
    let mut parts = pattern.split(ANYTHING);
    let Some(mut rest) = message.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty() || (pattern.contains(ANYTHING) && (last.is_empty() || message.ends_with(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_what_differs_and_for_nothing_else() {
        assert!(matches("it needs … of memory; …", "it needs 3 GB of memory; more"));
        assert!(matches("…: gone", "http://a: gone") && matches("gone", "gone") && matches("…", "anything"));
        for (pattern, message) in
            [("gone", "gone away"), ("…: gone", "a: gone away"), ("a … c", "b c"), ("a … c", "a b")]
        {
            assert!(!matches(pattern, message), "{pattern} is not {message}");
        }
    }

    #[test]
    fn the_page_has_rows_with_a_place_a_message_and_a_cure() {
        let page = file(PAGE);
        let rows = rows(&page);
        assert!(rows.len() >= 10, "{}", rows.len());
        assert!(rows.iter().all(|row| !row.place.is_empty() && !row.message.is_empty()));
    }
}
