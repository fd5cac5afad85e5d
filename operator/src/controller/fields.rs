//! What the server calls otherwise than the object does: its configuration names files where the object names Secrets. Pure.

/// Words of the server, and what they are in an object. The longer ones first. A test holds it against the fields of both.
const WORDS: [(&str, &str); 16] = [
    ("listen.tls.certificateFile", "access.tlsSecretRef"),
    ("listen.tls.keyFile", "access.tlsSecretRef"),
    ("qdrant.tls.certificateFile", "qdrant.tls.clientSecretRef"),
    ("qdrant.tls.keyFile", "qdrant.tls.clientSecretRef"),
    ("qdrant.tls.caFile", "qdrant.tls.caSecretRef"),
    ("qdrant.apiKeyFile", "qdrant.apiKeySecretRef"),
    ("name a file with the key in apiKeyFile", "name a Secret with the key in apiKeySecretRef"),
    ("access.apiKeysFile", "access.apiKeysSecretRef"),
    ("name a file with a token in weights.hub.tokenFile", "name a Secret with a token in weights.hub.tokenSecretRef"),
    ("name a file with the token in tokenFile", "name a Secret with the token in tokenSecretRef"),
    ("weights.hub.tokenFile", "weights.hub.tokenSecretRef"),
    (
        "is this machine itself, and vectorStore.qdrant.allowLoopback is false",
        "is the pod itself; name Qdrant's Service, such as http://qdrant:6334",
    ),
    ("make room or name another weights.directory", "ask for more in weights.cache.size"),
    (
        "name another directory in weights.directory",
        "name another claim in weights.persistentVolumeClaim or another image in weights.image",
    ),
    (
        "weights.directory must be writable where weights.hub is configured",
        "the volume of weights.cache must be writable",
    ),
    ("weights.directory", "weights"),
];

/// A path or a message of the server, with the fields that the object has.
pub fn of_object(text: &str) -> String {
    WORDS.iter().fold(text.to_owned(), |text, (server, object)| text.replace(server, object))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rerank_crds::RerankDeploymentSpec;
    use serde_json::{Value, json};

    use super::super::build::server_config::render;
    use super::*;

    /// Fields that the operator sets, and no message to a user of objects names.
    const OPERATORS_OWN: [&str; 6] = [
        "listen.apiAddress",
        "listen.controlAddress",
        "logging.format",
        "logging.slowRequestMilliseconds",
        "api.limits.queueBytes",
        "vectorStore.qdrant.allowLoopback",
    ];

    fn leaves(path: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, inner)| leaves(&format!("{path}.{name}"), inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| leaves(path, inner, found)),
            Value::Null => {}
            _ => drop(found.insert(path.trim_start_matches('.').to_owned())),
        }
    }

    #[test]
    fn every_field_of_the_server_that_an_object_can_set_has_its_name_in_the_object() {
        let secret = json!({"name": "s", "key": "k"});
        let spec = json!({
            "embedding": {"model": "a", "revision": "main", "instruction": "x"},
            "reranker": {"model": "b", "revision": "main", "instruction": {"text": "x"}, "batchSize": 1, "tokenBudget": 8192,
                "allowedOverrides": [{"model": "c", "revision": "main", "quantizations": ["int8"]}],
                "custom": [{"model": "d", "embeddingModels": ["a"], "batchSizes": {"int8": 1}, "prompt": {"prefix": "", "body": "", "suffix": ""},
                    "scoring": {"yesToken": "a", "noToken": "b"}}]},
            "vectorStore": {"qdrant": {"url": "x", "collections": [{"name": "c", "vectorName": "v"}], "apiKeySecretRef": secret,
                "tls": {"caSecretRef": secret, "clientSecretRef": {"name": "s"}}}},
            "weights": {"hub": {"tokenSecretRef": secret}},
            "access": {"apiKeysSecretRef": {"name": "s"}, "clients": [{"name": "a", "collections": ["c"]}], "tlsSecretRef": {"name": "s"}},
            "api": {"modelAliases": {"e": "a"}}, "tracing": {"otlpEndpoint": "x"}
        });
        let spec: RerankDeploymentSpec = serde_json::from_value(spec).unwrap();
        let (mut server, mut object) = (BTreeSet::new(), BTreeSet::new());
        leaves("", &serde_json::to_value(render(&spec)).unwrap(), &mut server);
        leaves("", &serde_json::to_value(&spec).unwrap(), &mut object);
        let is_known = |path: &String| {
            let path = of_object(path);
            object.iter().any(|known| *known == path || known.starts_with(&format!("{path}.")))
                || OPERATORS_OWN.contains(&path.as_str())
                || path == "weights"
        };
        let unknown: Vec<&String> = server.iter().filter(|path| !is_known(path)).collect();
        assert!(unknown.is_empty() && server.len() > 40, "{} {unknown:?}", server.len());
    }

    #[test]
    fn a_finding_of_a_pod_names_what_the_object_has() {
        for (server, object) in [
            ("qdrant.apiKeyFile: /etc/x holds no key", "qdrant.apiKeySecretRef: /etc/x holds no key"),
            ("(access.apiKeysFile) cannot be used", "(access.apiKeysSecretRef) cannot be used"),
            (
                "localhost is this machine itself, and vectorStore.qdrant.allowLoopback is false",
                "localhost is the pod itself; name Qdrant's Service, such as http://qdrant:6334",
            ),
            ("vectorStore.qdrant.url: connection refused", "vectorStore.qdrant.url: connection refused"),
        ] {
            assert_eq!(of_object(server), object);
        }
    }
}
