//! `serve`: both listeners, preload, and an end without a cut request. I/O.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use rerank_crds::ServerConfig;
use rerank_crds::server_config::{Listen, Loading, ModelControl};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Failure, log_as_configured, progress_is_seen, read_config};
use crate::access::KeyRing;
use crate::api::control::{self, ControlState};
use crate::api::request::{BODY_READ_TIMEOUT, BodyBounds, BodyRoom};
use crate::api::service::Service;
use crate::api::{self, ApiSettings, ApiState};
use crate::args::{ExitCode, ServeArguments};
use crate::http::tls::TlsIdentity;
use crate::http::{self, Drained, ListenerOptions};
use crate::metrics::Metrics;
use crate::pool::{ModelSource, PoolError};
use crate::reload;
use crate::shutdown::{Readiness, Signals};
use crate::store::Store;
use crate::traces::Traces;
use crate::watchdog;
use crate::wiring::Parts;

/// How long the end may wait for clients where the device is lost.
const FATAL_END: Duration = Duration::from_secs(2);

/// Added to `timeouts.requestSeconds` for the time that requests under way may take at the end: reading the body
/// counts from the head's arrival, writing the answer comes on top.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

pub(super) async fn run(arguments: ServeArguments) -> Result<ExitCode, Failure> {
    let ServeArguments { config, log, drain_delay_seconds } = arguments;
    let config = read_config(&config.config)?;
    let traces = Traces::start(&config.tracing).map_err(Failure::configuration)?;
    log_as_configured(&config, &log, traces.as_ref())?;
    let ended = serve(&config, Duration::from_secs(drain_delay_seconds)).await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    ended
}

async fn serve(config: &Arc<ServerConfig>, drain_delay: Duration) -> Result<ExitCode, Failure> {
    let mut signals = Signals::register().context("failed to listen for signals")?;
    allow_many_files();
    let server = Server::bind(config, Arc::new(Metrics::new())).await?;
    let opening = Parts::open(Arc::clone(config), Arc::clone(&server.metrics), progress_is_seen());
    let parts = tokio::select! {
        parts = opening => parts.context("failed to start")?,
        _ = signals.next() => return Ok(ExitCode::Success),
    };
    Ok(server.run(parts, &mut signals, drain_delay).await)
}

/// A connection is a file, and what systems allow a process by default is fewer than the connections that are served.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "Could not raise the number of files that may be open");
    }
}

/// Tells at the start what the first search would tell. The service starts all the same: a store may come later.
async fn warn_of_a_silent_store(store: Option<Arc<dyn Store>>) {
    let Some(store) = store else { return };
    if let Err(error) = store.ping().await {
        let error = crate::chain::describe(&error);
        tracing::warn!(error, "The vector store does not answer; searches fail until it does");
    }
}

/// Tells at the start what a load on demand would only tell the first request. Preload tells it by itself.
async fn warn_of_missing_weights(parts: &Parts) {
    let (models, keys) = (Arc::clone(&parts.models), parts.deployed_models());
    let reading = tokio::task::spawn_blocking(move || {
        for key in keys {
            if models.is_missing(&key) {
                tracing::info!(model = key.model, "A model is not here and will be downloaded when it is loaded");
            } else if let Err(error) = models.describe(&key) {
                let error = crate::chain::describe(&error);
                tracing::warn!(model = key.model, error, "A model cannot be loaded as things stand");
            }
        }
    });
    if let Err(error) = reading.await {
        tracing::warn!(error = crate::chain::describe(&error), "The models' folders could not be looked at");
    }
}

/// Both listeners, open; the control port is already being served.
#[derive(Debug)]
pub(super) struct Server {
    config: Arc<ServerConfig>,
    api: TcpListener,
    keys: Option<Arc<KeyRing>>,
    tls: Option<Arc<TlsIdentity>>,
    /// All metrics.
    pub(super) metrics: Arc<Metrics>,
    readiness: Readiness,
    service: Arc<OnceLock<Arc<dyn Service>>>,
    control: JoinHandle<Drained>,
    control_stop: CancellationToken,
    /// Where the API listens.
    pub(super) api_address: SocketAddr,
    /// Where the control port listens.
    pub(super) control_address: SocketAddr,
}

