//! What is told as an event: the object's `Ready` took another turn. Pure.
//!
//! Loads of models come and go with every pause of the callers; they are told by the condition alone.

use kube::runtime::events::{Event, EventType};
use rerank_crds::rerank_deployment::RerankDeploymentStatus;
use rerank_crds::rerank_deployment::conditions::{ConditionType, Reason, Truth};

use super::words::plain;

/// Longest note that the API server takes, in bytes.
const LONGEST_NOTE_BYTES: usize = 1_024;

/// Steps on the way, and what somebody asked for: nothing to worry about.
const EXPECTED: [Reason; 5] =
    [Reason::Progressing, Reason::Downloading, Reason::Paused, Reason::NoPods, Reason::NotCreated];

/// The event of a status that replaces another, if it is one.
pub fn of_transition(old: Option<&RerankDeploymentStatus>, new: &RerankDeploymentStatus) -> Option<Event> {
    let ready = |status: &RerankDeploymentStatus| {
        status.conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str()).cloned()
    };
    let (before, now) = (old.and_then(ready), ready(new)?);
    let is_load = |reason: &str| reason == Reason::Loading.as_str();
    let same = before.as_ref().is_some_and(|before| {
        let was_load = is_load(&before.reason) && now.status == Truth::True.as_str();
        was_load || (before.status == now.status && before.reason == now.reason)
    });
    if same || is_load(&now.reason) {
        return None;
    }
    let is_expected = now.status == Truth::True.as_str() || EXPECTED.iter().any(|reason| reason.as_str() == now.reason);
    Some(Event {
        type_: if is_expected { EventType::Normal } else { EventType::Warning },
        reason: now.reason,
        note: Some(shortened(now.message)),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}

/// The event of an object that this operator cannot read.
pub fn of_unreadable(error: &str) -> Event {
    Event {
        type_: EventType::Warning,
        reason: Reason::InvalidSpec.as_str().to_owned(),
        note: Some(shortened(plain(&format!("this operator cannot read the object, so it leaves it alone: {error}")))),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

/// The event of an object that another operator looks after.
pub fn of_another_operator(operator: &str) -> Event {
    let note = format!(
        "the operator with the lease {operator} looks after the object, so another leaves it alone; one of them should watch other namespaces. \
         Where that operator is gone, the object is taken over a minute after its next change, or at once when its status.operator is removed"
    );
    Event {
        type_: EventType::Warning,
        reason: Reason::NameConflict.as_str().to_owned(),
        note: Some(shortened(plain(&note))),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE_BYTES {
        let mut end = LONGEST_NOTE_BYTES - "...".len();
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push_str("...");
    }
    note
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(truth: &str, reason: &str) -> RerankDeploymentStatus {
        serde_json::from_value(json!({"observedGeneration": 1, "selector": "", "replicas": 0, "readyReplicas": 0, "conditions": [
            {"type": "Ready", "status": truth, "reason": reason, "message": "words", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
        .unwrap()
    }

    fn told(before: Option<(&str, &str)>, now: (&str, &str)) -> Option<(String, EventType)> {
        let before = before.map(|(truth, reason)| status(truth, reason));
        of_transition(before.as_ref(), &status(now.0, now.1)).map(|event| (event.reason, event.type_))
    }

    #[test]
    fn each_turn_is_told_once_and_only_trouble_warns() {
        let normal = |reason: &str| Some((reason.to_owned(), EventType::Normal));
        let warning = |reason: &str| Some((reason.to_owned(), EventType::Warning));
        assert_eq!(told(None, ("False", "Progressing")), normal("Progressing"));
        assert_eq!(told(Some(("False", "Progressing")), ("False", "Progressing")), None);
        assert_eq!(told(Some(("False", "Progressing")), ("False", "StoreUnreachable")), warning("StoreUnreachable"));
        assert_eq!(told(Some(("False", "StoreUnreachable")), ("True", "Ready")), normal("Ready"));
    }

    #[test]
    fn loads_are_no_events() {
        assert_eq!(told(Some(("True", "Ready")), ("False", "Loading")), None);
        assert_eq!(told(Some(("False", "Loading")), ("True", "Ready")), None);
        assert!(told(Some(("False", "Loading")), ("False", "LoadFailed")).is_some());
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = of_unreadable(&"ä".repeat(2_000)).note.unwrap();
        assert!(note.len() <= LONGEST_NOTE_BYTES && note.ends_with("ä..."), "{}", note.len());
    }
}
