//! The accept loop over real sockets on loopback.

use std::time::Instant;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use rerank_crds::server_config::ListenTls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::*;
use crate::reload::Reload;

/// No wait of a test is longer.
const LIMIT: Duration = Duration::from_secs(20);

struct TestServer {
    address: SocketAddr,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
    serving: JoinHandle<Drained>,
}

impl TestServer {
    async fn start_encrypted(identity: Arc<TlsIdentity>) -> Self {
        Self::start(ListenerOptions { tls: Some(identity), ..short_timeouts() }).await
    }

    async fn start(options: ListenerOptions) -> Self {
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slow"
        };
        let hang = || std::future::pending::<&'static str>();
        let peer = |request: Request| async move { request.extensions().get::<PeerAddress>().unwrap().0.to_string() };
        let router = Router::new()
            .route("/fast", get(|| async { "fast" }))
            .route("/slow", get(slow))
            .route("/hang", get(hang))
            .route("/peer", get(peer));
        let listener = bind(([127, 0, 0, 1], 0).into(), "API", "listen.apiAddress").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new());
        let serving = tokio::spawn(serve(listener, router, options, Some(metrics.clone()), stop.clone()));
        Self { address, stop, metrics, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes on a connection of their own and reads until the server closes it.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.exchange(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
    }

    /// As [`Self::get`], over TLS.
    async fn get_encrypted(&self, path: &str, certificate: &Certificate) -> std::io::Result<String> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = certificate.client(&[b"http/1.1"]).connect(name, self.connect().await).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn end(self) -> Drained {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.serving).await.expect("the server ends in time").unwrap()
    }
}

/// A certificate for `localhost` that vouches for itself, with its key, in files.
struct Certificate {
    folder: tempfile::TempDir,
    pem: String,
}

impl Certificate {
    fn new() -> Self {
        let mut certificate = Self { folder: tempfile::tempdir().unwrap(), pem: String::new() };
        certificate.renew();
        certificate
    }

    fn renew(&mut self) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.pem = cert.pem();
        std::fs::write(self.files().certificate_file, &self.pem).unwrap();
        std::fs::write(self.files().key_file, signing_key.serialize_pem()).unwrap();
    }

    fn files(&self) -> ListenTls {
        ListenTls { certificate_file: self.folder.path().join("tls.crt"), key_file: self.folder.path().join("tls.key") }
    }

    /// A client that trusts this certificate alone.
    fn client(&self, alpn: &[&[u8]]) -> tokio_rustls::TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is the same end.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the server closes in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn short_timeouts() -> ListenerOptions {
    ListenerOptions {
        header_read_timeout: Duration::from_millis(300),
        drain_timeout: Duration::from_secs(2),
        ..ListenerOptions::default()
    }
}

#[tokio::test]
async fn a_head_that_does_not_arrive_closes_the_connection_wherever_it_stops() {
    let server = TestServer::start(short_timeouts()).await;
    let beginnings: [&[u8]; 6] =
        [b"", b"G", b"P", b"PRI * HTTP/2", b"GET /fast HTTP/1.1\r\nhost: x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    for beginning in beginnings {
        let mut stream = server.connect().await;
        stream.write_all(beginning).await.unwrap();
        let began = Instant::now();
        read_to_end(&mut stream).await;
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(3), "{beginning:?} was waited for {waited:?}");
    }
    assert!(server.get("/fast").await.ends_with("fast"));
}

#[tokio::test]
async fn a_head_that_drips_closes_the_connection() {
    let server = TestServer::start(short_timeouts()).await;
    let mut stream = server.connect().await;
    let began = Instant::now();
    for byte in b"GET /fast HTTP/1.1\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        if began.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    assert!(!read_to_end(&mut stream).await.contains("200 OK"));
}

/// One request over HTTP/2 without TLS: the preface, empty settings, and `GET /` on stream 1 for the authority `a`.
const HTTP2_REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a";

#[tokio::test]
async fn an_http2_connection_that_asks_nothing_more_is_closed() {
    let server = TestServer::start(short_timeouts()).await;
    let mut stream = server.connect().await;
    stream.write_all(HTTP2_REQUEST).await.unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("closed").unwrap();
    assert!(answer.len() > 18, "settings and an answer came: {answer:?}");
    assert!(began.elapsed() >= short_timeouts().header_read_timeout, "{:?}", began.elapsed());
    server.end().await;
}

#[tokio::test]
async fn a_connection_whose_first_request_came_in_time_lives_on_while_it_is_answered() {
    let server = TestServer::start(short_timeouts()).await;
    // The answer takes longer than a head may.
    assert!(server.get("/slow").await.ends_with("slow"));
}

