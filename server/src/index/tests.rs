//! Indexing with the embedded store and an embedder that stands in for a model.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use rerank_crds::server_config::{Collection, Embedded};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::store::VectorQuery;
use crate::store::embedded::EmbeddedStore;

/// Gives every text a vector of its own and remembers what it was asked.
#[derive(Default)]
struct FakeEmbedder {
    asked: Mutex<Vec<String>>,
    cancel_after_batches: Option<(usize, CancellationToken)>,
    batches: Mutex<usize>,
}

#[async_trait]
impl DocumentEmbedder for FakeEmbedder {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, IndexError> {
        self.asked.lock().unwrap().extend(texts.iter().cloned());
        let mut batches = self.batches.lock().unwrap();
        *batches += 1;
        if let Some((after, token)) = &self.cancel_after_batches
            && *batches == *after
        {
            token.cancel();
        }
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

fn vector(text: &str) -> Vec<f32> {
    let angle = text.bytes().fold(0.0_f32, |sum, byte| sum + f32::from(byte));
    vec![angle.cos(), angle.sin()]
}

fn spec() -> CollectionSpec {
    CollectionSpec { dimension: 2, embedding_model: "maker/model".to_owned(), embedding_revision: None }
}

struct Bench {
    folder: TempDir,
    store: EmbeddedStore,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let collection = Collection { name: "docs".to_owned(), vector_name: None, text_field: "text".to_owned() };
        let config = Embedded { path: folder.path().join("store"), collections: vec![collection] };
        Self { store: EmbeddedStore::open(&config).unwrap(), folder }
    }

    fn options(&self, content: impl AsRef<[u8]>) -> IndexOptions {
        let file = self.folder.path().join("documents.jsonl");
        fs::write(&file, content).unwrap();
        IndexOptions {
            file,
            collection: "docs".to_owned(),
            text_field: "text".to_owned(),
            batch_size: 2,
            replace: false,
        }
    }

    async fn index(&self, options: &IndexOptions, embedder: &FakeEmbedder) -> Result<IndexReport, IndexError> {
        let cancel =
            embedder.cancel_after_batches.as_ref().map_or_else(CancellationToken::new, |(_, token)| token.clone());
        index(options, &spec(), &self.store, embedder, &ProgressBar::hidden(), &cancel).await
    }

    async fn documents(&self) -> HashMap<DocumentId, (String, serde_json::Value)> {
        let query = VectorQuery { collection: "docs".to_owned(), vector: vec![1.0, 0.0], limit: 100, filter: None };
        let found = self.store.search(query).await.unwrap();
        found.into_iter().map(|found| (found.id, (found.text, serde_json::Value::Object(found.payload)))).collect()
    }

