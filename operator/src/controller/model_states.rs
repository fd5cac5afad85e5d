//! What the servers of pods say of their models. I/O: HTTP to their control ports, in tasks of its own: a port that never answers
//! holds up nobody. Models come and go without an event of Kubernetes, so pods are asked again and again, and an object is looked at
//! when one of its pods says something new.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::build::SERVER;
use super::status::ModelView;

mod view;

use view::{Answer, view};

/// A pod is asked at most so often.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// One that does not answer is asked ever more rarely, up to this.
const ASK_SELDOM: Duration = Duration::from_secs(300);

/// What it said counts until it was silent so often in a row.
const FORGOTTEN_AFTER: u32 = 2;

/// How often it is looked whom it is time to ask.
const TICK: Duration = Duration::from_secs(1);

/// A control port answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A look waits so long for answers; what comes later asks for another look.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Pods that are asked at the same time: each answer may be large.
const ASKED_TOGETHER: usize = 16;

/// The control port of a pod's server.
const CONTROL_PORT: u16 = 9_090;

/// Longest answer that is read.
const MAXIMUM_BYTES: usize = 256 * 1024;

/// Namespace and name of an object.
pub type Name = (String, String);

/// Asks pods, and remembers what they said.
#[derive(Debug)]
pub struct ModelStates {
    client: reqwest::Client,
    port: u16,
    slots: Semaphore,
    /// By the pod's uid.
    heard: Mutex<HashMap<String, Heard>>,
    changes: UnboundedSender<Name>,
}

/// What is known of a pod.
#[derive(Debug)]
struct Heard {
    object: Name,
    address: IpAddr,
    /// It is not asked before.
    from: Instant,
    asked: Asked,
    /// A look waits for its answer.
    is_awaited: bool,
    /// Questions in a row that were not answered.
    silences: u32,
    answer: Option<Arc<Answer>>,
}

/// When a pod was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Never,
    /// It has not answered yet.
    Now,
    /// The last question ended then.
    Before(Instant),
}

impl Heard {
    fn is_due(&self, now: Instant) -> bool {
        let pause = ASK_EVERY.saturating_mul(2_u32.saturating_pow(self.silences)).min(ASK_SELDOM);
        now >= self.from
            && match self.asked {
                Asked::Never => true,
                Asked::Now => false,
                Asked::Before(then) => now.saturating_duration_since(then) >= pause,
            }
    }
}

