//! The two stages: embed the query, take candidates from the store, rerank them, or answer the vector order and say
//! why. Waits for models, store and engine.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::StreamExt;
use rerank_crds::ServerConfig;
use rerank_crds::catalog::Prompt;
use rerank_crds::server_config::WhileLoading;
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument;

use super::admission::{Admission, Admitted};
use super::breaker::Breakers;
use super::deadlines::{Deadlines, within};
use super::demand::Demand;
use super::fallback::StageFailure;
use super::ranking::{self, Scored};
use super::rerank_stage::{Pairs, Reranked};
use super::served::SEARCH_FIELDS;
use super::{
    BatchSearchRequest, Fallback, FallbackReason, RequestContext, RerankerName, SearchError, SearchRequest,
    SearchResponse, SearchResult, ServedModels, Timings, candidates, validate,
};
use crate::metrics::{Metrics, Stage};
use crate::pool::{ModelHold, ModelKey, ModelLease, ModelPool, Waiting};
use crate::prompt::Reading;
use crate::stages::{Part, during};
use crate::store::{Candidate, Store};
use crate::traces::spans;

/// Queries of one batch that are searched and reranked at the same time. The engine does one batch at a time anyway;
/// a few queries keep it busy while the store answers the next.
const QUERIES_AT_ONCE: usize = 8;

/// What a [`Searcher`] is made of.
#[derive(Debug)]
pub struct SearcherOptions {
    /// The configuration.
    pub config: Arc<ServerConfig>,
    /// Where documents live; `None` for a service that only reranks.
    pub store: Option<Arc<dyn Store>>,
    /// Where models come from.
    pub pool: Arc<ModelPool>,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
}

/// The use case.
#[derive(Debug)]
pub struct Searcher {
    pub(super) config: Arc<ServerConfig>,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) pool: Arc<ModelPool>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) served: ServedModels,
    pub(super) admission: Arc<Admission>,
    pub(super) breakers: Breakers,
    /// Collections whose fit was checked since the last error of the store.
    pub(super) checked: HashMap<String, AtomicBool>,
}

/// Kept so that the trait objects' owner is named once.
pub type SharedSearcher = Arc<Searcher>;

/// A search request whose names are resolved and whose values are in range; all but the query.
#[derive(Debug)]
struct Plan {
    collection: String,
    k: usize,
    limit: usize,
    filter: Option<Value>,
    score_threshold: Option<f32>,
    stage_two: StageTwo,
    deadlines: Deadlines,
}

#[derive(Debug)]
enum StageTwo {
    /// The request says not to rerank.
    NotAsked,
    /// The request asks for it, the configuration says no.
    Disabled,
    Rerank {
        key: ModelKey,
        instruction: String,
    },
}

/// A query with its vector, and what was taken for it beforehand.
struct Prepared {
    query: String,
    vector: Vec<f32>,
    embed: Duration,
    reranker: ClaimedReranker,
    admitted: Admitted,
}

/// What a search holds of its reranker while stage 1 runs.
#[derive(Clone, Default)]
struct ClaimedReranker {
    /// The reranker, where it was ready before it was needed.
    lease: Option<ModelLease>,
    /// So that a reranker that is still loading is not sent away before stage 2.
    _hold: Option<ModelHold>,
}

/// How stage 2 ended.
enum Order {
    Vector(Option<Fallback>),
    Reranked(Reranked),
}

impl Searcher {
    /// Connects configuration, store and models. Loads and asks nothing.
    pub fn new(options: SearcherOptions) -> Self {
        let SearcherOptions { config, store, pool, metrics } = options;
        let served = ServedModels::from_config(&config);
        let checked = served.collections().iter().map(|name| (name.clone(), AtomicBool::new(false))).collect();
        let admission = Admission::new(&config.api.limits, Arc::clone(&metrics));
        Self { config, store, pool, metrics, served, admission, breakers: Breakers::default(), checked }
    }

    /// What requests may name.
    pub fn served(&self) -> &ServedModels {
        &self.served
    }

