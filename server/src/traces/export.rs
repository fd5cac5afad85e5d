//! Sends spans to the collector, in batches, in a task of its own. I/O.
//!
//! Nothing waits for it: the queue is bounded, and what does not fit is lost. A collector that is away is told of once, and
//! once more when it is back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::recorder::Record;
use super::wire::{self, ExportRequest, ExportResponse, Resource};
use crate::{chain, resolver};

/// Spans that wait to be sent, at most: some two hundred searches, a few megabytes.
const QUEUED_SPANS: usize = 4_096;
/// Spans of one call.
const BATCH: usize = 512;
/// Longest wait of a span for others to go with it.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// Longest call, connecting included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Tries of one batch, [`PAUSE`] apart; then its spans are lost.
const TRIES: u32 = 3;
/// Pause after a call that failed.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last spans.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TracesError {
    /// The endpoint or the system's certificates cannot be used.
    #[error("tracing.otlpEndpoint {endpoint:?} cannot be used")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Takes ended spans without waiting.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    spans: Sender<Record>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    /// A queue of so many spans.
    pub(super) fn of(spans: usize) -> (Self, Receiver<Record>) {
        let (sender, receiver) = mpsc::channel(spans);
        (Self { spans: sender, lost: Arc::default() }, receiver)
    }

    pub(super) fn push(&self, record: Record) {
        if self.spans.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The task that sends.
#[derive(Debug)]
pub(super) struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Exporter {
    pub(super) fn start(endpoint: &str) -> Result<(Queue, Self), TracesError> {
        let channel =
            channel(endpoint).map_err(|source| TracesError::Endpoint { endpoint: endpoint.to_owned(), source })?;
        let (queue, spans) = Queue::of(QUEUED_SPANS);
        let stop = CancellationToken::new();
        let sending = Sending {
            spans,
            collector: Collector { channel, process: wire::this_process() },
            health: Health { endpoint: endpoint.to_owned(), lost: Arc::clone(&queue.lost), is_away: false },
        };
        Ok((queue, Self { task: tokio::spawn(sending.run(stop.clone())), stop }))
    }

    pub(super) async fn finish(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(FINISH_LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!(
                limit_seconds = FINISH_LIMIT.as_secs(),
                "The collector of traces did not take the last spans in time"
            );
        }
    }
}

fn channel(endpoint: &str) -> Result<Channel, tonic::transport::Error> {
    let mut configured = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(CALL_LIMIT)
        .user_agent(concat!("rerank-server/", env!("CARGO_PKG_VERSION")))?;
    if endpoint.starts_with("https://") {
        configured = configured.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    Ok(configured.connect_with_connector_lazy(resolver::connector(true)))
}

struct Sending {
    spans: Receiver<Record>,
    collector: Collector,
    health: Health,
}

impl Sending {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while self.fill(&mut batch, &stop).await {
            let records = std::mem::take(&mut batch);
            tokio::select! {
                biased;
                () = self.send(records.clone()) => {}
                // The end sends it once more, quickly: the collector may have it already, and knows a span by its id.
                () = stop.cancelled() => {
                    batch = records;
                    break;
                }
            }
        }
        self.spans.close();
        let mut rest: VecDeque<Record> = batch.into();
        while let Ok(record) = self.spans.try_recv() {
            rest.push_back(record);
        }
        while !rest.is_empty() {
            let batch: Vec<Record> = rest.drain(..rest.len().min(BATCH)).collect();
            let spans = batch.len();
            let outcome = self.collector.take(batch).await;
            self.health.note(&outcome, spans);
            if outcome.is_err() {
                break;
            }
        }
    }

    /// Waits for a batch that is full or has waited long enough. False at the end of the process.
    async fn fill(&mut self, batch: &mut Vec<Record>, stop: &CancellationToken) -> bool {
        let mut due: Option<Instant> = None;
        while batch.len() < BATCH {
            let waited = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = waited => return true,
                record = self.spans.recv() => match record {
                    Some(record) => {
                        due.get_or_insert_with(|| Instant::now() + SEND_EVERY);
                        batch.push(record);
                    }
                    None => return false,
                },
            }
        }
        true
    }

    /// Sends a batch, again where that can help.
    async fn send(&mut self, batch: Vec<Record>) {
        let spans = batch.len();
        for tries in 1.. {
            let outcome = self.collector.take(batch.clone()).await;
            let again = tries < TRIES && outcome.as_ref().is_err_and(|status| is_passing(status.code()));
            self.health.note(&outcome, if again { 0 } else { spans });
            if !again {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Failures after which OTLP asks for another try.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The collector.
struct Collector {
    channel: Channel,
    process: Resource,
}

impl Collector {
    async fn take(&self, batch: Vec<Record>) -> Result<ExportResponse, Status> {
        let request = wire::request(&self.process, batch);
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let call = async {
            client.ready().await.map_err(|error| Status::unavailable(chain::describe(&error)))?;
            let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
            let path = PathAndQuery::from_static(wire::EXPORT_PATH);
            client.unary(Request::new(request), path, codec).await
        };
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
        }
    }
}

/// Tells of a collector that is away, once.
struct Health {
    endpoint: String,
    lost: Arc<AtomicU64>,
    is_away: bool,
}

impl Health {
    /// `spans`: how many are lost with a failure.
    fn note(&mut self, outcome: &Result<ExportResponse, Status>, spans: usize) {
        match outcome {
            Ok(ExportResponse { partial_success }) => {
                let rejected = partial_success.as_ref().map_or(0, |partial| partial.rejected_spans.unsigned_abs());
                self.lost.fetch_add(rejected, Ordering::Relaxed);
                if std::mem::take(&mut self.is_away) {
                    let lost_spans = self.lost.swap(0, Ordering::Relaxed);
                    tracing::info!(endpoint = self.endpoint, lost_spans, "The collector of traces takes spans again");
                }
            }
            Err(status) => {
                self.lost.fetch_add(spans as u64, Ordering::Relaxed);
                if !std::mem::replace(&mut self.is_away, true) {
                    let error = chain::describe(status);
                    tracing::warn!(
                        endpoint = self.endpoint,
                        error,
                        "The collector of traces takes no spans; they are lost until it does"
                    );
                }
            }
        }
    }
}
