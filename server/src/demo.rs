//! What the demo shows: the configuration of the tiny pair, the queries, the corpus and its judgements. I/O: reads the
//! corpus's files.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rerank_crds::ServerConfig;
use rerank_crds::catalog::Quantization;
use rerank_crds::server_config::{
    AllowedOverride, Collection, Embedded, Embedding, Listen, Reranker, VectorStore, Weights,
};
use serde::Deserialize;

use crate::comparison::Grades;

/// The one collection.
pub const COLLECTION: &str = "corpus";
/// Folder and id of the embedding model.
pub const EMBEDDER: &str = "tiny-embedder";
/// Folder and id of the reranker.
pub const RERANKER: &str = "tiny-reranker";
/// Folder below the data folder that the demo makes anew; nothing else in there is touched.
pub const COLLECTIONS_FOLDER: &str = "rerank-demo-collections";

/// Queries that show what a reranker is for: the vector order knows the topic, the answer hangs on a detail. Chosen from
/// those that gain most; on average over the corpus the gain is smaller, see the card of the tiny pair.
pub const QUERY_IDS: [&str; 5] = ["q048", "q118", "q070", "q014", "q136"];

/// Why the demo cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file of the corpus cannot be read.
    #[error("failed to read {path:?}; run the demo from the repository's root or name the folder with --corpus")]
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
    /// A query of the demo is not in the corpus.
    #[error("query {id:?} is not in {path:?}")]
    QueryMissing {
        /// Which.
        id: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// One query with its judgements.
#[derive(Clone, Debug)]
pub struct DemoQuery {
    /// The question.
    pub text: String,
    /// Grade of each judged document, by id.
    pub grades: Grades,
}

#[derive(Debug, Deserialize)]
struct QueryLine {
    #[serde(rename = "_id")]
    id: String,
    text: String,
}

/// Reads the demo's queries and their judgements.
pub fn queries(corpus: &Path) -> Result<Vec<DemoQuery>, DemoError> {
    let path = corpus.join("queries.jsonl");
    let mut texts: HashMap<String, String> = HashMap::new();
    for (index, line) in read(&path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let query: QueryLine = serde_json::from_str(line).map_err(|error| DemoError::Line {
            path: path.clone(),
            line: index + 1,
            message: error.to_string(),
        })?;
        texts.insert(query.id, query.text);
    }
    let mut grades = judgements(&corpus.join("qrels").join("test.tsv"))?;
    QUERY_IDS
        .into_iter()
        .map(|id| {
            let text = texts.remove(id).ok_or_else(|| DemoError::QueryMissing { id, path: path.clone() })?;
            Ok(DemoQuery { text, grades: grades.remove(id).unwrap_or_default() })
        })
        .collect()
}

/// Reads judgements in BEIR's layout: a heading, then `query-id corpus-id score` separated by tabs.
fn judgements(path: &Path) -> Result<HashMap<String, Grades>, DemoError> {
    let mut judgements: HashMap<String, Grades> = HashMap::new();
    for (index, line) in read(path)?.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let bad =
            |message: &str| DemoError::Line { path: path.to_owned(), line: index + 1, message: message.to_owned() };
        let mut fields = line.split('\t');
        let (Some(query), Some(document), Some(grade), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(bad("three fields separated by tabs are needed"));
        };
        let grade: u8 = grade.trim().parse().map_err(|_| bad("the grade is not a number from 0 to 255"))?;
        judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
    }
    Ok(judgements)
}

fn read(path: &Path) -> Result<String, DemoError> {
    std::fs::read_to_string(path).map_err(|source| DemoError::Read { path: path.to_owned(), source })
}

