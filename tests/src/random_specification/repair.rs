//! What a schema says of one field by another: repaired where chance broke it, since few specifications would be left. Pure.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::text::COMMIT;

/// What is chosen where several repairs would do.
#[derive(Clone, Debug)]
pub(super) struct Choices {
    /// Which of several fields is kept.
    kept: usize,
    /// Another number, of the rest.
    other: usize,
    /// Whether what the schema does not look at is repaired too, so that the operator has nothing to refuse.
    is_sensible: bool,
}

pub(super) fn choices() -> BoxedStrategy<Choices> {
    (0..6_usize, 0..6_usize, proptest::bool::weighted(0.9))
        .prop_map(|(kept, other, is_sensible)| Choices { kept, other, is_sensible })
        .boxed()
}

/// Makes the rules of the schema hold, and mostly those of the server.
pub(super) fn repair(specification: &mut Value, choices: &Choices) {
    if let Some(weights) = fields(specification, "/weights") {
        keep_one(weights, &["hub", "persistentVolumeClaim", "image"], choices.kept);
        if weights.contains_key("persistentVolumeClaim") || weights.contains_key("image") {
            weights.remove("cache");
        }
    }
    repair_cache(specification, choices);
    if let Some(labels) = fields(specification, "/podTemplate/labels") {
        labels.retain(|label, _| !label.starts_with("app.kubernetes.io/"));
    }
    repair_accelerator(specification, choices);
    repair_access(specification, choices);
    repair_reranker(specification, choices);
    repair_store(specification, choices);
    for (part, minimum, maximum) in [("/candidates", 20, 200), ("/autoscaling", 1, 1)] {
        if let Some(part) = fields(specification, part) {
            let number = |name: &str, otherwise: i64| part.get(name).and_then(Value::as_i64).unwrap_or(otherwise);
            let (minimum, maximum) = (number("minimum", minimum), number("maximum", maximum));
            if minimum > maximum {
                part.insert("minimum".to_owned(), json!(maximum));
            }
        }
    }
    repair_what_is_served(specification, choices);
    if choices.is_sensible {
        make_sensible(specification, choices);
    }
}

fn fields<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Map<String, Value>> {
    value.pointer_mut(pointer)?.as_object_mut()
}

fn entries<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Leaves at most one of some fields; says whether one is there.
fn keep_one(fields: &mut Map<String, Value>, names: &[&str], choice: usize) -> bool {
    let present: Vec<&str> = names.iter().copied().filter(|name| fields.contains_key(*name)).collect();
    for (at, name) in present.iter().enumerate() {
        if at != choice % present.len() {
            fields.remove(*name);
        }
    }
    !present.is_empty()
}

fn repair_cache(specification: &mut Value, choices: &Choices) {
    let is_one_pod = specification.get("replicas").and_then(Value::as_i64).unwrap_or(1) <= 1
        && specification.get("autoscaling").is_none()
        && specification.get("rollout") != Some(&json!("Surge"));
    let Some(cache) = fields(specification, "/weights/cache") else { return };
    if cache.contains_key("accessMode") {
        cache.entry("storageClass").or_insert_with(|| json!(""));
    }
    if cache.get("accessMode") == Some(&json!("ReadWriteOncePod")) && !is_one_pod {
        let allowed = ["ReadWriteOnce", "ReadWriteMany"][choices.other % 2];
        cache.insert("accessMode".to_owned(), json!(allowed));
    }
}

fn repair_accelerator(specification: &mut Value, choices: &Choices) {
    if let Some(accelerator) = fields(specification, "/accelerator")
        && !keep_one(accelerator, &["gpu", "cpu", "resourceClaims"], choices.kept)
    {
        accelerator.insert("cpu".to_owned(), json!({}));
    }
    for claim in entries(specification, "/accelerator/resourceClaims") {
        if !keep_one(claim, &["resourceClaimName", "resourceClaimTemplateName"], choices.other) {
            claim.insert("resourceClaimName".to_owned(), json!("gpu"));
        }
    }
}

