//! The real server ends without cutting a request: SIGTERM with a drain delay, SIGINT without, a taken port.

use std::time::{Duration, Instant};

use rerank_tests::http::{LIMIT, ServerProcess, StartOptions, tiny_pair, without_models};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

async fn start(arguments: &[&str]) -> ServerProcess {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let server = ServerProcess::start(StartOptions { config: without_models(), arguments, ..StartOptions::default() });
    let server = server.await.unwrap();
    server.wait_ready().await.unwrap();
    server
}

/// A request of which half the body is sent.
async fn half_a_request(server: &ServerProcess) -> (TcpStream, &'static str) {
    let body = r#"{"query": "red planet", "documents": []}"#;
    let (first, rest) = body.split_at(10);
    let mut stream = TcpStream::connect(server.api).await.unwrap();
    let head = format!(
        "POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    (stream, rest)
}

async fn finish(mut stream: TcpStream, rest: &str) -> String {
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn on_sigterm_readiness_fails_at_once_and_requests_are_served_until_the_delay_is_over() {
    let server = start(&["--drain-delay-seconds", "2"]).await;
    let (stream, rest) = half_a_request(&server).await;
    let signalled = Instant::now();
    server.signal(Signal::TERM).unwrap();
    // The signal is on its way for as long as the machine is busy.
    let readiness = loop {
        let readiness = server.control("/readyz").await.unwrap();
        if readiness.status != 200 {
            break readiness;
        }
        assert!(signalled.elapsed() < Duration::from_secs(1), "still ready: {}", server.log());
        sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(readiness.status, 503);
    assert_eq!(readiness.json()["status"], "draining");
    assert_eq!(server.control("/livez").await.unwrap().status, 200);
    // A load balancer that has not noticed yet still sends new requests; they are served and told to go elsewhere.
    let new = server.get("/v1/models").await.unwrap();
    assert_eq!((new.status, new.header("connection")), (200, Some("close")));

    // The request that was under way is answered after the listener is closed.
    sleep(Duration::from_millis(2_500).saturating_sub(signalled.elapsed())).await;
    assert!(TcpStream::connect(server.api).await.is_err(), "the listener is still open");
    let answer = finish(stream, rest).await;
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");

    let (status, log) = server.ended().await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(signalled.elapsed() >= Duration::from_secs(2));
    assert!(log.contains("Answered every request under way"), "{log}");
}

#[tokio::test]
async fn a_request_that_is_being_scored_at_sigterm_is_answered_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let options = StartOptions { config: tiny_pair(folder.path()), ..StartOptions::default() };
    let server = ServerProcess::start(options).await.unwrap();
    server.wait_ready().await.unwrap();
    let body = |documents: usize| {
        let document = "Sourdough bread rises slowly in a cold kitchen. ".repeat(10);
        json!({"query": "bread", "documents": vec![document; documents]}).to_string()
    };
    assert_eq!(server.post("/v1/rerank", body(1)).await.unwrap().status, 200, "the model is loaded");
    let (answer, ()) = tokio::join!(server.post("/v1/rerank", body(100)), async {
        // Until its pairs are seen in the queue.
        let deadline = Instant::now() + LIMIT;
        while !server.control("/metrics").await.unwrap().text.contains("\nrerank_queue_pairs 100") {
            assert!(Instant::now() < deadline, "{}", server.log());
            sleep(Duration::from_millis(5)).await;
        }
        server.signal(Signal::TERM).unwrap();
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 100);
    let (status, log) = server.ended().await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn sigint_ends_without_delay() {
    let server = start(&["--drain-delay-seconds", "60"]).await;
    let signalled = Instant::now();
    server.signal(Signal::INT).unwrap();
    let (status, log) = server.ended().await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(signalled.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_second_signal_cuts_the_delay_short() {
    let server = start(&["--drain-delay-seconds", "60"]).await;
    let signalled = Instant::now();
    server.signal(Signal::TERM).unwrap();
    sleep(Duration::from_millis(200)).await;
    server.signal(Signal::TERM).unwrap();
    let (status, log) = server.ended().await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(signalled.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_taken_port_ends_the_start_with_the_address() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    for (setting, other) in [("apiAddress", "controlAddress"), ("controlAddress", "apiAddress")] {
        let listen = format!("listen: {{{setting}: '{address}', {other}: '127.0.0.1:0'}}\n");
        std::fs::write(&config, format!("{listen}{}", without_models())).unwrap();
        let finished = rerank_tests::http::run_server(&["serve", "--config", config.to_str().unwrap()]).await.unwrap();
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(&address.to_string()), "{finished:?}");
        assert!(finished.stderr.contains(&format!("listen.{setting}")), "{finished:?}");
    }
}
