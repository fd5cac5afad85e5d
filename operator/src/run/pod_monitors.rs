//! Whether the cluster has the kind PodMonitor: it may come and go while the operator runs. I/O: asks now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::channel::mpsc::{Receiver, channel};
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::controller::build::pod_monitor;
use crate::controller::words::describe;

/// How often is asked.
const ASK_EVERY: Duration = Duration::from_secs(180);

/// After a question that was not answered.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// What was answered last. Nobody asks any more once this is gone.
#[derive(Debug)]
pub(super) struct PodMonitors {
    are_known: Arc<AtomicBool>,
    _asking: JoinSet<()>,
}

impl PodMonitors {
    /// Asks now and then. Until the first answer there are none. Answers too where to listen for a change.
    pub(super) fn start(client: Client) -> (Self, Receiver<()>) {
        let are_known = Arc::<AtomicBool>::default();
        let (mut ticks, changes) = channel(1);
        let mut asking = JoinSet::new();
        let found = Arc::clone(&are_known);
        asking.spawn(async move {
            loop {
                let pause = match timeout(ASK_AGAIN, has_pod_monitors(&client)).await {
                    Ok(Ok(now)) => {
                        if found.swap(now, Ordering::AcqRel) != now {
                            tracing::info!(now, "Whether the cluster has PodMonitors has changed");
                            let _one_waits_already = ticks.try_send(());
                        }
                        ASK_EVERY
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(error = describe(&error), "Could not look which kinds the cluster has");
                        ASK_AGAIN
                    }
                    Err(_elapsed) => ASK_AGAIN,
                };
                sleep(pause).await;
            }
        });
        (Self { are_known, _asking: asking }, changes)
    }

    /// As it was answered last.
    pub(super) fn are_known(&self) -> bool {
        self.are_known.load(Ordering::Acquire)
    }
}

async fn has_pod_monitors(client: &Client) -> Result<bool, kube::Error> {
    match client.list_api_group_resources(pod_monitor::GROUP_VERSION).await {
        Ok(kinds) => Ok(kinds.resources.iter().any(|resource| resource.kind == pod_monitor::KIND)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_comes_and_goes_is_seen_within_minutes_and_a_failed_question_changes_nothing() {
        let answers = Arc::new(std::sync::Mutex::new(vec!["gone", "fails", "there", "there", "fails", "gone"]));
        let service = tower::service_fn(move |_: Request<Body>| {
            let answer = answers.lock().unwrap().pop().unwrap_or("gone");
            let kinds = json!({"groupVersion": "monitoring.coreos.com/v1", "resources": [
                {"name": "podmonitors", "singularName": "", "namespaced": true, "kind": "PodMonitor", "verbs": []}]});
            let (code, body) = match answer {
                "there" => (200, kinds.to_string()),
                "gone" => (404, "404 page not found".to_owned()),
                _ => (500, "no".to_owned()),
            };
            let answer = Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap();
            async move { Ok::<_, tower::BoxError>(answer) }
        });
        let (kinds, mut changes) = PodMonitors::start(Client::new(service, "search"));
        let begun = tokio::time::Instant::now();
        assert!(!kinds.are_known());
        changes.next().await.unwrap();
        assert!(kinds.are_known());
        changes.next().await.unwrap();
        assert!(!kinds.are_known());
        assert!(begun.elapsed() < Duration::from_secs(900), "{:?}", begun.elapsed());
    }
}
