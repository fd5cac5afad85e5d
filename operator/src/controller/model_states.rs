//! What the servers of pods say of their models. I/O: HTTP to their control ports, in tasks of its own: a port that never answers
//! holds up nobody.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use rerank_crds::catalog::Quantization;
use rerank_crds::rerank_deployment::{MAXIMUM_MODEL_NAME_CHARACTERS, MAXIMUM_MODELS, Model, ModelState};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::build::SERVER;
use super::status::ModelView;

/// A pod is asked at most so often.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// One that does not answer is asked ever more rarely, up to this.
const ASK_SELDOM: Duration = Duration::from_secs(300);

/// A control port answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A look waits so long for answers; what comes later is there at the next.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Pods that are asked at the same time: each answer may be large.
const ASKED_TOGETHER: usize = 16;

/// What a pod said is forgotten when nobody has looked for so long: it is gone.
const FORGET_AFTER: Duration = Duration::from_secs(900);

/// The control port of a pod's server.
const CONTROL_PORT: u16 = 9_090;

/// Longest answer that is read.
const MAXIMUM_BYTES: usize = 256 * 1024;

/// Asks pods, and remembers what they said.
#[derive(Debug)]
pub struct ModelStates {
    client: reqwest::Client,
    port: u16,
    slots: Semaphore,
    /// By the pod's uid.
    heard: Mutex<HashMap<String, Heard>>,
}

/// What is known of a pod.
#[derive(Debug)]
struct Heard {
    looked: Instant,
    /// When the last question ended, or None while one is under way.
    asked: Option<Instant>,
    /// Questions in a row that were not answered.
    silences: u32,
    answer: Option<Arc<Answer>>,
}

impl Heard {
    fn is_due(&self, now: Instant) -> bool {
        let pause = ASK_EVERY.saturating_mul(2_u32.saturating_pow(self.silences)).min(ASK_SELDOM);
        self.asked.is_some_and(|asked| now.saturating_duration_since(asked) >= pause)
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    role: String,
    quantizations: Vec<State>,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the field is the server's")]
struct State {
    quantization: Quantization,
    state: ModelState,
    #[serde(default)]
    failure: Option<String>,
    #[serde(default)]
    warm_up: Option<WarmUp>,
}

#[derive(Debug, Deserialize)]
struct WarmUp {
    pairs: u32,
    seconds: f64,
}

impl ModelStates {
    /// Asks the usual port.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new() -> Result<Self, reqwest::Error> {
        Self::with_port(CONTROL_PORT)
    }

    /// Asks another port.
    ///
    /// # Errors
    /// No client can be made.
    pub fn with_port(port: u16) -> Result<Self, reqwest::Error> {
        // Pods are reached directly, and redirect nowhere.
        let builder =
            reqwest::Client::builder().timeout(PATIENCE).no_proxy().redirect(reqwest::redirect::Policy::none());
        let slots = Semaphore::new(ASKED_TOGETHER);
        Ok(Self { client: builder.build()?, port, slots, heard: Mutex::default() })
    }

    /// What these pods say, together: those that are ready, and those that have run for a while without being so, which know why. Those that
    /// it is time for are asked; one that does not answer at once counts with what it said before, and [`Self::is_asking`] tells that there
    /// may soon be more.
    pub async fn of(self: &Arc<Self>, pods: &[Pod]) -> ModelView {
        let now = jiff::Timestamp::now();
        let running: Vec<(String, IpAddr)> =
            pods.iter().filter_map(|pod| Some((pod.uid().unwrap_or_default(), address(pod, now)?))).collect();
        if running.is_empty() {
            return ModelView::NoPods;
        }
        let asking: Vec<JoinHandle<()>> = self
            .due(&running)
            .into_iter()
            .map(|(uid, address)| tokio::spawn(Arc::clone(self).ask(uid, address)))
            .collect();
        // The tasks go on when nobody waits for them any more.
        let _in_time = timeout(AT_ONCE, join_all(asking)).await;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let answers: Vec<_> = running.iter().filter_map(|(uid, _)| heard.get(uid)?.answer.clone()).collect();
        if answers.is_empty() && !pods.iter().any(is_ready) {
            return ModelView::NoPods;
        }
        view(&answers)
    }

    /// Whether one of these pods is being asked now.
    pub fn is_asking(&self, pods: &[Pod]) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |pod: &Pod| heard.get(&pod.uid().unwrap_or_default());
        pods.iter().filter_map(of).any(|heard| heard.asked.is_none())
    }

