//! Whether a live object already says what is wanted. Pure.
//!
//! The API server adds defaults, and others may add labels, annotations and sidecars; all of that may stay. So the wanted object
//! has to be contained in the live one: each of its fields is there with its value. Entries of lists that Kubernetes tells apart by
//! a key are looked for by it, other lists have to be the same from end to end.

use serde_json::Value;

/// The fields by which Kubernetes tells entries of lists apart, in the kinds that we write.
const KEYS: [&str; 3] = ["mountPath", "uid", "name"];

/// Whether `live` has everything that `wanted` says.
pub fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        // What is nothing is not sent, so it is not there.
        (Value::Null, Value::Object(fields)) => fields.is_empty(),
        (Value::Null, Value::Array(items)) => items.is_empty(),
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| contains(live.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(live), Value::Array(wanted)) => match KEYS.into_iter().find(|key| are_told_apart(wanted, key)) {
            Some(key) => wanted.iter().all(|item| {
                let same = live.iter().find(|other| other[key] == item[key]);
                same.is_some_and(|same| contains(same, item))
            }),
            None => live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| contains(live, wanted)),
        },
        (Value::String(live), Value::String(wanted)) => live == wanted || is_same_quantity(live, wanted),
        (live, wanted) => live == wanted,
    }
}

fn are_told_apart(items: &[Value], key: &str) -> bool {
    !items.is_empty() && items.iter().all(|item| item[key].is_string())
}

/// The API server writes quantities its own way: `1024Mi` comes back as `1Gi`.
fn is_same_quantity(left: &str, right: &str) -> bool {
    let milli = |text| milli_units(text);
    matches!((milli(left), milli(right)), (Some(left), Some(right)) if left == right)
}

/// A quantity in thousandths. None where it is none, or finer than that.
pub(super) fn milli_units(text: &str) -> Option<i128> {
    let digits = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit: i128 = match suffix {
        "" => 1_000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = whole.parse().ok()?;
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 9)?;
    let scale = 10_i128.pow(places);
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = whole.checked_mul(scale)?.checked_add(fraction)?.checked_mul(unit)?;
    (scaled % scale == 0).then_some(scaled / scale)
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
    fn quantities_are_compared_by_what_they_are() {
        for (left, right) in [("1024Mi", "1Gi"), ("1", "1000m"), ("0.5", "500m"), ("1.5Gi", "1536Mi"), ("2k", "2000")] {
            assert!(contains(&json!(left), &json!(right)), "{left} {right}");
        }
        for (left, right) in [("1Gi", "1G"), ("1", "2"), ("docs", "doc"), ("1Gi", "Gi"), ("", "0")] {
            assert!(!contains(&json!(left), &json!(right)), "{left} {right}");
        }
    }
}
