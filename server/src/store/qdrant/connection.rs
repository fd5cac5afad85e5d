//! The connection to a Qdrant server: TLS, API key, deadlines, retries, and what its answers mean. I/O.
//!
//! The channels are made here and handed to the generated clients, because the client builder of `qdrant-client`
//! takes neither a CA of one's own nor a client certificate.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use rerank_crds::server_config::{Qdrant, QdrantTls};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Response, Status};

use crate::chain;
use crate::resolver;
use crate::store::StoreError;
use crate::traces::{propagation, spans};

/// Connections side by side. One HTTP/2 connection carries many calls, but is read by one task.
const CHANNELS: usize = 3;

/// A server that takes longer to accept a connection is taken to be down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose peer is gone is noticed within the interval and the timeout together.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of one answer, at most: a thousand candidates of 64 KiB each.
pub(super) const MAXIMUM_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// What carries a call.
pub(super) type Service = InterceptedService<Channel, ApiKey>;

/// Connections to one server.
pub(super) struct Connection {
    channels: Vec<Channel>,
    next: AtomicUsize,
    key_file: Option<PathBuf>,
    key: RwLock<ApiKey>,
    timeout: Duration,
    url: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Puts the API key into each call, and the trace that it is part of.
#[derive(Clone, Default)]
pub(super) struct ApiKey(Option<MetadataValue<Ascii>>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("api-key", key.clone());
        }
        let Some((parent, state)) = spans::outgoing_headers() else { return Ok(request) };
        for (name, value) in [(propagation::TRACEPARENT, Some(parent)), (propagation::TRACESTATE, state)] {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                request.metadata_mut().insert(name, value);
            }
        }
        Ok(request)
    }
}

impl Connection {
    /// Reads the files that the configuration names. The server is not contacted; that happens at the first call.
    pub(super) fn open(config: &Qdrant, timeout: Duration) -> Result<Self, StoreError> {
        let uri = read_url(&config.url)?;
        let encrypted = uri.scheme_str() == Some("https");
        if config.api_key_file.is_some() && !encrypted && !config.allow_insecure {
            return Err(configuration(
                "qdrant.apiKeyFile would send the key unencrypted to an http:// url; use https://, or set \
                 qdrant.allowInsecure: true",
            ));
        }
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .user_agent(concat!("rerank-server/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| configuration(&chain::describe(&error)))?;
        if encrypted {
            endpoint = endpoint
                .tls_config(read_tls(&config.tls)?)
                .map_err(|error| configuration(&format!("qdrant.tls: {}", chain::describe(&error))))?;
        } else if config.tls != QdrantTls::default() {
            return Err(configuration("qdrant.tls needs a qdrant.url that starts with https://"));
        }
        let key = config.api_key_file.as_deref().map(read_key).transpose()?.unwrap_or_default();
        Ok(Self {
            channels: (0..CHANNELS)
                .map(|_| endpoint.connect_with_connector_lazy(resolver::connector(config.allow_loopback)))
                .collect(),
            next: AtomicUsize::new(0),
            key_file: config.api_key_file.clone(),
            key: RwLock::new(key),
            timeout,
            url: config.url.clone(),
        })
    }

    /// The deadline of each call.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// One call under the deadline. `make_call` may run twice: a connection that broke is tried again at once, and a
    /// refused key is read again from its file, as it may have been replaced since. All calls that the store makes
    /// may be repeated.
    pub(super) async fn call<T, Call, Answer>(&self, collection: &str, make_call: Call) -> Result<T, StoreError>
    where
        Call: Fn(Service) -> Answer + Send + Sync,
        Answer: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let attempts = async {
            let first = match make_call(self.service()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let again = match first.code() {
                Code::Unavailable => true,
                Code::Unauthenticated | Code::PermissionDenied => self.read_key_again().await,
                // What the transport reports when a connection that stood was cut; an answer of the server has no
                // source.
                Code::Unknown | Code::Internal | Code::Cancelled => std::error::Error::source(&first).is_some(),
                _ => false,
            };
            if again { make_call(self.service()).await } else { Err(first) }
        };
        match tokio::time::timeout(self.timeout, attempts).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(store_error(collection, &status)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    fn service(&self) -> Service {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CHANNELS;
        let channel = self.channels.get(turn).expect("the turn is less than the number of channels").clone();
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner).clone();
        InterceptedService::new(channel, key)
    }

    /// Whether the key's file holds another key by now.
    async fn read_key_again(&self) -> bool {
        let Some(file) = self.key_file.clone() else { return false };
        let read = tokio::task::spawn_blocking(move || read_key(&file)).await;
        match read {
            Ok(Ok(new)) => {
                let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
                let changed = key.0 != new.0;
                *key = new;
                changed
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "Failed to read the API key of Qdrant again");
                false
            }
            Err(_) => false,
        }
    }
}

fn configuration(message: &str) -> StoreError {
    StoreError::Configuration { message: message.to_owned() }
}

fn read_url(url: &str) -> Result<Uri, StoreError> {
    let allowed = "allowed: http:// or https://, host and gRPC port, such as http://qdrant:6334";
    let uri: Uri = url.parse().map_err(|_| configuration(&format!("qdrant.url {url:?} is no URL; {allowed}")))?;
    let plain_path = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let known_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain_host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if plain_path && known_scheme && plain_host {
        Ok(uri)
    } else {
        Err(configuration(&format!("qdrant.url cannot be used; {allowed}")))
    }
}

fn read_file(setting: &str, path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| configuration(&format!("{setting}: failed to read {}: {error}", path.display())))
}

fn read_key(path: &Path) -> Result<ApiKey, StoreError> {
    let content = read_file("qdrant.apiKeyFile", path)?;
    let text = String::from_utf8_lossy(&content);
    let mut value = MetadataValue::<Ascii>::try_from(text.trim())
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| configuration(&format!("qdrant.apiKeyFile: {} holds no key", path.display())))?;
    value.set_sensitive(true);
    Ok(ApiKey(Some(value)))
}

