//! The use case: put the documents of a JSON Lines file into a collection (`request`: those of a request). Knows no model library and no store in
//! particular; reads the file, writes through the store trait.
//!
//! The whole file is checked before the first document is embedded, so a bad line costs no work. Documents that are
//! there already are skipped, which is how an interrupted run is gone on with.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::source::{Source, SourceDocument};
use crate::search::{RequestContext, SearchError, Searcher};
use crate::store::document::TextField;
use crate::store::{CollectionSpec, Document, DocumentId, Store, StoreError};

mod request;
mod source;

pub use request::{IndexTarget, index_documents};

/// How often the log tells how far indexing is, for where no progress bar is seen.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What to index.
#[derive(Clone, Debug)]
pub struct IndexOptions {
    /// JSON Lines: one object a line, with `id` (or `_id`), the text, and any payload.
    pub file: PathBuf,
    /// Collection, as configured.
    pub collection: String,
    /// Payload path of the text, as configured for the collection. Usually `text`.
    pub text_field: String,
    /// Documents that are embedded and written together. 0 counts as 1.
    pub batch_size: usize,
    /// Embed and write documents that are there already, too.
    pub replace: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IndexReport {
    /// Documents in the file.
    pub total: u64,
    /// Documents looked at; less than `total` where interrupted.
    pub read: u64,
    /// Documents embedded and written.
    pub indexed: u64,
    /// Documents that were there already.
    pub skipped: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl fmt::Display for IndexReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, read, indexed, skipped, seconds, interrupted } = self;
        write!(
            formatter,
            "read {read} of {total} documents: {indexed} indexed, {skipped} already there, {seconds:.1} s"
        )?;
        if *interrupted {
            write!(formatter, "; interrupted, run the same command again without --replace to index the rest")?;
        }
        Ok(())
    }
}

/// Why indexing stopped. What was written until then stays.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be read.
    #[error("failed to read {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is no document.
    #[error("{} line {line}: {problem}", file.display())]
    Line {
        /// Which file.
        file: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// Which field is wrong and what is allowed.
        problem: String,
    },
    /// The path of the text field cannot be read.
    #[error("the text field {message}")]
    TextField {
        /// What is allowed.
        message: String,
    },
    /// The store refused.
    #[error("failed to write to collection {collection:?}")]
    Store {
        /// Which collection.
        collection: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The embedder failed.
    #[error("failed to embed documents")]
    Embed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A fault of ours.
    #[error("{message}")]
    Internal {
        /// What happened.
        message: String,
    },
}

/// Embeds documents.
#[async_trait]
pub trait DocumentEmbedder: Send + Sync {
    /// One vector of length 1 for each text, in order.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, IndexError>;
}

#[async_trait]
impl DocumentEmbedder for Searcher {
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, IndexError> {
        // An interruption lets the batch under way finish, so nothing cancels it from here.
        let context = RequestContext::local();
        self.embed_documents(texts, &context).await.map_err(|error: SearchError| IndexError::Embed(Box::new(error)))
    }
}

/// A progress bar on standard error; it stays hidden where that is no terminal.
pub fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg} [{wide_bar}] {human_pos}/{human_len} documents, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message("Indexing");
    bar
}

/// Indexes a file. Makes the collection where it is absent; else checks that it fits `spec`.
///
/// When `cancel` fires, the batch under way is finished and the report says so.
///
/// # Errors
/// The first thing that is wrong. A bad line is found before anything is written.
pub async fn index(
    options: &IndexOptions,
    spec: &CollectionSpec,
    store: &dyn Store,
    embedder: &dyn DocumentEmbedder,
    bar: &ProgressBar,
    cancel: &CancellationToken,
) -> Result<IndexReport, IndexError> {
    let started = Instant::now();
    let mut told = started;
    let text_field = TextField::parse(&options.text_field).map_err(|message| IndexError::TextField { message })?;
    let mut source = Source::new(options.file.clone(), options.text_field.clone(), text_field);
    let total = {
        let source = source.clone();
        blocking(move || source.check()).await?
    };
    let mut report = IndexReport { total, ..IndexReport::default() };
    bar.set_length(total);
    let collection = options.collection.as_str();
    let store_error = |source| IndexError::Store { collection: collection.to_owned(), source };
    store.ensure_collection(collection, spec).await.map_err(store_error)?;

    let batch_size = options.batch_size.max(1);
    loop {
        if cancel.is_cancelled() {
            report.interrupted = report.read < total;
            break;
        }
        let batch;
        (source, batch) = blocking(move || {
            let batch = source.batch(batch_size)?;
            Ok((source, batch))
        })
        .await?;
        if batch.is_empty() {
            break;
        }
        let read = batch.len() as u64;
        let wanted =
            if options.replace { batch } else { absent(store, collection, batch).await.map_err(store_error)? };
        let indexed = wanted.len() as u64;
        if !wanted.is_empty() {
            let documents = embed(embedder, spec, wanted).await?;
            store.upsert(collection, documents).await.map_err(store_error)?;
        }
        report.read += read;
        report.indexed += indexed;
        report.skipped += read - indexed;
        bar.set_position(report.read);
        if told.elapsed() >= LOG_INTERVAL {
            told = Instant::now();
            tracing::info!(collection, read = report.read, total, "Indexing");
        }
    }
    bar.finish_and_clear();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The documents that are not there yet.
async fn absent(
    store: &dyn Store,
    collection: &str,
    batch: Vec<SourceDocument>,
) -> Result<Vec<SourceDocument>, StoreError> {
    let ids: Vec<DocumentId> = batch.iter().map(|document| document.id.clone()).collect();
    let existing = store.existing(collection, &ids).await?;
    Ok(batch.into_iter().zip(existing).filter_map(|(document, exists)| (!exists).then_some(document)).collect())
}

async fn embed(
    embedder: &dyn DocumentEmbedder,
    spec: &CollectionSpec,
    documents: Vec<SourceDocument>,
) -> Result<Vec<Document>, IndexError> {
    let (texts, rest): (Vec<_>, Vec<_>) =
        documents.into_iter().map(|SourceDocument { id, text, payload }| (text, (id, payload))).unzip();
    let vectors = embedder.embed(&texts).await?;
    if vectors.len() != rest.len() {
        let message = format!("the embedder answered {} vectors for {} documents", vectors.len(), rest.len());
        return Err(IndexError::Internal { message });
    }
    if let Some(vector) = vectors.iter().find(|vector| vector.len() != spec.dimension) {
        let message =
            format!("the embedder answered a vector of {} values, but the model has {}", vector.len(), spec.dimension);
        return Err(IndexError::Internal { message });
    }
    Ok(rest.into_iter().zip(vectors).map(|((id, payload), vector)| Document { id, vector, payload }).collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(IndexError::Internal { message: format!("reading did not finish: {error}") }))
}

#[cfg(test)]
mod tests;