impl ModelStates {
    /// Asks the usual port. Answers too where to listen for objects whose pods said something new.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new() -> Result<(Self, UnboundedReceiver<Name>), reqwest::Error> {
        Self::with_port(CONTROL_PORT)
    }

    /// Asks another port.
    ///
    /// # Errors
    /// No client can be made.
    pub fn with_port(port: u16) -> Result<(Self, UnboundedReceiver<Name>), reqwest::Error> {
        // Pods are reached directly, and redirect nowhere.
        let builder =
            reqwest::Client::builder().timeout(PATIENCE).no_proxy().redirect(reqwest::redirect::Policy::none());
        let (changes, told) = unbounded();
        let slots = Semaphore::new(ASKED_TOGETHER);
        Ok((Self { client: builder.build()?, port, slots, heard: Mutex::default(), changes }, told))
    }

    /// These are an object's pods now: those that are ready, and those that have run for a while without being so, which know why, are
    /// asked from now on.
    pub fn follow(&self, object: &Name, pods: &[Pod]) {
        let now = (Instant::now(), jiff::Timestamp::now());
        let running: HashMap<String, (IpAddr, Instant)> =
            pods.iter().filter_map(|pod| Some((pod.uid()?, reachable(pod, now)?))).collect();
        let mut heard = self.heard();
        heard.retain(|uid, known| known.object != *object || running.contains_key(uid));
        for (uid, (address, from)) in running {
            let new = Heard {
                object: object.clone(),
                address,
                from,
                asked: Asked::Never,
                is_awaited: false,
                silences: 0,
                answer: None,
            };
            let known = heard.entry(uid).or_insert(new);
            (known.address, known.from) = (address, from);
        }
    }

    /// An object is gone, and with it its pods.
    pub fn forget(&self, object: &Name) {
        self.heard().retain(|_, known| known.object != *object);
    }

    /// What these pods say, together. Those that it is time for are asked; one that does not answer at once counts with what it said before.
    pub async fn of(self: &Arc<Self>, pods: &[Pod]) -> ModelView {
        let uids: Vec<String> = pods.iter().filter_map(ResourceExt::uid).collect();
        let due = self.due(|uid| uids.iter().any(|one| one == uid), true);
        let asking: Vec<JoinHandle<()>> = due.into_iter().map(|pod| self.spawn(pod)).collect();
        // The tasks go on when nobody waits for them any more.
        let _in_time = timeout(AT_ONCE, join_all(asking)).await;
        let mut heard = self.heard();
        let mut answers = Vec::new();
        for uid in &uids {
            if let Some(known) = heard.get_mut(uid) {
                known.is_awaited = false;
                answers.extend(known.answer.clone());
            }
        }
        if answers.is_empty() && !pods.iter().any(is_ready) {
            return ModelView::NoPods;
        }
        view(&answers)
    }

    /// Asks whoever it is time to ask, for ever.
    pub async fn keep_asking(self: Arc<Self>) -> Infallible {
        loop {
            for pod in self.due(|_| true, false) {
                self.spawn(pod);
            }
            sleep(TICK).await;
        }
    }

    /// Those that it is time to ask, noted as such, so that nobody else asks meanwhile.
    fn due(&self, is_meant: impl Fn(&str) -> bool, is_awaited: bool) -> Vec<(String, IpAddr)> {
        let now = Instant::now();
        let mut heard = self.heard();
        let due = heard.iter_mut().filter(|(uid, known)| is_meant(uid) && known.is_due(now));
        due.map(|(uid, known)| {
            (known.asked, known.is_awaited) = (Asked::Now, is_awaited);
            (uid.clone(), known.address)
        })
        .collect()
    }

    fn spawn(self: &Arc<Self>, (uid, address): (String, IpAddr)) -> JoinHandle<()> {
        tokio::spawn(Arc::clone(self).ask(uid, address))
    }

    async fn ask(self: Arc<Self>, uid: String, address: IpAddr) {
        let answer = match self.slots.acquire().await {
            Ok(_slot) => self.get(address).await.map(Arc::new),
            Err(_closed) => None,
        };
        let mut heard = self.heard();
        let Some(known) = heard.get_mut(&uid) else { return };
        known.asked = Asked::Before(Instant::now());
        known.silences = if answer.is_some() { 0 } else { known.silences.saturating_add(1) };
        // A busy pod may miss a question.
        if answer.is_none() && known.silences < FORGOTTEN_AFTER {
            return;
        }
        let is_new = known.answer != answer;
        known.answer = answer;
        if is_new && !known.is_awaited {
            // Where nobody listens any more nobody works.
            let _ = self.changes.unbounded_send(known.object.clone());
        }
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, address: IpAddr) -> Option<Answer> {
        let url = format!("http://{}/v1/models", std::net::SocketAddr::new(address, self.port));
        let mut response = self.client.get(url).send().await.ok().filter(|response| response.status().is_success())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAXIMUM_BYTES {
                return None;
            }
        }
        serde_json::from_slice(&bytes).ok()
    }
}

