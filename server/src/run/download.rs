//! `download`: fetches the deployed models that are missing, so that `serve` finds them. I/O.

use std::path::Path;

use rerank_crds::catalog::DeviceKind;

use super::{Failure, log_as_configured, read_config};
use crate::args::{DownloadArguments, ExitCode};
use crate::models::ConfiguredModels;
use crate::pool::ModelSource;
use crate::preflight::TERMINATION_MESSAGE_BYTES;
use crate::search::ServedModels;

pub(super) async fn run(arguments: DownloadArguments) -> Result<ExitCode, Failure> {
    let DownloadArguments { config, termination_log, log } = arguments;
    let outcome = download(&config.config, &log).await;
    if let (Some(path), Err(Failure { error, .. })) = (&termination_log, &outcome)
        && let Err(error) = std::fs::write(path, last_words(&format!("{error:#}")))
    {
        eprintln!("error: failed to write {}: {error}", path.display());
    }
    outcome.map(|()| ExitCode::Success)
}

/// What Kubernetes keeps of a message.
fn last_words(text: &str) -> &str {
    let mut end = text.len().min(TERMINATION_MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

async fn download(config: &Path, log: &crate::args::LogArguments) -> Result<(), Failure> {
    let config = read_config(config)?;
    log_as_configured(&config, log, None)?;
    let served = ServedModels::from_config(&config);
    // Neither device nor engine matters to what is fetched.
    let models = ConfiguredModels::new(config, DeviceKind::Cpu).map_err(anyhow::Error::from)?;
    // Two roles of one model are one download.
    for key in served.embedder().into_iter().chain(served.deployed_reranker()) {
        let (checked, asked) = (std::sync::Arc::clone(&models), key.clone());
        let is_missing = tokio::task::spawn_blocking(move || checked.is_missing(&asked)).await.unwrap_or(true);
        if is_missing {
            models.fetch(key).await.map_err(anyhow::Error::from)?;
        } else {
            tracing::info!(model = key.model, "Nothing to download");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_cut_between_characters() {
        assert_eq!(last_words("gated"), "gated");
        let long = "ä".repeat(TERMINATION_MESSAGE_BYTES);
        assert_eq!(last_words(&long).len(), TERMINATION_MESSAGE_BYTES);
        assert_eq!(last_words(&format!("x{long}")).len(), TERMINATION_MESSAGE_BYTES - 1);
    }
}
