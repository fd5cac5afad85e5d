//! The checks themselves. I/O: reads files, asks the device and the store; loads nothing.

use std::sync::Arc;
use std::time::Duration;

use rerank_crds::ServerConfig;
use rerank_crds::catalog::EngineKind;

use super::{Check, Report, Severity};
use crate::access::ApiKeys;
use crate::chain::describe;
use crate::engine::{EngineLoader, ModelRole};
use crate::http::tls::TlsIdentity;
use crate::models::ConfiguredModels;
use crate::pool::{ModelKey, ModelSource, SourceError};
use crate::store::{CollectionSpec, Store, StoreError};
use crate::wiring;

/// A store that is asked nothing but whether it is there gets so long.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs every check on a valid configuration. Bounded in time: files are read once and the store has a deadline.
pub async fn run(config: &Arc<ServerConfig>) -> Report {
    let mut report = Report::default();
    report.pass(Check::Configuration, "valid");
    check_keys(config, &mut report);
    check_tls(config, &mut report);
    let dimension = check_models(config, &mut report).await;
    check_store(config, dimension, &mut report).await;
    report
}

fn check_keys(config: &ServerConfig, report: &mut Report) {
    let Some(path) = &config.access.api_keys_file else { return };
    let subject = path.display().to_string();
    match ApiKeys::load(path) {
        Ok(keys) => {
            for name in keys.unknown_among(&config.access.clients) {
                let message = format!(
                    "access.clients restricts client {name:?}, which has no key there; known: {}",
                    keys.names().collect::<Vec<_>>().join(", ")
                );
                report.find(Check::ApiKeys, Severity::Warning, subject.clone(), message);
            }
            report.pass(Check::ApiKeys, format!("{subject}: {} clients", keys.len()));
        }
        Err(error) => report.find(Check::ApiKeys, Severity::Error, subject, describe(&error)),
    }
}

fn check_tls(config: &ServerConfig, report: &mut Report) {
    let Some(files) = &config.listen.tls else { return };
    let subject = files.certificate_file.display().to_string();
    match TlsIdentity::load(files) {
        Ok(_) => report.pass(Check::Tls, subject),
        Err(error) => report.find(Check::Tls, Severity::Error, subject, describe(&error)),
    }
}

/// What one model's folder says.
struct Described {
    key: ModelKey,
    predicted_bytes: u64,
}

/// Checks every model that may be loaded. Answers the length of the embedder's vectors, where it can be read.
async fn check_models(config: &Arc<ServerConfig>, report: &mut Report) -> Option<usize> {
    let loader = match wiring::engine_loader(false) {
        Ok(loader) => loader,
        Err(error) => {
            report.find(Check::Engine, Severity::Error, "engine", describe(&error));
            return None;
        }
    };
    let models = match wiring::models(config, loader.as_ref()) {
        Ok(models) => models,
        Err(error) => {
            report.find(Check::Memory, Severity::Error, "device", describe(&error));
            return None;
        }
    };
    let keys = check_hub(&models, report).await;
    let reading = tokio::task::spawn_blocking(move || {
        let mut report = Report::default();
        let mut dimension = None;
        let described: Vec<Described> = keys
            .into_iter()
            .filter_map(|key| {
                let predicted_bytes = check_model(&models, &key, &mut report)?;
                if key.role == ModelRole::Embedder {
                    // What is wrong with the folder has just been told.
                    dimension = wiring::embedding_dimension(&models, std::slice::from_ref(&key)).ok().flatten();
                }
                Some(Described { key, predicted_bytes })
            })
            .collect();
        (report, described, dimension)
    });
    let (found, described, dimension) = match reading.await {
        Ok(read) => read,
        Err(error) => {
            report.find(Check::Weights, Severity::Error, "models", format!("reading did not finish: {error}"));
            return None;
        }
    };
    report.passed.extend(found.passed);
    report.findings.extend(found.findings);
    check_memory(loader.as_ref(), &described, report);
    dimension
}

/// Asks the hub for what is not here and will be downloaded; answers the models that are here.
async fn check_hub(models: &Arc<ConfiguredModels>, report: &mut Report) -> Vec<ModelKey> {
    let looking = {
        let models = Arc::clone(models);
        tokio::task::spawn_blocking(move || models.keys().into_iter().partition(|key| models.is_missing(key)))
    };
    let (missing, here): (Vec<ModelKey>, Vec<ModelKey>) = looking.await.unwrap_or_else(|_| (Vec::new(), models.keys()));
    for key in missing {
        let subject = format!("{} ({})", key.model, key.quantization.as_str());
        match models.on_hub(&key).await {
            Some(Ok((listing, endpoint))) => report.pass(
                Check::Weights,
                format!(
                    "{subject}: will be downloaded from {endpoint}: commit {}, {} files, {} bytes",
                    listing.commit,
                    listing.files.len(),
                    listing.bytes()
                ),
            ),
            Some(Err(error)) => report.find(Check::Weights, Severity::Error, subject, describe(&error)),
            None => {}
        }
    }
    here
}

