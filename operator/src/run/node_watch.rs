//! The nodes, kept in memory: of each what it can hold, and nothing else. I/O: one watch.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use kube::api::{Api, ObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::complaints::Complaints;
use crate::controller::nodes::NodeView;
use crate::controller::words::describe;
use crate::pauses::WatchPauses;

/// Until something is known of nodes objects wait so long; then they are judged without.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes of nodes that come together lead to one look at all objects, so often at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is known of nodes. The watch ends with this.
#[derive(Debug)]
pub(super) struct NodeWatch {
    views: watch::Receiver<Arc<NodeView>>,
    _watching: JoinSet<()>,
}

impl NodeWatch {
    /// Watches. Answers too where to listen for nodes that came, went or changed in what they can hold.
    pub(super) fn start(client: Client, elastic: bool) -> (Self, Receiver<()>) {
        let events = watcher::watcher(Api::<Node>::all(client), watcher::Config::default());
        let first = NodeView::Refused("the API server has not answered yet".to_owned());
        let (sender, views) = watch::channel(Arc::new(first));
        // One tick that waits is as good as many.
        let (ticks, changes) = channel(1);
        let mut watching = JoinSet::new();
        watching.spawn(keep(events, elastic, sender, ticks));
        (Self { views, _watching: watching }, changes)
    }

    /// Waits until nodes are known or refused, so that no object is judged without them only because it is early.
    pub(super) async fn settle(&mut self) {
        let _known_or_late = timeout(PATIENCE, self.views.changed()).await;
    }

    /// As they are now.
    pub(super) fn view(&self) -> Arc<NodeView> {
        Arc::clone(&self.views.borrow())
    }
}

/// Follows the events. That nodes cannot be read is a state like another: it is told, and asked again after a pause.
async fn keep(
    events: impl Stream<Item = watcher::Result<Event<Node>>>,
    elastic: bool,
    views: watch::Sender<Arc<NodeView>>,
    mut ticks: Sender<()>,
) {
    let mut events = pin!(events);
    let mut pauses = WatchPauses::default();
    let mut complaints = Complaints::default();
    let mut nodes = Nodes::default();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let words = describe(&error);
                complaints.about(&words);
                if !nodes.is_known {
                    tell(&views, &mut ticks, NodeView::Refused(words));
                }
                // Each list begins with an event that says nothing, so what resets a pause is chosen here.
                sleep(pauses.next().unwrap_or_default()).await;
                continue;
            }
        };
        if !matches!(event, Event::Init) {
            kube::runtime::utils::Backoff::reset(&mut pauses);
        }
        if nodes.change_by(event) {
            tell(&views, &mut ticks, NodeView::Seen { nodes: nodes.known.values().cloned().collect(), elastic });
        }
    }
}

fn tell(views: &watch::Sender<Arc<NodeView>>, ticks: &mut Sender<()>, view: NodeView) {
    let is_new = views.send_if_modified(|before| {
        let is_new = **before != view;
        *before = Arc::new(view);
        is_new
    });
    if is_new {
        let _one_waits_already = ticks.try_send(());
    }
}

/// The same changes, but no two within [`LOOK_EVERY`].
pub(super) fn paced(changes: Receiver<()>) -> impl Stream<Item = ()> + Send {
    stream::unfold((changes, None::<Instant>), async |(mut changes, last)| {
        changes.next().await?;
        if let Some(last) = last {
            sleep_until(last + LOOK_EVERY).await;
        }
        // Those that came meanwhile are part of this look.
        while changes.try_recv().is_ok() {}
        Some(((), (changes, Some(Instant::now()))))
    })
}

/// Nodes by name, without what changes every few seconds.
#[derive(Debug, Default)]
struct Nodes {
    known: BTreeMap<String, Node>,
    /// Those of a list that has not ended.
    coming: BTreeMap<String, Node>,
    /// A list has ended once.
    is_known: bool,
}

impl Nodes {
    /// Whether an event changes what nodes can hold. A node's heartbeat does not.
    fn change_by(&mut self, event: Event<Node>) -> bool {
        match event {
            Event::Init => {
                self.coming.clear();
                false
            }
            Event::InitApply(node) => {
                self.coming.insert(node.name_any(), facts(node));
                false
            }
            // All nodes came again; those that went meanwhile did not.
            Event::InitDone => {
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.coming));
                !std::mem::replace(&mut self.is_known, true) || before != self.known
            }
            Event::Apply(node) => {
                let node = facts(node);
                let name = node.name_any();
                let is_same = self.known.get(&name) == Some(&node);
                self.known.insert(name, node);
                !is_same
            }
            Event::Delete(node) => self.known.remove(&node.name_any()).is_some(),
        }
    }
}

