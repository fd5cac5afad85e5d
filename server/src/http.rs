//! The accept loop: what stands between a socket and a router. I/O.
//!
//! `axum::serve` reads headers without a deadline, so the loop is our own: connections are counted, heads are bounded in
//! time and size, and at the end requests under way are finished. It knows no route.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::metrics::Metrics;

pub mod tls;

use tls::TlsIdentity;

/// Headers of one request, at most; more are answered 431.
pub const MAXIMUM_HEADERS: usize = 64;

/// A client may take so many times longer to read an answer than to send the next request.
const UNREAD_TIMES: u32 = 6;

/// Bounds of a listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// A head that is not complete after this time closes its connection; so does an idle connection,
    /// of HTTP/2 too. Default 10 s.
    pub header_read_timeout: Duration,
    /// Bytes of request line and headers, at most; more are answered 431. Default 16 KiB, at least 8 KiB.
    pub header_bytes: usize,
    /// Connections open at once, at most; further ones wait in the system's backlog. Default 1,024.
    pub connections: usize,
    /// Streams of one HTTP/2 connection, at most. Default 100.
    pub http2_streams: u32,
    /// How long requests under way may take once the listener is closed.
    pub drain_timeout: Duration,
    /// What connections are encrypted with. Default: plain HTTP.
    pub tls: Option<Arc<TlsIdentity>>,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            connections: 1_024,
            http2_streams: 100,
            drain_timeout: Duration::from_secs(35),
            tls: None,
        }
    }
}

/// Address of the client, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Taken, not allowed, or not an address of this machine.
    #[error("failed to listen on {address} for the {purpose}: {}", bind_advice(source, setting))]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// `API` or `control port`.
        purpose: &'static str,
        /// Where the address is set.
        setting: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn bind_advice(source: &std::io::Error, setting: &str) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("another process uses it; stop that one or choose another in {setting}")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a privilege; choose another in {setting}")
        }
        _ => format!("see {setting}"),
    }
}

/// Opens a listening socket. `setting` names where the address comes from, for the error.
pub async fn bind(address: SocketAddr, purpose: &'static str, setting: &'static str) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Bind { address, purpose, setting, source })
}

/// How a listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request under way was answered.
    Completely,
    /// The drain timeout passed with so many connections still open.
    Cut {
        /// Connections that were closed under way.
        connections: usize,
    },
}

/// Serves until `stop` fires, then closes the listener, finishes the requests under way within
/// [`ListenerOptions::drain_timeout`] and returns. `metrics` counts connections where given.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ListenerOptions,
    metrics: Option<Arc<Metrics>>,
    stop: CancellationToken,
) -> Drained {
    let permits = Arc::new(Semaphore::new(options.connections));
    let builder = Arc::new(connection_builder(&options));
    let graceful = GracefulShutdown::new();
    loop {
        // The permit comes first: a connection that cannot be served is not accepted, so its client's connect or
        // another replica decides, and no memory is spent on it.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        let connection = Connection {
            builder: Arc::clone(&builder),
            router: router.clone(),
            watcher: graceful.watcher(),
            peer,
            idle_timeout: options.header_read_timeout,
            _open: OpenConnection::new(permit, metrics.clone()),
        };
        let acceptor = options.tls.as_ref().map(|identity| TlsAcceptor::from(identity.current()));
        tokio::spawn(connection.run(stream, acceptor));
    }
    drop(listener);
    let open = graceful.count();
    match tokio::time::timeout(options.drain_timeout, graceful.shutdown()).await {
        Ok(()) => Drained::Completely,
        Err(_) => Drained::Cut { connections: open },
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and written at once; waiting for more to send only adds latency.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "Could not disable Nagle's algorithm");
            }
            Some((stream, peer, permit))
        }
        Err(error) => {
            // A client that gave up is its own matter; a lack of descriptors passes when connections close.
            if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) {
                tracing::warn!(%error, "Could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        }
    }
}

fn connection_builder(options: &ListenerOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_read_timeout)
        .max_headers(MAXIMUM_HEADERS)
        .max_buf_size(options.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(options.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(options.http2_streams)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Counts a connection for as long as it lives.
struct OpenConnection {
    metrics: Option<Arc<Metrics>>,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(permit: OwnedSemaphorePermit, metrics: Option<Arc<Metrics>>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.change_connections(1);
        }
        Self { metrics, _permit: permit }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.change_connections(-1);
        }
    }
}

struct Connection {
    builder: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    peer: SocketAddr,
    idle_timeout: Duration,
    _open: OpenConnection,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let Some(acceptor) = acceptor else { return self.serve(stream).await };
        match tokio::time::timeout(self.idle_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, peer = %self.peer, "The TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %self.peer, "Connection closed: the TLS handshake did not end in time"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { builder, router, watcher, peer, idle_timeout, _open } = self;
        let activity = watch::Sender::new(Activity::default());
        let idle = idle(activity.subscribe(), idle_timeout);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(PeerAddress(peer));
            let answering = Busy::begin(&activity, |activity| &mut activity.answering);
            let (answer, activity) = (router.clone().oneshot(request), activity.clone());
            async move {
                let response = answer.await;
                let writing = Busy::begin(&activity, |activity| &mut activity.writing);
                drop(answering);
                response.map(|response| response.map(|body| Body::new(TrackedBody { body, _writing: writing })))
            }
        });
        let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::pin!(connection);
        tokio::select! {
            biased;
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(%error, %peer, "Connection ended early");
                }
            }
            // hyper's own deadline is one for the head of HTTP/1 and begins with the first byte that tells it from HTTP/2: a
            // client that sends nothing, or half of the preface, or keeps HTTP/2 open, would be waited for without end.
            () = idle => tracing::debug!(%peer, "Connection closed: no request came in time, or an answer was not read"),
        }
    }
}

/// Requests of a connection that are being answered, and answers that its client has not taken yet.
#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    answering: usize,
    writing: usize,
}

/// Counts in [`Activity`] until it is dropped.
struct Busy {
    activity: watch::Sender<Activity>,
    count: fn(&mut Activity) -> &mut usize,
}

impl Busy {
    fn begin(activity: &watch::Sender<Activity>, count: fn(&mut Activity) -> &mut usize) -> Self {
        activity.send_modify(|activity| *count(activity) += 1);
        Self { activity: activity.clone(), count }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let count = self.count;
        self.activity.send_modify(|activity| *count(activity) -= 1);
    }
}

/// Ends once nothing was asked for so long, or an answer was not taken for [`UNREAD_TIMES`] as long.
async fn idle(mut activity: watch::Receiver<Activity>, timeout: Duration) {
    loop {
        let Activity { answering, writing } = *activity.borrow_and_update();
        let patience = if writing == 0 { timeout } else { timeout.saturating_mul(UNREAD_TIMES) };
        let changed = activity.changed();
        let outcome = if answering > 0 { Ok(changed.await) } else { tokio::time::timeout(patience, changed).await };
        match outcome {
            Ok(Ok(())) => {}
            // The connection is over, which its own end tells.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// An answer's body, which counts until its client has taken it.
struct TrackedBody {
    body: Body,
    _writing: Busy,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