fn read_tls(config: &QdrantTls) -> Result<ClientTlsConfig, StoreError> {
    let QdrantTls { ca_file, certificate_file, key_file } = config;
    let mut tls = match ca_file {
        // Only this CA: whoever names one does not want any other to vouch for the server.
        Some(path) => ClientTlsConfig::new().ca_certificate(read_pem("qdrant.tls.caFile", path)?),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (certificate_file, key_file) {
        (Some(certificate), Some(key)) => {
            let certificate = read_file("qdrant.tls.certificateFile", certificate)?;
            let key = read_file("qdrant.tls.keyFile", key)?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        (None, None) => {}
        (Some(_), None) => return Err(configuration("qdrant.tls.certificateFile needs qdrant.tls.keyFile as well")),
        (None, Some(_)) => return Err(configuration("qdrant.tls.keyFile needs qdrant.tls.certificateFile as well")),
    }
    Ok(tls)
}

/// A file without a certificate would leave an empty set of trusted CAs, and every connection would fail obscurely.
fn read_pem(setting: &str, path: &Path) -> Result<Certificate, StoreError> {
    let content = read_file(setting, path)?;
    if String::from_utf8_lossy(&content).contains("-----BEGIN CERTIFICATE-----") {
        Ok(Certificate::from_pem(content))
    } else {
        Err(configuration(&format!("{setting}: {} holds no PEM certificate", path.display())))
    }
}

/// What a status of the server or of the transport means.
fn store_error(collection: &str, status: &Status) -> StoreError {
    let message = std::error::Error::source(status).map_or_else(
        || status.message().to_owned(),
        |cause| {
            if status.message().is_empty() {
                chain::describe(cause)
            } else {
                format!("{}: {}", status.message(), chain::describe(cause))
            }
        },
    );
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => StoreError::Unauthorized,
        Code::NotFound => StoreError::CollectionMissing { collection: collection.to_owned() },
        Code::DeadlineExceeded => StoreError::Timeout,
        // The server or a proxy gave up on a deadline of its own.
        Code::Cancelled if message.to_lowercase().contains("timeout") => StoreError::Timeout,
        Code::Unavailable | Code::ResourceExhausted => StoreError::Unavailable { message },
        Code::Unknown | Code::Internal | Code::Cancelled if std::error::Error::source(status).is_some() => {
            StoreError::Unavailable { message }
        }
        // A server in strict mode filters by indexed fields alone, and names the field that has no index.
        Code::InvalidArgument if message.contains("Index required") => StoreError::InvalidFilter { message },
        Code::InvalidArgument => dimension_mismatch(collection, &message)
            .unwrap_or(StoreError::Failed { message: format!("it refused the request: {message}") }),
        _ => StoreError::Failed { message },
    }
}

/// Qdrant's words for a vector of another length: `... expected dim: 4, got 3`.
fn dimension_mismatch(collection: &str, message: &str) -> Option<StoreError> {
    let (_, values) = message.split_once("expected dim: ")?;
    let (found, sent) = values.split_once(", got ")?;
    let sent: String = sent.chars().take_while(char::is_ascii_digit).collect();
    Some(StoreError::Mismatch {
        collection: collection.to_owned(),
        what: "dimension",
        found: found.to_owned(),
        expected: sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Qdrant {
        Qdrant { url: url.to_owned(), ..Qdrant::default() }
    }

    fn refusal(config: &Qdrant) -> String {
        Connection::open(config, Duration::from_secs(1)).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_url_that_is_none_says_what_is_allowed() {
        for url in ["", "qdrant:6334", "ftp://qdrant:6334", "http://qdrant:6334/path", "http://a:b@qdrant:6334", "::"] {
            assert!(refusal(&config(url)).contains("http:// or https://"), "{url}");
        }
        assert!(Connection::open(&config("http://qdrant:6334"), Duration::from_secs(1)).is_ok());
    }

    #[tokio::test]
    async fn a_key_over_plain_http_is_refused_unless_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), " secret\n").unwrap();
        let mut config = Qdrant { api_key_file: Some(file.path().to_owned()), ..config("http://qdrant:6334") };
        assert!(refusal(&config).contains("allowInsecure"));
        config.allow_insecure = true;
        assert!(Connection::open(&config, Duration::from_secs(1)).is_ok());
        fs::write(file.path(), "\n").unwrap();
        assert!(refusal(&config).contains("holds no key"));
    }

    #[tokio::test]
    async fn tls_files_that_cannot_be_used_are_named() {
        let https = config("https://qdrant:6334");
        let absent = PathBuf::from("/nowhere/ca.pem");
        let tls = QdrantTls { ca_file: Some(absent.clone()), ..QdrantTls::default() };
        assert!(refusal(&Qdrant { tls: tls.clone(), ..https.clone() }).contains("caFile: failed to read /nowhere"));
        assert!(refusal(&Qdrant { tls, ..config("http://qdrant:6334") }).contains("https://"));
        let tls = QdrantTls { certificate_file: Some(absent), ..QdrantTls::default() };
        assert!(refusal(&Qdrant { tls, ..https.clone() }).contains("needs qdrant.tls.keyFile"));
        let empty = tempfile::NamedTempFile::new().unwrap();
        let tls = QdrantTls { ca_file: Some(empty.path().to_owned()), ..QdrantTls::default() };
        assert!(refusal(&Qdrant { tls, ..https }).contains("holds no PEM certificate"));
    }

    #[test]
    fn the_servers_statuses_have_their_meaning() {
        let meaning = |code, message: &str| store_error("docs", &Status::new(code, message));
        assert!(matches!(meaning(Code::Unauthenticated, ""), StoreError::Unauthorized));
        assert!(matches!(meaning(Code::PermissionDenied, ""), StoreError::Unauthorized));
        assert!(matches!(meaning(Code::NotFound, ""), StoreError::CollectionMissing { .. }));
        assert!(matches!(meaning(Code::DeadlineExceeded, ""), StoreError::Timeout));
        assert!(matches!(meaning(Code::Unavailable, ""), StoreError::Unavailable { .. }));
        assert!(matches!(meaning(Code::Internal, "broken"), StoreError::Failed { .. }));
        let mismatch = meaning(Code::InvalidArgument, "Wrong input: Vector dimension error: expected dim: 4, got 3");
        assert_eq!(mismatch.to_string(), "collection \"docs\" has dimension 4, but 3 is needed");
    }
}
