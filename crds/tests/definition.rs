//! The CustomResourceDefinition and its page are what the types say, every value has a bound, and the shortest object is whole.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::path::{Path, PathBuf};

use rerank_crds::rerank_deployment::conditions::conditions_markdown;
use rerank_crds::rerank_deployment::{RerankDeployment, RerankDeploymentSpec, definition, markdown, yaml};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[track_caller]
fn assert_committed(file: &str, made: &str) {
    let path = root().join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "{file} is not what the code makes; UPDATE_GOLDEN=1 cargo test -p rerank-crds writes it"
    );
}

fn schema() -> Value {
    let definition = serde_json::to_value(definition().unwrap()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn the_committed_definition_and_its_page_are_made_from_the_code() {
    assert_committed("crds/rerankdeployments.yaml", &yaml().unwrap());
    assert_committed("docs/rerank-deployment.md", &markdown().unwrap());
    assert_committed("docs/conditions.md", &conditions_markdown());
}

/// Every place of the schema, with its path.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&format!("{path}[]"), &schema[inner], visit);
        }
    }
}

#[test]
fn every_string_list_map_and_number_has_a_bound_and_nothing_is_null_or_unsigned() {
    let schema = schema();
    let mut seen = 0;
    let mut missing = Vec::new();
    let mut visit = |path: &str, schema: &Value| {
        seen += 1;
        let bound = match schema["type"].as_str() {
            Some("string") if schema["enum"].is_null() => "maxLength",
            Some("array") => "maxItems",
            Some("object") if schema["additionalProperties"].is_object() => "maxProperties",
            _ => "type",
        };
        let is_int_or_string = schema["x-kubernetes-int-or-string"] == true;
        if schema[bound].is_null() && !is_int_or_string {
            missing.push(format!("{path} has no {bound}"));
        }
        if schema["type"] == "number" || schema["format"].as_str().is_some_and(|format| format.starts_with("uint")) {
            missing.push(format!("{path} is a float or unsigned"));
        }
        if !schema["nullable"].is_null() {
            missing.push(format!("{path} is nullable"));
        }
    };
    walk("spec", &schema["properties"]["spec"], &mut visit);
    walk("status", &schema["properties"]["status"], &mut visit);
    assert!(missing.is_empty() && seen > 300, "{seen} {missing:#?}");
}

#[test]
fn every_number_of_ours_says_what_is_allowed_and_every_field_what_it_means() {
    let mut silent = Vec::new();
    let mut visit = |path: &str, schema: &Value| {
        let is_foreign = ["affinity", "tolerations", "topologySpreadConstraints", "resources"]
            .iter()
            .any(|field| path.starts_with(&format!("spec.podTemplate.{field}")));
        if is_foreign || path.ends_with("[]") {
            return;
        }
        if schema["description"].as_str().is_none_or(str::is_empty) {
            silent.push(format!("{path} does not say what it means"));
        }
        if schema["type"] == "integer" && (schema["minimum"].is_null() || schema["maximum"].is_null()) {
            silent.push(format!("{path} has no range"));
        }
        let text = schema["description"].as_str().unwrap_or_default();
        if text.contains('`') || text.contains("[`") {
            silent.push(format!("{path} speaks Markdown, which `kubectl explain` shows as it is"));
        }
    };
    walk("spec", &schema()["properties"]["spec"], &mut visit);
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn no_reference_leaves_the_namespace() {
    let mut leaving = Vec::new();
    walk("spec", &schema()["properties"]["spec"], &mut |path, _| {
        if path.ends_with(".namespace") {
            leaving.push(path.to_owned());
        }
    });
    assert!(leaving.is_empty(), "{leaving:?}");
}

#[test]
fn every_default_of_the_schema_is_the_default_of_the_type() {
    let spec: RerankDeploymentSpec = serde_json::from_value(json!({"reranker": {"model": "a"}})).unwrap();
    let written = serde_json::to_value(&spec).unwrap();
    let mut compared = 0;
    let mut visit = |path: &str, schema: &Value| {
        let Some(path) = path.strip_prefix("spec.").filter(|path| !path.contains("[]")) else { return };
        if schema["default"].is_null() || schema["default"].is_object() {
            return;
        }
        let pointer = format!("/{}", path.replace('.', "/"));
        if let Some(value) = written.pointer(&pointer) {
            assert_eq!(*value, schema["default"], "{path}");
            compared += 1;
        }
    };
    walk("spec", &schema()["properties"]["spec"], &mut visit);
    assert!(compared > 20, "{compared}");
}

#[test]
fn the_shortest_object_of_the_design_is_whole_by_defaults() {
    let shortest = json!({
        "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment", "metadata": {"name": "docs"},
        "spec": {
            "embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"},
            "vectorStore": {"qdrant": {"url": "http://qdrant:6334", "collections": [{"name": "docs"}]}}
        }
    });
    let object: RerankDeployment = serde_json::from_value(shortest).unwrap();
    assert_eq!(object.spec.replicas, 1);
    assert_eq!(object.spec.reranker.max_length, 8_192);
    let written = serde_json::to_value(&object.spec).unwrap();
    assert_eq!(written["accelerator"]["gpu"], json!({"resourceName": "nvidia.com/gpu", "count": 1}));
    assert_eq!(written["vectorStore"]["qdrant"]["collections"][0]["textField"], "text");
    assert_eq!(
        serde_json::from_value::<RerankDeploymentSpec>(written).unwrap(),
        object.spec,
        "and says the same again"
    );
}

#[test]
fn an_unknown_field_is_refused_by_its_name() {
    let error = serde_json::from_value::<RerankDeploymentSpec>(json!({"replica": 2})).unwrap_err().to_string();
    assert!(error.contains("replica"), "{error}");
}
