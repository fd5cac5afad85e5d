//! `demo`: indexes the corpus, prints five queries in both orders, then serves. I/O.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rerank_crds::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::search::both_orders;
use super::serve::Server;
use super::{Failure, index, log_for_a_person};
use crate::args::{DemoArguments, ExitCode};
use crate::comparison::{Comparison, Style};
use crate::demo::{self, DemoQuery};
use crate::metrics::Metrics;
use crate::search::SearchRequest;
use crate::shutdown::Signals;
use crate::store::StoreError;
use crate::wiring::{self, Parts};

/// Rows of each table.
const ROWS: usize = 8;

pub(super) async fn run(arguments: DemoArguments) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let DemoArguments { models, corpus, data, port, once, log } = arguments;
    log_for_a_person(&log)?;
    let queries = demo::queries(&corpus).map_err(anyhow::Error::from)?;
    let mut signals = Signals::register().context("failed to listen for signals")?;
    let collections = data.join(demo::COLLECTIONS_FOLDER);
    let address = free_address(port).await?;
    let config: Arc<ServerConfig> = Arc::new(demo::config(&models, &data, address));
    config.validate().context("the demo's configuration is not valid").map_err(Failure::configuration)?;
    empty(&config, &collections).await?;
    let metrics = Arc::new(Metrics::new());
    let parts = Parts::open(Arc::clone(&config), Arc::clone(&metrics), false).await.context("failed to start")?;
    let documents = corpus.join("corpus.jsonl");
    let shown = tokio::select! {
        shown = show(&parts, &documents, &queries, began) => shown,
        _ = signals.next() => {
            parts.close().await;
            return Ok(ExitCode::Failure);
        }
    };
    if shown.is_err() || once {
        parts.close().await;
        shown?;
        return Ok(ExitCode::Success);
    }
    let server = Server::bind(&config, metrics).await?;
    let query = queries.first().map_or("", |query| query.text.as_str());
    print!("{}", demo::suggestions(server.api_address, server.control_address, query));
    Ok(server.run(parts, &mut signals, Duration::ZERO).await)
}

/// Empties the folder of collections, unless another process has them open.
async fn empty(config: &ServerConfig, collections: &Path) -> anyhow::Result<()> {
    if collections.exists() {
        match wiring::store(config).await {
            Ok(Some(store)) => store.close().await.context("failed to close the last demo's collections")?,
            Err(error @ StoreError::Unavailable { .. }) => {
                return Err(
                    anyhow::Error::from(error).context("another demo uses this folder; name another one with --data")
                );
            }
            // Whatever else is wrong with the last demo's files goes with them.
            Ok(None) | Err(_) => {}
        }
        std::fs::remove_dir_all(collections).with_context(|| format!("failed to empty {}", collections.display()))?;
    }
    std::fs::create_dir_all(collections).with_context(|| format!("failed to make {}", collections.display()))
}

/// `began`: when the command was started.
async fn show(parts: &Parts, documents: &Path, queries: &[DemoQuery], began: Instant) -> anyhow::Result<()> {
    println!(
        "Two-stage search with the tiny models {} and {}: trained for this demo, good enough to show the difference,\n\
         no measure of what real models do. ** and * mark documents that people judged relevant.\n",
        demo::EMBEDDER,
        demo::RERANKER
    );
    let report =
        index::file_into(parts, documents.to_owned(), demo::COLLECTION, false, &CancellationToken::new()).await?;
    println!("{} documents indexed in {:.1} s\n", report.indexed, report.seconds);
    let style = Style::of_standard_output();
    let mut reranked_queries = 0;
    for (number, query) in queries.iter().enumerate() {
        let request = SearchRequest { query: query.text.clone(), k: ROWS, ..SearchRequest::default() };
        let (vector, reranked) = both_orders(parts, request, true).await?;
        let comparison = Comparison {
            query: &query.text,
            vector: &vector,
            reranked: reranked.as_ref(),
            grades: Some(&query.grades),
            rows: ROWS,
        };
        println!("{}", comparison.render(style));
        if number == 0 {
            println!("First answer {:.1} s after the start\n", began.elapsed().as_secs_f64());
        }
        reranked_queries += usize::from(reranked.is_some_and(|answer| answer.reranking_used));
    }
    ensure!(reranked_queries == queries.len(), "only {reranked_queries} of {} queries were reranked", queries.len());
    Ok(())
}

/// The port on loopback, or a free one where it is taken; says so.
async fn free_address(port: u16) -> anyhow::Result<SocketAddr> {
    let wanted = SocketAddr::from(([127, 0, 0, 1], port));
    let listener = match TcpListener::bind(wanted).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            println!("Port {port} is taken, so a free one is used.");
            TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.context("failed to find a free port")?
        }
        Err(error) => return Err(error).with_context(|| format!("failed to listen on {wanted}")),
    };
    listener.local_addr().context("failed to read the port")
}