    /// Those that it is time to ask, noted as such, so that nobody else asks meanwhile.
    fn due(&self, running: &[(String, IpAddr)]) -> Vec<(String, IpAddr)> {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, heard| now.saturating_duration_since(heard.looked) < FORGET_AFTER);
        let is_due = |(uid, _): &&(String, IpAddr)| {
            let Some(known) = heard.get_mut(uid) else {
                heard.insert(uid.clone(), Heard { looked: now, asked: None, silences: 0, answer: None });
                return true;
            };
            known.looked = now;
            let is_due = known.is_due(now);
            if is_due {
                known.asked = None;
            }
            is_due
        };
        running.iter().filter(is_due).cloned().collect()
    }

    async fn ask(self: Arc<Self>, uid: String, address: IpAddr) {
        let answer = match self.slots.acquire().await {
            Ok(_slot) => self.get(address).await.map(Arc::new),
            Err(_closed) => None,
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = heard.get_mut(&uid) {
            known.asked = Some(Instant::now());
            known.silences = if answer.is_some() { 0 } else { known.silences.saturating_add(1) };
            known.answer = answer;
        }
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

/// The address of a pod that can be asked at that time. One that has only begun listens nowhere yet, and is ready soon: to ask it then would
/// put off the question to the ready one.
fn address(pod: &Pod, now: jiff::Timestamp) -> Option<IpAddr> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let is_running_for_long = || {
        let server = status.container_statuses.iter().flatten().find(|container| container.name == SERVER);
        let started = server.and_then(|server| server.state.as_ref()?.running.as_ref()?.started_at.as_ref());
        started.is_some_and(|Time(started)| now.duration_since(*started).unsigned_abs() >= ASK_EVERY)
    };
    status.pod_ip.as_ref().filter(|_| is_ready(pod) || is_running_for_long())?.parse().ok()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// All answers as one: each model in the state that most pods have it in, a failure before all others. Names and number are cut to what
/// the definition holds; pods may say anything.
fn view(answers: &[Arc<Answer>]) -> ModelView {
    if answers.is_empty() {
        return ModelView::NotReachable;
    }
    let mut states: BTreeMap<(String, Quantization), BTreeMap<ModelState, i32>> = BTreeMap::new();
    let mut failure = None;
    let mut slowest: Option<f64> = None;
    for entry in answers.iter().flat_map(|answer| &answer.data) {
        for State { quantization, state, failure: words, warm_up } in &entry.quantizations {
            let name = entry.id.chars().take(MAXIMUM_MODEL_NAME_CHARACTERS).collect();
            *states.entry((name, *quantization)).or_default().entry(*state).or_default() += 1;
            failure = failure.or_else(|| words.clone());
            let measured = warm_up.as_ref().filter(|warm_up| entry.role == "reranker" && warm_up.seconds > 0.0);
            if let Some(speed) = measured.map(|warm_up| f64::from(warm_up.pairs) / warm_up.seconds) {
                slowest = Some(slowest.map_or(speed, |slowest| slowest.min(speed)));
            }
        }
    }
    let models = states.into_iter().map(|((name, quantization), pods)| {
        let most = pods.iter().max_by_key(|(state, pods)| (**state == ModelState::Failed, **pods));
        let (state, pods) = most.map_or((ModelState::Standby, 0), |(state, pods)| (*state, *pods));
        Model { name, quantization, state, pods }
    });
    #[expect(clippy::cast_possible_truncation, reason = "pairs a second are far below 2^63")]
    let pairs_per_second = slowest.map(|speed| speed as i64);
    // Those that somebody would look for come first.
    let mut models: Vec<Model> = models.collect();
    models.sort_by_key(|model| matches!(model.state, ModelState::Standby));
    models.truncate(MAXIMUM_MODELS);
    models.sort_by(|left, right| (&left.name, left.quantization).cmp(&(&right.name, right.quantization)));
    ModelView::Seen { models, failure, pairs_per_second }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};

    use super::*;

    fn answer(state: &str, seconds: f64) -> Value {
        json!({"object": "list", "data": [{"id": "r", "role": "reranker", "object": "model", "created": 0, "owned_by": "local", "quantizations": [
            {"quantization": "float16", "state": state, "predicted_memory_bytes": 1, "warm_up": {"pairs": 100, "tokens": 1, "seconds": seconds},
             "failure": if state == "Failed" { json!("words") } else { Value::Null }}]}]})
    }

    fn heard(answers: &[Value]) -> ModelView {
        view(
            &answers.iter().map(|answer| Arc::new(serde_json::from_value(answer.clone()).unwrap())).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn most_pods_and_any_failure_decide_and_the_slowest_is_the_speed() {
        let ModelView::Seen { models, failure, pairs_per_second } =
            heard(&[answer("Ready", 1.0), answer("Ready", 4.0), answer("Standby", 2.0)])
        else {
            panic!("seen")
        };
        assert_eq!(
            (models[0].state, models[0].pods, failure, pairs_per_second),
            (ModelState::Ready, 2, None, Some(25))
        );
        let ModelView::Seen { models, failure, .. } = heard(&[answer("Ready", 1.0), answer("Failed", 1.0)]) else {
            panic!("seen")
        };
        assert_eq!((models[0].state, failure.as_deref()), (ModelState::Failed, Some("words")));
        assert_eq!(heard(&[]), ModelView::NotReachable);
    }

    fn pod(uid: &str, ready: &str, address: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "status": {"podIP": address,
            "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn what_pods_say_is_cut_to_what_status_holds_and_what_is_loaded_stays() {
        let entries: Vec<Value> = (0..200)
            .map(|at| {
                let state = if at == 199 { "Failed" } else { "Standby" };
                json!({"id": format!("{at:03}{}", "x".repeat(500)), "role": "reranker", "quantizations": [{"quantization": "int8", "state": state}]})
            })
            .collect();
        let ModelView::Seen { models, .. } = heard(&[json!({"data": entries})]) else { panic!("seen") };
        assert_eq!(models.len(), MAXIMUM_MODELS);
        assert!(models.iter().all(|model| model.name.chars().count() == MAXIMUM_MODEL_NAME_CHARACTERS));
        assert!(models.iter().any(|model| model.state == ModelState::Failed));
        assert!(models.is_sorted_by(|left, right| left.name <= right.name), "the order does not move");
    }

    /// A control port; how often it was asked, and after how long it answers.
    async fn control_port(delay: Duration) -> (Arc<ModelStates>, Arc<AtomicUsize>, JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let states = ModelStates::with_port(listener.local_addr().unwrap().port()).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let route = axum::routing::get(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(delay).await;
                axum::Json(answer("Ready", 1.0))
            }
        });
        let router = axum::Router::new().route("/v1/models", route);
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        (Arc::new(states), asked, serving)
    }

    #[tokio::test]
    async fn a_pod_is_asked_once_in_a_while_and_only_when_it_is_ready() {
        let (states, asked, serving) = control_port(Duration::ZERO).await;
        assert_eq!(states.of(&[pod("a", "False", "127.0.0.1")]).await, ModelView::NoPods);
        for _ in 0..5 {
            assert!(matches!(states.of(&[pod("a", "True", "127.0.0.1")]).await, ModelView::Seen { .. }));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        serving.abort();
        assert_eq!(states.of(&[pod("b", "True", "127.0.0.2")]).await, ModelView::NotReachable);
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
        let (states, asked, serving) = control_port(Duration::ZERO).await;
        assert_eq!(states.of(&[unready_pod("a", 10)]).await, ModelView::NoPods);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        assert!(matches!(states.of(&[unready_pod("a", 16)]).await, ModelView::Seen { .. }));
        serving.abort();
        assert_eq!(states.of(&[unready_pod("b", 16)]).await, ModelView::NoPods, "nobody expects it to answer");
    }

    #[tokio::test]
    async fn a_slow_pod_holds_up_nobody_and_its_answer_is_there_at_a_later_look() {
        let (states, asked, _serving) = control_port(Duration::from_millis(600)).await;
        let pods: Vec<Pod> = (0..40).map(|at| pod(&at.to_string(), "True", "127.0.0.1")).collect();
        let begun = Instant::now();
        assert_eq!(states.of(&pods).await, ModelView::NotReachable);
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(states.is_asking(&pods));
        assert!(asked.load(Ordering::SeqCst) <= ASKED_TOGETHER, "{asked:?}");
        while states.is_asking(&pods) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ModelView::Seen { models, .. } = states.of(&pods).await else { panic!("seen") };
        assert_eq!((models[0].pods, asked.load(Ordering::SeqCst)), (40, 40));
    }

    #[test]
    fn a_silent_pod_is_asked_ever_more_rarely_and_one_that_answers_is_asked_as_before() {
        let now = Instant::now();
        let heard = |silences| Heard { looked: now, asked: Some(now), silences, answer: None };
        for (silences, seconds) in [(0, 15), (1, 30), (2, 60), (4, 240), (5, 300), (u32::MAX, 300)] {
            let pause = Duration::from_secs(seconds);
            assert!(!heard(silences).is_due(now + pause - Duration::from_millis(1)), "{silences}");
            assert!(heard(silences).is_due(now + pause), "{silences}");
        }
        assert!(!Heard { asked: None, ..heard(0) }.is_due(now + ASK_SELDOM), "it is being asked");
    }
}
