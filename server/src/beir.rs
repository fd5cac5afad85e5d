//! Queries and judgements in BEIR's layout: `queries.jsonl`, `qrels/test.tsv`. I/O: reads files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::comparison::Grades;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BeirError {
    /// It cannot be read.
    #[error("failed to read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it must be.
    #[error("{path:?} line {line} cannot be read: {message}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

#[derive(Debug, Deserialize)]
struct QueryLine {
    #[serde(rename = "_id", alias = "id")]
    id: Option<String>,
    #[serde(alias = "query", alias = "q")]
    text: String,
}

/// Queries in file order, each with its id: `{"_id", "text"}` on each line. A query without an id, as in a log, gets its
/// line's number.
pub fn queries(path: &Path) -> Result<Vec<(String, String)>, BeirError> {
    let text = read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let query: QueryLine = serde_json::from_str(line).map_err(|error| BeirError::Line {
                path: path.to_owned(),
                line: index + 1,
                message: error.to_string(),
            })?;
            Ok((query.id.unwrap_or_else(|| (index + 1).to_string()), query.text))
        })
        .collect()
}

/// Judgements by query: a heading, then `query-id corpus-id score` separated by tabs.
pub fn judgements(path: &Path) -> Result<HashMap<String, Grades>, BeirError> {
    let mut judgements: HashMap<String, Grades> = HashMap::new();
    for (index, line) in read(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad =
            |message: &str| BeirError::Line { path: path.to_owned(), line: index + 1, message: message.to_owned() };
        let mut fields = line.split('\t');
        let (Some(query), Some(document), Some(grade), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(bad("three fields separated by tabs are needed"));
        };
        // The first line is a heading, unless it judges something.
        if index == 0 && grade.trim().parse::<u8>().is_err() {
            continue;
        }
        let grade: u8 = grade.trim().parse().map_err(|_| bad("the grade is not a number from 0 to 255"))?;
        judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
    }
    Ok(judgements)
}

fn read(path: &Path) -> Result<String, BeirError> {
    std::fs::read_to_string(path).map_err(|source| BeirError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn queries_keep_their_order_and_one_without_an_id_has_its_lines_number() {
        let file = file("{\"_id\": \"b\", \"text\": \"x\"}\n\n{\"query\": \"y\", \"k\": 3}\n");
        let read = queries(file.path()).unwrap();
        assert_eq!(read, [("b".to_owned(), "x".to_owned()), ("3".to_owned(), "y".to_owned())]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_file_and_line() {
        assert!(queries(Path::new("/nonexistent/queries.jsonl")).unwrap_err().to_string().contains("queries.jsonl"));
        assert!(queries(file("{}").path()).unwrap_err().to_string().contains("line 1"));
        let whole = judgements(file("q\ta\t1\nq\tb\t0\n").path()).unwrap();
        assert_eq!(whole["q"].len(), 2, "a file without a heading loses no line");
        assert!(
            judgements(file("query-id\tcorpus-id\tscore\nq\td\n").path()).unwrap_err().to_string().contains("line 2")
        );
        assert!(judgements(file("a\tb\tscore\nq\td\thigh\n").path()).unwrap_err().to_string().contains("the grade"));
        assert!(judgements(file("a\tb\tscore\nq\td\t300\n").path()).unwrap_err().to_string().contains("0 to 255"));
    }
}
