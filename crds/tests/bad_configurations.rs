//! What cannot be served is refused, with the field and what is allowed, and all of it at once.

use rerank_crds::ServerConfig;
use rerank_crds::server_config::ConfigError;

/// The violations of a configuration that can be read.
fn violations(text: &str) -> Vec<String> {
    let config = ServerConfig::from_yaml(text).expect(text);
    match config.validate() {
        Ok(()) => Vec::new(),
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

/// Checks that a configuration has exactly one violation, at `path`, whose text contains `part`.
#[track_caller]
fn assert_refused(text: &str, path: &str, part: &str) {
    let found = violations(text);
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    assert!(found[0].starts_with(&format!("{path}: ")), "{text}: {found:#?}");
    assert!(found[0].contains(part), "{text}: {found:#?}");
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (section, field, refused, allowed, range) in [
        ("reranker", "batchSize", &[0, -1, 4_097][..], &[1, 4_096][..], "1 to 4096"),
        ("reranker", "maxLength", &[0, 127, 32_769, -8_192], &[128, 32_768], "128 to 32768"),
        ("candidates", "multiplier", &[0, -1, 101], &[1, 3, 10, 100], "1 to 100"),
        ("candidates", "maximum", &[1_001, i64::from(i32::MAX)], &[20, 1_000], "1 to 1000"),
        ("lifecycle", "unloadTimeoutSeconds", &[-1, 604_801], &[0, 604_800], "0 to 604800"),
        ("timeouts", "requestSeconds", &[0, -5, 3_601], &[1, 3_600], "1 to 3600"),
        ("timeouts", "vectorSearchSeconds", &[0, 3_601], &[1, 3_600], "1 to 3600"),
        ("timeouts", "rerankSeconds", &[0, 3_601], &[1, 3_600], "1 to 3600"),
    ] {
        let document = |value: &i64| {
            let model = if section == "reranker" { "model: a, " } else { "" };
            let other = if section == "reranker" { "" } else { "reranker: {model: a}\n" };
            format!("{other}{section}: {{{model}{field}: {value}}}")
        };
        for value in refused {
            assert_refused(&document(value), &format!("{section}.{field}"), &format!("allowed: {range}"));
        }
        for value in allowed {
            assert_eq!(violations(&document(value)), [""; 0], "{}", document(value));
        }
    }
    for (field, refused, range) in [
        ("documents", 0, "1 to 100000"),
        ("bodyBytes", 1_023, "1024 to 1073741824"),
        ("queuePairs", 0, "1 to 10000000"),
        ("queueBytes", 1_048_575, "1048576 to 1099511627776"),
    ] {
        let text = format!("reranker: {{model: a}}\napi: {{limits: {{{field}: {refused}}}}}");
        assert_refused(&text, &format!("api.limits.{field}"), range);
    }
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    for (text, path, part) in [
        ("candidates: {minimum: 100, maximum: 50}", "candidates.minimum", "100 is more than candidates.maximum, 50"),
        (
            "reranker: {model: a, tokenBudget: 4096}",
            "reranker.tokenBudget",
            "4096 is less than reranker.maxLength, 8192; a prompt would not fit; allowed: at least 8192",
        ),
        (
            "reranker: {model: a, instruction: {template: code, text: x}}",
            "reranker.instruction",
            "both template and text",
        ),
        (
            "listen: {apiAddress: '127.0.0.1:80', controlAddress: '127.0.0.1:80'}",
            "listen.controlAddress",
            "ports of their own",
        ),
        ("api: {modelAliases: {gpt: acme/other}}", "api.modelAliases[gpt]", "`acme/other` is not served; allowed: a"),
        ("embedding: {model: b}\napi: {modelAliases: {b: a}}", "api.modelAliases[b]", "is the name of a served model"),
    ] {
        let text = if text.contains("reranker:") { text.to_owned() } else { format!("reranker: {{model: a}}\n{text}") };
        assert_refused(&text, path, part);
    }
    assert_eq!(violations("reranker: {model: a}\nlisten: {apiAddress: '[::]:0', controlAddress: '[::]:0'}"), [""; 0]);
    assert_eq!(violations("reranker: {model: a}\ntimeouts: {requestSeconds: 5}"), [""; 0]);
}

#[test]
fn a_configuration_that_serves_nothing_says_what_is_missing() {
    let store = "vectorStore: {embedded: {path: d, collections: [{name: c}]}}";
    for (text, part) in [
        (
            "",
            "name embedding.model and vectorStore to search, or without vectorStore embedding.model or reranker.model",
        ),
        ("{}", "is missing"),
        ("reranker: {enabled: false, model: a}", "nothing is left to serve"),
        (store, "names the model that indexed the collections"),
    ] {
        assert_refused(text, "embedding.model", part);
    }
    for text in ["embedding: {model: a}", "reranker: {model: a}", "embedding: {model: a}\nreranker: {enabled: false}"] {
        assert_eq!(violations(text), [""; 0], "{text}");
    }
    assert_eq!(violations(&format!("embedding: {{model: a}}\n{store}")), [""; 0]);
}

#[test]
fn models_that_could_leave_the_weights_directory_are_refused() {
    for id in ["../secret", "/etc/passwd", "a/../b", "a//b", "''", "'a b'", ".ssh/id", "a/b/c"] {
        for (text, path) in [
            (format!("embedding: {{model: {id}}}"), "embedding.model"),
            (format!("reranker: {{model: {id}}}"), "reranker.model"),
            (format!("reranker: {{model: a, defaultModel: {id}}}"), "reranker.defaultModel"),
            (format!("reranker: {{model: a, revision: {}}}", id.replace('b', "..")), "reranker.revision"),
            (
                format!("reranker: {{model: a, allowedOverrides: [{{model: {id}}}]}}"),
                "reranker.allowedOverrides[0].model",
            ),
            (format!("reranker: {{model: a, custom: [{{model: {id}}}]}}"), "reranker.custom[0].model"),
            (
                format!("reranker: {{model: a, custom: [{{model: b, embeddingModels: [c, {id}]}}]}}"),
                "reranker.custom[0].embeddingModels[1]",
            ),
        ] {
            if path == "reranker.revision" && id == "a/b/c" {
                continue;
            }
            assert_refused(&text, path, "allowed: ");
        }
    }
}

#[test]
fn a_hub_has_a_safe_url_and_what_must_be_pinned_has_a_commit() {
    let hub = |hub: &str| format!("reranker: {{model: a}}\nweights: {{hub: {hub}}}");
    assert_eq!(violations(&hub("{}")), [""; 0]);
    assert_refused(&hub("{endpoint: hub}"), "weights.hub.endpoint", "such as https://huggingface.co");
    assert_refused(&hub("{endpoint: 'http://169.254.169.254'}"), "weights.hub.endpoint", "link-local");
    assert_refused(&hub("{endpoint: 'http://hub', tokenFile: t}"), "weights.hub.tokenFile", "over plain http");
    assert_eq!(violations(&hub("{endpoint: 'http://127.0.0.1:80', tokenFile: t}")), [""; 0]);
    assert_refused(&hub("{tokenFile: ''}"), "weights.hub.tokenFile", "is empty");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let pinned = |models: &str| format!("{models}\nweights: {{hub: {{}}, requirePinned: true}}");
    assert_eq!(violations(&pinned(&format!("reranker: {{model: a, revision: {commit}}}"))), [""; 0]);
    for (models, path, part) in [
        ("reranker: {model: a}".to_owned(), "reranker.revision", "is missing; weights.requirePinned"),
        ("reranker: {model: a, revision: main}".to_owned(), "reranker.revision", "`main` is no commit"),
        (
            format!("embedding: {{model: b}}\nreranker: {{revision: {commit}}}"),
            "embedding.revision",
            "40 hexadecimal digits",
        ),
        (
            format!("reranker: {{model: a, revision: {commit}, allowedOverrides: [{{model: c}}]}}"),
            "reranker.allowedOverrides[0].revision",
            "is missing; weights.requirePinned",
        ),
    ] {
        assert_refused(&pinned(&models), path, part);
    }
    let overridden = |model: &str, revision: &str| {
        format!(
            "reranker: {{model: a, revision: {commit}, allowedOverrides: [{{model: {model}, revision: {revision}}}]}}"
        )
    };
    assert_eq!(violations(&pinned(&overridden("c", commit))), [""; 0]);
    assert_refused(
        &overridden("a", commit),
        "reranker.allowedOverrides[0].revision",
        "its revision in reranker.revision",
    );
    assert_refused(&overridden("c", "''"), "reranker.allowedOverrides[0].revision", "");
}

#[test]
fn traces_go_to_a_collector_that_is_safe_and_slow_is_a_time() {
    let refused = |section: &str, path: &str, part: &str| {
        assert_refused(&format!("reranker: {{model: a}}\n{section}"), path, part);
    };
    let endpoint = "tracing.otlpEndpoint";
    for bad in
        ["", "collector:4317", "grpc://c:4317", "http://c:4318/v1/traces", "http://u:p@c", "http://c?x", "http://c#x"]
    {
        refused(
            &format!("tracing: {{otlpEndpoint: '{bad}'}}"),
            endpoint,
            "allowed: `http://` or `https://`, host and gRPC port of an OTLP collector",
        );
    }
    refused("tracing: {otlpEndpoint: 'http://169.254.169.254'}", endpoint, "link-local address");
    refused("tracing: {otlpEndpoint: 'http://metadata.google.internal'}", endpoint, "metadata service of a cloud");
    for ratio in [-1, 101] {
        refused(
            &format!("tracing: {{sampleRatioPercent: {ratio}}}"),
            "tracing.sampleRatioPercent",
            "allowed: 0 to 100",
        );
    }
    for milliseconds in [-1, 3_600_001] {
        let section = format!("logging: {{slowRequestMilliseconds: {milliseconds}}}");
        refused(&section, "logging.slowRequestMilliseconds", "allowed: 0 to 3600000");
    }
    for good in [
        "tracing: {otlpEndpoint: 'http://localhost:4317', sampleRatioPercent: 0}",
        "tracing: {otlpEndpoint: 'https://collector.example.org:4317', sampleRatioPercent: 100}",
        "logging: {slowRequestMilliseconds: 0}",
    ] {
        assert_eq!(violations(&format!("reranker: {{model: a}}\n{good}")), [""; 0], "{good}");
    }
}

#[test]
fn a_client_that_is_restricted_has_a_key_and_collections_that_exist() {
    let store = "embedding: {model: a}\nvectorStore: {embedded: {path: d, collections: [{name: c}, {name: d}]}}";
    let text = |access: &str| format!("{store}\naccess: {access}");
    assert_eq!(
        violations(&text("{apiKeysFile: k, clients: [{name: x, collections: [d]}, {name: y, collections: []}]}")),
        [""; 0]
    );
    for (access, path, part) in [
        ("{clients: [{name: x, collections: [c]}]}", "access.clients", "needs access.apiKeysFile"),
        ("{apiKeysFile: k, clients: [{name: '', collections: [c]}]}", "access.clients[0].name", "is empty"),
        (
            "{apiKeysFile: k, clients: [{name: x, collections: [c]}, {name: x, collections: [d]}]}",
            "access.clients[1].name",
            "named twice",
        ),
        (
            "{apiKeysFile: k, clients: [{name: x, collections: [c, e]}]}",
            "access.clients[0].collections[1]",
            "`e` is no collection of vectorStore; allowed: c, d",
        ),
    ] {
        assert_refused(&text(access), path, part);
    }
    assert_refused(
        "reranker: {model: a}\naccess: {apiKeysFile: k, clients: [{name: x, collections: [c]}]}",
        "access.clients[0].collections[0]",
        "none, as there is no vectorStore",
    );
}

#[test]
fn a_vector_store_is_one_with_collections_that_have_names_of_their_own() {
    for (store, path, part) in [
        ("{}", "vectorStore", "neither qdrant nor embedded"),
        ("{embedded: {path: d, collections: []}}", "vectorStore.embedded.collections", "at least one collection"),
        ("{embedded: {path: '', collections: [{name: c}]}}", "vectorStore.embedded.path", "is empty"),
        ("{qdrant: {url: 'http://q:6334'}}", "vectorStore.qdrant.collections", "at least one collection"),
        (
            "{embedded: {path: d, collections: [{name: c}, {name: c}]}}",
            "vectorStore.embedded.collections[1].name",
            "named twice",
        ),
        (
            "{embedded: {path: d, collections: [{name: c, textField: ''}]}}",
            "vectorStore.embedded.collections[0].textField",
            "is empty",
        ),
        (
            "{embedded: {path: d, collections: [{name: c, textField: a..b}]}}",
            "vectorStore.embedded.collections[0].textField",
            "empty key",
        ),
        (
            "{embedded: {path: d, collections: [{name: c, vectorName: ''}]}}",
            "vectorStore.embedded.collections[0].vectorName",
            "is empty",
        ),
    ] {
        assert_refused(&format!("embedding: {{model: a}}\nvectorStore: {store}"), path, part);
    }
    for name in ["''", "a/b", "..", ".", "'a\\b'", "' a'", "\"a\\0\"", "'a:b'", &"x".repeat(256)] {
        assert_refused(
            &format!(
                "embedding: {{model: a}}\nvectorStore: {{embedded: {{path: d, collections: [{{name: {name}}}]}}}}"
            ),
            "vectorStore.embedded.collections[0].name",
            "1 to 255 bytes",
        );
    }
    assert_refused(
        "embedding: {model: a}\nvectorStore: {embedded: {path: d, collections: [{name: c}]}, qdrant: {url: 'http://q', \
         collections: [{name: c}]}}",
        "vectorStore",
        "both qdrant and embedded",
    );
}

#[test]
fn qdrant_is_reached_by_a_url_that_is_safe_and_a_key_that_is_not_sent_in_the_clear() {
    let refused = |url: &str, more: &str, path: &str, part: &str| {
        let text = format!(
            "embedding: {{model: a}}\nvectorStore: {{qdrant: {{url: '{url}', collections: [{{name: c}}]{more}}}}}"
        );
        assert_refused(&text, path, part);
    };
    let url = "vectorStore.qdrant.url";
    for bad in ["", "qdrant:6334", "ftp://q", "http://u:p@q", "http://q/x", "http://q?x", "http://q#x"] {
        refused(bad, "", url, "allowed: `http://` or `https://`, a host and a port");
    }
    refused("http://169.254.169.254:6334", "", url, "169.254.169.254 is a link-local address");
    refused("http://[fe80::1]:6334", "", url, "link-local");
    refused("http://metadata.google.internal", "", url, "metadata service of a cloud");
    refused("http://localhost:6334", ", allowLoopback: false", url, "this machine itself");
    let tls = "vectorStore.qdrant.tls";
    refused("http://q", ", apiKeyFile: k", "vectorStore.qdrant.apiKeyFile", "allowInsecure: true");
    refused("https://q", ", apiKeyFile: ''", "vectorStore.qdrant.apiKeyFile", "is empty");
    refused("http://q", ", tls: {caFile: f}", &format!("{tls}.caFile"), "no effect over plain http");
    refused("https://q", ", tls: {certificateFile: f}", &format!("{tls}.keyFile"), "missing beside certificateFile");
    refused("https://q", ", tls: {keyFile: f}", &format!("{tls}.certificateFile"), "missing beside keyFile");
    for good in [
        "url: 'http://q:6334', apiKeyFile: k, allowInsecure: true",
        "url: 'https://q:6334', apiKeyFile: k, tls: {caFile: a, certificateFile: b, keyFile: c}",
    ] {
        let text = format!("embedding: {{model: a}}\nvectorStore: {{qdrant: {{{good}, collections: [{{name: c}}]}}}}");
        assert_eq!(violations(&text), [""; 0], "{good}");
    }
}

#[test]
fn texts_and_custom_models_are_checked() {
    let long = "x".repeat(4_097);
    for (text, path, part) in [
        ("instruction: {text: ''}".to_owned(), "reranker.instruction.text", "is empty; allowed: 1 to 4096 characters"),
        ("instruction: {text: '  '}".to_owned(), "reranker.instruction.text", "is empty"),
        (format!("instruction: {{text: {long}}}"), "reranker.instruction.text", "has 4097 characters"),
        ("instruction: {text: \"a\\0\"}".to_owned(), "reranker.instruction.text", "NUL"),
        ("custom: [{model: b}, {model: b}]".to_owned(), "reranker.custom[1].model", "named twice"),
        (
            "custom: [{model: b, embeddingModels: [e]}, {model: c, embeddingModels: [e]}]".to_owned(),
            "reranker.custom[1].embeddingModels[0]",
            "mapped twice",
        ),
        (
            "custom: [{model: b, batchSizes: {int8: 0}}]".to_owned(),
            "reranker.custom[0].batchSizes.int8",
            "allowed: 1 to 4096",
        ),
        (
            "custom: [{model: b, prompt: {body: '{query}'}}]".to_owned(),
            "reranker.custom[0].prompt.body",
            "does not end with `{document}`",
        ),
        (
            "custom: [{model: b, scoring: {yesToken: 'no'}}]".to_owned(),
            "reranker.custom[0].scoring.noToken",
            "must differ",
        ),
        ("allowedOverrides: [{model: b}, {model: b}]".to_owned(), "reranker.allowedOverrides[1].model", "named twice"),
        (
            "allowedOverrides: [{model: b, quantizations: [int8, int8]}]".to_owned(),
            "reranker.allowedOverrides[0].quantizations",
            "names one twice",
        ),
    ] {
        assert_refused(&format!("reranker: {{model: a, {text}}}"), path, part);
    }
    assert_refused("embedding: {model: a, instruction: ''}", "embedding.instruction", "is empty");
    assert_refused("embedding: {model: a}\nweights: {directory: ''}", "weights.directory", "is empty");
    assert_refused("embedding: {model: a}\naccess: {apiKeysFile: ''}", "access.apiKeysFile", "is empty");
    assert_refused("embedding: {model: a}\nlogging: {filter: ''}", "logging.filter", "is empty");
    let many = (0..257).map(|index| format!("{{model: m{index}}}")).collect::<Vec<_>>().join(", ");
    assert_refused(
        &format!("reranker: {{model: a, allowedOverrides: [{many}]}}"),
        "reranker.allowedOverrides",
        "has 257 entries; allowed: at most 256",
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = ServerConfig::load(
        "candidates: {multiplier: 0}\ntimeouts: {rerankSeconds: 0}\nvectorStore: {}\nreranker: {batchSize: 0}",
    )
    .unwrap_err();
    assert!(matches!(error, ConfigError::Invalid(_)));
    let paths: Vec<_> = error.to_string().lines().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(
        paths,
        ["embedding.model", "reranker.batchSize", "candidates.multiplier", "timeouts.rerankSeconds", "vectorStore"]
    );
}