    /// One search.
    pub async fn search(
        &self,
        request: SearchRequest,
        context: &RequestContext,
    ) -> Result<SearchResponse, SearchError> {
        validate::query("query", &request.query)?;
        let plan = self.plan(&request, context)?;
        self.foresee(&plan, context)?;
        let admitted = self.admit(&plan, &request.query, context)?;
        let work = async {
            let begun = Instant::now();
            let (mut vectors, reranker) = self.prepare(&plan, vec![request.query.clone()], context).await?;
            let vector = vectors.pop().ok_or_else(no_vector)??;
            let embed = begun.elapsed();
            self.metrics.observe_stage(Stage::Embed, embed);
            self.two_stages(&plan, Prepared { query: request.query, vector, embed, reranker, admitted }, context).await
        };
        bounded(context, plan.deadlines.request, work).instrument(spans::search(&plan.collection, plan.k)).await
    }

    /// Several searches; one result or error for each query, in order. The queries are embedded together; what
    /// concerns all of them (an unknown model, an embedder that cannot run) is the error of the whole.
    pub async fn search_batch(
        &self,
        request: BatchSearchRequest,
        context: &RequestContext,
    ) -> Result<Vec<Result<SearchResponse, SearchError>>, SearchError> {
        validate::queries(request.queries.len())?;
        let plan = self.plan(&request.template, context)?;
        self.foresee(&plan, context)?;
        let checked: Vec<Result<String, SearchError>> =
            request.queries.into_iter().map(|query| validate::query("queries", &query).map(|()| query)).collect();
        let queries: Vec<String> = checked.iter().filter_map(|query| query.as_ref().ok().cloned()).collect();

        let begun = Instant::now();
        let (vectors, reranker) = if queries.is_empty() {
            (Vec::new(), ClaimedReranker::default())
        } else {
            let demand = Demand::of_texts(0, queries.iter().map(String::len), usize::MAX);
            let _admitted = self.admission.admit(&context.caller.client, demand)?;
            bounded(context, plan.deadlines.request, self.prepare(&plan, queries, context)).await?
        };
        let embed = begun.elapsed();
        if !vectors.is_empty() {
            self.metrics.observe_stage(Stage::Embed, embed);
        }

        let mut vectors = vectors.into_iter();
        let mut searches = Vec::with_capacity(checked.len());
        for query in checked {
            let vector = match &query {
                Ok(_) => vectors.next().unwrap_or_else(|| Err(no_vector())),
                Err(_) => Ok(Vec::new()),
            };
            let search = self.search_one_of_many(&plan, query, vector, embed, reranker.clone(), context);
            searches.push(search.instrument(spans::search(&plan.collection, plan.k)));
        }
        Ok(futures::stream::iter(searches).buffered(self.queries_at_once(&plan)).collect().await)
    }

    async fn search_one_of_many(
        &self,
        plan: &Plan,
        query: Result<String, SearchError>,
        vector: Result<Vec<f32>, SearchError>,
        embed: Duration,
        reranker: ClaimedReranker,
        context: &RequestContext,
    ) -> Result<SearchResponse, SearchError> {
        let (query, vector) = (query?, vector?);
        // Admitted when its turn comes: a batch must not fill the queue with pairs that wait for each other.
        let admitted = self.admit(plan, &query, context)?;
        let prepared = Prepared { query, vector, embed, reranker, admitted };
        bounded(context, plan.deadlines.request, self.two_stages(plan, prepared, context)).await
    }

