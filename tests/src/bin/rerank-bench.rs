//! `make bench`: where the time of a search goes, over real HTTP on loopback, with the tiny pair and the judged corpus.
//! It prints what it compared and fails where the server's own share is over its bound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use rerank_server::api::request::{BODY_READ_TIMEOUT, BodyBounds, BodyRoom};
use rerank_server::api::service::{IndexRequest, IndexResponse, Service};
use rerank_server::api::{self, ApiSettings, ApiState};
use rerank_server::http::{self, ListenerOptions};
use rerank_server::metrics::Metrics;
use rerank_server::pool::{ModelKey, ModelStatus};
use rerank_server::search::{
    BatchSearchRequest, EmbedRequest, EmbedResponse, ModelLoad, RequestContext, RerankChoice, RerankRequest,
    RerankResponse, SearchError, SearchRequest, SearchResponse, Timings,
};
use rerank_server::shutdown::Readiness;
use rerank_server::wiring::Parts;
use rerank_tests::corpus::Corpus;
use rerank_tests::service::TinyService;
use tokio_util::sync::CancellationToken;

const CANDIDATES: usize = 50;
const RESULTS: usize = 10;
/// The server's own share may be this part of the engine's time, or this long, whichever is more.
const OWN_SHARE_PERCENT: f64 = 2.0;
const OWN_SHARE: Duration = Duration::from_millis(2);

/// The service, with a note of each search's times.
#[derive(Debug)]
struct Noting {
    parts: Parts,
    times: Mutex<Vec<Timings>>,
}

#[async_trait]
impl Service for Noting {
    async fn search(&self, request: SearchRequest, context: &RequestContext) -> Result<SearchResponse, SearchError> {
        let answer = self.parts.search(request, context).await?;
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push(answer.timings);
        Ok(answer)
    }

    async fn search_batch(
        &self,
        request: BatchSearchRequest,
        context: &RequestContext,
    ) -> Result<Vec<Result<SearchResponse, SearchError>>, SearchError> {
        self.parts.search_batch(request, context).await
    }

    async fn rerank(&self, request: RerankRequest, context: &RequestContext) -> Result<RerankResponse, SearchError> {
        self.parts.rerank(request, context).await
    }

    async fn embed(&self, request: EmbedRequest, context: &RequestContext) -> Result<EmbedResponse, SearchError> {
        self.parts.embed(request, context).await
    }

    async fn index(&self, request: IndexRequest, context: &RequestContext) -> Result<IndexResponse, SearchError> {
        self.parts.index(request, context).await
    }

    async fn load_model(&self, choice: &RerankChoice, context: &RequestContext) -> Result<ModelLoad, SearchError> {
        self.parts.load_model(choice, context).await
    }

    async fn unload_model(&self, choice: &RerankChoice) -> Result<(ModelKey, Option<u64>), SearchError> {
        self.parts.unload_model(choice).await
    }

    fn models(&self) -> Vec<ModelStatus> {
        self.parts.models()
    }
}

/// Where the time of one search went, as its client saw it.
#[derive(Clone, Copy, Debug)]
struct Split {
    stages: [Duration; 6],
    total: Duration,
}

const STAGES: [&str; 6] = ["embed", "store", "tokenize", "queue", "score", "rest"];

impl Split {
    fn new(times: Timings, total: Duration) -> Self {
        let Timings { embed, store, tokenize, queue, score, total: _, batches: _ } = times;
        let rest = total.saturating_sub(embed + store + tokenize + queue + score);
        Self { stages: [embed, store, tokenize, queue, score, rest], total }
    }

    /// Embedding, vector search and scoring: what the engines do.
    fn engines(&self) -> Duration {
        self.stages[0] + self.stages[1] + self.stages[4]
    }

    /// Everything else, HTTP included.
    fn own(&self) -> Duration {
        self.total.saturating_sub(self.engines())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let corpus = Corpus::read()?;
    let service = TinyService::open(|config| config.lifecycle.unload_timeout_seconds = 0).await?;
    service.index(&corpus).await?;
    let noting = Arc::new(Noting { parts: service.parts.clone(), times: Mutex::default() });
    let listener = http::bind(([127, 0, 0, 1], 0).into(), "API", "listen.apiAddress").await?;
    let address = listener.local_addr()?;
    let metrics = Arc::new(Metrics::new());
    let state = ApiState {
        service: Arc::clone(&noting) as Arc<dyn Service>,
        settings: Arc::new(ApiSettings {
            bodies: BodyBounds {
                bytes: 2 * 1024 * 1024,
                read_timeout: BODY_READ_TIMEOUT,
                room: BodyRoom::of(128 * 1024 * 1024),
            },
            documents: 1_000,
            restricted_clients: BTreeMap::new(),
            model_control: false,
            model_control_is_open: false,
            writable: false,
            slow_request: None,
        }),
        keys: None,
        metrics: Arc::clone(&metrics),
        readiness: Readiness::default(),
        fatal: service.parts.loader.fatal().clone(),
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(http::serve(
        listener,
        api::router(state),
        ListenerOptions::default(),
        Some(metrics),
        stop.clone(),
    ));

    let client = reqwest::Client::new();
    let mut splits = Vec::new();
    // The first search loads and warms the models; it is not counted.
    for (round, query) in std::iter::once(&corpus.queries[0]).chain(&corpus.queries).enumerate() {
        let start = Instant::now();
        let answer: serde_json::Value = client
            .post(format!("http://{address}/search"))
            .json(&serde_json::json!({"query": query.text, "k": RESULTS}))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let total = start.elapsed();
        ensure!(answer["num_candidates"] == CANDIDATES, "{} candidates came", answer["num_candidates"]);
        ensure!(answer["reranking_used"] == true, "the answer of {} is in vector order", query.id);
        let times = noting.times.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if round > 0 {
            splits.push(Split::new(times.context("the search left no times")?, total));
        }
    }
    stop.cancel();
    serving.await?;
    drop(noting);
    service.close().await?;
    report(&corpus, &splits)
}

fn report(corpus: &Corpus, splits: &[Split]) -> Result<()> {
    println!(
        "One search over HTTP on loopback: {} queries one after the other, {} documents, {CANDIDATES} candidates, {RESULTS} \
         results, tiny pair, float32, mistral.rs on CPU. Milliseconds.\n",
        splits.len(),
        corpus.documents.len()
    );
    println!("{:<28} {:>9} {:>9} {:>9}", "", "minimum", "median", "maximum");
    for (index, stage) in STAGES.iter().enumerate() {
        print_row(stage, splits.iter().map(|split| split.stages[index]));
    }
    print_row("total, as the client sees it", splits.iter().map(|split| split.total));
    print_row("embed + store + score", splits.iter().map(Split::engines));
    let own = print_row("own: the rest of the total", splits.iter().map(Split::own));
    let mut shares: Vec<f64> =
        splits.iter().map(|split| 100.0 * split.own().as_secs_f64() / split.engines().as_secs_f64()).collect();
    shares.sort_by(f64::total_cmp);
    let share = shares[shares.len() / 2];
    println!("\nOwn share: {share:.2} % of the engines' time (median of the searches' ratios)");
    println!("Bound: {OWN_SHARE_PERCENT} % or {} ms, whichever is more", OWN_SHARE.as_millis());
    ensure!(share <= OWN_SHARE_PERCENT || own <= OWN_SHARE, "the server's own share is over its bound");
    Ok(())
}

/// Prints one row and answers its median.
fn print_row(name: &str, times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{name:<28} {:>9.3} {:>9.3} {:>9.3}", milliseconds(least), milliseconds(median), milliseconds(most));
    median
}