impl Server {
    /// Reads the keys, opens both ports and serves the control port.
    pub(super) async fn bind(config: &Arc<ServerConfig>, metrics: Arc<Metrics>) -> Result<Self, Failure> {
        let Listen { api_address, ref tls, control_address } = config.listen;
        let keys = config.access.api_keys_file.as_deref().map(KeyRing::load).transpose();
        let keys = keys.map_err(Failure::configuration)?.map(Arc::new);
        for client in keys.iter().flat_map(|keys| {
            let current = keys.current();
            current.unknown_among(&config.access.clients).map(str::to_owned).collect::<Vec<_>>()
        }) {
            tracing::warn!(client, "access.clients restricts a client that has no key in access.apiKeysFile");
        }
        let tls = tls.as_ref().map(TlsIdentity::load).transpose().map_err(Failure::configuration)?.map(Arc::new);
        let api = http::bind(api_address, "API", "listen.apiAddress").await.map_err(anyhow::Error::from)?;
        let control =
            http::bind(control_address, "control port", "listen.controlAddress").await.map_err(anyhow::Error::from)?;
        let control_address = control.local_addr().context("failed to read the control port's address")?;
        let readiness = Readiness::default();
        let service = Arc::new(OnceLock::new());
        let state =
            ControlState { service: Arc::clone(&service), metrics: Arc::clone(&metrics), readiness: readiness.clone() };
        let control_stop = CancellationToken::new();
        let options = ListenerOptions { drain_timeout: Duration::from_secs(1), ..ListenerOptions::default() };
        let control = tokio::spawn(http::serve(control, control::router(state), options, None, control_stop.clone()));
        let clients = keys.as_ref().map_or(0, |keys| keys.current().len());
        let api_address = api.local_addr().context("failed to read the API's address")?;
        tracing::info!(api = %api_address, control = %control_address, tls = tls.is_some(), clients, "Listening");
        Ok(Self {
            config: Arc::clone(config),
            api,
            keys,
            tls,
            metrics,
            readiness,
            service,
            control,
            control_stop,
            api_address,
            control_address,
        })
    }

