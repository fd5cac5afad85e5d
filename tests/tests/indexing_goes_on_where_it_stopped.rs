//! Indexing a file into a Qdrant server, with an embedder that stands in for a model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rerank_crds::server_config::{Collection, Qdrant};
use rerank_server::index::{DocumentEmbedder, IndexError, IndexOptions, index, progress_bar};
use rerank_server::store::qdrant::QdrantStore;
use rerank_server::store::{CollectionSpec, Store, StoreError};
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Counting {
    texts: AtomicUsize,
}

#[async_trait]
impl DocumentEmbedder for Counting {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, IndexError> {
        self.texts.fetch_add(texts.len(), Ordering::Relaxed);
        Ok(texts.iter().map(|_| vec![0.6, 0.8]).collect())
    }
}

/// Embeds two batches, then the server hangs.
struct Hanging<'a> {
    server: &'a QdrantServer,
    inner: Counting,
}

#[async_trait]
impl DocumentEmbedder for Hanging<'_> {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, IndexError> {
        if self.inner.texts.load(Ordering::Relaxed) == 16 {
            self.server.set_hanging(true);
        }
        self.inner.embed(texts).await
    }
}

#[tokio::test]
async fn a_server_that_went_away_loses_nothing_that_was_indexed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("corpus.jsonl");
    let lines: String =
        (0..40).map(|number| format!("{{\"_id\": \"doc-{number}\", \"text\": \"text {number}\"}}\n")).collect();
    std::fs::write(&file, lines).unwrap();

    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let collection =
        Collection { name: "docs".to_owned(), vector_name: Some("text".to_owned()), text_field: "text".to_owned() };
    let config = Qdrant { url: server.url(), collections: vec![collection], ..Qdrant::default() };
    let store = QdrantStore::connect(&config, Duration::from_millis(500)).unwrap();
    let spec = CollectionSpec { dimension: 2, embedding_model: "maker/model".to_owned(), embedding_revision: None };
    let options = IndexOptions {
        file,
        collection: "docs".to_owned(),
        text_field: "text".to_owned(),
        batch_size: 8,
        replace: false,
    };

    let hanging = Hanging { server: &server, inner: Counting::default() };
    let cancel = CancellationToken::new();
    let outcome = index(&options, &spec, &store, &hanging, &progress_bar(), &cancel).await;
    assert!(matches!(&outcome, Err(IndexError::Store { source: StoreError::Timeout, .. })), "{outcome:?}");

    server.set_hanging(false);
    let rest = Counting::default();
    let report = index(&options, &spec, &store, &rest, &progress_bar(), &cancel).await.unwrap();
    assert_eq!((report.total, report.indexed, report.skipped), (40, 24, 16));
    assert_eq!(rest.texts.load(Ordering::Relaxed), 24, "a document that was there was embedded again");
    let info = store.check("docs", &spec).await.unwrap();
    assert_eq!((info.documents, info.embedding_model.as_deref()), (40, Some("maker/model")));
}