fn repair_access(specification: &mut Value, choices: &Choices) {
    for peer in entries(specification, "/access/networkPolicy/egressPeers") {
        if !keep_one(peer, &["cidr", "podLabels"], choices.other) {
            peer.insert("podLabels".to_owned(), json!({}));
        }
    }
    if let Some(access) = fields(specification, "/access")
        && access.contains_key("clients")
    {
        access.entry("apiKeysSecretRef").or_insert_with(|| json!({"name": "keys"}));
    }
}

fn repair_reranker(specification: &mut Value, choices: &Choices) {
    if let Some(instruction) = fields(specification, "/reranker/instruction") {
        keep_one(instruction, &["template", "text"], choices.other);
    }
    if let Some(reranker) = fields(specification, "/reranker") {
        let length = reranker.get("maxLength").and_then(Value::as_i64).unwrap_or(8_192);
        if let Some(budget) = reranker.get_mut("tokenBudget") {
            *budget = json!(budget.as_i64().unwrap_or(0).max(length));
        }
        if !reranker.contains_key("model") {
            reranker.remove("revision");
        }
    }
    for custom in entries(specification, "/reranker/custom") {
        if let Some(Value::String(body)) = custom.get_mut("prompt").and_then(|prompt| prompt.get_mut("body"))
            && !body.ends_with("{document}")
        {
            body.truncate(0);
            body.push_str("{query} {document}");
        }
        if let Some(scoring) = custom.get_mut("scoring")
            && scoring["yesToken"] == scoring["noToken"]
        {
            *scoring = json!({"yesToken": "yes", "noToken": "no"});
        }
    }
}

fn repair_store(specification: &mut Value, choices: &Choices) {
    let Some(qdrant) = fields(specification, "/vectorStore/qdrant") else { return };
    let is_plain = qdrant["url"].as_str().is_some_and(|url| url.starts_with("http://"));
    let needs_tls = qdrant.contains_key("tls") || (qdrant.contains_key("apiKeySecretRef") && choices.other > 2);
    if is_plain && needs_tls {
        secure(&mut qdrant["url"]);
    } else if is_plain && qdrant.contains_key("apiKeySecretRef") {
        qdrant.insert("allowInsecure".to_owned(), json!(true));
    }
}

fn secure(url: &mut Value) {
    if let Some(rest) = url.as_str().and_then(|url| url.strip_prefix("http://")) {
        *url = json!(format!("https://{rest}"));
    }
}

fn repair_what_is_served(specification: &mut Value, choices: &Choices) {
    let has = |pointer: &str| specification.pointer(pointer).is_some();
    let has_store = has("/vectorStore");
    let is_reranking = specification.pointer("/reranker/enabled") != Some(&json!(false));
    if has("/embedding/model") || (has("/reranker/model") && !has_store && is_reranking) {
        return;
    }
    let needs_embedder = has_store || !is_reranking || choices.other > 2;
    let (part, model) = if needs_embedder {
        ("embedding", "Qwen/Qwen3-Embedding-0.6B")
    } else {
        ("reranker", "Qwen/Qwen3-Reranker-0.6B")
    };
    specification[part]["model"] = json!(model);
}

/// What only the server looks at: names that refer to each other, one of a kind, placeholders of prompts.
fn make_sensible(specification: &mut Value, choices: &Choices) {
    let collections: Vec<Value> = entries(specification, "/vectorStore/qdrant/collections")
        .map(|collection| collection["name"].clone())
        .collect();
    for client in entries(specification, "/access/clients") {
        let wanted = client["collections"].as_array().map_or(0, Vec::len).min(collections.len());
        let first = choices.other % collections.len().max(1);
        client.insert("collections".to_owned(), collections.iter().cycle().skip(first).take(wanted).cloned().collect());
    }
    for collection in entries(specification, "/vectorStore/qdrant/collections") {
        if collection.get("textField").and_then(Value::as_str).is_some_and(|field| field.split('.').any(str::is_empty))
        {
            collection.remove("textField");
        }
    }
    make_rerankers_sensible(specification);
    make_maps_sensible(specification);
    if let Some(hub) = fields(specification, "/weights/hub")
        && hub.contains_key("tokenSecretRef")
        && let Some(endpoint) = hub.get_mut("endpoint")
    {
        secure(endpoint);
    }
    if specification.pointer("/weights/requirePinned") == Some(&json!(true)) {
        pin(specification);
    }
    let served: Vec<Value> = ["/embedding/model", "/reranker/model"]
        .iter()
        .filter(|_| specification.pointer("/reranker/enabled") != Some(&json!(false)))
        .filter_map(|pointer| specification.pointer(pointer).cloned())
        .collect();
    let served = if served.is_empty() { vec![specification["embedding"]["model"].clone()] } else { served };
    for (at, model) in fields(specification, "/api/modelAliases").into_iter().flat_map(Map::values_mut).enumerate() {
        *model = served[(choices.other + at) % served.len()].clone();
    }
}