    /// Serves until a signal comes, then ends without cutting a request; or until the device is lost, then answers nothing
    /// any more and ends at once.
    pub(super) async fn run(self, parts: Parts, signals: &mut Signals, drain_delay: Duration) -> ExitCode {
        let Self {
            config,
            api,
            keys,
            tls,
            metrics,
            readiness,
            service,
            control,
            control_stop,
            api_address: _,
            control_address: _,
        } = self;
        let shared: Arc<dyn Service> = Arc::new(parts.clone());
        service.get_or_init(|| Arc::clone(&shared));
        let mut reading = JoinSet::new();
        if let Some(keys) = keys.clone() {
            reading.spawn(reload::keep_current(keys));
        }
        if let Some(tls) = tls.clone() {
            reading.spawn(reload::keep_current(tls));
        }
        let state = ApiState {
            service: shared,
            settings: Arc::new(settings(&config)),
            keys,
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
            fatal: parts.loader.fatal().clone(),
        };
        warn_of_missing_weights(&parts).await;
        // It ends by the store's own deadline.
        tokio::spawn(warn_of_a_silent_store(parts.store.clone()));
        if let Some(reranker) = parts.searcher.served().deployed_reranker() {
            let selection = parts.searcher.served().selection();
            tracing::info!(
                model = reranker.model,
                quantization = reranker.quantization.as_str(),
                reason = selection.reason.as_str(),
                because = selection.explanation,
                "Selected the reranker"
            );
        }
        let request_timeout = Duration::from_secs(u64::try_from(config.timeouts.request_seconds).unwrap_or(30));
        let options =
            ListenerOptions { drain_timeout: request_timeout + DRAIN_MARGIN, tls, ..ListenerOptions::default() };
        let stop = CancellationToken::new();
        let mut serving = tokio::spawn(http::serve(api, api::router(state), options, Some(metrics), stop.clone()));
        let preloading = tokio::spawn(become_ready(parts.clone(), readiness.clone()));

        let fatal = parts.loader.fatal();
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = fatal.tripped() => {
                readiness.fail(fatal.reason().unwrap_or_default());
                stop.cancel();
                // Every request under way is answered with the error by now; who does not read it is not waited for.
                if tokio::time::timeout(FATAL_END, &mut serving).await.is_err() {
                    serving.abort();
                }
                parts.abandon().await;
                control_stop.cancel();
                tracing::error!("Stopped: only a new process helps");
                return ExitCode::EngineLost;
            }
            never = watchdog::watch(&parts.pool, &readiness) => match never {},
        };
        readiness.drain();
        preloading.abort();
        let delay = signal.drain_delay(drain_delay);
        tracing::info!(?signal, delay_seconds = delay.as_secs(), "Draining");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            // A second signal means now.
            _ = signals.next() => {}
        }
        stop.cancel();
        let drained = tokio::select! {
            drained = &mut serving => drained,
            _ = signals.next() => {
                tracing::warn!("Ending at once, as a second signal asks");
                serving.abort();
                serving.await
            }
        };
        match drained {
            Ok(Drained::Completely) => tracing::info!("Answered every request under way"),
            Ok(Drained::Cut { connections }) => {
                tracing::warn!(connections, "Closed connections whose requests took too long");
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "The listener ended early"),
        }
        reading.shutdown().await;
        parts.close().await;
        control_stop.cancel();
        if let Err(error) = control.await {
            tracing::error!(%error, "The control port ended early");
        }
        tracing::info!("Stopped");
        ExitCode::Success
    }
}

fn settings(config: &ServerConfig) -> ApiSettings {
    let limits = &config.api.limits;
    let body_bytes = usize::try_from(limits.body_bytes).unwrap_or(0);
    ApiSettings {
        bodies: BodyBounds {
            bytes: body_bytes,
            read_timeout: BODY_READ_TIMEOUT,
            // One body always fits.
            room: BodyRoom::of(usize::try_from(limits.queue_bytes).unwrap_or(0).max(2 * body_bytes)),
        },
        documents: usize::try_from(limits.documents).unwrap_or(0),
        model_control: config.access.model_control != ModelControl::Off,
        model_control_is_open: config.access.model_control == ModelControl::Open,
        restricted_clients: config.access.collections_by_client(),
        slow_request: match u64::try_from(config.logging.slow_request_milliseconds).unwrap_or(0) {
            0 => None,
            milliseconds => Some(Duration::from_millis(milliseconds)),
        },
        writable: config.vector_store.as_ref().is_some_and(|store| store.writable),
    }
}

/// With `lifecycle.loading: Preload`, readiness comes after the models; a load that fails is tried again and told by
/// the probes meanwhile.
async fn become_ready(parts: Parts, readiness: Readiness) {
    if parts.config.lifecycle.loading == Loading::Preload {
        let models = parts.deployed_models();
        readiness.starting("models are being loaded");
        while let Err(error) = parts.pool.preload(&models).await {
            if matches!(error, PoolError::ShuttingDown) {
                return;
            }
            let message = crate::chain::describe(&error);
            let retry_after = Duration::from_secs(error.retry_after_seconds());
            tracing::error!(error = message, retry_after_seconds = retry_after.as_secs(), "Could not preload models");
            readiness.starting(&message);
            tokio::time::sleep(retry_after).await;
        }
    }
    readiness.ready();
    tracing::info!("Ready");
}

#[cfg(test)]
mod tests;
