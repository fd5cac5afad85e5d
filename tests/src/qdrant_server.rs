//! A Qdrant server on loopback: Qdrant's own engine behind Qdrant's own protocol, so that a client is tested over a
//! real connection. It implements what our client calls; every other call is answered `UNIMPLEMENTED` with its name.
//! It can be made to hang, to stop, to refuse a key and to answer scores that are no numbers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use anyhow::Context as _;
use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer as HealthServer};
use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use self::engine::Engine;

pub mod certificates;
mod collections;
mod engine;
mod filter;
mod points;

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// The key that every call must carry, the health check excepted.
    pub api_key: Option<String>,
    /// Certificate, key, and the CA that a client's certificate must come from; PEM.
    pub tls: Option<ServerTls>,
    /// Where to listen; any free port of loopback by default.
    pub address: Option<SocketAddr>,
}

/// What a server needs to speak TLS; PEM.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The CA that clients must show a certificate of. None is asked for where absent.
    pub client_ca: Option<String>,
}

/// What tests change while the server runs.
#[derive(Debug, Default)]
struct Behaviour {
    hanging: AtomicBool,
    not_finite: AtomicBool,
    api_key: RwLock<Option<String>>,
    /// `traceparent` and `tracestate` of the last call.
    trace: RwLock<Option<(String, String)>>,
}

impl Behaviour {
    /// Where the server hangs, a call never gets past here.
    async fn wait_while_hanging(&self) {
        if self.hanging.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// A running server. Dropping it stops it and deletes its data.
#[derive(Debug)]
pub struct QdrantServer {
    address: SocketAddr,
    encrypted: bool,
    behaviour: Arc<Behaviour>,
    engine: Arc<Engine>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl QdrantServer {
    /// Starts a server; it accepts connections when this returns.
    pub async fn start(options: ServerOptions) -> anyhow::Result<Self> {
        let ServerOptions { api_key, tls, address } = options;
        let behaviour = Arc::new(Behaviour { api_key: RwLock::new(api_key), ..Behaviour::default() });
        let engine = Arc::new(Engine::new()?);
        let listener = TcpListener::bind(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()))
            .await
            .context("failed to listen on loopback")?;
        let address = listener.local_addr()?;

        let mut server = Server::builder();
        let encrypted = tls.is_some();
        if let Some(ServerTls { certificate, key, client_ca }) = tls {
            // Two crates bring a provider each, so the server cannot choose by itself. An error says that one was
            // chosen before, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut config = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
            if let Some(client_ca) = client_ca {
                config = config.client_ca_root(Certificate::from_pem(client_ca));
            }
            server = server.tls_config(config)?;
        }
        let check_key = {
            let behaviour = Arc::clone(&behaviour);
            move |request: Request<()>| {
                note_trace(&behaviour, &request);
                check_key(&behaviour, request)
            }
        };
        let collections = collections::Collections::new(Arc::clone(&engine), Arc::clone(&behaviour));
        let points = points::Points::new(Arc::clone(&engine), Arc::clone(&behaviour));
        let router = server
            .add_service(HealthServer::new(Health { behaviour: Arc::clone(&behaviour) }))
            .add_service(InterceptedService::new(CollectionsServer::new(collections), check_key.clone()))
            .add_service(InterceptedService::new(PointsServer::new(points), check_key));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            // The server stops by being dropped, not gracefully: one that hangs would never get there. That it could
            // stop gracefully is what makes it close its connections when it is dropped.
            let serving = router.serve_with_incoming_shutdown(TcpIncoming::from(listener), std::future::pending());
            tokio::select! {
                _ = serving => {}
                _ = stopped => {}
            }
        });
        Ok(Self { address, encrypted, behaviour, engine, stop: Some(stop), task })
    }

    /// `http://127.0.0.1:<port>`, or `https://localhost:<port>` with TLS.
    pub fn url(&self) -> String {
        if self.encrypted {
            format!("https://localhost:{}", self.address.port())
        } else {
            format!("http://{}", self.address)
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on calls are accepted and never answered, or answered again.
    pub fn set_hanging(&self, hanging: bool) {
        self.behaviour.hanging.store(hanging, Ordering::Relaxed);
    }

    /// `traceparent` and `tracestate` of the last call, where it had the first.
    pub fn last_trace(&self) -> Option<(String, String)> {
        self.behaviour.trace.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on every score is NaN, or not any more.
    pub fn set_not_finite(&self, not_finite: bool) {
        self.behaviour.not_finite.store(not_finite, Ordering::Relaxed);
    }

    /// From now on calls need this key.
    pub fn set_api_key(&self, key: Option<&str>) {
        *self.behaviour.api_key.write().unwrap_or_else(PoisonError::into_inner) = key.map(str::to_owned);
    }

    /// Makes a collection as another client would: of any distance (Cosine, Dot, Euclid, Manhattan), with vectors of
    /// any names, and without a record of the embedding model.
    pub fn create_collection(&self, name: &str, vectors: &[(&str, u64, &str)]) -> anyhow::Result<()> {
        let vectors = vectors
            .iter()
            .map(|(name, size, distance)| Ok(((*name).to_owned(), engine::vector_params(*size, distance)?)))
            .collect::<Result<_, Status>>()?;
        Ok(self.engine.create(name, vectors)?)
    }

    /// Stops listening and ends every connection.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // The receiver is gone only where the server ended by itself.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for QdrantServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note_trace(behaviour: &Behaviour, request: &Request<()>) {
    let header = |name: &str| Some(request.metadata().get(name)?.to_str().ok()?.to_owned());
    let trace = header("traceparent").map(|parent| (parent, header("tracestate").unwrap_or_default()));
    *behaviour.trace.write().unwrap_or_else(PoisonError::into_inner) = trace;
}

fn check_key(behaviour: &Behaviour, request: Request<()>) -> Result<Request<()>, Status> {
    let needed = behaviour.api_key.read().unwrap_or_else(PoisonError::into_inner);
    let Some(needed) = needed.as_deref() else { return Ok(request) };
    match request.metadata().get("api-key").map(|key| key.as_bytes() == needed.as_bytes()) {
        Some(true) => Ok(request),
        Some(false) => Err(Status::permission_denied("Invalid API key or JWT")),
        None => Err(Status::unauthenticated("Must provide an API key or an Authorization bearer token")),
    }
}

#[derive(Debug)]
struct Health {
    behaviour: Arc<Behaviour>,
}

#[tonic::async_trait]
impl Qdrant for Health {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckReply>, Status> {
        self.behaviour.wait_while_hanging().await;
        Ok(Response::new(HealthCheckReply {
            title: "qdrant - vector search engine".to_owned(),
            version: "1.13.0".to_owned(),
            commit: None,
        }))
    }
}

/// Answers calls that our client does not make.
macro_rules! unimplemented_calls {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(
            fn $name<'this, 'future>(
                &'this self,
                _: tonic::Request<qdrant_client::qdrant::$request>,
            ) -> std::pin::Pin<
                Box<
                    dyn Future<Output = Result<tonic::Response<qdrant_client::qdrant::$response>, tonic::Status>>
                        + Send
                        + 'future,
                >,
            >
            where
                'this: 'future,
                Self: 'future,
            {
                Box::pin(async {
                    Err(tonic::Status::unimplemented(concat!("the test server does not know ", stringify!($name))))
                })
            }
        )*
    };
}
use unimplemented_calls;
