//! `evaluate`: both orders of many queries, against judgements or against each other. I/O.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Failure, index, log_for_a_person, progress_is_seen, read_config, search};
use crate::args::{EvaluateArguments, ExitCode};
use crate::beir;
use crate::comparison::Grades;
use crate::evaluate::{self, DEPTH, Observation, Report, Setup};
use crate::metrics::Metrics;
use crate::search::{RequestContext, SearchError, SearchRequest, SearchResponse, candidates};
use crate::wiring::Parts;

/// A query, and what people judged.
struct Query {
    id: String,
    text: String,
    grades: Option<Grades>,
}

pub(super) async fn run(arguments: EvaluateArguments) -> Result<ExitCode, Failure> {
    let EvaluateArguments { config, corpus, shadow, index, collection, json, html, log } = arguments;
    let config = read_config(&config.config)?;
    log_for_a_person(&log)?;
    let queries = read_queries(corpus.as_deref(), shadow.as_deref())?;
    let parts = Parts::open(config, Arc::new(Metrics::new()), progress_is_seen()).await.context("failed to start")?;
    let report = report(&parts, queries, collection, corpus.filter(|_| index)).await;
    parts.close().await;
    let report = report?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
        write(&path, &(text + "\n"))?;
    }
    if let Some(path) = html {
        write(&path, &evaluate::page(&report))?;
    }
    print!("{}", evaluate::table(&report));
    Ok(ExitCode::Success)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// Judged queries of a corpus, or logged ones without judgements.
fn read_queries(corpus: Option<&Path>, shadow: Option<&Path>) -> anyhow::Result<Vec<Query>> {
    let queries: Vec<Query> = match (corpus, shadow) {
        (Some(corpus), _) => {
            let mut judgements = beir::judgements(&corpus.join("qrels").join("test.tsv"))?;
            let judged = beir::queries(&corpus.join("queries.jsonl"))?.into_iter().filter_map(|(id, text)| {
                let grades = judgements.remove(&id).filter(|grades| grades.values().any(|grade| *grade > 0))?;
                Some(Query { id, text, grades: Some(grades) })
            });
            judged.collect()
        }
        (None, Some(shadow)) => {
            beir::queries(shadow)?.into_iter().map(|(id, text)| Query { id, text, grades: None }).collect()
        }
        (None, None) => bail!("name a folder with --corpus or a file with --shadow"),
    };
    let why = if shadow.is_some() { "the file is empty" } else { "none is judged to have a relevant document" };
    ensure!(!queries.is_empty(), "there is no query to evaluate: {why}");
    Ok(queries)
}

async fn report(
    parts: &Parts,
    queries: Vec<Query>,
    collection: Option<String>,
    to_index: Option<PathBuf>,
) -> anyhow::Result<Report> {
    let served = parts.searcher.served();
    let reranker = served.deployed_reranker().context("reranking is switched off (reranker.enabled: false)")?;
    let embedding = served.embedder().context("the configuration names no embedding.model")?;
    let collection = match collection {
        Some(name) => name,
        None => served.collections().first().cloned().context("the configuration names no vectorStore to search")?,
    };
    if let Some(corpus) = to_index {
        let documents = corpus.join("corpus.jsonl");
        index::file_into(parts, documents, &collection, false, &CancellationToken::new()).await?;
    }
    let maximum = usize::try_from(parts.config.candidates.maximum).unwrap_or(0);
    ensure!(
        DEPTH <= maximum,
        "candidates.maximum is {maximum}: at least {DEPTH} are needed for the first {DEPTH} places"
    );
    let setup = Setup {
        collection: collection.clone(),
        embedding: format!("{} ({})", embedding.model, embedding.quantization.as_str()),
        reranker: format!("{} ({})", reranker.model, reranker.quantization.as_str()),
        candidates: candidates::how_many(DEPTH, &parts.config.candidates),
    };
    // Before the clock runs.
    search::load(parts, false).await;

    let bar = if progress_is_seen() { ProgressBar::new(queries.len() as u64) } else { ProgressBar::hidden() };
    let mut observations = Vec::with_capacity(queries.len());
    for query in queries {
        let (id, text) = (query.id.clone(), query.text.clone());
        match observe(parts, query, &collection, setup.candidates).await {
            Ok(seen) => observations.push(seen),
            // One query that cannot be asked is no reason to throw the others away.
            Err(error @ SearchError::OutOfRange { .. }) => eprintln!("query {id} is left out: {error}"),
            Err(error) => return Err(error).with_context(|| format!("failed to search for query {id} ({text:?})")),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    ensure!(!observations.is_empty(), "no query could be asked");
    if let Some(reason) = observations.iter().map(|seen| seen.fallback.as_deref()).min().flatten() {
        bail!(
            "no query was reranked ({reason}), so there is nothing to compare; the log above says why, and so does `preflight`"
        );
    }
    warn_of_foreign_judgements(&observations);
    Ok(Report::of(setup, &observations))
}

async fn observe(parts: &Parts, query: Query, collection: &str, candidates: usize) -> Result<Observation, SearchError> {
    let ask = async |k, use_reranker| -> Result<(SearchResponse, f64), SearchError> {
        let request = SearchRequest {
            query: query.text.clone(),
            k,
            collection: Some(collection.to_owned()),
            use_reranker: Some(use_reranker),
            ..SearchRequest::default()
        };
        let arrival = Instant::now();
        let context = RequestContext { arrival, ..RequestContext::local() };
        let answer = parts.searcher.search(request, &context).await?;
        Ok((answer, arrival.elapsed().as_secs_f64() * 1e3))
    };
    let ids = |answer: &SearchResponse| answer.results.iter().map(|result| result.id.in_judgements()).collect();
    let (vector, vector_milliseconds) = ask(candidates, false).await?;
    let (reranked, reranked_milliseconds) = ask(DEPTH, true).await?;
    Ok(Observation {
        candidates: ids(&vector),
        reranked: ids(&reranked),
        vector_milliseconds,
        reranked_milliseconds,
        fallback: reranked.fallback.map(|fallback| fallback.reason.as_str().to_owned()),
        id: query.id,
        query: query.text,
        grades: query.grades,
    })
}

/// Figures of zero for want of the judged documents would pass for a bad model.
fn warn_of_foreign_judgements(observations: &[Observation]) {
    let judged = observations.iter().filter_map(|seen| Some((seen, seen.grades.as_ref()?)));
    let (mut any, mut found) = (false, false);
    for (seen, grades) in judged {
        any = true;
        found |= seen.candidates.iter().any(|id| grades.contains_key(id));
    }
    if any && !found {
        eprintln!(
            "no judged document is among the candidates of any query: are they indexed in this collection, under the ids \
             of the judgements? --index puts corpus.jsonl into it first"
        );
    }
}
