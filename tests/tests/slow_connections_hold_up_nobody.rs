//! A thousand connections that drip their heads beside normal requests. Prints what it measures; a bound on times would
//! measure the machine.

use std::time::{Duration, Instant};

use rerank_tests::http::{ServerProcess, StartOptions, root};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

const SLOW: usize = 1_000;
const NORMAL: usize = 100;

/// Drips a head until the server closes the connection; answers after how long.
async fn drip(address: std::net::SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    let head = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-drip: ".iter().chain(std::iter::repeat(&b'a'));
    for byte in head {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        let mut answer = [0; 256];
        if tokio::time::timeout(Duration::from_millis(500), stream.read(&mut answer)).await.is_ok() {
            break;
        }
    }
    began.elapsed()
}

/// Times of requests one after the other, each on a connection of its own, sorted.
async fn normal_requests(server: &ServerProcess) -> Vec<Duration> {
    let documents = vec!["Fences keep the sheep on their own side of the hill."; 5];
    let body = json!({"query": "Who keeps the sheep?", "documents": documents}).to_string();
    let request = format!(
        "POST /v1/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut times = Vec::with_capacity(NORMAL);
    for _ in 0..NORMAL {
        let began = Instant::now();
        let mut stream = TcpStream::connect(server.api).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        times.push(began.elapsed());
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_connections_hold_up_no_normal_request_and_are_closed_in_time() {
    let models = root().join("tests").join("models");
    let reranker = "reranker: {model: tiny-reranker, quantization: float32, maxLength: 1024}";
    let config =
        format!("{reranker}\nlifecycle: {{loading: Preload}}\nweights: {{directory: '{}'}}\n", models.display());
    let options = StartOptions { config, ..StartOptions::default() };
    let server = ServerProcess::start(options).await.unwrap();
    server.wait_ready().await.unwrap();
    let alone = normal_requests(&server).await;

    let mut slow = JoinSet::new();
    for _ in 0..SLOW {
        slow.spawn(drip(server.api));
    }
    let open = Instant::now();
    loop {
        let metrics = server.control("/metrics").await.unwrap().text;
        let line = metrics.lines().find_map(|line| line.strip_prefix("rerank_connections "));
        if line.is_some_and(|count| count.trim().parse::<usize>().is_ok_and(|count| count >= SLOW)) {
            break;
        }
        assert!(open.elapsed() < Duration::from_secs(9), "the connections are not all open: {line:?}");
        sleep(Duration::from_millis(50)).await;
    }
    let beside = normal_requests(&server).await;
    let at = |times: &[Duration], percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "five documents reranked, alone: p50 {:?}, p99 {:?}; beside {SLOW} slow connections: p50 {:?}, p99 {:?} ({:.2} x)",
        at(&alone, 50),
        at(&alone, 99),
        at(&beside, 50),
        at(&beside, 99),
        at(&beside, 99).as_secs_f64() / at(&alone, 99).as_secs_f64()
    );
    let mut longest = Duration::ZERO;
    while let Some(lasted) = slow.join_next().await {
        longest = longest.max(lasted.unwrap());
    }
    println!("the longest slow connection lasted {longest:?}; a head may take 10 s");
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    assert_eq!(server.control("/livez").await.unwrap().status, 200);
}