/// Where a pod can be asked, and from when on. One that has only begun listens nowhere yet, and is ready soon: to ask it then would put off the
/// question to the ready one.
fn reachable(pod: &Pod, (now, time): (Instant, jiff::Timestamp)) -> Option<(IpAddr, Instant)> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let address = status.pod_ip.as_ref()?.parse().ok()?;
    if is_ready(pod) {
        return Some((address, now));
    }
    let server = status.container_statuses.iter().flatten().find(|container| container.name == SERVER)?;
    let Time(started) = server.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
    // A clock that is ahead of this one asks for no more patience than one that is not.
    let runs_for = time.duration_since(*started).max(jiff::SignedDuration::ZERO).unsigned_abs();
    Some((address, now + ASK_EVERY.saturating_sub(runs_for)))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;
    use serde_json::json;

    use super::view::tests::answer;
    use super::*;

    fn pod(uid: &str, ready: &str, address: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "status": {"podIP": address,
            "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    fn name() -> Name {
        ("search".to_owned(), "docs".to_owned())
    }

    struct Port {
        states: Arc<ModelStates>,
        changes: UnboundedReceiver<Name>,
        asked: Arc<AtomicUsize>,
        state: Arc<Mutex<&'static str>>,
        serving: JoinHandle<()>,
    }

    impl Port {
        async fn of(&self, pods: &[Pod]) -> ModelView {
            self.states.follow(&name(), pods);
            self.states.of(pods).await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    /// A control port that answers after this time.
    async fn control_port(delay: Duration) -> Port {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (states, changes) = ModelStates::with_port(listener.local_addr().unwrap().port()).unwrap();
        let (asked, state) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new("Ready")));
        let (count, says) = (Arc::clone(&asked), Arc::clone(&state));
        let route = axum::routing::get(move || {
            count.fetch_add(1, Ordering::SeqCst);
            let says = *says.lock().unwrap();
            async move {
                tokio::time::sleep(delay).await;
                axum::Json(answer(says, 1.0))
            }
        });
        let router = axum::Router::new().route("/v1/models", route);
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Port { states: Arc::new(states), changes, asked, state, serving }
    }

    #[tokio::test]
    async fn a_pod_is_asked_once_in_a_while_and_only_when_it_is_ready() {
        let port = control_port(Duration::ZERO).await;
        assert_eq!(port.of(&[pod("a", "False", "127.0.0.1")]).await, ModelView::NoPods);
        for _ in 0..5 {
            assert!(matches!(port.of(&[pod("a", "True", "127.0.0.1")]).await, ModelView::Seen { .. }));
        }
        assert_eq!(port.asked(), 1);
        port.serving.abort();
        assert_eq!(port.of(&[pod("b", "True", "127.0.0.2")]).await, ModelView::NotReachable);
    }

    /// One that runs since so many seconds, and is not ready.
    fn unready_pod(uid: &str, seconds: i64) -> Pod {
        let mut pod = pod(uid, "False", "127.0.0.1");
        let started = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
        let server = json!({"name": "server", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {"startedAt": started.to_string()}}});
        pod.status.as_mut().unwrap().container_statuses = Some(vec![serde_json::from_value(server).unwrap()]);
        pod
    }

    #[tokio::test]
    async fn a_pod_that_does_not_become_ready_is_asked_why_once_it_has_had_its_time() {
        let port = control_port(Duration::ZERO).await;
        assert_eq!(port.of(&[unready_pod("a", 10)]).await, ModelView::NoPods);
        assert_eq!(port.asked(), 0);
        assert!(matches!(port.of(&[unready_pod("a", 16)]).await, ModelView::Seen { .. }));
        port.serving.abort();
        assert_eq!(port.of(&[unready_pod("b", 16)]).await, ModelView::NoPods, "nobody expects it to answer");
    }

    #[tokio::test]
    async fn a_slow_pod_holds_up_nobody_and_its_answer_asks_for_another_look() {
        let mut port = control_port(Duration::from_millis(600)).await;
        let pods: Vec<Pod> = (0..40).map(|at| pod(&at.to_string(), "True", "127.0.0.1")).collect();
        let begun = Instant::now();
        assert_eq!(port.of(&pods).await, ModelView::NotReachable);
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(port.asked() <= ASKED_TOGETHER, "{}", port.asked());
        for _ in &pods {
            assert_eq!(port.changes.next().await, Some(name()));
        }
        let ModelView::Seen { models, .. } = port.of(&pods).await else { panic!("seen") };
        assert_eq!((models[0].pods, port.asked()), (40, 40));
    }

    /// Has the next question be due now.
    fn hurry(states: &ModelStates) {
        for known in states.heard().values_mut() {
            known.asked = Asked::Never;
        }
    }

    #[tokio::test]
    async fn an_object_is_looked_at_again_when_a_pod_says_something_new_and_only_then() {
        let mut port = control_port(Duration::ZERO).await;
        let pods = [pod("a", "True", "127.0.0.1")];
        assert!(matches!(port.of(&pods).await, ModelView::Seen { .. }), "what a look waited for needs no other");
        let asking = tokio::spawn(Arc::clone(&port.states).keep_asking());
        hurry(&port.states);
        while port.asked() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        *port.state.lock().unwrap() = "Failed";
        hurry(&port.states);
        assert_eq!(port.changes.next().await, Some(name()));
        let ModelView::Seen { models, .. } = port.of(&pods).await else { panic!("seen") };
        assert_eq!(models[0].state, rerank_crds::rerank_deployment::ModelState::Failed);
        assert!(port.changes.try_recv().is_err(), "the same answer again was no news");

        // Pods that went are asked no more.
        port.states.follow(&name(), &[]);
        assert!(port.states.heard().is_empty());
        asking.abort();
    }

    #[test]
    fn a_silent_pod_is_asked_ever_more_rarely_and_one_that_answers_is_asked_as_before() {
        let now = Instant::now();
        let heard = |asked, silences| Heard {
            object: name(),
            address: [127, 0, 0, 1].into(),
            from: now,
            asked,
            is_awaited: false,
            silences,
            answer: None,
        };
        for (silences, seconds) in [(0, 15), (1, 30), (2, 60), (4, 240), (5, 300), (u32::MAX, 300)] {
            let pause = Duration::from_secs(seconds);
            let heard = heard(Asked::Before(now), silences);
            assert!(!heard.is_due(now + pause - Duration::from_millis(1)), "{silences}");
            assert!(heard.is_due(now + pause), "{silences}");
        }
        assert!(!heard(Asked::Now, 0).is_due(now + ASK_SELDOM), "it is being asked");
        assert!(heard(Asked::Never, 0).is_due(now) && !heard(Asked::Never, 0).is_due(now - Duration::from_secs(1)));
    }
}
