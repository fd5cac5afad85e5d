//! What the watch of objects did not tell. I/O: lists.
//!
//! Nobody promises that every event of a watch arrives, and an object whose event is lost would wait for its next one; where only its
//! status was told, that would be taken for what it is no longer, and stay so. One that was applied in the moment in which the definition
//! gained a field can arrive without it. So what was told is compared with a list from time to time. What becomes of children without an
//! event is seen when their object is looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::runtime::reflector::Store;
use tokio::time::{sleep, timeout};

use super::watches::Declared;
use crate::controller::words::describe;

/// A difference may only be on its way, so it is looked for again after so long.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// A list takes no longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Objects that are read at once.
const PAGE: u32 = 100;

/// Objects by namespace and name.
type Objects = BTreeMap<(Option<String>, String), Arc<Declared>>;

/// Which objects are not as they were told, and in which version they are listed.
type Differences = BTreeMap<(Option<String>, String), Option<String>>;

/// Waits until the watch has missed something: looks every so often.
pub(super) async fn until_missed(objects: &Api<Declared>, known: &Store<Declared>, every: Duration) {
    loop {
        sleep(every).await;
        let first = look(objects, known).await;
        if first.is_empty() {
            continue;
        }
        sleep(ON_ITS_WAY).await;
        let second = look(objects, known).await;
        let missed = first.iter().find(|(name, listed)| second.get(name) == Some(listed));
        if let Some(((namespace, name), _)) = missed {
            tracing::warn!(
                name,
                namespace,
                "A watch missed a change, perhaps of more than this object; all begin anew"
            );
            return;
        }
    }
}

async fn look(objects: &Api<Declared>, known: &Store<Declared>) -> Differences {
    let error = match timeout(PATIENCE, list(objects)).await {
        Ok(Ok(listed)) => return differences(&listed, &named(known.state())),
        Ok(Err(error)) => describe(&error),
        Err(_elapsed) => "the API server does not answer".to_owned(),
    };
    tracing::warn!(error, "RerankDeployments could not be listed to see whether a watch missed something");
    Differences::new()
}

async fn list(objects: &Api<Declared>) -> kube::Result<Objects> {
    let mut parameters = ListParams::default().limit(PAGE);
    let mut all = Objects::new();
    loop {
        let page = objects.list(&parameters).await?;
        all.extend(named(page.items.into_iter().map(Arc::new)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn named(objects: impl IntoIterator<Item = Arc<Declared>>) -> Objects {
    objects.into_iter().map(|object| ((object.namespace(), object.name_any()), object)).collect()
}

fn differences(listed: &Objects, known: &Objects) -> Differences {
    let is_same = |left: &Declared, right: &Declared| {
        let is_same_spec = match (&left.0, &right.0) {
            (Ok(left), Ok(right)) => left.spec == right.spec,
            _ => true,
        };
        is_same_spec && left.resource_version() == right.resource_version()
    };
    let changed = listed.iter().filter(|(name, object)| !known.get(name).is_some_and(|known| is_same(object, known)));
    let gone = known.keys().filter(|name| !listed.contains_key(name));
    let changed = changed.map(|(name, object)| (name.clone(), object.resource_version()));
    changed.chain(gone.map(|name| (name.clone(), None))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects(all: &[(&str, &str, &str)]) -> Objects {
        named(all.iter().map(|(name, version, model)| {
            let object = json!({
                "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
                "metadata": {"name": name, "namespace": "search", "resourceVersion": version},
                "spec": {"reranker": {"model": model}}
            });
            Arc::new(serde_json::from_value(object).unwrap())
        }))
    }

    fn names(listed: &[(&str, &str, &str)], known: &[(&str, &str, &str)]) -> Vec<String> {
        differences(&objects(listed), &objects(known)).into_keys().map(|(_, name)| name).collect()
    }

    #[test]
    fn what_came_went_or_changed_without_a_word_differs() {
        let known = ("a", "1", "m");
        assert_eq!(names(&[known], &[known]), [""; 0]);
        assert_eq!(names(&[known, ("b", "2", "m")], &[known]), ["b"]);
        assert_eq!(names(&[], &[known]), ["a"]);
        assert_eq!(names(&[("a", "2", "m")], &[known]), ["a"]);
        assert_eq!(names(&[("a", "1", "n")], &[known]), ["a"], "a field was lost on the way");
    }

    #[test]
    fn what_nobody_here_can_read_is_compared_by_its_version() {
        let of = |model: serde_json::Value, version: &str| {
            let object = json!({"apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
                "metadata": {"name": "a", "resourceVersion": version}, "spec": {"reranker": {"model": model}}});
            named([Arc::new(serde_json::from_value::<Declared>(object).unwrap())])
        };
        assert!(of(json!(1), "1").values().all(|object| object.0.is_err()));
        assert!(differences(&of(json!(1), "1"), &of(json!(2), "1")).is_empty());
        assert_eq!(differences(&of(json!(1), "2"), &of(json!(1), "1")).len(), 1);
    }
}