    fn plan(&self, request: &SearchRequest, context: &RequestContext) -> Result<Plan, SearchError> {
        if self.store.is_none() {
            return Err(SearchError::NotConfigured);
        }
        let served = self.served.collections().iter().map(String::as_str);
        let collection = context.caller.collection(request.collection.as_deref(), served)?.to_owned();
        let enabled = self.config.reranker.enabled;
        let instruction = validate::instruction(request.instruction.as_ref(), &self.config.reranker.instruction)?;
        let asked = request.use_reranker.unwrap_or(enabled);
        let stage_two = if enabled {
            // Names are resolved even where they are not used, so that a typo is told.
            let key = self.served.reranker(&request.reranker, SEARCH_FIELDS)?;
            if asked { StageTwo::Rerank { key, instruction } } else { StageTwo::NotAsked }
        } else if asked {
            StageTwo::Disabled
        } else {
            StageTwo::NotAsked
        };
        let reranking = matches!(stage_two, StageTwo::Rerank { .. });
        validate::k(request.k, reranking, &self.config.candidates)?;
        request.score_threshold.map_or(Ok(()), |threshold| validate::score_threshold(f64::from(threshold)))?;
        let limit = if reranking { candidates::how_many(request.k, &self.config.candidates) } else { request.k };
        Ok(Plan {
            collection,
            k: request.k,
            limit,
            filter: request.filter.clone(),
            score_threshold: request.score_threshold,
            stage_two,
            deadlines: Deadlines::new(context.arrival, &self.config.timeouts),
        })
    }

    /// Queries of one batch that run at the same time: no more than the queue has room for, so that none is refused on
    /// account of another.
    fn queries_at_once(&self, plan: &Plan) -> usize {
        self.admission.room_for(self.demand(plan, "")).min(QUERIES_AT_ONCE)
    }

    /// Documents that one request may bring.
    pub(super) fn maximum_documents(&self) -> usize {
        usize::try_from(self.config.api.limits.documents).unwrap_or(0)
    }

    /// Tokens of one prompt, at most.
    pub(super) fn maximum_tokens(&self) -> usize {
        usize::try_from(self.config.reranker.max_length).unwrap_or(0)
    }

    /// What stands in the prompt of every document of a request, in bytes.
    pub(super) fn shared_prompt_bytes(&self, key: &ModelKey, instruction: &str, query: &str) -> usize {
        let Prompt { prefix, body, suffix } = self.config.prompt(&key.model);
        [&prefix, &body, &suffix].iter().map(|part| part.len()).sum::<usize>() + instruction.len() + query.len()
    }

    fn admit(&self, plan: &Plan, query: &str, context: &RequestContext) -> Result<Admitted, SearchError> {
        self.admission.admit(&context.caller.client, self.demand(plan, query))
    }

    /// Refuses a search at once whose reranking would not be done in time. Candidates of other searches that are with the
    /// store do not count: they are as far off as this one's.
    fn foresee(&self, plan: &Plan, context: &RequestContext) -> Result<(), SearchError> {
        let StageTwo::Rerank { key, .. } = &plan.stage_two else { return Ok(()) };
        let deadline = plan.deadlines.rerank_before_fallback(Instant::now());
        self.admission.foresee(&context.caller.client, key, plan.limit, deadline)
    }

    /// What one query asks of the queue before its candidates are known.
    fn demand(&self, plan: &Plan, query: &str) -> Demand {
        match plan.stage_two {
            StageTwo::Rerank { .. } => Demand::of_unknown_texts(plan.limit, self.maximum_tokens()),
            StageTwo::NotAsked | StageTwo::Disabled => Demand::of_texts(0, [query.len()].into_iter(), usize::MAX),
        }
    }

    /// Embeds queries, and starts the reranker's load beside it. The embedder comes first: without it there is no
    /// answer at all, so it must not find its memory taken.
    async fn prepare(
        &self,
        plan: &Plan,
        queries: Vec<String>,
        context: &RequestContext,
    ) -> Result<(Vec<Result<Vec<f32>, SearchError>>, ClaimedReranker), SearchError> {
        let embedding = spans::embed(self.config.embedding.model.as_deref().unwrap_or_default(), queries.len());
        let embedder = self.lease_embedder().instrument(embedding.clone()).await?;
        let reranker = async {
            match &plan.stage_two {
                StageTwo::Rerank { key, .. } => {
                    let hold = self.pool.hold(key);
                    // Whatever keeps it from being ready is told when stage 2 asks again.
                    let lease = self.pool.lease(key, Waiting::StartOnly).await.ok();
                    ClaimedReranker { lease, _hold: Some(hold) }
                }
                StageTwo::NotAsked | StageTwo::Disabled => ClaimedReranker::default(),
            }
        };
        let vectors = during(Part::Stage(Stage::Embed), self.embed_queries(&embedder, queries, context));
        let (vectors, reranker) = tokio::join!(vectors.instrument(embedding), reranker);
        Ok((vectors?, reranker))
    }

