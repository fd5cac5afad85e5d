//! An OpenTelemetry collector on loopback, as far as traces go: OTLP over gRPC. It keeps what it is sent, as the bytes that
//! came.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::Message;
use rerank_server::traces::wire::{EXPORT_PATH, ExportRequest, Span};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::qdrant_server::certificates::Certified;

/// No wait is longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A running collector. Dropping it stops it.
#[derive(Debug)]
pub struct OtlpCollector {
    address: SocketAddr,
    calls: Calls,
    task: JoinHandle<()>,
}

impl OtlpCollector {
    /// Starts a collector; it accepts connections when this returns.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(None).await
    }

    /// Starts a collector that speaks TLS, with a certificate for `localhost`.
    pub async fn start_with_tls(certified: &Certified) -> anyhow::Result<Self> {
        // Two crates bring a provider each, so the server cannot choose by itself. An error says that one was chosen
        // before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let identity = Identity::from_pem(&certified.certificate, &certified.key);
        Self::start_with(Some(ServerTlsConfig::new().identity(identity))).await
    }

    async fn start_with(tls: Option<ServerTlsConfig>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen on loopback")?;
        let address = listener.local_addr()?;
        let calls = Calls::default();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls)?;
        }
        let serving = server.add_service(calls.clone()).serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("the collector ended: {error}");
            }
        });
        Ok(Self { address, calls, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Each call's message, as it came.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.calls.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every span so far.
    ///
    /// # Errors
    /// A message is none of OTLP's.
    pub fn spans(&self) -> anyhow::Result<Vec<Span>> {
        let mut spans = Vec::new();
        for message in self.messages() {
            let request = ExportRequest::decode(message.as_slice()).context("a message is no export of spans")?;
            let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            spans.extend(scopes.flat_map(|scope| scope.spans));
        }
        Ok(spans)
    }

    /// Waits until so many requests of clients are among the spans.
    pub async fn wait_for_requests(&self, expected: usize) -> anyhow::Result<Vec<Span>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let spans = self.spans()?;
            // Kind 2 is the server's.
            let requests = spans.iter().filter(|span| span.kind == 2).count();
            if requests >= expected {
                return Ok(spans);
            }
            if Instant::now() > deadline {
                bail!("{requests} of {expected} requests have arrived: {spans:#?}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for OtlpCollector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The service behind the port.
#[derive(Clone, Debug, Default)]
struct Calls(Arc<Mutex<Vec<Vec<u8>>>>);

impl NamedService for Calls {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl UnaryService<Vec<u8>> for Calls {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request.into_inner());
        // A message without fields: everything was taken.
        Box::pin(async { Ok(Response::new(Vec::new())) })
    }
}

impl<B> Service<http::Request<B>> for Calls
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let calls = self.clone();
        Box::pin(async move {
            if request.uri().path() == EXPORT_PATH {
                Ok(Grpc::new(Bytes).unary(calls, request).await)
            } else {
                Ok(Status::unimplemented("the test collector takes spans only").into_http())
            }
        })
    }
}

/// Messages as they come.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost::bytes::Buf;
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
