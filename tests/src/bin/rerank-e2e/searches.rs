//! Searches from outside: one at a time, or many while something happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::world::World;

/// What a search answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body; null where it is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// Ids of the results, in their order.
    pub(crate) fn ids(&self) -> Vec<String> {
        let results = self.body["results"].as_array().unwrap_or_else(|| panic!("no results: {self:?}"));
        results
            .iter()
            .map(|result| result["id"].as_str().map_or_else(|| result["id"].to_string(), str::to_owned))
            .collect()
    }

    /// Whether the cross-encoder read the candidates.
    pub(crate) fn is_reranked(&self) -> bool {
        self.status == 200 && self.body["reranking_used"] == true
    }
}

/// Searches once.
///
/// # Errors
/// No answer came.
pub(crate) async fn search(client: &reqwest::Client, url: &str, body: &Value) -> reqwest::Result<Answer> {
    let response = client.post(format!("{url}/search")).json(body).send().await?;
    let status = response.status().as_u16();
    Ok(Answer { status, body: serde_json::from_str(&response.text().await?).unwrap_or_default() })
}

/// Searches at a steady rate, each on its own, until it is ended.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

/// What a load saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Searches that were answered with reranked results.
    pub(crate) reranked: usize,
    /// Searches that were answered in vector order.
    pub(crate) fallbacks: usize,
    /// Searches that were answered otherwise, or not at all: what was seen, and when.
    pub(crate) failed: Vec<String>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(world: &World, url: String, a_second: u32) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (client, stopped, noted) = (world.client.clone(), Arc::clone(&stop), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            let mut ticks = interval(Duration::from_secs(1) / a_second);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut searches = tokio::task::JoinSet::new();
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let (client, url, noted) = (client.clone(), url.clone(), Arc::clone(&noted));
                searches.spawn(async move {
                    let answer = search(&client, &url, &json!({"query": "how are planets made", "k": 1})).await;
                    let after = begun.elapsed().as_secs_f64();
                    let mut noted = noted.lock().await;
                    match answer {
                        Ok(answer) if answer.is_reranked() => noted.reranked += 1,
                        Ok(answer) if answer.status == 200 => noted.fallbacks += 1,
                        Ok(answer) => noted.failed.push(format!("{after:.1} s: {answer:?}")),
                        Err(error) => noted.failed.push(format!("{after:.1} s: {:#}", anyhow::Error::from(error))),
                    }
                });
            }
            while searches.join_next().await.is_some() {}
        });
        Self { stop, task, seen }
    }

    /// What was seen so far.
    pub(crate) async fn seen(&self) -> Seen {
        self.seen.lock().await.clone()
    }

    /// Waits for what is under way; answers what was seen.
    pub(crate) async fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let Self { task, seen, .. } = self;
        task.await.unwrap();
        let noted = seen.lock().await;
        noted.clone()
    }
}