    async fn two_stages(
        &self,
        plan: &Plan,
        prepared: Prepared,
        context: &RequestContext,
    ) -> Result<SearchResponse, SearchError> {
        let Prepared { query, vector, embed, reranker, mut admitted } = prepared;
        let mut timings = Timings { embed, ..Timings::default() };

        let begun = Instant::now();
        let span = spans::store(&plan.collection, plan.limit);
        let candidates = self.candidates(&plan.collection, vector, plan.limit, plan.filter.clone(), &plan.deadlines);
        let candidates = during(Part::Stage(Stage::Search), candidates).instrument(span.clone()).await;
        spans::found(&span, candidates.as_ref().ok().map(Vec::len));
        drop(span);
        let candidates = candidates?;
        timings.store = begun.elapsed();
        self.metrics.observe_stage(Stage::Search, timings.store);

        let begun = Instant::now();
        let mut reranking_time = None;
        let order = match &plan.stage_two {
            StageTwo::NotAsked => Order::Vector(None),
            StageTwo::Disabled => self.fall_back(None, StageFailure::disabled())?,
            StageTwo::Rerank { .. } if candidates.is_empty() => Order::Vector(None),
            StageTwo::Rerank { key, instruction } => {
                let shared_bytes = self.shared_prompt_bytes(key, instruction, &query);
                let texts = candidates.iter().map(|candidate| candidate.text.len());
                admitted.correct(Demand::of_texts(shared_bytes, texts, self.maximum_tokens()));
                let deadline = plan.deadlines.rerank_before_fallback(begun);
                let outcome = if admitted.would_be_late(key, candidates.len(), deadline) {
                    Err(StageFailure::deadline(self.config.timeouts.rerank_seconds))
                } else {
                    admitted.enter(key, candidates.len());
                    let pairs = Pairs {
                        instruction: instruction.clone(),
                        query,
                        documents: candidates.iter().map(|candidate| candidate.text.clone()).collect(),
                        reading: Reading::default(),
                        admitted,
                        deadline,
                    };
                    let lease = reranker.lease.clone();
                    let span = spans::rerank(key, candidates.len());
                    let stage = self.rerank_stage(key, lease, self.waiting(), pairs, context, &mut timings);
                    // Boxed, as it is the larger part of a search's future.
                    let outcome = within(deadline, Box::pin(stage)).instrument(span.clone()).await;
                    if !matches!(outcome, Some(Ok(_))) {
                        spans::failed(&span);
                    }
                    outcome.unwrap_or_else(|| Err(self.past_the_deadline(key, &timings)))
                };
                reranking_time = Some(begun.elapsed());
                match outcome {
                    Ok(reranked) => Order::Reranked(reranked),
                    Err(failure) => self.fall_back(Some(key), failure)?,
                }
            }
        };

        timings.total = context.arrival.elapsed();
        self.metrics.observe_stage(Stage::Total, timings.total);
        Ok(self.answer(plan, candidates, order, timings, reranking_time))
    }

    /// Whether stage 2 waits for a load.
    pub(super) fn waiting(&self) -> Waiting {
        match self.config.lifecycle.while_loading {
            WhileLoading::Wait => Waiting::Wait,
            WhileLoading::Fallback => Waiting::StartOnly,
        }
    }

    /// Stage 2 took too long. Where its engine had at least half of the time and has not done a single batch, that is a failure
    /// of the engine; else the load took it, others were before, or there was much to do.
    pub(super) fn past_the_deadline(&self, key: &ModelKey, timings: &Timings) -> StageFailure {
        let allowed = Duration::from_secs(u64::try_from(self.config.timeouts.rerank_seconds).unwrap_or(0));
        if timings.batches == 0 && timings.score * 2 >= allowed {
            self.breakers.failed(key, Instant::now());
        }
        StageFailure::deadline(self.config.timeouts.rerank_seconds)
    }

