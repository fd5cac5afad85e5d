//! Whose an object is, where several operators with leases of their own see it: that of whoever looked after it first, until it no longer
//! does. Two that both wrote would fight for ever. Pure.
//!
//! The lease that counts stands in the object's status. That its operator is alive cannot be asked for: its lease may be in a namespace
//! that is not to be read. But one that lives takes up each new generation within seconds, whatever comes of it.

use std::collections::HashMap;
use std::time::Duration;

use rerank_crds::RerankDeployment;
use tokio::time::Instant;

/// A new generation that nobody has taken up for so long has nobody.
const NOT_TAKEN_UP: Duration = Duration::from_secs(60);

/// Another's object is looked at again after so long.
const LOOK_SELDOM: Duration = Duration::from_secs(300);

/// What to do with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is ours.
    Ours,
    /// It is nobody's, or no longer anybody's: say that it is ours, then work.
    Take,
    /// It is another's.
    Leave {
        /// Look again then.
        rest: Duration,
        /// Whose it is, where that was not told yet.
        tell: Option<String>,
    },
}

/// Objects of others that were seen.
#[derive(Debug)]
pub(super) struct Claims {
    ours: String,
    others: HashMap<(Option<String>, String), Seen>,
}

#[derive(Debug)]
struct Seen {
    uid: Option<String>,
    generation: i64,
    /// When that generation was first seen.
    since: Instant,
}

impl Claims {
    /// Of an operator with this lease.
    pub(super) fn new(namespace: &str, lease: &str) -> Self {
        Self { ours: format!("{namespace}/{lease}"), others: HashMap::new() }
    }

    /// How an operator calls itself in a status.
    pub(super) fn ours(&self) -> &str {
        &self.ours
    }

    /// Whose it is.
    pub(super) fn of(&mut self, object: &RerankDeployment, now: Instant) -> Claim {
        let metadata = &object.metadata;
        let key = (metadata.namespace.clone(), metadata.name.clone().unwrap_or_default());
        let status = object.status.as_ref();
        let Some(operator) = status.and_then(|status| status.operator.clone()) else { return Claim::Take };
        if operator == self.ours {
            self.others.remove(&key);
            return Claim::Ours;
        }
        let generation = metadata.generation.unwrap_or(0);
        let seen = self.others.get(&key).filter(|seen| seen.uid == metadata.uid);
        let is_new = seen.is_none();
        let since = seen.filter(|seen| seen.generation == generation).map_or(now, |seen| seen.since);
        self.others.insert(key, Seen { uid: metadata.uid.clone(), generation, since });
        let is_taken_up = status.is_some_and(|status| status.observed_generation >= generation);
        let rest = if is_taken_up { LOOK_SELDOM } else { (since + NOT_TAKEN_UP).saturating_duration_since(now) };
        if rest.is_zero() { Claim::Take } else { Claim::Leave { rest, tell: is_new.then_some(operator) } }
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, namespace: Option<&str>, name: &str) {
        self.others.remove(&(namespace.map(str::to_owned), name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(generation: i64, operator: Option<&str>, observed: i64) -> RerankDeployment {
        let status = json!({"observedGeneration": observed, "operator": operator, "conditions": []});
        serde_json::from_value(json!({
            "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
            "metadata": {"name": "docs", "namespace": "search", "uid": "u", "generation": generation},
            "spec": {"reranker": {"model": "a"}}, "status": status
        }))
        .unwrap()
    }

    #[test]
    fn an_object_is_whose_lease_its_status_names_and_nobodys_is_taken() {
        let (mut claims, now) = (Claims::new("a", "rerank-operator"), Instant::now());
        assert_eq!(claims.of(&object(1, None, 0), now), Claim::Take);
        assert_eq!(claims.of(&object(1, Some("a/rerank-operator"), 1), now), Claim::Ours);
        let theirs = object(1, Some("b/rerank-operator"), 1);
        let tell = Some("b/rerank-operator".to_owned());
        assert_eq!(claims.of(&theirs, now), Claim::Leave { rest: LOOK_SELDOM, tell });
        let later = now + Duration::from_secs(10_000);
        assert_eq!(claims.of(&theirs, later), Claim::Leave { rest: LOOK_SELDOM, tell: None }, "told once");
    }

    #[test]
    fn what_another_has_not_taken_up_for_a_minute_is_taken_over() {
        let (mut claims, now) = (Claims::new("a", "rerank-operator"), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let rest = |claim| match claim {
            Claim::Leave { rest, .. } => Some(rest.as_secs()),
            _ => None,
        };
        assert_eq!(rest(claims.of(&object(2, Some("b/x"), 1), at(0))), Some(60));
        assert_eq!(rest(claims.of(&object(2, Some("b/x"), 1), at(45))), Some(15));
        assert_eq!(rest(claims.of(&object(3, Some("b/x"), 1), at(50))), Some(60), "another generation");
        assert_eq!(rest(claims.of(&object(3, Some("b/x"), 3), at(55))), Some(300), "it lives");
        assert_eq!(rest(claims.of(&object(4, Some("b/x"), 3), at(100))), Some(60));
        assert_eq!(claims.of(&object(4, Some("b/x"), 3), at(160)), Claim::Take);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut claims = Claims::new("a", "x");
        claims.of(&object(1, Some("b/x"), 1), Instant::now());
        claims.forget(Some("search"), "docs");
        assert!(claims.others.is_empty());
    }
}