    async fn problem(&self, content: impl AsRef<[u8]>) -> String {
        let embedder = FakeEmbedder::default();
        let error = self.index(&self.options(content), &embedder).await.unwrap_err();
        assert!(embedder.asked.lock().unwrap().is_empty(), "a text was embedded though a line is wrong");
        error.to_string()
    }
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{{\"id\": {number}, \"text\": \"document {number}\"}}\n")).collect()
}

#[tokio::test]
async fn documents_are_indexed_with_their_payload() {
    let bench = Bench::new();
    let content = "\u{feff}{\"id\": 7, \"text\": \"seven\", \"lang\": \"en\"}\r\n\r\n  \n\
                   {\"_id\": \"doc-1\", \"title\": \"A title\", \"text\": \"one\"}";
    let report = bench.index(&bench.options(content), &FakeEmbedder::default()).await.unwrap();
    assert_eq!((report.total, report.read, report.indexed, report.skipped), (2, 2, 2, 0));
    assert!(!report.interrupted);
    let documents = bench.documents().await;
    assert_eq!(documents[&DocumentId::Number(7)], ("seven".to_owned(), json!({"text": "seven", "lang": "en"})));
    assert_eq!(
        documents[&DocumentId::Text("doc-1".to_owned())],
        ("one".to_owned(), json!({"title": "A title", "text": "one"}))
    );
}

#[tokio::test]
async fn documents_that_are_there_are_skipped_unless_replaced() {
    let bench = Bench::new();
    bench.index(&bench.options(lines(0..3)), &FakeEmbedder::default()).await.unwrap();

    let again = FakeEmbedder::default();
    let mut options = bench.options(lines(0..5));
    let report = bench.index(&options, &again).await.unwrap();
    assert_eq!((report.indexed, report.skipped), (2, 3));
    assert_eq!(*again.asked.lock().unwrap(), ["document 3", "document 4"]);

    options.replace = true;
    let report = bench.index(&options, &FakeEmbedder::default()).await.unwrap();
    assert_eq!((report.indexed, report.skipped), (5, 0));
    assert_eq!(bench.documents().await.len(), 5);
}

#[tokio::test]
async fn an_interruption_finishes_the_batch_and_a_second_run_does_the_rest() {
    let bench = Bench::new();
    let options = bench.options(lines(0..7));
    let interrupted =
        FakeEmbedder { cancel_after_batches: Some((2, CancellationToken::new())), ..FakeEmbedder::default() };
    let report = bench.index(&options, &interrupted).await.unwrap();
    assert_eq!((report.total, report.read, report.indexed, report.interrupted), (7, 4, 4, true));
    assert!(report.to_string().contains("run the same command again"), "{report}");
    assert_eq!(bench.documents().await.len(), 4);

    let report = bench.index(&options, &FakeEmbedder::default()).await.unwrap();
    assert_eq!((report.indexed, report.skipped, report.interrupted), (3, 4, false));
    assert_eq!(bench.documents().await.len(), 7);
}

#[tokio::test]
async fn a_bad_line_is_named_with_its_field_before_anything_is_embedded() {
    let bench = Bench::new();
    for (line, words) in [
        ("{\"text\": \"no id\"}", "field \"id\" is missing"),
        ("{\"id\": 1, \"_id\": 2, \"text\": \"both\"}", "\"id\" and \"_id\" are both given"),
        ("{\"id\": -1, \"text\": \"negative\"}", "field \"id\" is -1; allowed: an unsigned integer"),
        ("{\"id\": 1.5, \"text\": \"fraction\"}", "field \"id\" is 1.5"),
        ("{\"_id\": \"\", \"text\": \"empty\"}", "field \"_id\" is \"\""),
        ("{\"id\": 1}", "field \"text\" is missing or no text"),
        ("{\"id\": 1, \"text\": 3}", "field \"text\" is missing or no text"),
        ("{\"id\": 1, \"text\": \"a\", \"_rerank_id\": \"b\"}", "\"_rerank_id\" is reserved"),
        ("{\"id\": 1, \"text\": \"a\", \"n\": 18446744073709551615}", "payload field \"n\""),
        ("[1]", "no JSON object"),
        ("{\"id\": 1, \"text\": \"cut", "no JSON object"),
        ("{\"id\": 1, \"text\": \"\\ud800\"}", "no JSON object"),
    ] {
        let message = bench.problem(format!("{}\n{line}\n", lines(100..103))).await;
        assert!(message.contains("documents.jsonl line 5: "), "{message}");
        assert!(message.contains(words), "{message} does not say {words}");
    }
    let message = bench.problem(b"{\"id\": 1, \"text\": \"\xff\"}".as_slice()).await;
    assert!(message.contains("line 1: the line is not UTF-8, from its byte 20 on"), "{message}");
}

#[tokio::test]
async fn an_id_used_twice_names_both_lines() {
    let bench = Bench::new();
    let message = bench.problem(format!("{}\n{}", lines(0..3), lines(2..3))).await;
    assert!(message.contains("line 5: field \"id\": 2 was already used on line 3"), "{message}");
    let uuid = "550e8400-e29b-41d4-a716-446655440000";
    let content =
        format!("{{\"id\": \"{uuid}\", \"text\": \"a\"}}\n{{\"id\": \"{}\", \"text\": \"b\"}}", uuid.to_uppercase());
    assert!(bench.problem(content).await.contains("already used on line 1"));
}

#[tokio::test]
async fn a_file_that_is_missing_or_empty_is_no_panic() {
    let bench = Bench::new();
    let mut options = bench.options("\n\n");
    let report = bench.index(&options, &FakeEmbedder::default()).await.unwrap();
    assert_eq!((report.total, report.indexed), (0, 0));
    options.file = Path::new("/nowhere/documents.jsonl").to_owned();
    let error = bench.index(&options, &FakeEmbedder::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to read /nowhere/documents.jsonl");
}

#[tokio::test]
async fn a_collection_of_another_model_is_refused_before_anything_is_embedded() {
    let bench = Bench::new();
    let options = bench.options(lines(0..1));
    bench.index(&options, &FakeEmbedder::default()).await.unwrap();
    let other = CollectionSpec { embedding_model: "other/model".to_owned(), ..spec() };
    let embedder = FakeEmbedder::default();
    let outcome =
        index(&options, &other, &bench.store, &embedder, &ProgressBar::hidden(), &CancellationToken::new()).await;
    let Err(IndexError::Store { source, .. }) = outcome else { panic!("{outcome:?}") };
    let message = source.to_string();
    assert!(message.contains("maker/model") && message.contains("other/model"), "{message}");
    assert!(embedder.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_embedder_that_answers_too_few_vectors_is_an_error() {
    struct Short;
    #[async_trait]
    impl DocumentEmbedder for Short {
        async fn embed(&self, _: &[String]) -> Result<Vec<Vec<f32>>, IndexError> {
            Ok(Vec::new())
        }
    }
    let bench = Bench::new();
    let options = bench.options(lines(0..1));
    let outcome =
        index(&options, &spec(), &bench.store, &Short, &ProgressBar::hidden(), &CancellationToken::new()).await;
    assert!(matches!(outcome, Err(IndexError::Internal { .. })), "{outcome:?}");
}