fn check_model(models: &ConfiguredModels, key: &ModelKey, report: &mut Report) -> Option<u64> {
    let subject = format!("{} ({})", key.model, key.quantization.as_str());
    let plan = match models.describe(key) {
        Ok(plan) => plan,
        Err(error) => {
            let check = if matches!(error, SourceError::Engine(_)) { Check::Engine } else { Check::Weights };
            report.find(check, Severity::Error, subject, describe(&error));
            return None;
        }
    };
    report.pass(Check::Weights, format!("{subject}: {}", plan.spec.directory.display()));
    let engine = match plan.spec.engine {
        EngineKind::Packed => format!("Packed on a CPU, {}", rerank_packed::instructions()),
        other => other.to_string(),
    };
    report.pass(Check::Engine, format!("{subject}: {engine}"));
    if let Err(error) = models.verify(key, &plan) {
        report.find(Check::Weights, Severity::Error, subject.clone(), describe(&error));
    }
    match models.input(key, &plan) {
        Ok(_) => report.pass(Check::Tokenizer, subject),
        Err(error) => report.find(Check::Tokenizer, Severity::Error, subject, describe(&error)),
    }
    Some(plan.predicted_bytes)
}

/// The embedder and the largest reranker must fit together, as a search needs both.
fn check_memory(loader: &dyn EngineLoader, described: &[Described], report: &mut Report) {
    // Where no model could be read, what they need is not known; that was told.
    if described.is_empty() {
        return;
    }
    let largest = |role| {
        described.iter().filter(|model| model.key.role == role).map(|model| model.predicted_bytes).max().unwrap_or(0)
    };
    let needed = largest(ModelRole::Embedder).saturating_add(largest(ModelRole::Reranker));
    match loader.memory() {
        Ok(memory) if needed <= memory.free_bytes => report
            .pass(Check::Memory, format!("{needed} bytes needed, {} free on {}", memory.free_bytes, memory.device)),
        Ok(memory) => report.find(
            Check::Memory,
            Severity::Error,
            memory.device.clone(),
            format!(
                "InsufficientMemory: {needed} bytes needed, {} free of {}; choose a smaller model, int8, a smaller \
                 reranker.tokenBudget, or fewer allowedOverrides",
                memory.free_bytes, memory.total_bytes
            ),
        ),
        Err(error) => report.find(Check::Memory, Severity::Error, "device", describe(&error)),
    }
}

async fn check_store(config: &ServerConfig, dimension: Option<usize>, report: &mut Report) {
    let Some(settings) = &config.vector_store else { return };
    let subject = settings.qdrant.as_ref().map_or_else(
        || settings.embedded.as_ref().map_or_else(String::new, |embedded| embedded.path.display().to_string()),
        |qdrant| qdrant.url.clone(),
    );
    let opening = async {
        let store = wiring::store(config).await?;
        if let Some(store) = &store {
            store.ping().await?;
        }
        Ok::<_, StoreError>(store)
    };
    let store = match tokio::time::timeout(STORE_TIMEOUT, opening).await.unwrap_or(Err(StoreError::Timeout)) {
        Ok(Some(store)) => store,
        Ok(None) => return,
        Err(error) => {
            report.find(Check::Store, Severity::Error, subject, describe(&error));
            return;
        }
    };
    report.pass(Check::Store, subject);
    for collection in settings.collections() {
        check_collection(config, store.as_ref(), &collection.name, dimension, report).await;
    }
    if let Err(error) = store.close().await {
        report.find(Check::Store, Severity::Warning, "closing", describe(&error));
    }
}

async fn check_collection(
    config: &ServerConfig,
    store: &dyn Store,
    name: &str,
    dimension: Option<usize>,
    report: &mut Report,
) {
    let checking = async {
        match dimension {
            Some(dimension) => store.check(name, &CollectionSpec::for_vectors(&config.embedding, dimension)).await,
            // Without the embedder's folder only the collection itself can be looked at.
            None => store.describe(name).await,
        }
    };
    match tokio::time::timeout(STORE_TIMEOUT, checking).await.unwrap_or(Err(StoreError::Timeout)) {
        Ok(info) => {
            let documents = info.documents;
            report.pass(Check::Collection, format!("{name}: {documents} documents of {} values", info.dimension));
            if info.embedding_model.is_none() {
                report.find(
                    Check::Collection,
                    Severity::Warning,
                    name,
                    "it does not say which embedding model indexed it, so only the vectors' length was compared",
                );
            }
        }
        Err(error @ StoreError::CollectionMissing { .. }) => {
            let writable = config.vector_store.as_ref().is_some_and(|settings| settings.writable);
            let severity = if writable { Severity::Warning } else { Severity::Error };
            let message = format!("{}; make it with `rerank-server index`", describe(&error));
            report.find(Check::Collection, severity, name, message);
        }
        Err(error) => report.find(Check::Collection, Severity::Error, name, describe(&error)),
    }
}
