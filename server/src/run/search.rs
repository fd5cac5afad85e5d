//! `search`: one query from the command line, both orders side by side. I/O.

use std::sync::Arc;

use anyhow::Context;

use super::{Failure, log_for_a_person, progress_is_seen, read_config};
use crate::args::{ExitCode, SearchArguments};
use crate::comparison::{Comparison, Style};
use crate::metrics::Metrics;
use crate::search::{RequestContext, SearchRequest, SearchResponse};
use crate::wiring::Parts;

pub(super) async fn run(arguments: SearchArguments) -> Result<ExitCode, Failure> {
    let SearchArguments { config, query, k, collection, no_rerank, json, log } = arguments;
    let config = read_config(&config.config)?;
    log_for_a_person(&log)?;
    let parts = Parts::open(config, Arc::new(Metrics::new()), progress_is_seen()).await.context("failed to start")?;
    let request = SearchRequest { query, k: usize::from(k), collection, ..SearchRequest::default() };
    load(&parts, no_rerank).await;
    let printed = print(&parts, request, no_rerank, json).await;
    parts.close().await;
    printed?;
    Ok(ExitCode::Success)
}

/// Loads the models before the clock of a request runs. A model that does not load is the search's to tell: it answers in
/// vector order with the reason, or with the embedder's error.
pub(super) async fn load(parts: &Parts, no_rerank: bool) {
    let models = parts.deployed_models();
    let wanted = if no_rerank { 1 } else { models.len() };
    for model in models.iter().take(wanted) {
        if let Err(error) = parts.pool.preload(std::slice::from_ref(model)).await {
            tracing::warn!(model = model.model, error = crate::chain::describe(&error), "Could not load a model");
        }
    }
}

async fn print(parts: &Parts, request: SearchRequest, no_rerank: bool, json: bool) -> anyhow::Result<()> {
    if json {
        let use_reranker = no_rerank.then_some(false);
        let answer = search(parts, SearchRequest { use_reranker, ..request }).await?;
        println!("{}", serde_json::to_string_pretty(&answer).context("failed to write the answer as JSON")?);
        return Ok(());
    }
    let (vector, reranked) = both_orders(parts, request.clone(), !no_rerank).await?;
    let comparison = Comparison {
        query: &request.query,
        vector: &vector,
        reranked: reranked.as_ref(),
        grades: None,
        rows: request.k,
    };
    print!("{}", comparison.render(Style::of_standard_output()));
    Ok(())
}

/// The vector order, and the reranked one where it is wanted.
pub(super) async fn both_orders(
    parts: &Parts,
    request: SearchRequest,
    reranked: bool,
) -> anyhow::Result<(SearchResponse, Option<SearchResponse>)> {
    let vector = search(parts, SearchRequest { use_reranker: Some(false), ..request.clone() }).await?;
    if !reranked {
        return Ok((vector, None));
    }
    let answer = search(parts, SearchRequest { use_reranker: Some(true), ..request }).await?;
    Ok((vector, Some(answer)))
}

async fn search(parts: &Parts, request: SearchRequest) -> anyhow::Result<SearchResponse> {
    let context = RequestContext::local();
    parts.searcher.search(request, &context).await.context("failed to search")
}
