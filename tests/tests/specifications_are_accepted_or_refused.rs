//! What the schema says of a specification: twice, offline by the same schema and rules, and by Kubernetes' own API server. Both agree,
//! and every rule has a case that it accepts and one that it refuses.

use rerank_tests::api_server::ApiServer;
use rerank_tests::http::root;
use rerank_tests::schema::Schema;
use serde_json::{Value, json};

/// Whether a specification is accepted, else words of the refusal.
type Expected = Result<(), &'static str>;

/// A change to the shortest object, merged into it; `null` takes a field away.
fn cases() -> Vec<(Value, Expected)> {
    let spec = |spec: Value| json!({"spec": spec});
    let collection = |more: Value| {
        let mut qdrant = json!({"url": "http://qdrant:6334", "collections": [{"name": "docs"}]});
        merge(&mut qdrant, &more);
        spec(json!({"vectorStore": {"qdrant": qdrant}}))
    };
    let reranker = |reranker: Value| spec(json!({"reranker": reranker}));
    let only_rerank = |mut object: Value| {
        for part in ["vectorStore", "embedding"] {
            object["spec"][part] = Value::Null;
        }
        object
    };
    let one_pod = |mut more: Value| {
        more["weights"] = json!({"cache": {"storageClass": "", "accessMode": "ReadWriteOncePod"}});
        spec(more)
    };
    let egress = |cidr: &str| spec(json!({"access": {"networkPolicy": {"egressPeers": [{"cidr": cidr}]}}}));
    let long_name = "n".repeat(49);
    vec![
        (json!({}), Ok(())),
        // Names.
        (json!({"metadata": {"name": "n".repeat(48)}}), Ok(())),
        (json!({"metadata": {"name": long_name}}), Err("metadata.name must have at most 48")),
        (json!({"metadata": {"name": "9docs"}}), Err("begin with a letter")),
        // What is served.
        (spec(json!({"embedding": null})), Err("embedding.model is required with vectorStore")),
        (only_rerank(reranker(json!({"model": "Qwen/Qwen3-Reranker-0.6B"}))), Ok(())),
        (only_rerank(json!({})), Err("name embedding.model (and vectorStore) to search, or reranker.model")),
        (reranker(json!({"enabled": false})), Ok(())),
        (only_rerank(reranker(json!({"enabled": false, "model": "a"}))), Err("nothing is left to serve")),
        // Models.
        (spec(json!({"embedding": {"model": "../secret"}})), Err("spec.embedding.model")),
        (spec(json!({"embedding": {"model": "a/b/c"}})), Err("spec.embedding.model")),
        (spec(json!({"embedding": {"quantization": "int4"}})), Err("int4")),
        (spec(json!({"embedding": {"quantization": "int8"}})), Ok(())),
        (reranker(json!({"revision": "main"})), Err("revision belongs to a named model")),
        (reranker(json!({"model": "a", "revision": "main"})), Ok(())),
        (reranker(json!({"model": "a", "revision": "-x"})), Err("spec.reranker.revision")),
        (reranker(json!({"batchSize": 0})), Err("spec.reranker.batchSize")),
        (reranker(json!({"batchSize": -1})), Err("spec.reranker.batchSize")),
        (reranker(json!({"batchSize": 4096})), Ok(())),
        (reranker(json!({"maxLength": 32769})), Err("spec.reranker.maxLength")),
        (reranker(json!({"tokenBudget": 4096})), Err("tokenBudget must be at least maxLength")),
        (reranker(json!({"tokenBudget": 4096, "maxLength": 4096})), Ok(())),
        (reranker(json!({"instruction": {"template": "code", "text": "x"}})), Err("name one of template and text")),
        (reranker(json!({"instruction": {"template": "code"}})), Ok(())),
        (reranker(json!({"instruction": {"template": "poem"}})), Err("poem")),
        (reranker(json!({"allowedOverrides": [{"model": "a"}, {"model": "a"}]})), Err("Duplicate")),
        (reranker(json!({"allowedOverrides": [{"model": "a", "quantizations": ["int8"]}, {"model": "b"}]})), Ok(())),
        (reranker(json!({"custom": [{"model": "a", "batchSizes": {"float16": 8}}]})), Ok(())),
        (reranker(json!({"custom": [{"model": "a", "batchSizes": {"float16": 0}}]})), Err("float16")),
        (
            reranker(
                json!({"custom": [{"model": "a", "prompt": {"prefix": "", "body": "{query} {document}", "suffix": ""}}]}),
            ),
            Ok(()),
        ),
        (
            reranker(
                json!({"custom": [{"model": "a", "prompt": {"prefix": "", "body": "{document}?", "suffix": ""}}]}),
            ),
            Err("body must end with {document}"),
        ),
        (
            reranker(json!({"custom": [{"model": "a", "scoring": {"yesToken": "1", "noToken": "1"}}]})),
            Err("must differ"),
        ),
        (reranker(json!({"custom": [{"model": "a", "scoring": {"yesToken": "1", "noToken": "0"}}]})), Ok(())),
        // Requests.
        (spec(json!({"candidates": {"minimum": 300}})), Err("minimum must be at most maximum")),
        (spec(json!({"candidates": {"minimum": 300, "maximum": 300}})), Ok(())),
        (spec(json!({"timeouts": {"requestSeconds": 0}})), Err("spec.timeouts.requestSeconds")),
        (spec(json!({"lifecycle": {"loading": "Lazy"}})), Err("Lazy")),
        (spec(json!({"lifecycle": {"loading": "Preload", "unloadTimeoutSeconds": 0}})), Ok(())),
        (spec(json!({"api": {"limits": {"bodyBytes": 10}}})), Err("spec.api.limits.bodyBytes")),
        // The store.
        (collection(json!({"collections": []})), Err("spec.vectorStore.qdrant.collections")),
        (collection(json!({"collections": [{"name": "a"}, {"name": "a"}]})), Err("Duplicate")),
        (collection(json!({"url": "qdrant:6334"})), Err("url must be http:// or https://")),
        (collection(json!({"url": "http://qdrant"})), Err("url must name Qdrant's gRPC port")),
        (collection(json!({"url": "https://[fd00::1]"})), Err("url must name Qdrant's gRPC port")),
        (collection(json!({"url": "https://[fd00::1]:443/"})), Ok(())),
        (collection(json!({"url": "ftp://qdrant:6334"})), Err("url must be http:// or https://")),
        (collection(json!({"url": "http://169.254.169.254:80"})), Err("link-local address or a metadata service")),
        (
            collection(json!({"url": "http://metadata.google.internal:80"})),
            Err("link-local address or a metadata service"),
        ),
        (collection(json!({"url": "http://localhost:6334"})), Err("must not be the pod itself")),
        (collection(json!({"url": "http://127.0.0.1:6334"})), Err("must not be the pod itself")),
        (collection(json!({"apiKeySecretRef": {"name": "q", "key": "k"}})), Err("an API key needs https://")),
        (collection(json!({"apiKeySecretRef": {"name": "q", "key": "k"}, "allowInsecure": true})), Ok(())),
        (collection(json!({"apiKeySecretRef": {"name": "q", "key": "k"}, "url": "https://q:6334"})), Ok(())),
        (collection(json!({"apiKeySecretRef": {"name": "q"}})), Err("key")),
        (
            collection(json!({"tls": {"caSecretRef": {"name": "q", "key": "ca.crt"}}})),
            Err("tls needs a url that begins with https://"),
        ),
        (collection(json!({"tls": {}, "url": "https://q:6334"})), Ok(())),
        // Where it runs.
        (spec(json!({"accelerator": {"gpu": {}, "cpu": {}}})), Err("name one of gpu, cpu and resourceClaims")),
        (spec(json!({"accelerator": {}})), Err("name one of gpu, cpu and resourceClaims")),
        (spec(json!({"accelerator": {"cpu": {}}})), Ok(())),
        (spec(json!({"accelerator": {"gpu": {"count": 0}}})), Err("spec.accelerator.gpu.count")),
        (spec(json!({"accelerator": {"gpu": {"resourceName": "gpu"}}})), Err("spec.accelerator.gpu.resourceName")),
        (spec(json!({"accelerator": {"gpu": {"resourceName": "amd.com/gpu", "count": 2}}})), Ok(())),
        (
            spec(json!({"accelerator": {"resourceClaims": [{"name": "gpu"}]}})),
            Err("name one of resourceClaimName and resourceClaimTemplateName"),
        ),
        (spec(json!({"accelerator": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "x"}]}})), Ok(())),
        (spec(json!({"replicas": -1})), Err("spec.replicas")),
        (spec(json!({"replicas": 0})), Ok(())),
        (spec(json!({"autoscaling": {"minimum": 3, "maximum": 2}})), Err("minimum must be at most maximum")),
        (spec(json!({"autoscaling": {"maximum": 2}})), Ok(())),
        (spec(json!({"rollout": "Rolling"})), Err("Rolling")),
        // Weights.
        (
            spec(json!({"weights": {"hub": {}, "persistentVolumeClaim": "w"}})),
            Err("name one of hub, persistentVolumeClaim and image"),
        ),
        (spec(json!({"weights": {"persistentVolumeClaim": "w", "cache": {}}})), Err("cache belongs to hub")),
        (spec(json!({"weights": {"hub": {}, "cache": {"size": "20Gi"}}})), Ok(())),
        (spec(json!({"weights": {"cache": {"size": "much"}}})), Err("spec.weights.cache.size")),
        (spec(json!({"weights": {"cache": {"size": "0"}}})), Err("spec.weights.cache.size")),
        (spec(json!({"weights": {"cache": {"storageClass": "Bad Class"}}})), Err("spec.weights.cache.storageClass")),
        (spec(json!({"weights": {"cache": {"storageClass": ""}}})), Ok(())),
        (spec(json!({"weights": {"cache": {"accessMode": "ReadWriteOnce"}}})), Err("accessMode needs storageClass")),
        (one_pod(json!({})), Ok(())),
        (one_pod(json!({"replicas": 0, "rollout": "Recreate"})), Ok(())),
        (one_pod(json!({"replicas": 2})), Err("mounted by one pod alone")),
        (one_pod(json!({"rollout": "Surge"})), Err("mounted by one pod alone")),
        (one_pod(json!({"autoscaling": {"maximum": 2}})), Err("mounted by one pod alone")),
        (spec(json!({"weights": {"image": {"reference": "registry/w@sha256:0"}}})), Ok(())),
        (spec(json!({"weights": {"image": {"reference": "a b"}}})), Err("spec.weights.image.reference")),
        // Images.
        (spec(json!({"image": "not an image!!"})), Err("spec.image")),
        (spec(json!({"image": "[::1]:5000/rerank/server_1:v1.0@sha256:0"})), Ok(())),
        (spec(json!({"imagePullSecrets": [{"name": ""}]})), Err("spec.imagePullSecrets")),
        (spec(json!({"imagePullSecrets": [{"name": "registry"}]})), Ok(())),
        // Pods.
        (
            spec(json!({"podTemplate": {"labels": {"app.kubernetes.io/name": "mine"}}})),
            Err("labels must not name app.kubernetes.io/name"),
        ),
        (
            spec(json!({"podTemplate": {"labels": {"app.kubernetes.io/managed-by": "me"}}})),
            Err("labels must not name app.kubernetes.io/name"),
        ),
        (spec(json!({"podTemplate": {"labels": {"app.kubernetes.io/version": "1", "team": "search"}}})), Ok(())),
        // Access.
        (
            spec(json!({"access": {"clients": [{"name": "a", "collections": []}]}})),
            Err("clients needs apiKeysSecretRef"),
        ),
        (
            spec(
                json!({"access": {"apiKeysSecretRef": {"name": "k"}, "clients": [{"name": "a", "collections": ["docs"]}]}}),
            ),
            Ok(()),
        ),
        (
            spec(json!({"access": {"apiKeysSecretRef": {"name": "Not A Name"}}})),
            Err("spec.access.apiKeysSecretRef.name"),
        ),
        (egress("all"), Err("cidr must be the first address of a range")),
        (egress("10.0.0.0/33"), Err("cidr must be the first address of a range")),
        (egress("10.0.0.1/8"), Err("cidr must be the first address of a range")),
        (egress("10.0.0.0/8"), Ok(())),
        (egress("fd00::/8"), Ok(())),
        (spec(json!({"access": {"networkPolicy": {"egressPeers": [{}]}}})), Err("name one of cidr and podLabels")),
        (spec(json!({"access": {"networkPolicy": {"egressPeers": [{"podLabels": {"app": "qdrant"}}]}}})), Ok(())),
        // Unknown fields.
        (spec(json!({"replica": 2})), Err("replica")),
        (reranker(json!({"batch": 2})), Err("batch")),
    ]
}

