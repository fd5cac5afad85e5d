//! An API server that tells everything but one event of one watch. HTTP on loopback; requests are passed on with a client's own rights.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Which event is lost: this one of that resource, counted from 1 over all watches of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Plural, such as `services`.
    pub resource: String,
    /// Its number.
    pub at: usize,
}

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub struct DeafProxy {
    port: u16,
    heard: Heard,
    _serving: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    lost: Option<Lost>,
    /// Events so far, the lost one too.
    events: BTreeMap<String, usize>,
    /// What was lost.
    gone: Option<Value>,
}

impl DeafProxy {
    /// Listens on a free port, and passes everything on through that client.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(client: Client, lost: Option<Lost>) -> anyhow::Result<Self> {
        let heard = Heard::default();
        heard.counts().lost = lost;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port is free")?;
        let port = listener.local_addr()?.port();
        let router = axum::Router::new().fallback(pass_on).with_state((client, heard.clone()));
        let mut serving = JoinSet::new();
        serving.spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self { port, heard, _serving: serving })
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn kubeconfig(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("deaf-{}.kubeconfig", self.port));
        let here = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        std::fs::write(&path, here.to_string())?;
        Ok(path)
    }

    /// How many events of each resource there were so far.
    pub fn events(&self) -> BTreeMap<String, usize> {
        self.heard.counts().events.clone()
    }

    /// The event that was lost, once it is.
    pub fn gone(&self) -> Option<Value> {
        self.heard.counts().gone.clone()
    }
}

impl Heard {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event of a watch is told.
    fn hears(&self, resource: &str, event: &[u8]) -> bool {
        let event: Value = serde_json::from_slice(event).unwrap_or_default();
        if !matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED" | "DELETED")) {
            return true;
        }
        let mut counts = self.counts();
        let count = counts.events.entry(resource.to_owned()).or_default();
        *count += 1;
        let at = *count;
        let is_lost = counts.lost.as_ref().is_some_and(|lost| lost.resource == resource && lost.at == at);
        if is_lost {
            counts.gone = Some(event);
        }
        !is_lost
    }
}

async fn pass_on(State((client, heard)): State<(Client, Heard)>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let resource = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let is_watch = head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let (Ok(uri), Ok(body)) = (path.parse(), axum::body::to_bytes(body, usize::MAX).await) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    head.uri = uri;
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    let request = http::Request::from_parts(head, kube::client::Body::from(body.to_vec()));
    let answer = match client.send(request).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (mut head, body) = answer.into_parts();
    head.headers.remove(TRANSFER_ENCODING);
    let body = Body::new(body);
    if !is_watch {
        return Response::from_parts(head, body);
    }
    let mut rest = Vec::new();
    let told = body.into_data_stream().map_ok(move |bytes| told(&heard, &resource, &mut rest, &bytes));
    Response::from_parts(head, Body::from_stream(told))
}

/// The whole lines that are told; the last one that has not ended waits.
fn told(heard: &Heard, resource: &str, rest: &mut Vec<u8>, bytes: &[u8]) -> Bytes {
    rest.extend_from_slice(bytes);
    let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let whole: Vec<u8> = rest.drain(..end).collect();
    let lines = whole.split_inclusive(|byte| *byte == b'\n').filter(|line| heard.hears(resource, line));
    lines.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chosen_event_is_lost_however_it_is_cut_and_bookmarks_do_not_count() {
        let heard = Heard::default();
        heard.counts().lost = Some(Lost { resource: "services".to_owned(), at: 2 });
        let mut rest = Vec::new();
        let lines = ["ADDED", "BOOKMARK", "MODIFIED", "DELETED"].map(|kind| format!("{}\n", json!({"type": kind})));
        let text = lines.concat();
        let pieces = text.as_bytes().chunks(7).map(|piece| told(&heard, "services", &mut rest, piece));
        let arrived = String::from_utf8(pieces.collect::<Vec<_>>().concat()).unwrap();
        assert_eq!(arrived, [&lines[0][..], &lines[1], &lines[3]].concat());
        assert_eq!(heard.counts().gone, Some(json!({"type": "MODIFIED"})));
        assert_eq!(told(&heard, "pods", &mut Vec::new(), lines[0].as_bytes()), lines[0].as_bytes());
        assert_eq!(heard.counts().events, BTreeMap::from([("services".to_owned(), 3), ("pods".to_owned(), 1)]));
    }
}
