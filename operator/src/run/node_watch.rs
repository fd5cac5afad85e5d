//! The nodes, kept in memory. I/O: one watch.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt;
use futures::channel::mpsc::{Receiver, channel};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, ResourceExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::controller::nodes::NodeView;
use crate::pauses::WatchPauses;

/// Until all nodes are known.
const DEADLINE: Duration = Duration::from_secs(30);

/// All nodes. The watch ends with this.
#[derive(Debug)]
pub(super) struct NodeWatch {
    store: reflector::Store<Node>,
    _watching: JoinSet<()>,
}

impl NodeWatch {
    /// Watches, and waits until all nodes are known, so that no object is judged by some. Answers too where to listen for a node
    /// that came, went or changed in what it can hold.
    ///
    /// # Errors
    /// Nodes may not be read, or the API server does not answer.
    pub(super) async fn start(client: Client) -> anyhow::Result<(Self, Receiver<()>)> {
        let (store, writer) = reflector::store();
        // One tick that waits is as good as many.
        let (mut ticks, changes) = channel(1);
        let mut capacities = Capacities::default();
        let nodes = watcher(Api::<Node>::all(client), watcher::Config::default());
        let nodes = nodes.backoff(WatchPauses::default()).reflect(writer);
        let mut watching = JoinSet::new();
        watching.spawn(nodes.for_each(move |event| {
            if event.is_ok_and(|event| capacities.change_by(&event)) {
                let _one_waits_already = ticks.try_send(());
            }
            futures::future::ready(())
        }));
        match timeout(DEADLINE, store.wait_until_ready()).await {
            Ok(Ok(())) => Ok((Self { store, _watching: watching }, changes)),
            _ => bail!("nodes cannot be listed; grant get, list and watch on nodes, or name --watch-namespace"),
        }
    }

    /// As they are now.
    pub(super) fn view(&self, elastic: bool) -> NodeView {
        let nodes = self.store.state().iter().map(|node| node.as_ref().clone()).collect();
        NodeView::Seen { nodes, elastic }
    }
}

/// What each node can hold, as a digest.
#[derive(Debug, Default)]
struct Capacities(HashMap<String, u64>);

impl Capacities {
    /// Whether an event changes what nodes can hold. A node's heartbeat does not.
    fn change_by(&mut self, event: &Event<Node>) -> bool {
        match event {
            // All nodes come again; those that went meanwhile do not.
            Event::Init => {
                self.0.clear();
                true
            }
            Event::InitApply(node) | Event::Apply(node) => {
                let digest = capacity_digest(node);
                self.0.insert(node.name_any(), digest) != Some(digest)
            }
            Event::Delete(node) => self.0.remove(&node.name_any()).is_some(),
            Event::InitDone => false,
        }
    }
}

fn capacity_digest(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    for (name, quantity) in allocatable.into_iter().flatten() {
        (name, &quantity.0).hash(&mut hasher);
    }
    node.labels().hash(&mut hasher);
    node.spec.as_ref().and_then(|spec| spec.unschedulable).hash(&mut hasher);
    node.metadata.deletion_timestamp.is_some().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(gpus: &str, heartbeat: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": gpus},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}]}}))
        .unwrap()
    }

    #[test]
    fn nodes_that_come_change_and_go_are_changes_and_heartbeats_are_none() {
        let mut capacities = Capacities::default();
        let (first, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z");
        assert!(capacities.change_by(&Event::InitApply(node("1", first))));
        assert!(!capacities.change_by(&Event::Apply(node("1", later))), "a heartbeat");
        assert!(capacities.change_by(&Event::Apply(node("2", later))));
        assert!(capacities.change_by(&Event::Delete(node("2", later))));
        assert!(capacities.change_by(&Event::Apply(node("2", later))), "it came back");
        assert!(capacities.change_by(&Event::Init), "what went while nobody watched is not told");
    }
}