/// Two changes to the shortest object, of which the second takes the place of the first.
fn replacements() -> Vec<(Value, Value, Expected)> {
    let cache = |cache: Value| json!({"spec": {"weights": {"cache": cache}}});
    let claim = || cache(json!({"storageClass": "a", "size": "20Gi"}));
    let fixed = "storageClass and accessMode of a claim cannot change";
    vec![
        (claim(), claim(), Ok(())),
        (claim(), cache(json!({"storageClass": "b", "size": "20Gi"})), Err(fixed)),
        (claim(), cache(json!({"storageClass": "a", "size": "20Gi", "accessMode": "ReadWriteMany"})), Err(fixed)),
        (claim(), cache(json!({"storageClass": "a", "size": "20Gi", "accessMode": "ReadWriteOnce"})), Ok(())),
        (claim(), cache(json!({"storageClass": "a", "size": "19Gi"})), Err("size of a claim may only grow")),
        (claim(), cache(json!({"storageClass": "a", "size": "20480Mi"})), Ok(())),
        (claim(), cache(json!({"storageClass": "a", "size": "1T"})), Ok(())),
        // Without a claim everything may change, and it may come and go.
        (claim(), json!({}), Ok(())),
        (claim(), cache(json!({"size": "1Gi"})), Ok(())),
        (cache(json!({"size": "20Gi"})), cache(json!({"size": "1Gi"})), Ok(())),
        (cache(json!({"size": "20Gi"})), cache(json!({"size": "1Gi", "storageClass": "a"})), Ok(())),
        (json!({}), claim(), Ok(())),
    ]
}