/// What a node can hold, and for whom.
fn facts(node: Node) -> Node {
    let Node { metadata, spec, status } = node;
    let ObjectMeta { name, labels, deletion_timestamp, .. } = metadata;
    let NodeSpec { taints, unschedulable, .. } = spec.unwrap_or_default();
    let NodeStatus { allocatable, .. } = status.unwrap_or_default();
    Node {
        metadata: ObjectMeta { name, labels, deletion_timestamp, ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints, unschedulable, ..NodeSpec::default() }),
        status: Some(NodeStatus { allocatable, ..NodeStatus::default() }),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn node(gpus: &str, heartbeat: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": gpus},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}]}}))
        .unwrap()
    }

    #[test]
    fn nodes_that_come_change_and_go_are_changes_and_heartbeats_are_none() {
        let mut nodes = Nodes::default();
        let (first, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z");
        for event in [Event::Init, Event::InitApply(node("1", first))] {
            assert!(!nodes.change_by(event), "no object is judged by some of the nodes");
        }
        assert!(nodes.change_by(Event::InitDone));
        assert!(!nodes.change_by(Event::Apply(node("1", later))), "a heartbeat");
        assert!(nodes.change_by(Event::Apply(node("2", later))));
        assert!(nodes.change_by(Event::Delete(node("2", later))));
        assert!(nodes.change_by(Event::Apply(node("2", later))), "it came back");
        nodes.change_by(Event::Init);
        assert_eq!(nodes.known.len(), 1, "known until the new list has ended");
        assert!(nodes.change_by(Event::InitDone), "it went while nobody watched");
        assert!(nodes.known.is_empty());
    }

    #[test]
    fn an_empty_cluster_is_known_too() {
        let mut nodes = Nodes::default();
        assert!(nodes.change_by(Event::InitDone));
        assert!(!nodes.change_by(Event::InitDone), "nothing new");
    }

    fn refused() -> watcher::Error {
        let status = Status::failure("nodes is forbidden", "Forbidden").with_code(403);
        watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
    }

    /// As a right that is missing shows itself: before each list an event that says nothing.
    fn without_the_right() -> impl Stream<Item = watcher::Result<Event<Node>>> {
        stream::iter(std::iter::repeat_with(|| [Ok(Event::Init), Err(refused())]).flatten())
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_right_is_told_in_the_api_servers_words_and_asked_for_once_a_second() {
        let (sender, views) = watch::channel(Arc::new(NodeView::NotReadable));
        let (ticks, _changes) = channel(1);
        let lists = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&lists);
        let events = without_the_right().inspect(move |event| {
            count.fetch_add(usize::from(event.is_err()), std::sync::atomic::Ordering::SeqCst);
        });
        let watching = keep(events, false, sender, ticks);
        let _still_asking = timeout(Duration::from_secs(20), watching).await;
        let asked = lists.load(std::sync::atomic::Ordering::SeqCst);
        assert!((15..=25).contains(&asked), "{asked}");
        let view = Arc::clone(&views.borrow());
        let NodeView::Refused(words) = view.as_ref() else { panic!("{view:?}") };
        assert!(words.ends_with("nodes is forbidden (403 Forbidden)"), "{words}");
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_right_is_there_nodes_are_known_and_stay_so() {
        let (sender, views) = watch::channel(Arc::new(NodeView::NotReadable));
        let (ticks, mut changes) = channel(1);
        let granted = stream::iter([
            Ok(Event::Init),
            Ok(Event::InitApply(node("1", "2026-01-01T00:00:00Z"))),
            Ok(Event::InitDone),
        ]);
        let events = without_the_right().take(6).chain(granted).chain(without_the_right().take(6));
        Box::pin(keep(events, true, sender, ticks)).await;
        let view = Arc::clone(&views.borrow());
        assert!(matches!(view.as_ref(), NodeView::Seen { nodes, elastic: true } if nodes.len() == 1), "{view:?}");
        assert_eq!(changes.next().await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_are_one_look_and_the_last_is_not_lost() {
        let (mut ticks, changes) = channel(1);
        let begun = Instant::now();
        let looks = tokio::spawn(paced(changes).map(move |()| begun.elapsed().as_secs()).collect::<Vec<_>>());
        for _ in 0..120 {
            let _one_waits_already = ticks.try_send(());
            sleep(Duration::from_millis(100)).await;
        }
        drop(ticks);
        let looks = looks.await.unwrap();
        assert!(looks.len() <= 4 && looks.first() == Some(&0) && looks.last() >= Some(&12), "{looks:?}");
    }
}
