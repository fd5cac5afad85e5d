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

use crate::beir::{self, BeirError};
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
    /// The corpus cannot be read.
    #[error("the corpus cannot be read; run the demo from the repository's root or name the folder with --corpus")]
    Corpus(#[from] BeirError),
    /// A query of the demo is not in the corpus.
    #[error("query {id:?} is not in {folder:?}")]
    QueryMissing {
        /// Which.
        id: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
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

/// Reads the demo's queries and their judgements.
pub fn queries(corpus: &Path) -> Result<Vec<DemoQuery>, DemoError> {
    let mut texts: HashMap<String, String> = beir::queries(&corpus.join("queries.jsonl"))?.into_iter().collect();
    let mut grades = beir::judgements(&corpus.join("qrels").join("test.tsv"))?;
    QUERY_IDS
        .into_iter()
        .map(|id| {
            let missing = || DemoError::QueryMissing { id, folder: corpus.to_owned() };
            let text = texts.remove(id).ok_or_else(missing)?;
            Ok(DemoQuery { text, grades: grades.remove(id).unwrap_or_default() })
        })
        .collect()
}

/// The tiny pair in float32, an embedded store under `data`, both ports on loopback.
pub fn config(models: &Path, data: &Path, api_address: SocketAddr) -> ServerConfig {
    ServerConfig {
        listen: Listen { api_address, tls: None, control_address: ([127, 0, 0, 1], 0).into() },
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
                revision: None,
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
        weights: Weights { directory: models.to_owned(), ..Weights::default() },
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
    fn a_query_that_is_not_in_the_corpus_is_told() {
        let folder = corpus("", "");
        assert!(queries(folder.path()).unwrap_err().to_string().contains(QUERY_IDS[0]));
    }

    #[test]
    fn the_demo_s_configuration_is_valid() {
        let address = ([127, 0, 0, 1], 8_000).into();
        let config = config(Path::new("tests/models"), Path::new("target/demo"), address);
        assert_eq!(config.validate().map_err(|violations| violations.to_string()), Ok(()));
    }
}