fn shortest() -> Value {
    json!({
        "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
        "metadata": {"name": "docs", "namespace": "default"},
        "spec": {
            "embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"},
            "vectorStore": {"qdrant": {"url": "http://qdrant:6334", "collections": [{"name": "docs"}]}}
        }
    })
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    target.as_object_mut().unwrap().remove(name);
                } else {
                    merge(&mut target[name], value);
                }
            }
        }
        value => *target = value.clone(),
    }
}

fn object(change: &Value) -> Value {
    let mut object = shortest();
    merge(&mut object, change);
    object
}

#[test]
fn the_schema_says_so_offline() {
    let schema = Schema::of_the_definition().unwrap();
    let mut differing = Vec::new();
    for (change, expected) in cases() {
        match (schema.check(&object(&change)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) if format!("{error:#}").contains(words) => {}
            (found, expected) => differing.push(format!("{change}: {found:?}, expected {expected:?}")),
        }
    }
    for (before, change, expected) in replacements() {
        match (schema.check_change(Some(&object(&before)), &object(&change)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) if format!("{error:#}").contains(words) => {}
            (found, expected) => differing.push(format!("{before} -> {change}: {found:?}, expected {expected:?}")),
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
}

#[test]
fn every_rule_has_a_case_that_it_refuses() {
    let schema = Schema::of_the_definition().unwrap();
    let mut messages = Vec::new();
    collect(schema.value(), &mut messages);
    let refused: Vec<&str> = cases()
        .into_iter()
        .map(|(_, expected)| expected)
        .chain(replacements().into_iter().map(|(.., expected)| expected))
        .filter_map(Result::err)
        .collect();
    let silent: Vec<&String> =
        messages.iter().filter(|message| !refused.iter().any(|words| message.contains(words))).collect();
    assert!(silent.is_empty() && messages.len() > 20, "{silent:#?}");
}

fn collect(schema: &Value, messages: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        messages.push(rule["message"].as_str().unwrap().to_owned());
    }
    for inner in schema["properties"].as_object().into_iter().flatten().map(|(_, inner)| inner) {
        collect(inner, messages);
    }
    if schema["items"].is_object() {
        collect(&schema["items"], messages);
    }
}

#[tokio::test]
async fn kubernetes_says_the_same() {
    let server = ApiServer::start().await.unwrap();
    let path = root().join("crds/rerankdeployments.yaml");
    let applied = server.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await.unwrap();
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(!applied.stderr.contains("Warning"), "{applied:?}");
    server.as_administrator().established("rerankdeployments.rerank.semantik.dev").await;
    let mut differing = Vec::new();
    for (change, expected) in cases() {
        let text = object(&change).to_string();
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let finished = server.kubectl_with_input(&arguments, &text).await.unwrap();
        match expected {
            Ok(()) if finished.code == Some(0) => {}
            Err(words) if finished.code == Some(1) && finished.stderr.contains(words) => {}
            expected => differing.push(format!("{change}: {finished:?}, expected {expected:?}")),
        }
    }
    for (at, (before, change, expected)) in replacements().into_iter().enumerate() {
        let named = |change: &Value| {
            let mut object = object(change);
            object["metadata"]["name"] = json!(format!("docs-{at}"));
            object.to_string()
        };
        let created = server.kubectl_with_input(&["create", "-f", "-"], &named(&before)).await.unwrap();
        assert_eq!(created.code, Some(0), "{created:?}");
        let arguments = ["replace", "--dry-run=server", "--validate=strict", "-f", "-"];
        let finished = server.kubectl_with_input(&arguments, &named(&change)).await.unwrap();
        match expected {
            Ok(()) if finished.code == Some(0) => {}
            Err(words) if finished.code == Some(1) && finished.stderr.contains(words) => {}
            expected => differing.push(format!("{before} -> {change}: {finished:?}, expected {expected:?}")),
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
}
