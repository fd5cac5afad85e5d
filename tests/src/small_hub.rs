//! A model hub on loopback: the routes, headers and redirects of Hugging Face, over folders of this repository. It can be
//! told to fail as hubs and networks do, and notes what it was asked.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The commit at which every repository is.
pub const COMMIT: &str = "5a7f0c3d9e1b2c4d6e8f0a1b2c3d4e5f60718293";

/// Longest request head that is read.
const HEAD_BYTES: usize = 16 * 1024;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HubFault {
    /// Nothing.
    #[default]
    None,
    /// Weights break off after so many bytes of each answer, this many times.
    BreakOff {
        /// Bytes of each answer.
        after: usize,
        /// How often.
        times: usize,
    },
    /// One byte of this file is another.
    FlippedByte(&'static str),
    /// Every answer has this status.
    Status(u16),
    /// Weights begin and never go on.
    Stall,
    /// The listing tells no length and no digest, and neither does the answer; of this file there is no end.
    Endless(&'static str),
    /// Everything is somewhere else.
    Redirect(&'static str),
    /// The listing names pickles and no safetensors.
    PicklesOnly,
    /// Whatever revision is asked for, the listing is that of [`COMMIT`].
    OtherCommit,
}

#[derive(Debug, Default)]
struct State {
    repositories: BTreeMap<String, PathBuf>,
    token: Option<String>,
    fault: HubFault,
    broken_off: usize,
    requests: Vec<String>,
    tokens_at_storage: usize,
}

/// A running hub. Dropping it ends it.
#[derive(Debug)]
pub struct SmallHub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: Vec<JoinHandle<()>>,
}

impl SmallHub {
    /// Serves each named repository from a folder. Weights lie on another port, as a hub's storage does.
    pub async fn start(repositories: &[(&str, &Path)]) -> anyhow::Result<Self> {
        Self::start_on([Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST].map(|address| (address, 0).into()), repositories)
            .await
    }

    /// The same on these two addresses, the hub's and its storage's. They are what it redirects to.
    pub async fn start_on(addresses: [SocketAddr; 2], repositories: &[(&str, &Path)]) -> anyhow::Result<Self> {
        let repositories = repositories.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
        let state = Arc::new(Mutex::new(State { repositories, ..State::default() }));
        let [front, storage] = addresses;
        let (front, storage) = (listen(front).await?, listen(storage).await?);
        let (address, storage_address) = (front.local_addr()?, storage.local_addr()?);
        let tasks = vec![
            tokio::spawn(serve(front, Arc::clone(&state), Some(storage_address))),
            tokio::spawn(serve(storage, Arc::clone(&state), None)),
        ];
        Ok(Self { address, state, tasks })
    }

    /// For `weights.hub.endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks for this token from now on.
    pub fn require_token(&self, token: &str) {
        self.lock().token = Some(token.to_owned());
    }

    /// Fails in this way from now on.
    pub fn set(&self, fault: HubFault) {
        let mut state = self.lock();
        state.fault = fault;
        state.broken_off = 0;
    }

    /// Method, path and `Range` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// How often a token came to the storage, where none belongs.
    pub fn tokens_at_storage(&self) -> usize {
        self.lock().tokens_at_storage
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SmallHub {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.context("failed to open a port for the hub")
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>, storage: Option<SocketAddr>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // A client that leaves is what some tests are about.
            let _ = answer(stream, &state, storage).await;
        });
    }
}

struct Request {
    path: String,
    token: Option<String>,
    from: Option<u64>,
}

async fn read_request(stream: &mut TcpStream) -> anyhow::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < HEAD_BYTES, "the head is too long");
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let path = head.split(' ').nth(1).context("no path")?;
    // The form for proxies names the whole address.
    let path = path.strip_prefix("http://hub.invalid").unwrap_or(path);
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    Ok(Request {
        path: path.to_owned(),
        token: header("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned)),
        from: header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()),
    })
}

async fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: Option<SocketAddr>) -> anyhow::Result<()> {
    let request = read_request(&mut stream).await?;
    let (fault, repositories, allowed) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let range = request.from.map(|from| format!(" from {from}")).unwrap_or_default();
        state.requests.push(format!("{}{range}", request.path));
        if storage.is_none() {
            state.tokens_at_storage += usize::from(request.token.is_some());
        }
        let allowed = storage.is_none() || state.token.is_none() || state.token == request.token;
        (state.fault, state.repositories.clone(), allowed)
    };
    if let (HubFault::Status(status), Some(_)) = (fault, storage) {
        return respond(&mut stream, status, "", b"told so").await;
    }
    if let (HubFault::Redirect(target), Some(_)) = (fault, storage) {
        return respond(&mut stream, 302, &format!("location: {target}\r\n"), b"").await;
    }
    if !allowed {
        return respond(&mut stream, 401, "", b"{\"error\": \"Invalid username or password.\"}").await;
    }
    let path = request.path.split('?').next().unwrap_or_default();
    for (name, folder) in &repositories {
        if path == format!("/api/models/{name}/revision/main")
            || fault == HubFault::OtherCommit && path.starts_with(&format!("/api/models/{name}/revision/"))
            || path == format!("/api/models/{name}/revision/{COMMIT}")
        {
            return respond(&mut stream, 200, "content-type: application/json\r\n", listing(folder, fault)?.as_bytes())
                .await;
        }
        let Some(file) = path.strip_prefix(&format!("/{name}/resolve/{COMMIT}/")) else { continue };
        anyhow::ensure!(!file.contains('/'), "no folders here");
        let Ok(mut content) = std::fs::read(folder.join(file)) else { break };
        let is_large = file.ends_with(".safetensors");
        if let (true, Some(storage)) = (is_large, storage) {
            let headers = format!(
                "location: http://{storage}{path}?signature=canary\r\nx-repo-commit: {COMMIT}\r\nx-linked-size: {}\r\nx-linked-etag: \"{}\"\r\n",
                content.len(),
                sha256(&content)
            );
            return respond(&mut stream, 302, &headers, b"").await;
        }
        if matches!(fault, HubFault::FlippedByte(name) if name == file) {
            let middle = content.len() / 2;
            content[middle] ^= 1;
        }
        let is_endless = matches!(fault, HubFault::Endless(name) if name == file);
        return send(&mut stream, state, fault, is_large, is_endless, &content, request.from).await;
    }
    respond(&mut stream, 404, "", b"{\"error\": \"Repository not found\"}").await
}

async fn send(
    stream: &mut TcpStream,
    state: &Mutex<State>,
    fault: HubFault,
    is_large: bool,
    is_endless: bool,
    content: &[u8],
    from: Option<u64>,
) -> anyhow::Result<()> {
    let start = usize::try_from(from.unwrap_or(0))?;
    let rest = content.get(start..).unwrap_or_default();
    if is_endless {
        stream
            .write_all(format!("HTTP/1.1 200 x\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        loop {
            stream.write_all(&[b' '; 16 * 1024]).await?;
        }
    }
    let (status, range) = match from {
        Some(_) => {
            (206, format!("content-range: bytes {start}-{}/{}\r\n", content.len().saturating_sub(1), content.len()))
        }
        None => (200, String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\nx-repo-commit: {COMMIT}\r\naccept-ranges: bytes\r\n{range}content-length: {}\r\nconnection: close\r\n\r\n",
        rest.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let breaks_off = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            HubFault::BreakOff { after, times } if is_large && state.broken_off < times => {
                state.broken_off += 1;
                Some(after)
            }
            _ => None,
        }
    };
    if let Some(after) = breaks_off {
        stream.write_all(rest.get(..after).unwrap_or(rest)).await?;
        return Ok(stream.shutdown().await?);
    }
    if is_large && fault == HubFault::Stall {
        stream.write_all(rest.get(..1_000).unwrap_or(rest)).await?;
        std::future::pending::<()>().await;
    }
    stream.write_all(rest).await?;
    Ok(stream.shutdown().await?)
}

async fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> anyhow::Result<()> {
    let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    Ok(stream.shutdown().await?)
}

fn listing(folder: &Path, fault: HubFault) -> anyhow::Result<String> {
    let mut siblings = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Other libraries' folders, such as 1_Pooling.
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).context("a name is no text")?.to_owned();
        let content = std::fs::read(&path)?;
        siblings.push(match name.ends_with(".safetensors") {
            true if fault == HubFault::PicklesOnly => serde_json::json!({"rfilename": "pytorch_model.bin", "size": 7}),
            _ if matches!(fault, HubFault::Endless(_)) => serde_json::json!({"rfilename": name}),
            true => serde_json::json!({
                "rfilename": name, "size": content.len(),
                "lfs": {"sha256": sha256(&content), "size": content.len(), "pointerSize": 130}
            }),
            false => serde_json::json!({"rfilename": name, "size": content.len(), "blobId": git_blob(&content)}),
        });
    }
    Ok(serde_json::json!({"id": "x", "sha": COMMIT, "siblings": siblings}).to_string())
}

fn git_blob(content: &[u8]) -> String {
    let hash = Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content);
    hex::encode(hash.finalize())
}

fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Flips one byte in the middle of a file.
pub fn flip_a_byte(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(middle))?;
    std::io::Write::write_all(&mut file, &[byte[0] ^ 1])?;
    Ok(())
}
