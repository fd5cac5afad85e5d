//! The whole service over the tiny pair and the judged corpus, in this process. I/O: loads models, writes a store into
//! a temporary folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rerank_crds::ServerConfig;
use rerank_server::api::service::{IndexRequest, NewDocument, Service};
use rerank_server::metrics::Metrics;
use rerank_server::search::RequestContext;
use rerank_server::store::DocumentId;
use rerank_server::wiring::Parts;

use crate::corpus::Corpus;

/// Documents of one indexing request.
const DOCUMENTS_AT_ONCE: usize = 64;

/// The parts and the folder that their store lives in.
#[derive(Debug)]
pub struct TinyService {
    /// Everything that answers requests.
    pub parts: Parts,
    folder: tempfile::TempDir,
}

impl TinyService {
    /// Opens the demo's configuration on a folder of its own, after `change`. Nothing is indexed or loaded yet.
    pub async fn open(change: impl FnOnce(&mut ServerConfig)) -> Result<Self> {
        let folder = tempfile::tempdir().context("failed to make a folder for the store")?;
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let mut config = rerank_server::demo::config(&models, folder.path(), ([127, 0, 0, 1], 0).into());
        change(&mut config);
        let parts = Parts::open(Arc::new(config), Arc::new(Metrics::new()), false).await?;
        Ok(Self { parts, folder })
    }

    /// Indexes the corpus, the document's id as its id.
    pub async fn index(&self, corpus: &Corpus) -> Result<()> {
        for documents in corpus.documents.chunks(DOCUMENTS_AT_ONCE) {
            let documents = documents
                .iter()
                .map(|document| NewDocument {
                    id: DocumentId::Text(document.id.clone()),
                    text: document.text.clone(),
                    payload: serde_json::Map::new(),
                })
                .collect();
            self.parts.index(IndexRequest { collection: None, documents }, &arriving()).await?;
        }
        Ok(())
    }

    /// Unloads the models, closes the store and removes its folder.
    pub async fn close(self) -> Result<()> {
        self.parts.close().await;
        self.folder.close().context("failed to remove the store's folder")
    }
}

/// A request that arrives now and whose client stays.
pub fn arriving() -> RequestContext {
    RequestContext::local()
}