    fn fall_back(&self, key: Option<&ModelKey>, failure: StageFailure) -> Result<Order, SearchError> {
        let fallback = match failure {
            StageFailure::NoReranker { fallback, .. } => fallback,
            StageFailure::Refused(error) => return Err(error),
        };
        let reason = fallback.reason.as_str();
        let model = key.map(|key| key.model.as_str());
        self.metrics.count_fallback(reason);
        spans::note_fallback(reason);
        if matches!(fallback.reason, FallbackReason::Disabled | FallbackReason::Loading) {
            tracing::info!(reason, model, detail = fallback.message, "Answered a search in vector order");
        } else {
            tracing::warn!(reason, model, detail = fallback.message, "Answered a search in vector order");
        }
        Ok(Order::Vector(Some(fallback)))
    }

    fn answer(
        &self,
        plan: &Plan,
        candidates: Vec<Candidate>,
        order: Order,
        timings: Timings,
        reranking_time: Option<Duration>,
    ) -> SearchResponse {
        let num_candidates = candidates.len();
        let mut used = None;
        let mut fallback = None;
        let reranking_used = matches!(order, Order::Reranked(_));
        let results = match order {
            Order::Vector(reason) => {
                fallback = reason;
                in_vector_order(candidates, plan.k)
            }
            Order::Reranked(reranked) => {
                used = Some(RerankerName::from(&reranked.key));
                for pair in &reranked.scored {
                    self.metrics.observe_score(pair.score);
                }
                let results = in_reranked_order(candidates, reranked, plan.k, plan.score_threshold);
                if let Some(places) = ranking::mean_change(results.iter().map(|result| result.rank_change)) {
                    self.metrics.observe_rank_change(places);
                }
                results
            }
        };
        SearchResponse {
            results,
            num_candidates,
            embedding_time_ms: milliseconds(timings.embed),
            search_time_ms: milliseconds(timings.store),
            reranking_time_ms: reranking_time.map(milliseconds),
            reranking_used,
            reranker: used,
            fallback,
            timings,
        }
    }
}

fn in_vector_order(candidates: Vec<Candidate>, k: usize) -> Vec<SearchResult> {
    (1..)
        .zip(candidates)
        .take(k)
        .map(|(vector_rank, candidate)| SearchResult {
            id: candidate.id,
            score: candidate.vector_score,
            rerank_score: None,
            vector_score: candidate.vector_score,
            vector_rank,
            rank_change: 0,
            text: candidate.text,
            payload: candidate.payload,
            truncated: false,
        })
        .collect()
}

fn in_reranked_order(
    candidates: Vec<Candidate>,
    reranked: Reranked,
    k: usize,
    score_threshold: Option<f32>,
) -> Vec<SearchResult> {
    let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    let Reranked { scored, truncated, .. } = reranked;
    (1..)
        .zip(ranking::rank(scored))
        .take(k)
        .take_while(|(_, scored)| score_threshold.is_none_or(|threshold| scored.score >= threshold))
        .filter_map(|(rank, Scored { index, score, .. })| {
            let candidate = candidates.get_mut(index)?.take()?;
            Some(SearchResult {
                id: candidate.id,
                score,
                rerank_score: Some(score),
                vector_score: candidate.vector_score,
                vector_rank: index + 1,
                rank_change: ranking::rank_change(index + 1, rank),
                text: candidate.text,
                payload: candidate.payload,
                truncated: truncated.get(index).copied().unwrap_or(false),
            })
        })
        .collect()
}

/// Work within a deadline, given up as soon as the client leaves.
pub(super) async fn bounded<T>(
    context: &RequestContext,
    deadline: Instant,
    work: impl Future<Output = Result<T, SearchError>>,
) -> Result<T, SearchError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(SearchError::Cancelled),
        outcome = within(deadline, work) => outcome.unwrap_or(Err(SearchError::DeadlineExceeded)),
    }
}

fn no_vector() -> SearchError {
    SearchError::Internal { message: "the embedder answered no vector for the query".to_owned() }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
