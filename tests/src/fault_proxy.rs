//! A TCP proxy on loopback that can be told to fail as networks and servers do. Dropping it closes every connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes go through.
    None,
    /// The port is closed.
    Refuse,
    /// Each connection is reset as soon as something is sent.
    Reset,
    /// Everything is read and nothing answered.
    Hang,
    /// Every answer comes so much later.
    Slow(Duration),
    /// Answers are bytes that mean nothing.
    Garbage,
}

/// A running proxy.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port and passes everything on to `target`.
    ///
    /// # Errors
    /// No port can be opened.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to open a port for the proxy")?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let task = tokio::spawn(serve(listener, target, faults));
        Ok(Self { address, fault, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fails in this way from now on; open connections are closed.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    loop {
        let fault = *faults.borrow_and_update();
        if fault == Fault::Refuse {
            listener = None;
            if faults.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = if let Some(open) = listener.take() {
            open
        } else {
            let Ok(open) = TcpListener::bind(address).await else {
                // Connections of before are still being closed.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            open
        };
        loop {
            tokio::select! {
                changed = faults.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                accepted = open.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let mut ended = faults.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = ended.changed() => {}
                            () = connection(stream, target, fault) => {}
                        }
                    });
                }
            }
        }
        listener = Some(open);
    }
}

async fn connection(mut client: TcpStream, target: SocketAddr, fault: Fault) {
    match fault {
        Fault::None => pass(client, target, Duration::ZERO).await,
        Fault::Slow(delay) => pass(client, target, delay).await,
        Fault::Refuse => {}
        Fault::Reset => {
            let _ = client.read(&mut [0]).await;
            // What is unread when a socket is closed makes the system send a reset and no orderly end.
        }
        Fault::Hang => swallow(&mut client).await,
        Fault::Garbage => {
            let noise: Vec<u8> =
                (0..4_096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
            let _ = client.write_all(&noise).await;
            swallow(&mut client).await;
        }
    }
}

async fn swallow(client: &mut TcpStream) {
    let mut buffer = [0; 4_096];
    while client.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn pass(client: TcpStream, target: SocketAddr, delay: Duration) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(copy(from_client, to_server, Duration::ZERO), copy(from_server, to_client, delay));
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        sleep(delay).await;
        let Some(bytes) = buffer.get(..read) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
