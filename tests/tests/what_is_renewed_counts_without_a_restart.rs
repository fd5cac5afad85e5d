//! Keys and certificates that are renewed count on the running server within ten seconds, and the old ones no longer.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rerank_tests::http::{ServerProcess, StartOptions, without_models};
use rerank_tests::qdrant_server::certificates::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

/// Within which what is renewed counts.
const LIMIT: Duration = Duration::from_secs(10);

async fn status(server: &ServerProcess, key: &str) -> u16 {
    server.get_with_key("/v1/models", key).await.unwrap().status
}

#[tokio::test]
async fn a_renewed_key_counts_and_a_broken_file_locks_nobody_out() {
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
    while !server.log().contains("Failed to read again") {
        assert!(broken.elapsed() < LIMIT, "{}", server.log());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&server, "new-key").await, 200);
    assert!(!server.log().contains("-key"), "a key is in the log");
}

/// Writes a certificate of `authority` and its key.
fn write_certificate(folder: &Path, authority: &Authority) {
    let certified = authority.certify("localhost").unwrap();
    fs::write(folder.join("tls.key"), certified.key).unwrap();
    fs::write(folder.join("tls.crt"), certified.certificate).unwrap();
}

/// The answer over TLS, trusting one authority alone.
async fn get_encrypted(server: &ServerProcess, authority: &Authority) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, TcpStream::connect(server.api).await?).await?;
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_probes_stay_reachable_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| Authority::new(name).unwrap());
    write_certificate(folder.path(), &old);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let listen = Some(format!("tls: {{certificateFile: '{}', keyFile: '{}'}}", file("tls.crt"), file("tls.key")));
    let options = StartOptions { config: without_models(), listen, ..StartOptions::default() };
    let server = ServerProcess::start(options).await.unwrap();
    server.wait_ready().await.unwrap();
    assert!(get_encrypted(&server, &old).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(get_encrypted(&server, &new).await.is_err());

    write_certificate(folder.path(), &new);
    let renewed = Instant::now();
    while get_encrypted(&server, &new).await.is_err() {
        assert!(renewed.elapsed() < LIMIT, "{}", server.log());
        sleep(Duration::from_millis(100)).await;
    }
    assert!(get_encrypted(&server, &old).await.is_err());
    assert!(server.get("/v1/models").await.is_err(), "plain HTTP is not answered");
    assert_eq!(server.control("/livez").await.unwrap().status, 200);
    assert!(!server.log().contains("PRIVATE KEY"), "{}", server.log());
}
