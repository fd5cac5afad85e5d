//! What pods say of their models, and what is told of it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use rerank_crds::catalog::Quantization;
use rerank_crds::rerank_deployment::{MAXIMUM_MODEL_NAME_CHARACTERS, MAXIMUM_MODELS, Model, ModelState};
use serde::Deserialize;

use super::super::status::ModelView;

/// What a pod says of its models. Two are equal where they would be told alike.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Answer {
    data: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Entry {
    id: String,
    role: String,
    quantizations: Vec<State>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[expect(clippy::struct_field_names, reason = "the field is the server's")]
struct State {
    quantization: Quantization,
    state: ModelState,
    #[serde(default)]
    failure: Option<String>,
    #[serde(default)]
    warm_up: Option<WarmUp>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct WarmUp {
    pairs: u32,
    seconds: f64,
}

/// All answers as one: each model in the state that most pods have it in, a failure before all others. Names and number are cut to what
/// the definition holds; pods may say anything.
pub(super) fn view(answers: &[Arc<Answer>]) -> ModelView {
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
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As a server answers that has one model.
    pub(in super::super) fn answer(state: &str, seconds: f64) -> Value {
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
}
