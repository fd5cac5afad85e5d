//! The reference of every setting as a Markdown table: paths and defaults from the types, meanings from here. Pure.
//!
//! `docs/configuration.md` holds [`markdown`]; a test compares the two, and another fails where a field has no meaning.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_yaml::Value;

use super::{AllowedOverride, ClientAccess, Collection, Embedded, Hub, ListenTls, Qdrant, ServerConfig, VectorStore};
use crate::catalog::{CustomReranker, Prompt, Scoring};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where it stands, such as `reranker.custom[].model`.
    pub path: String,
    /// What it is when left out, as YAML; `none` where nothing is, `required` where it cannot be left out.
    pub default: String,
    /// What it means. None where this file does not say.
    pub meaning: Option<&'static str>,
}

/// Every setting, in the order of the file.
///
/// # Errors
/// Where the types cannot be written as YAML.
pub fn settings() -> Result<Vec<Setting>, serde_yaml::Error> {
    let mut settings = Vec::new();
    collect(String::new(), &serde_yaml::to_value(complete())?, &mut settings);
    Ok(settings)
}

/// The reference as a Markdown page.
///
/// # Errors
/// As [`settings`].
pub fn markdown() -> Result<String, serde_yaml::Error> {
    let mut page = HEAD.to_owned();
    for Setting { path, default, meaning } in settings()? {
        let default = match default.as_str() {
            "none" | "required" => default,
            value => format!("`{}`", value.replace('|', "\\|")),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{path}` | {default} | {} |", meaning.unwrap_or_default());
    }
    Ok(page)
}

const HEAD: &str = "# Configuration of the server\n\n\
    `rerank-server serve --config FILE` reads YAML (or JSON) with these settings. Every one may be left out unless it says \
    *required*, which then holds where its section is present; unknown ones are refused. `[]` stands for each entry of a \
    list. Secrets never stand in the file: it names files that hold them.\n\n\
    This page is made from the code; a test compares the two.\n\n\
    | setting | default | meaning |\n|---|---|---|\n";

/// The default configuration with every optional section present once. An empty text stands for what is required.
fn complete() -> ServerConfig {
    let collections = vec![Collection { name: String::new(), vector_name: None, text_field: "text".to_owned() }];
    let mut config = ServerConfig {
        vector_store: Some(VectorStore {
            qdrant: Some(Qdrant { collections: collections.clone(), ..Qdrant::default() }),
            embedded: Some(Embedded { collections, ..Embedded::default() }),
            writable: false,
        }),
        ..ServerConfig::default()
    };
    config.reranker.allowed_overrides =
        vec![AllowedOverride { model: String::new(), revision: None, quantizations: Vec::new() }];
    config.reranker.custom = vec![CustomReranker {
        model: String::new(),
        embedding_models: Vec::new(),
        batch_sizes: std::collections::BTreeMap::new(),
        prompt: Prompt::default(),
        scoring: Scoring::default(),
    }];
    config.weights.hub = Some(Hub::default());
    config.listen.tls = Some(ListenTls { certificate_file: PathBuf::new(), key_file: PathBuf::new() });
    config.access.clients = vec![ClientAccess { name: String::new(), collections: vec![String::new()] }];
    config
}

fn collect(path: String, value: &Value, settings: &mut Vec<Setting>) {
    let default = match value {
        Value::Mapping(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let key = key.as_str().unwrap_or_default();
                let separator = if path.is_empty() { "" } else { "." };
                collect(format!("{path}{separator}{key}"), value, settings);
            }
            return;
        }
        Value::Sequence(entries) if !entries.is_empty() => {
            for entry in entries {
                collect(format!("{path}[]"), entry, settings);
            }
            return;
        }
        Value::String(text) if text.is_empty() => "required".to_owned(),
        Value::String(text) if text.chars().any(char::is_control) => {
            format!("\"{}\"", text.replace('"', "\\\"").replace('\n', "\\n"))
        }
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => "none".to_owned(),
    };
    let meaning = MEANINGS.iter().find(|(known, _)| *known == path).map(|(_, meaning)| *meaning);
    settings.push(Setting { path, default, meaning });
}

/// What each setting means, with its bounds, in the order of the file.
const MEANINGS: &[(&str, &str)] = &[
    ("listen.apiAddress", "Address and port of the API; port 0 is any free one"),
    (
        "listen.tls.certificateFile",
        "PEM file of the API's certificate and those that vouch for it, read again every 5 s; none: plain HTTP",
    ),
    ("listen.tls.keyFile", "PEM file of the certificate's key, together with `certificateFile`"),
    ("listen.controlAddress", "Address and port of probes, metrics and model states; not that of the API"),
    (
        "engine",
        "Which engine computes: Auto (Packed on a CPU where it runs the model, else Mistralrs), Mistralrs, Packed (the Qwen3 family on a CPU)",
    ),
    (
        "embedding.model",
        "Model that indexed the collections, as `name` or `organisation/name`; required with `vectorStore`",
    ),
    ("embedding.revision", "Commit, tag or branch of the embedding model"),
    (
        "embedding.instruction",
        "What is put before a query, 1 to 4,096 characters; none: the model's own where it is known",
    ),
    ("embedding.quantization", "How its weights are held: float32, float16, bfloat16, int8"),
    ("reranker.enabled", "false: vector search only, no reranker is ever loaded"),
    ("reranker.model", "Names a reranker; none: selected by the embedding model"),
    ("reranker.revision", "Commit, tag or branch of the named reranker"),
    ("reranker.defaultModel", "Used where neither mapping nor size selects a reranker"),
    ("reranker.quantization", "How its weights are held: float32, float16, bfloat16, int8"),
    (
        "reranker.instruction.template",
        "What 'relevant' means: general, technical, code, qa; none: general, unless `text` is given",
    ),
    ("reranker.instruction.text", "The same in words of one's own, 1 to 4,096 characters; not beside `template`"),
    ("reranker.batchSize", "Pairs in a batch, 1 to 4,096; none: the catalogue's table"),
    (
        "reranker.tokenBudget",
        "Tokens in a batch, which bounds memory, at least `maxLength`; none: on a GPU `batchSize` x 512 but at least `maxLength`, on a CPU `maxLength`",
    ),
    ("reranker.maxLength", "Tokens of one prompt, 128 to 32,768; documents are cut to fit"),
    ("reranker.allowedOverrides[].model", "A further reranker that a request may ask for"),
    ("reranker.allowedOverrides[].revision", "Commit, tag or branch of that reranker"),
    ("reranker.allowedOverrides[].quantizations", "How its weights may be held; none: as `reranker.quantization`"),
    ("reranker.custom[].model", "A reranker that the catalogue does not know; it must answer with a token"),
    ("reranker.custom[].embeddingModels", "Embedding models that select it, before the catalogue's own mapping"),
    (
        "reranker.custom[].batchSizes",
        "Pairs in a batch for each quantization, 1 to 4,096; none: the catalogue's row of the nearest size",
    ),
    ("reranker.custom[].prompt.prefix", "What stands before the body; control tokens are live"),
    (
        "reranker.custom[].prompt.body",
        "Has `{query}` once, may have `{instruction}`, ends with `{document}`; control tokens are never live",
    ),
    ("reranker.custom[].prompt.suffix", "What stands after the body; control tokens are live"),
    ("reranker.custom[].scoring.yesToken", "Text of the token that means relevant"),
    ("reranker.custom[].scoring.noToken", "Text of the token that means not relevant"),
    (
        "reranker.selfTest",
        "What a failed self-test does: Enforce refuses the model, Warn logs it, Disabled tests nothing; see docs/self-test.md",
    ),
    ("candidates.multiplier", "Stage 1 brings `k` x this many candidates, 1 to 100; 10 for precision, 3 for speed"),
    ("candidates.minimum", "The fewest candidates, 1 to 1,000"),
    ("candidates.maximum", "The most candidates, 1 to 1,000; a larger `k` is refused while reranking"),
    ("lifecycle.loading", "OnDemand: at the first request; Preload: at start, before the server is ready"),
    (
        "lifecycle.whileLoading",
        "What a search does while the reranker loads: Wait, up to its deadline, or Fallback, vector order at once",
    ),
    ("lifecycle.warm", "Run the largest batch after each load"),
    ("lifecycle.unloadTimeoutSeconds", "Idle seconds after which models are unloaded, up to a week; 0 = never"),
    ("timeouts.requestSeconds", "Deadline of a whole request, 1 to 3,600"),
    ("timeouts.vectorSearchSeconds", "Deadline of stage 1, 1 to 3,600"),
    (
        "timeouts.rerankSeconds",
        "Deadline of stage 2, 1 to 3,600; past it the answer is the vector order. Never more than `requestSeconds`, whichever is written",
    ),
    (
        "vectorStore.qdrant.url",
        "`http://` or `https://`, host and gRPC port; exactly one of `qdrant`, `embedded` where `vectorStore` is present, which is left out to rerank only",
    ),
    (
        "vectorStore.qdrant.collections[].name",
        "A collection that may be searched; the first is the default, all share the embedding model",
    ),
    ("vectorStore.qdrant.collections[].vectorName", "Named vector of the collection; none: the unnamed one"),
    ("vectorStore.qdrant.collections[].textField", "Payload path of the text, dots between keys"),
    ("vectorStore.qdrant.apiKeyFile", "File that holds Qdrant's API key"),
    ("vectorStore.qdrant.tls.caFile", "PEM file of the CA that signed Qdrant's certificate; none: the system's roots"),
    ("vectorStore.qdrant.tls.certificateFile", "PEM file of the client certificate, together with `keyFile`"),
    ("vectorStore.qdrant.tls.keyFile", "PEM file of the client key, together with `certificateFile`"),
    ("vectorStore.qdrant.allowInsecure", "Allow an API key over plain http"),
    (
        "vectorStore.qdrant.allowLoopback",
        "Allow an address of this machine; link-local addresses and metadata services of clouds are never allowed, by name, by address, or as what a name resolves to",
    ),
    ("vectorStore.embedded.path", "Folder of the collections of the embedded store"),
    (
        "vectorStore.embedded.collections[].name",
        "A collection that may be searched; the first is the default, all share the embedding model",
    ),
    ("vectorStore.embedded.collections[].vectorName", "Named vector of the collection; none: the unnamed one"),
    ("vectorStore.embedded.collections[].textField", "Payload path of the text, dots between keys"),
    ("vectorStore.writable", "Whether documents can be indexed through the API"),
    ("weights.directory", "Folder that holds each model under its id, or a hub cache"),
    (
        "weights.hub.endpoint",
        "Hub that models are downloaded from which `weights.directory` lacks, into it; a proxy comes from HTTPS_PROXY and NO_PROXY; without `hub` the server connects to none",
    ),
    ("weights.hub.tokenFile", "File that holds a token of an account that may read the models, read at each download"),
    (
        "weights.requirePinned",
        "Refuse models whose exact content is not known beforehand: from a hub each needs a commit as its revision, a folder a manifest of digests; see docs/weights.md",
    ),
    (
        "access.apiKeysFile",
        "File with a line `client: key` for each client, or folder with a file for each, read again every 5 s, the last ones count on where that fails; none: no key is asked for",
    ),
    (
        "access.clients[].name",
        "Client of `apiKeysFile` that may use some collections only; all others may use every one",
    ),
    (
        "access.clients[].collections[]",
        "A collection that it may search and index, others answer 403; its default is the first of `vectorStore` among them; empty: it may only rerank and embed",
    ),
    (
        "access.modelControl",
        "Who may load and unload models (`POST /v1/models/load`, `/v1/models/unload`): Authenticated (callers with a key), Open, Disabled",
    ),
    ("api.modelAliases", "Names that clients send, each for a served model: `alias: model`"),
    ("api.limits.documents", "Documents of one rerank request, 1 to 100,000"),
    ("api.limits.bodyBytes", "Bytes of one request body, 1 KiB to 1 GiB"),
    (
        "api.limits.queuePairs",
        "Pairs waiting or being scored, 1 to 10,000,000; past it 503, and 429 for a client that has its share of it",
    ),
    (
        "api.limits.queueBytes",
        "Memory of the texts and tokens that wait or are being scored, 1 MiB to 1 TiB, counted at most until texts are tokenized; past it as `queuePairs`",
    ),
    (
        "logging.filter",
        "Log filter in `RUST_LOG` syntax, without regular expressions; `mistralrs_core` and `qdrant_edge` tell errors alone unless it names them",
    ),
    ("logging.format", "Json, one object a line, or Text"),
    (
        "logging.slowRequestMilliseconds",
        "A request that takes longer is told as a warning that names the stage which took most, up to 3,600,000; 0 = never",
    ),
    (
        "tracing.otlpEndpoint",
        "`http://` or `https://`, host and port of a collector that speaks OTLP over gRPC, such as `http://collector:4317`; none: no traces; see docs/tracing.md",
    ),
    (
        "tracing.sampleRatioPercent",
        "Of a hundred requests that come without a `traceparent`, so many are traced, 0 to 100; one that comes with a sampled `traceparent` always is",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_meaning_and_every_meaning_a_field() {
        let settings = settings().unwrap();
        let without: Vec<_> = settings.iter().filter(|setting| setting.meaning.is_none()).collect();
        assert!(without.is_empty(), "add these to MEANINGS: {without:?}");
        let paths: Vec<_> = settings.iter().map(|setting| setting.path.as_str()).collect();
        let known: Vec<_> = MEANINGS.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, known, "MEANINGS names each field once, in the order of the file");
    }

    #[test]
    fn defaults_are_those_of_the_types() {
        let settings = settings().unwrap();
        let default = |path: &str| settings.iter().find(|setting| setting.path == path).unwrap().default.as_str();
        assert_eq!(default("candidates.multiplier"), "5");
        assert_eq!(default("reranker.selfTest"), "Enforce");
        assert_eq!(default("reranker.batchSize"), "none");
        assert_eq!(default("vectorStore.qdrant.url"), "required");
        assert_eq!(default("reranker.custom[].model"), "required");
        assert_eq!(
            default("reranker.custom[].prompt.suffix"),
            "\"<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n\""
        );
    }

    /// Every mapping of a document, by its path.
    fn mappings(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Mapping(fields) => {
                found.push(path.to_owned());
                for (key, value) in fields {
                    let separator = if path.is_empty() { "" } else { "." };
                    mappings(&format!("{path}{separator}{}", key.as_str().unwrap()), value, found);
                }
            }
            Value::Sequence(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    mappings(&format!("{path}[{index}]"), entry, found);
                }
            }
            _ => {}
        }
    }

    /// The mapping at a path.
    fn at<'a>(document: &'a mut Value, path: &str) -> &'a mut Value {
        path.split(['.', '[']).filter(|part| !part.is_empty()).fold(document, |value, part| {
            match part.strip_suffix(']') {
                Some(index) => &mut value[index.parse::<usize>().unwrap()],
                None => &mut value[part],
            }
        })
    }

    #[test]
    fn an_unknown_field_is_refused_at_every_level_with_its_path() {
        let document = serde_yaml::to_value(complete()).unwrap();
        let mut paths = Vec::new();
        mappings("", &document, &mut paths);
        // Its keys are the user's own.
        paths.retain(|path| path != "api.modelAliases");
        assert!(paths.len() >= 23, "{paths:?}");
        for path in paths {
            let mut document = document.clone();
            at(&mut document, &path)["surprise"] = Value::from(1);
            let text = serde_yaml::to_string(&document).unwrap();
            let error = ServerConfig::from_yaml(&text).unwrap_err().to_string();
            let separator = if path.is_empty() { "" } else { "." };
            assert!(error.starts_with(&format!("{path}{separator}surprise: unknown ")), "{path}: {error}");
            assert!(error.contains("expected "), "{path}: {error}");
        }
    }
}
