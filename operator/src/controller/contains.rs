//! Whether a live object already says what is wanted. Pure.
//!
//! The API server adds defaults, and others may add labels, annotations and sidecars; all of that may stay. So the wanted object
//! has to be contained in the live one: each of its fields is there with its value. Entries of lists that Kubernetes tells apart by
//! a key are looked for by it, other lists have to be the same from end to end. A selector with one more key is another selector, so
//! selectors have to be the same. What may not be added elsewhere is looked for by [`additions`](super::additions).

use serde_json::Value;

pub(super) use super::quantity::milli_units;
use super::quantity::nano_units;

/// The fields by which Kubernetes tells entries of lists apart, in the kinds that we write.
const KEYS: [&str; 3] = ["mountPath", "uid", "name"];

/// Fields to which nothing may be added.
const EXACT: [&str; 3] = ["selector", "podSelector", "matchLabels"];

/// Fields that are quantities, or hold nothing else.
const QUANTITIES: [&str; 4] = ["limits", "requests", "sizeLimit", "averageValue"];

/// Whether `live` has everything that `wanted` says.
pub fn contains(live: &Value, wanted: &Value) -> bool {
    holds(live, wanted, false)
}

fn holds(live: &Value, wanted: &Value, is_quantity: bool) -> bool {
    match (live, wanted) {
        // What is nothing is not sent, so it is not there.
        (Value::Null, Value::Object(fields)) => fields.is_empty(),
        (Value::Null, Value::Array(items)) => items.is_empty(),
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(name, value)| {
            let live = live.get(name).unwrap_or(&Value::Null);
            if EXACT.contains(&name.as_str()) {
                return is_same(live, value);
            }
            holds(live, value, is_quantity || QUANTITIES.contains(&name.as_str()))
        }),
        (Value::Array(live), Value::Array(wanted)) => match KEYS.into_iter().find(|key| are_told_apart(wanted, key)) {
            Some(key) => wanted.iter().all(|item| {
                let same = live.iter().find(|other| other[key] == item[key]);
                same.is_some_and(|same| holds(same, item, is_quantity))
            }),
            None => {
                live.len() == wanted.len()
                    && live.iter().zip(wanted).all(|(live, wanted)| holds(live, wanted, is_quantity))
            }
        },
        (Value::String(live), Value::String(wanted)) => {
            live == wanted || (is_quantity && is_same_quantity(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// Whether two say the same and nothing more; what is nothing need not be there.
fn is_same(left: &Value, right: &Value) -> bool {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (left, right) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names = ours.keys().chain(theirs.keys());
            names.into_iter().all(|name| is_same(&left[name.as_str()], &right[name.as_str()]))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(left, right)| is_same(left, right))
        }
        (left, right) => left == right || (is_nothing(left) && is_nothing(right)),
    }
}

fn are_told_apart(items: &[Value], key: &str) -> bool {
    !items.is_empty() && items.iter().all(|item| item[key].is_string())
}

/// The API server writes quantities its own way: `1024Mi` comes back as `1Gi`.
fn is_same_quantity(left: &str, right: &str) -> bool {
    matches!((nano_units(left), nano_units(right)), (Some(left), Some(right)) if left == right)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_may_stay_and_what_is_ours_may_not_change() {
        let wanted = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 2, "args": ["x"]}});
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "uid": "u"}, "spec": {"replicas": 2, "args": ["x"], "paused": false}});
        assert!(contains(&live, &wanted));
        for (pointer, value) in
            [("/metadata/labels/a", json!("9")), ("/spec/replicas", json!(3)), ("/spec/args", json!(["x", "y"]))]
        {
            let mut changed = live.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert!(!contains(&changed, &wanted), "{pointer}");
        }
        assert!(!contains(&json!({}), &wanted));
        assert!(contains(&json!({}), &json!({"podSelector": {}, "items": []})), "nothing is not sent");
    }

    #[test]
    fn a_sidecar_may_join_the_containers_and_ours_is_looked_for_by_its_name() {
        let wanted = json!([{"name": "server", "image": "a"}]);
        assert!(contains(&json!([{"name": "proxy"}, {"name": "server", "image": "a", "tty": false}]), &wanted));
        assert!(!contains(&json!([{"name": "proxy"}, {"name": "server", "image": "b"}]), &wanted));
        let rules = json!([{"ports": [{"port": 53}]}]);
        assert!(
            !contains(&json!([{"ports": [{"port": 53}]}, {}]), &rules),
            "a rule that opens everything is no addition"
        );
    }

    #[test]
    fn a_selector_with_one_more_key_chooses_other_pods() {
        for (wanted, theirs) in [
            (json!({"spec": {"selector": {"app": "a"}}}), json!({"spec": {"selector": {"app": "a", "canary": "yes"}}})),
            (
                json!({"spec": {"podSelector": {"matchLabels": {"app": "a"}}}}),
                json!({"spec": {"podSelector": {"matchLabels": {"app": "a", "b": "c"}}}}),
            ),
            (
                json!({"spec": {"podSelector": {"matchLabels": {"app": "a"}}}}),
                json!({"spec": {"podSelector": {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}}}),
            ),
            (json!({"spec": {"podSelector": {}}}), json!({"spec": {"podSelector": {"matchLabels": {"b": "c"}}}})),
        ] {
            assert!(contains(&wanted, &wanted));
            assert!(!contains(&theirs, &wanted), "{theirs}");
        }
        assert!(contains(&json!({"spec": {}}), &json!({"spec": {"podSelector": {}}})), "nothing is not sent");
    }

    #[test]
    fn quantities_are_compared_by_what_they_are_and_texts_are_not() {
        let limits = |quantity: &str| json!({"resources": {"limits": {"memory": quantity}}});
        for (left, right) in [
            ("1024Mi", "1Gi"),
            ("1", "1000m"),
            ("0.5", "500m"),
            ("500m", ".5"),
            ("1.5Gi", "1536Mi"),
            ("2k", "2000"),
            ("9G", "9000e6"),
            ("1Pi", "1024Ti"),
            ("1P", "1000T"),
            ("1Ei", "1024Pi"),
        ] {
            assert!(contains(&limits(left), &limits(right)), "{left} {right}");
        }
        for (left, right) in [("1Gi", "1G"), ("1", "2"), ("docs", "doc"), ("1Gi", "Gi"), ("", "0")] {
            assert!(!contains(&limits(left), &limits(right)), "{left} {right}");
        }
        assert!(!contains(&json!({"labels": {"version": "1"}}), &json!({"labels": {"version": "1.0"}})));
    }
}
