//! The accept loop over real sockets on loopback.

use std::time::Instant;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

/// No wait of a test is longer.
const LIMIT: Duration = Duration::from_secs(20);

struct TestServer {
    address: SocketAddr,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
    serving: JoinHandle<Drained>,
}

impl TestServer {
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

    async fn end(self) -> Drained {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.serving).await.expect("the server ends in time").unwrap()
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
