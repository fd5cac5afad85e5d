//! `index`: files of documents into a collection, with a progress bar. I/O.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{Failure, log_for_a_person, progress_is_seen, read_config};
use crate::args::{ExitCode, IndexArguments};
use crate::index::{self, IndexOptions, IndexReport};
use crate::metrics::Metrics;
use crate::pool::ModelKey;
use crate::shutdown::Signals;
use crate::wiring::Parts;

/// Documents that are embedded and written together: enough to keep an engine busy, few enough that an interruption
/// comes soon.
pub(super) const BATCH_SIZE: usize = 32;
/// The longest deadline that a configuration may name.
const MAXIMUM_TIMEOUT_SECONDS: i32 = 3_600;

pub(super) async fn run(arguments: IndexArguments) -> Result<ExitCode, Failure> {
    let IndexArguments { config, collection, replace, files, log } = arguments;
    let mut config = read_config(&config.config)?;
    log_for_a_person(&log)?;
    // A batch of documents is no request that a client waits for: on a slow machine it may take its time.
    Arc::make_mut(&mut config).timeouts.request_seconds = MAXIMUM_TIMEOUT_SECONDS;
    let mut signals = Signals::register().context("failed to listen for signals")?;
    let parts = Parts::open(config, Arc::new(Metrics::new()), progress_is_seen()).await.context("failed to start")?;
    let cancel = CancellationToken::new();
    let interrupted = tokio::spawn({
        let cancel = cancel.clone();
        async move {
            signals.next().await;
            cancel.cancel();
        }
    });
    let mut result = Ok(ExitCode::Success);
    for file in files {
        match file_into(&parts, file.clone(), &collection, replace, &cancel).await {
            Ok(report) => {
                println!("{}: {report}", file.display());
                if report.interrupted {
                    result = Ok(ExitCode::Failure);
                    break;
                }
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    interrupted.abort();
    parts.close().await;
    Ok(result?)
}

/// Indexes one file, drawing a bar where standard error is a terminal.
pub(super) async fn file_into(
    parts: &Parts,
    file: PathBuf,
    collection: &str,
    replace: bool,
    cancel: &CancellationToken,
) -> anyhow::Result<IndexReport> {
    let store = parts.store.as_ref().context("the configuration names no vectorStore to index into")?;
    let collections = parts.config.vector_store.as_ref().map_or(&[][..], |store| store.collections());
    let configured = collections.iter().find(|configured| configured.name == collection).with_context(|| {
        let names: Vec<&str> = collections.iter().map(|configured| configured.name.as_str()).collect();
        format!("collection {collection:?} is not configured; configured: {}", names.join(", "))
    })?;
    let options = IndexOptions {
        file,
        collection: collection.to_owned(),
        text_field: configured.text_field.clone(),
        batch_size: BATCH_SIZE,
        replace,
    };
    parts.fetch_embedder().await.context("failed to download the embedding model")?;
    let spec = parts
        .collection_spec()
        .context("failed to read the embedding model")?
        .context("the configuration names no embedding.model to index with")?;
    let embedder: Vec<ModelKey> = parts.searcher.served().embedder().cloned().into_iter().collect();
    parts.pool.preload(&embedder).await.context("failed to load the embedding model")?;
    let bar = index::progress_bar();
    index::index(&options, &spec, store.as_ref(), parts.searcher.as_ref(), &bar, cancel)
        .await
        .with_context(|| format!("failed to index into collection {collection:?}"))
}