/// The tiny pair in float32, an embedded store under `data`, both ports on loopback.
pub fn config(models: &Path, data: &Path, api_address: SocketAddr) -> ServerConfig {
    ServerConfig {
        listen: Listen { api_address, control_address: ([127, 0, 0, 1], 0).into() },
        embedding: Embedding {
            model: Some(EMBEDDER.to_owned()),
            quantization: Quantization::Float32,
            ..Embedding::default()
        },
        reranker: Reranker {
            model: Some(RERANKER.to_owned()),
            quantization: Quantization::Float32,
            max_length: 1_024,
            allowed_overrides: vec![AllowedOverride {
                model: RERANKER.to_owned(),
                quantizations: vec![Quantization::Float32, Quantization::Int8],
            }],
            ..Reranker::default()
        },
        vector_store: Some(VectorStore {
            embedded: Some(Embedded {
                path: data.join(COLLECTIONS_FOLDER),
                collections: vec![Collection {
                    name: COLLECTION.to_owned(),
                    vector_name: None,
                    text_field: "text".to_owned(),
                }],
            }),
            writable: true,
            ..VectorStore::default()
        }),
        weights: Weights { directory: models.to_owned() },
        ..ServerConfig::default()
    }
}

/// Commands to try, once the demo is served.
pub fn suggestions(api: SocketAddr, control: SocketAddr, query: &str) -> String {
    let encoded = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
    format!(
        "Serving on http://{api} (control port {control}). Try:\n\n  \
         curl 'http://{api}/search?q={encoded}&k=3'\n  \
         curl 'http://{api}/search?q={encoded}&k=3&use_reranker=false'\n  \
         curl 'http://{api}/search?q={encoded}&k=3&rerank_model={RERANKER}&rerank_quantization=int8'\n  \
         curl http://{api}/v1/rerank -H 'Content-Type: application/json' \\\n    \
         -d '{{\"query\": \"which planet is red\", \"documents\": [\"Venus is hot.\", \"Mars looks red.\"]}}'\n  \
         curl http://{api}/documents -H 'Content-Type: application/json' \\\n    \
         -d '{{\"documents\": [{{\"id\": \"mine-1\", \"text\": \"A document of my own.\"}}]}}'\n  \
         curl http://{control}/metrics\n\nStop with Ctrl-C.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(queries: &str, judgements: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("qrels")).unwrap();
        std::fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
        std::fs::write(folder.path().join("qrels/test.tsv"), judgements).unwrap();
        folder
    }

    fn all_queries() -> String {
        QUERY_IDS.iter().map(|id| format!("{{\"_id\": \"{id}\", \"text\": \"query {id}\"}}\n")).collect()
    }

    #[test]
    fn queries_come_with_their_judgements() {
        let judged = format!("query-id\tcorpus-id\tscore\n{}\tdoc-1\t2\n{}\tdoc-2\t0\n", QUERY_IDS[0], QUERY_IDS[0]);
        let folder = corpus(&all_queries(), &judged);
        let queries = queries(folder.path()).unwrap();
        assert_eq!(queries.len(), 5);
        assert_eq!(queries[0].grades, Grades::from([("doc-1".to_owned(), 2), ("doc-2".to_owned(), 0)]));
        assert!(queries[1].grades.is_empty());
    }

    #[test]
    fn a_corpus_that_cannot_be_read_is_told_with_file_and_line() {
        let message = |folder: &tempfile::TempDir| queries(folder.path()).unwrap_err().to_string();
        assert!(message(&tempfile::tempdir().unwrap()).contains("queries.jsonl"));
        assert!(message(&corpus("{}", "")).contains("line 1"));
        assert!(message(&corpus(&all_queries(), "h\nq\td\n")).contains("line 2"));
        assert!(message(&corpus(&all_queries(), "h\nq\td\thigh\n")).contains("the grade"));
        assert!(message(&corpus("", "")).contains(QUERY_IDS[0]));
    }

    #[test]
    fn the_demo_s_configuration_is_valid() {
        let address = ([127, 0, 0, 1], 8_000).into();
        let config = config(Path::new("tests/models"), Path::new("target/demo"), address);
        assert_eq!(config.validate().map_err(|violations| violations.to_string()), Ok(()));
    }
}