#[tokio::test]
async fn a_head_too_large_or_with_too_many_headers_is_answered_431() {
    let server = TestServer::start(short_timeouts()).await;
    let large = format!("GET /fast HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "a".repeat(20_000));
    assert!(server.exchange(large.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many: String = (0..100).map(|index| format!("x-{index}: v\r\n")).collect();
    let many = format!("GET /fast HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    assert!(server.exchange(many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(server.exchange(b"this is no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(server.get("/fast").await.ends_with("fast"));
}

#[tokio::test]
async fn connections_above_the_bound_wait_until_another_ends() {
    let server = TestServer::start(ListenerOptions { connections: 2, ..short_timeouts() }).await;
    let first = server.connect().await;
    let _second = server.connect().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(server.metrics.encode().contains("rerank_connections 2\n"));
    // Both say nothing and are closed in time, which makes room for the third.
    let began = Instant::now();
    assert!(server.get("/fast").await.ends_with("fast"));
    assert!(began.elapsed() >= Duration::from_millis(100));
    drop(first);
    assert_eq!(server.end().await, Drained::Completely);
}

#[tokio::test]
async fn a_request_under_way_is_finished_when_the_listener_is_closed() {
    let server = TestServer::start(short_timeouts()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let address = server.address;
    let answer = tokio::spawn(async move { read_to_end(&mut stream).await });
    assert_eq!(server.end().await, Drained::Completely);
    assert!(answer.await.unwrap().ends_with("slow"));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_the_server() {
    let options = ListenerOptions { drain_timeout: Duration::from_millis(300), ..short_timeouts() };
    let server = TestServer::start(options).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.end().await, Drained::Cut { connections: 1 });
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let server = TestServer::start(ListenerOptions { drain_timeout: LIMIT, ..ListenerOptions::default() }).await;
    let _idle = server.connect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    assert_eq!(server.end().await, Drained::Completely);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn requests_carry_their_client_s_address() {
    let server = TestServer::start(short_timeouts()).await;
    assert!(server.get("/peer").await.contains("127.0.0.1:"));
}

#[tokio::test]
async fn a_taken_port_is_told_with_address_and_setting() {
    let taken = bind(([127, 0, 0, 1], 0).into(), "API", "listen.apiAddress").await.unwrap();
    let address = taken.local_addr().unwrap();
    let message = bind(address, "API", "listen.apiAddress").await.unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "failed to listen on {address} for the API: another process uses it; stop that one or choose another in \
             listen.apiAddress"
        )
    );
}

#[tokio::test]
async fn tls_is_spoken_with_a_certificate_that_follows_its_files() {
    let mut certificate = Certificate::new();
    let identity = Arc::new(TlsIdentity::load(&certificate.files()).unwrap());
    let server = TestServer::start_encrypted(Arc::clone(&identity)).await;
    assert!(server.get_encrypted("/fast", &certificate).await.unwrap().ends_with("fast"));
    assert!(!identity.reload().unwrap(), "nothing has changed");

    certificate.renew();
    assert!(server.get_encrypted("/fast", &certificate).await.is_err(), "the old certificate is shown");
    assert!(identity.reload().unwrap());
    assert!(server.get_encrypted("/fast", &certificate).await.unwrap().ends_with("fast"));

    std::fs::write(certificate.files().certificate_file, "half a certif").unwrap();
    assert!(identity.reload().unwrap_err().to_string().contains("holds no certificate in PEM"));
    assert!(server.get_encrypted("/fast", &certificate).await.unwrap().ends_with("fast"), "the last one counts on");
    assert_eq!(server.end().await, Drained::Completely);
}

#[tokio::test]
async fn http2_is_agreed_on_over_tls() {
    let certificate = Certificate::new();
    let identity = Arc::new(TlsIdentity::load(&certificate.files()).unwrap());
    let server = TestServer::start_encrypted(identity).await;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = certificate.client(&[b"h2", b"http/1.1"]).connect(name, server.connect().await).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn what_is_no_tls_is_not_answered_and_what_says_nothing_is_closed_in_time() {
    let certificate = Certificate::new();
    let identity = Arc::new(TlsIdentity::load(&certificate.files()).unwrap());
    let server = TestServer::start_encrypted(identity).await;
    assert!(!server.get("/fast").await.contains("HTTP"), "plain HTTP on the port of TLS");
    let beginnings: [&[u8]; 3] = [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"];
    for beginning in beginnings {
        let mut stream = server.connect().await;
        stream.write_all(beginning).await.unwrap();
        let began = Instant::now();
        read_to_end(&mut stream).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{beginning:?} was waited for {:?}", began.elapsed());
    }
    assert!(server.get_encrypted("/fast", &certificate).await.unwrap().ends_with("fast"));
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_named_without_their_content() {
    let certificate = Certificate::new();
    let (files, other) = (certificate.files(), Certificate::new().files());
    let message = |files: &ListenTls| crate::chain::describe(&TlsIdentity::load(files).unwrap_err());
    let absent = message(&other);
    assert!(absent.contains("listen.tls.certificateFile") && absent.contains("No such file"), "{absent}");
    let swapped = ListenTls { certificate_file: files.key_file.clone(), key_file: files.certificate_file.clone() };
    assert!(message(&swapped).contains("(listen.tls.certificateFile) cannot be used: it holds no certificate"));
    let both = ListenTls { key_file: files.certificate_file.clone(), ..files.clone() };
    assert!(message(&both).contains("(listen.tls.keyFile) cannot be used: it holds no private key"));
    let stranger = Certificate::new();
    let mixed = ListenTls { key_file: stranger.files().key_file, ..files };
    assert!(message(&mixed).contains("cannot be used together"), "{}", message(&mixed));
    std::fs::write(stranger.files().key_file, "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n")
        .unwrap();
    assert!(!message(&mixed).contains("Y2FuYXJ5") && !message(&mixed).contains("canary"), "{}", message(&mixed));
}
