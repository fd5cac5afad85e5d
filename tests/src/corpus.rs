//! The judged corpus in `examples/corpus` (BEIR layout). I/O: reads three files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// One document.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    /// Id.
    #[serde(rename = "_id")]
    pub id: String,
    /// For people; neither embedded nor reranked.
    pub title: String,
    /// What is embedded and reranked.
    pub text: String,
}

/// One query.
#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    /// Id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its words.
    pub text: String,
}

/// Documents, queries and judgements.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// In the order of the file.
    pub documents: Vec<Document>,
    /// In the order of the file.
    pub queries: Vec<Query>,
    /// Query id -> document id -> grade, 1 to 3. A document that is not judged has grade 0.
    pub judgements: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Corpus {
    /// Folder of the corpus in this repository.
    pub fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus")
    }

    /// Reads the corpus of this repository.
    pub fn read() -> Result<Self> {
        let directory = Self::directory();
        let judgements = read_judgements(&directory.join("qrels/test.tsv"))?;
        Ok(Self {
            documents: read_lines(&directory.join("corpus.jsonl"))?,
            queries: read_lines(&directory.join("queries.jsonl"))?,
            judgements,
        })
    }

    /// Grade of a document for a query; 0 where it is not judged.
    pub fn grade(&self, query: &str, document: &str) -> u32 {
        self.judgements.get(query).and_then(|grades| grades.get(document)).copied().unwrap_or(0)
    }

    /// All grades of a query above 0.
    pub fn grades(&self, query: &str) -> Vec<u32> {
        self.judgements.get(query).map(|grades| grades.values().copied().collect()).unwrap_or_default()
    }
}

fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(line, json)| {
            serde_json::from_str(json).with_context(|| format!("failed to parse {}:{}", path.display(), line + 1))
        })
        .collect()
}

fn read_judgements(path: &Path) -> Result<BTreeMap<String, BTreeMap<String, u32>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut judgements: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    // The first line names the columns.
    for (line, row) in text.lines().enumerate().skip(1) {
        let malformed = || format!("{}:{}: expected query-id, corpus-id and score", path.display(), line + 1);
        let mut columns = row.split('\t');
        let (query, document, grade) = (columns.next(), columns.next(), columns.next());
        let query = query.with_context(malformed)?.to_owned();
        let document = document.with_context(malformed)?.to_owned();
        let grade: u32 = grade.with_context(malformed)?.trim().parse().with_context(malformed)?;
        judgements.entry(query).or_default().insert(document, grade);
    }
    Ok(judgements)
}
