//! A key that is renewed counts on the running server within ten seconds, and the old one no longer.

use std::fs;
use std::time::{Duration, Instant};

use rerank_tests::http::{ServerProcess, StartOptions, without_models};
use tokio::time::sleep;

/// Within which a renewed key counts.
const LIMIT: Duration = Duration::from_secs(10);

async fn status(server: &ServerProcess, key: &str) -> u16 {
    server.get_with_key("/v1/models", key).await.unwrap().status
}

#[tokio::test]
async fn a_renewed_key_counts_without_a_restart_and_a_broken_file_locks_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "ops: old-key\n").unwrap();
    let config = format!("{}access: {{apiKeysFile: '{}'}}\n", without_models(), keys.display());
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    assert_eq!((status(&server, "old-key").await, status(&server, "new-key").await), (200, 401));

    fs::write(&keys, "ops: new-key\n").unwrap();
    let renewed = Instant::now();
    while status(&server, "new-key").await != 200 {
        assert!(renewed.elapsed() < LIMIT, "{}", server.log());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&server, "old-key").await, 401);

    fs::write(&keys, "no key at all").unwrap();
    let broken = Instant::now();
    while !server.log().contains("Failed to read the API keys again") {
        assert!(broken.elapsed() < LIMIT, "{}", server.log());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&server, "new-key").await, 200);
    assert!(!server.log().contains("-key"), "a key is in the log");
}
