//! The end of a process whose device is lost, over real sockets, with a fake engine.

use std::time::Instant;

use rerank_crds::catalog::DeviceKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::engine::EngineLoader;
use crate::fakes::{EngineControls, EngineFault, FakeLoader, FakeSource};
use crate::models::ConfiguredModels;
use crate::pool::{ModelPool, PoolOptions};
use crate::search::{Searcher, SearcherOptions, ServedModels};

const MODEL: &str = "Qwen/Qwen3-Reranker-0.6B";

fn rerank_only() -> Arc<ServerConfig> {
    let mut config = ServerConfig::default();
    config.reranker.model = Some(MODEL.to_owned());
    config.lifecycle.warm = false;
    config.reranker.self_test = rerank_crds::server_config::SelfTest::Off;
    config.listen.api_address = ([127, 0, 0, 1], 0).into();
    config.listen.control_address = ([127, 0, 0, 1], 0).into();
    Arc::new(config)
}

fn parts(config: &Arc<ServerConfig>, metrics: &Arc<Metrics>) -> (Parts, Arc<EngineControls>) {
    let loader = FakeLoader::default();
    let controls = loader.controls();
    let loader: Arc<dyn EngineLoader> = Arc::new(loader);
    let pool = ModelPool::new(
        PoolOptions::from_config(&config.lifecycle, config.reranker.self_test),
        FakeSource::new(ServedModels::from_config(config).keys(), Arc::clone(&controls)),
        Arc::clone(&loader),
        Arc::clone(metrics),
    );
    let searcher = Arc::new(Searcher::new(SearcherOptions {
        config: Arc::clone(config),
        store: None,
        pool: Arc::clone(&pool),
        metrics: Arc::clone(metrics),
    }));
    let models = ConfiguredModels::new(Arc::clone(config), DeviceKind::Cpu).unwrap();
    (Parts { config: Arc::clone(config), searcher, pool, models, loader, store: None }, controls)
}

/// The answer to one request, or nothing where the connection is refused or closed.
async fn exchange(address: SocketAddr, head: &str, body: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    let text = format!(
        "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn rerank(address: SocketAddr) -> String {
    exchange(address, "POST /v1/rerank", r#"{"query": "q", "documents": ["a"]}"#).await
}

/// S4: readiness fails within a second, nothing succeeds any more, and the process ends with its code within ten.
#[tokio::test]
async fn a_lost_device_ends_the_process_with_its_code_and_nothing_is_answered_after_it() {
    let config = rerank_only();
    let server = Server::bind(&config, Arc::new(Metrics::new())).await.unwrap();
    let (api, control) = (server.api_address, server.control_address);
    let (parts, controls) = parts(&config, &server.metrics);
    let mut signals = Signals::register().unwrap();
    let running = tokio::spawn(async move { server.run(parts, &mut signals, Duration::from_secs(5)).await });

    while !exchange(control, "GET /readyz", "").await.starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rerank(api).await.starts_with("HTTP/1.1 200"));

    controls.fail_score(EngineFault::DeviceLost);
    let lost = Instant::now();
    let answer = rerank(api).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("engine_lost"), "{answer}");
    for (path, state) in [("/readyz", "failed"), ("/livez", "failed")] {
        let probe = exchange(control, &format!("GET {path}"), "").await;
        assert!(probe.is_empty() || (probe.starts_with("HTTP/1.1 503") && probe.contains(state)), "{path}: {probe}");
    }
    assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
    while !running.is_finished() {
        assert!(!rerank(api).await.starts_with("HTTP/1.1 200"), "answered after the device was lost");
        assert!(lost.elapsed() < Duration::from_secs(10), "still running");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(running.await.unwrap(), ExitCode::EngineLost);
    assert!(rerank(api).await.is_empty());
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_keep_a_process_whose_device_is_lost() {
    let config = rerank_only();
    let server = Server::bind(&config, Arc::new(Metrics::new())).await.unwrap();
    let api = server.api_address;
    let (parts, controls) = parts(&config, &server.metrics);
    let mut signals = Signals::register().unwrap();
    let running = tokio::spawn(async move { server.run(parts, &mut signals, Duration::from_secs(5)).await });
    let mut stuck = TcpStream::connect(api).await.unwrap();
    stuck.write_all(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    controls.fail_score(EngineFault::DeviceLost);
    while rerank(api).await.starts_with("HTTP/1.1 404") {}
    let ended = tokio::time::timeout(Duration::from_secs(10), running).await.expect("within ten seconds");
    assert_eq!(ended.unwrap(), ExitCode::EngineLost);
}