/// Keys as Kubernetes allows them.
fn make_maps_sensible(specification: &mut Value) {
    let is_key = |key: &String| {
        let name = key.rsplit('/').next().unwrap_or_default();
        let is_end = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric());
        let is_inside = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        is_end(name.chars().next()) && is_end(name.chars().last()) && name.chars().all(is_inside)
    };
    for map in ["/podTemplate/labels", "/podTemplate/annotations", "/podTemplate/nodeSelector", "/service/annotations"]
    {
        if let Some(map) = fields(specification, map) {
            map.retain(|key, _| is_key(key));
        }
    }
    for peer in entries(specification, "/access/networkPolicy/egressPeers") {
        if let Some(labels) = peer.get_mut("podLabels").and_then(Value::as_object_mut) {
            labels.retain(|key, _| is_key(key));
        }
    }
}

fn make_rerankers_sensible(specification: &mut Value) {
    let mut mapped = BTreeSet::new();
    for custom in entries(specification, "/reranker/custom") {
        if let Some(models) = custom.get_mut("embeddingModels").and_then(Value::as_array_mut) {
            models.retain(|model| mapped.insert(model.to_string()));
        }
        let Some(prompt) = custom.get_mut("prompt") else { continue };
        for part in ["prefix", "suffix"] {
            if prompt[part].as_str().is_some_and(|text| text.contains("{query}")) {
                prompt[part] = json!("");
            }
        }
        let body = prompt["body"].as_str().unwrap_or_default();
        if body.matches("{query}").count() != 1 || body.matches("{document}").count() != 1 {
            prompt["body"] = json!("{query} {document}");
        }
    }
    // Of the deployed model the revision stands elsewhere. Which one that is, is the catalogue's to say; any that it could be has none.
    let named = specification.pointer("/reranker/model").cloned();
    let rerankers: Vec<Value> =
        entries(specification, "/reranker/custom").map(|custom| custom["model"].clone()).collect();
    for allowed in entries(specification, "/reranker/allowedOverrides") {
        let model = &allowed["model"];
        let is_deployed = match &named {
            Some(named) => model == named,
            None => rerankers.contains(model) || model.as_str().is_some_and(|model| model.contains("Reranker")),
        };
        if is_deployed {
            allowed.remove("revision");
        }
        if let Some(quantizations) = allowed.get_mut("quantizations").and_then(Value::as_array_mut) {
            let mut seen = BTreeSet::new();
            quantizations.retain(|quantization| seen.insert(quantization.to_string()));
        }
    }
}

/// Gives every model that could be downloaded a commit.
fn pin(specification: &mut Value) {
    if specification.pointer("/reranker/enabled") != Some(&json!(false)) {
        let reranker = &mut specification["reranker"];
        if reranker["model"].is_null() {
            reranker["model"] = json!("Qwen/Qwen3-Reranker-0.6B");
        }
        reranker["revision"] = json!(COMMIT);
    }
    if specification.pointer("/embedding/model").is_some() {
        specification["embedding"]["revision"] = json!(COMMIT);
    }
    let named = specification.pointer("/reranker/model").cloned();
    for allowed in entries(specification, "/reranker/allowedOverrides") {
        if Some(&allowed["model"]) == named.as_ref() {
            allowed.remove("revision");
        } else {
            allowed.insert("revision".to_owned(), json!(COMMIT));
        }
    }
}
