//! What failed, and how long it rests. Pure, but for the dice.
//!
//! A failure is told in the object's status, and the status's own change would ask for the next look at once; so who failed is left
//! alone until its pause is over, whoever asks. A new generation is another matter.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::pauses::after_failures;

/// By namespace and name.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<(Option<String>, String), Failure>);

#[derive(Debug)]
struct Failure {
    uid: Option<String>,
    generation: Option<i64>,
    in_a_row: u32,
    not_before: Instant,
}

impl Failures {
    /// How long an object is still to be left alone.
    pub(super) fn rest(&self, object: &ObjectMeta, now: Instant) -> Option<Duration> {
        let failure = self.0.get(&key(object)).filter(|failure| failure.is_of(object))?;
        Some(failure.not_before.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// A look at it failed. Answers how long it rests.
    pub(super) fn failed(&mut self, object: &ObjectMeta, now: Instant) -> Duration {
        let before = self.0.get(&key(object)).filter(|failure| failure.is_of(object));
        let in_a_row = before.map_or(1, |failure| failure.in_a_row.saturating_add(1));
        let pause = after_failures(in_a_row);
        let (uid, generation) = (object.uid.clone(), object.generation);
        self.0.insert(key(object), Failure { uid, generation, in_a_row, not_before: now + pause });
        pause
    }

    /// A look went well, or the object is gone.
    pub(super) fn forget(&mut self, namespace: Option<&str>, name: &str) {
        self.0.remove(&(namespace.map(str::to_owned), name.to_owned()));
    }
}

impl Failure {
    fn is_of(&self, object: &ObjectMeta) -> bool {
        self.uid == object.uid && self.generation == object.generation
    }
}

fn key(object: &ObjectMeta) -> (Option<String>, String) {
    (object.namespace.clone(), object.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, generation: i64) -> ObjectMeta {
        let (name, namespace) = (Some("docs".to_owned()), Some("search".to_owned()));
        ObjectMeta { name, namespace, uid: Some(uid.to_owned()), generation: Some(generation), ..ObjectMeta::default() }
    }

    #[test]
    fn who_failed_rests_whoever_asks_and_ever_longer() {
        let (mut failures, now, object) = (Failures::default(), Instant::now(), object("a", 1));
        assert_eq!(failures.rest(&object, now), None);
        let first = failures.failed(&object, now);
        assert_eq!(failures.rest(&object, now), Some(first));
        assert_eq!(failures.rest(&object, now + first), None, "its pause is over");
        let second = failures.failed(&object, now + first);
        assert!(second > first.mul_f64(1.5), "{first:?} {second:?}");
    }

    #[test]
    fn another_generation_and_another_object_of_the_name_do_not_wait() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..5 {
            failures.failed(&object("a", 1), now);
        }
        for other in [object("a", 2), object("b", 1)] {
            assert_eq!(failures.rest(&other, now), None);
            assert!(failures.failed(&other, now) < Duration::from_secs(2), "it begins anew");
        }
    }

    #[test]
    fn what_went_well_or_is_gone_is_forgotten() {
        let (mut failures, now, object) = (Failures::default(), Instant::now(), object("a", 1));
        failures.failed(&object, now);
        failures.forget(Some("search"), "docs");
        assert_eq!(failures.rest(&object, now), None);
        assert!(failures.0.is_empty());
    }
}
