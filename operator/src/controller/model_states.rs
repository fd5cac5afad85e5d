//! What the servers of ready pods say of their models. I/O: HTTP to their control ports, at most one call a pod in 15 s.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rerank_crds::catalog::Quantization;
use rerank_crds::rerank_deployment::{Model, ModelState};
use serde::Deserialize;
use tokio::time::Instant;

use super::status::ModelView;

/// A pod is asked at most so often.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// A control port answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// The control port of a pod's server.
const CONTROL_PORT: u16 = 9_090;

/// Longest answer that is read.
const MAXIMUM_BYTES: usize = 256 * 1024;

/// Asks pods, and remembers what they said.
#[derive(Debug)]
pub struct ModelStates {
    client: reqwest::Client,
    port: u16,
    /// By the pod's uid.
    heard: Mutex<HashMap<String, Heard>>,
}

/// When a pod was asked, and what it answered, if it did.
type Heard = (Instant, Option<Arc<Answer>>);

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
        Ok(Self { client: builder.build()?, port, heard: Mutex::default() })
    }

    /// What the ready ones of these pods say, together.
    pub async fn of(&self, pods: &[Pod]) -> ModelView {
        let ready: Vec<(&Pod, IpAddr)> = pods.iter().filter_map(|pod| Some((pod, address(pod)?))).collect();
        if ready.is_empty() {
            return ModelView::NoPods;
        }
        let answers = join_all(ready.into_iter().map(|(pod, address)| self.ask(pod, address))).await;
        view(&answers.into_iter().flatten().collect::<Vec<_>>())
    }

    async fn ask(&self, pod: &Pod, address: IpAddr) -> Option<Arc<Answer>> {
        let uid = pod.uid().unwrap_or_default();
        let now = Instant::now();
        {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.retain(|_, (asked, _)| now.saturating_duration_since(*asked) < ASK_EVERY * 4);
            if let Some((_, answer)) =
                heard.get(&uid).filter(|(asked, _)| now.saturating_duration_since(*asked) < ASK_EVERY)
            {
                return answer.clone();
            }
            // Noted before the answer comes, so that nobody else asks meanwhile.
            let before = heard.get(&uid).and_then(|(_, answer)| answer.clone());
            heard.insert(uid.clone(), (now, before));
        }
        let answer = self.get(address).await.map(Arc::new);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (now, answer.clone()));
        answer
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

/// The address of a pod that is ready.
fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let is_ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    status.pod_ip.as_ref().filter(|_| is_ready)?.parse().ok()
}

/// All answers as one: each model in the state that most pods have it in, a failure before all others.
fn view(answers: &[Arc<Answer>]) -> ModelView {
    if answers.is_empty() {
        return ModelView::NotReachable;
    }
    let mut states: BTreeMap<(String, Quantization), BTreeMap<ModelState, i32>> = BTreeMap::new();
    let mut failure = None;
    let mut slowest: Option<f64> = None;
    for entry in answers.iter().flat_map(|answer| &answer.data) {
        for State { quantization, state, failure: words, warm_up } in &entry.quantizations {
            *states.entry((entry.id.clone(), *quantization)).or_default().entry(*state).or_default() += 1;
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
    ModelView::Seen { models: models.collect(), failure, pairs_per_second }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_pod_is_asked_once_in_a_while_and_only_when_it_is_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let route = axum::routing::get(move || {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async { axum::Json(answer("Ready", 1.0)) }
        });
        let serving =
            tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/v1/models", route)).await });
        let states = ModelStates::with_port(port).unwrap();
        assert_eq!(states.of(&[pod("a", "False", "127.0.0.1")]).await, ModelView::NoPods);
        for _ in 0..5 {
            assert!(matches!(states.of(&[pod("a", "True", "127.0.0.1")]).await, ModelView::Seen { .. }));
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        serving.abort();
        assert_eq!(states.of(&[pod("b", "True", "127.0.0.2")]).await, ModelView::NotReachable);
    }
}
