//! Everything that a configuration asks for and that cannot be served, found in one pass. Pure.
//!
//! `timeouts.rerankSeconds` above `timeouts.requestSeconds` is no violation: the smaller one counts
//! ([`Timeouts::effective_rerank_seconds`]), so that a short request deadline alone is a valid configuration.

use std::collections::BTreeSet;
use std::path::Path;

use super::network::{
    ALLOWED_COLLECTOR_URL, ALLOWED_HUB_URL, ALLOWED_URL, RefusedAddress, check_collector_url, check_hub_url,
    check_store_url, is_loopback_url,
};
use super::violation::Checks;
use super::{
    Access, Api, Candidates, ClientAccess, Collection, Embedding, Hub, Instruction, Lifecycle, Listen, ListenTls,
    Logging, MAXIMUM_K, Qdrant, QdrantTls, Reranker, ServerConfig, Timeouts, Tracing, VectorStore, Violations, Weights,
};
use crate::catalog::{CustomReranker, check_model_id, check_revision};

/// The most characters of an instruction.
const MAXIMUM_INSTRUCTION_CHARACTERS: usize = 4_096;
/// The most characters of a path, a filter, a name.
const MAXIMUM_PATH_CHARACTERS: usize = 4_096;
const MAXIMUM_FILTER_CHARACTERS: usize = 4_096;
const MAXIMUM_NAME_CHARACTERS: usize = 255;
/// The most entries of a list or map.
const MAXIMUM_ENTRIES: usize = 256;
/// A week.
const MAXIMUM_UNLOAD_TIMEOUT_SECONDS: i64 = 7 * 86_400;
/// An hour.
const MAXIMUM_TIMEOUT_SECONDS: i64 = 3_600;
/// Characters that Qdrant refuses in the name of a collection, which the embedded store makes a folder of.
const FORBIDDEN_IN_COLLECTION_NAMES: &str = "/\\<>:\"|?*";

impl ServerConfig {
    /// Checks that everything in the configuration can be served.
    ///
    /// # Errors
    /// All violations at once, each with the path of its field and what is allowed.
    pub fn validate(&self) -> Result<(), Violations> {
        // Destructured without `..`, so that a new field fails to compile here until it is checked.
        let Self {
            listen,
            engine: _,
            embedding,
            reranker,
            candidates,
            lifecycle,
            timeouts,
            vector_store,
            weights,
            access,
            api,
            logging,
            tracing,
        } = self;
        let mut checks = Checks::default();
        self.check_something_is_served(&mut checks);
        check_listen(listen, &mut checks);
        check_embedding(embedding, &mut checks);
        check_reranker(reranker, &mut checks);
        check_candidates(candidates, &mut checks);
        check_lifecycle(lifecycle, &mut checks);
        check_timeouts(timeouts, &mut checks);
        if let Some(store) = vector_store {
            check_vector_store(store, &mut checks);
        }
        check_weights(weights, &mut checks);
        self.check_pinned(&mut checks);
        self.check_overrides(&mut checks);
        self.check_access(access, &mut checks);
        self.check_aliases(&mut checks);
        check_api(api, &mut checks);
        check_logging(logging, &mut checks);
        check_tracing(tracing, &mut checks);
        checks.finish()
    }

    fn check_something_is_served(&self, checks: &mut Checks) {
        if self.embedding.model.is_some() {
            return;
        }
        if self.vector_store.is_some() {
            checks.refuse(
                "embedding.model",
                "is missing; with vectorStore it names the model that indexed the collections, such as \
                 Qwen/Qwen3-Embedding-0.6B",
            );
        } else if !self.reranker.enabled {
            checks.refuse(
                "embedding.model",
                "is missing; with reranker.enabled: false and without vectorStore nothing is left to serve",
            );
        } else if self.reranker.model.is_none() {
            checks.refuse(
                "embedding.model",
                "is missing; name embedding.model and vectorStore to search, or without vectorStore embedding.model or \
                 reranker.model to rerank only",
            );
        }
    }

    fn check_access(&self, access: &Access, checks: &mut Checks) {
        let Access { api_keys_file, clients, model_control: _ } = access;
        if let Some(file) = api_keys_file {
            check_path("access.apiKeysFile", file, checks);
        } else if !clients.is_empty() {
            checks.refuse("access.clients", "needs access.apiKeysFile: without keys no client has a name");
        }
        check_entries("access.clients", clients.len(), checks);
        let served: Vec<&str> =
            self.vector_store.iter().flat_map(VectorStore::collections).map(|entry| entry.name.as_str()).collect();
        let mut names = BTreeSet::new();
        for (index, ClientAccess { name, collections }) in clients.iter().enumerate() {
            let path = format!("access.clients[{index}]");
            checks.text(format!("{path}.name"), name, MAXIMUM_NAME_CHARACTERS);
            if !names.insert(name) {
                checks.refuse(format!("{path}.name"), format!("`{name}` is named twice; name it once"));
            }
            check_entries(&format!("{path}.collections"), collections.len(), checks);
            for (at, collection) in collections.iter().enumerate() {
                if !served.contains(&collection.as_str()) {
                    let allowed = if served.is_empty() {
                        "none, as there is no vectorStore".to_owned()
                    } else {
                        served.join(", ")
                    };
                    let message = format!("`{collection}` is no collection of vectorStore");
                    checks.refuse_unless_allowed(format!("{path}.collections[{at}]"), message, allowed);
                }
            }
        }
    }

    /// With `weights.requirePinned` and a hub, whatever could be downloaded needs a commit. What lies in a folder is asked for its
    /// manifest when it is loaded.
    fn check_pinned(&self, checks: &mut Checks) {
        if !self.weights.require_pinned || self.weights.hub.is_none() {
            return;
        }
        let mut check = |path: &str, revision: Option<&String>| {
            if !revision.is_some_and(|revision| is_commit(revision)) {
                let found = revision.map_or("is missing".to_owned(), |revision| format!("`{revision}` is no commit"));
                let message = format!("{found}; weights.requirePinned asks for one");
                checks.refuse_unless_allowed(path, message, "a commit of 40 hexadecimal digits");
            }
        };
        if self.embedding.model.is_some() {
            check("embedding.revision", self.embedding.revision.as_ref());
        }
        if self.reranker.enabled {
            check("reranker.revision", self.reranker.revision.as_ref());
        }
        let deployed = self.selection().map(|selection| selection.model);
        for (index, allowed) in self.reranker.allowed_overrides.iter().enumerate() {
            if self.reranker.enabled && Some(&allowed.model) != deployed.as_ref() {
                check(&format!("reranker.allowedOverrides[{index}].revision"), allowed.revision.as_ref());
            }
        }
    }

    /// The deployed model has one revision, so an override of its quantization has none of its own.
    fn check_overrides(&self, checks: &mut Checks) {
        let Some(deployed) = self.selection() else { return };
        for (index, allowed) in self.reranker.allowed_overrides.iter().enumerate() {
            if allowed.revision.is_some() && allowed.model == deployed.model {
                checks.refuse_unless_allowed(
                    format!("reranker.allowedOverrides[{index}].revision"),
                    format!("`{}` is the deployed reranker", allowed.model),
                    "its revision in reranker.revision",
                );
            }
        }
    }

    fn check_aliases(&self, checks: &mut Checks) {
        let served = self.served_model_ids();
        check_entries("api.modelAliases", self.api.model_aliases.len(), checks);
        for (alias, model) in &self.api.model_aliases {
            if alias.trim().is_empty() {
                checks.refuse("api.modelAliases", format!("has an alias without a name, of `{model}`; name it"));
                continue;
            }
            let path = format!("api.modelAliases[{alias}]");
            checks.text(path.clone(), alias, MAXIMUM_NAME_CHARACTERS);
            if served.contains(alias) && alias != model {
                checks.refuse(path.clone(), "is the name of a served model; an alias needs a name of its own");
            }
            if !served.contains(model) {
                checks.refuse_unless_allowed(path, format!("`{model}` is not served"), served.join(", "));
            }
        }
    }
}

fn check_listen(listen: &Listen, checks: &mut Checks) {
    let Listen { api_address, tls, control_address } = listen;
    if let Some(ListenTls { certificate_file, key_file }) = tls {
        check_path("listen.tls.certificateFile", certificate_file, checks);
        check_path("listen.tls.keyFile", key_file, checks);
    }
    // Port 0 asks for any free port, so two of them never collide.
    if api_address == control_address && api_address.port() != 0 {
        checks.refuse("listen.controlAddress", "is the same as listen.apiAddress; the two need ports of their own");
    }
}

fn check_embedding(embedding: &Embedding, checks: &mut Checks) {
    let Embedding { model, revision, instruction, quantization: _ } = embedding;
    if let Some(model) = model {
        checks.result("embedding.model", check_model_id(model));
    }
    if let Some(revision) = revision {
        checks.result("embedding.revision", check_revision(revision));
    }
    if let Some(instruction) = instruction {
        checks.text("embedding.instruction", instruction, MAXIMUM_INSTRUCTION_CHARACTERS);
    }
}

fn check_reranker(reranker: &Reranker, checks: &mut Checks) {
    let Reranker {
        enabled: _,
        model,
        revision,
        default_model,
        quantization: _,
        instruction,
        batch_size,
        token_budget,
        max_length,
        allowed_overrides,
        custom,
        self_test: _,
    } = reranker;
    if let Some(model) = model {
        checks.result("reranker.model", check_model_id(model));
    }
    if let Some(revision) = revision {
        checks.result("reranker.revision", check_revision(revision));
    }
    checks.result("reranker.defaultModel", check_model_id(default_model));
    check_instruction(instruction, checks);
    if let Some(batch_size) = batch_size {
        checks.range("reranker.batchSize", *batch_size, 1..=4_096);
    }
    checks.range("reranker.maxLength", *max_length, 128..=32_768);
    if let Some(token_budget) = token_budget {
        if token_budget < max_length {
            let message =
                format!("{token_budget} is less than reranker.maxLength, {max_length}; a prompt would not fit");
            checks.refuse_unless_allowed("reranker.tokenBudget", message, format!("at least {max_length}"));
        } else {
            checks.range("reranker.tokenBudget", *token_budget, 128..=4_194_304);
        }
    }
    check_entries("reranker.allowedOverrides", allowed_overrides.len(), checks);
    let mut models = BTreeSet::new();
    for (index, allowed) in allowed_overrides.iter().enumerate() {
        let path = format!("reranker.allowedOverrides[{index}]");
        checks.result(format!("{path}.model"), check_model_id(&allowed.model));
        if let Some(revision) = &allowed.revision {
            checks.result(format!("{path}.revision"), check_revision(revision));
        }
        if !models.insert(&allowed.model) {
            checks.refuse(format!("{path}.model"), format!("`{}` is named twice; name it once", allowed.model));
        }
        let quantizations: BTreeSet<_> = allowed.quantizations.iter().collect();
        if quantizations.len() < allowed.quantizations.len() {
            checks.refuse(format!("{path}.quantizations"), "names one twice; name each once");
        }
    }
    check_custom(custom, checks);
}

fn check_instruction(instruction: &Instruction, checks: &mut Checks) {
    let Instruction { template, text } = instruction;
    if template.is_some() && text.is_some() {
        checks.refuse("reranker.instruction", "has both template and text; name one of them");
    }
    if let Some(text) = text {
        checks.text("reranker.instruction.text", text, MAXIMUM_INSTRUCTION_CHARACTERS);
    }
}

fn check_custom(custom: &[CustomReranker], checks: &mut Checks) {
    check_entries("reranker.custom", custom.len(), checks);
    let (mut models, mut mapped) = (BTreeSet::new(), BTreeSet::new());
    for (index, entry) in custom.iter().enumerate() {
        let path = format!("reranker.custom[{index}]");
        let CustomReranker { model, embedding_models, batch_sizes, prompt, scoring } = entry;
        checks.result(format!("{path}.model"), check_model_id(model));
        if !models.insert(model) {
            checks.refuse(format!("{path}.model"), format!("`{model}` is named twice; name it once"));
        }
        check_entries(&format!("{path}.embeddingModels"), embedding_models.len(), checks);
        for (at, embedding) in embedding_models.iter().enumerate() {
            let path = format!("{path}.embeddingModels[{at}]");
            checks.result(path.clone(), check_model_id(embedding));
            if !mapped.insert(embedding) {
                checks.refuse(path, format!("`{embedding}` is mapped twice; map it to one reranker"));
            }
        }
        for (quantization, pairs) in batch_sizes {
            checks.range(format!("{path}.batchSizes.{quantization}"), *pairs, 1..=4_096);
        }
        for problem in prompt.problems() {
            checks.refuse(format!("{path}.prompt.{}", problem.field), problem.message);
        }
        for problem in scoring.problems() {
            checks.refuse(format!("{path}.scoring.{}", problem.field), problem.message);
        }
    }
}

fn check_candidates(candidates: &Candidates, checks: &mut Checks) {
    let Candidates { multiplier, minimum, maximum } = candidates;
    let most = i64::from(MAXIMUM_K);
    checks.range("candidates.multiplier", *multiplier, 1..=100);
    checks.range("candidates.minimum", *minimum, 1..=most);
    checks.range("candidates.maximum", *maximum, 1..=most);
    if minimum > maximum {
        let message = format!("{minimum} is more than candidates.maximum, {maximum}");
        checks.refuse_unless_allowed("candidates.minimum", message, format!("1 to {maximum}"));
    }
}

fn check_lifecycle(lifecycle: &Lifecycle, checks: &mut Checks) {
    let Lifecycle { loading: _, while_loading: _, warm: _, unload_timeout_seconds } = lifecycle;
    checks.range("lifecycle.unloadTimeoutSeconds", *unload_timeout_seconds, 0..=MAXIMUM_UNLOAD_TIMEOUT_SECONDS);
}

fn check_timeouts(timeouts: &Timeouts, checks: &mut Checks) {
    let Timeouts { request_seconds, vector_search_seconds, rerank_seconds } = timeouts;
    for (field, seconds) in [
        ("requestSeconds", request_seconds),
        ("vectorSearchSeconds", vector_search_seconds),
        ("rerankSeconds", rerank_seconds),
    ] {
        checks.range(format!("timeouts.{field}"), *seconds, 1..=MAXIMUM_TIMEOUT_SECONDS);
    }
}

fn check_vector_store(store: &VectorStore, checks: &mut Checks) {
    let VectorStore { qdrant, embedded, writable: _ } = store;
    match (qdrant, embedded) {
        (Some(_), Some(_)) => checks.refuse("vectorStore", "has both qdrant and embedded; name one of them"),
        (None, None) => checks.refuse("vectorStore", "has neither qdrant nor embedded; name one of them"),
        _ => {}
    }
    if let Some(qdrant) = qdrant {
        check_qdrant(qdrant, checks);
        check_collections("vectorStore.qdrant.collections", &qdrant.collections, checks);
    }
    if let Some(embedded) = embedded {
        check_path("vectorStore.embedded.path", &embedded.path, checks);
        check_collections("vectorStore.embedded.collections", &embedded.collections, checks);
    }
}

fn check_qdrant(qdrant: &Qdrant, checks: &mut Checks) {
    let Qdrant { url, collections: _, api_key_file, tls, allow_insecure, allow_loopback } = qdrant;
    check_address("vectorStore.qdrant.url", check_store_url(url, *allow_loopback), ALLOWED_URL, checks);
    let is_plain = url.starts_with("http://");
    if let Some(file) = api_key_file {
        check_path("vectorStore.qdrant.apiKeyFile", file, checks);
        if is_plain && !allow_insecure {
            checks.refuse(
                "vectorStore.qdrant.apiKeyFile",
                "would send the key over plain http; use an https:// url, or set vectorStore.qdrant.allowInsecure: true",
            );
        }
    }
    let QdrantTls { ca_file, certificate_file, key_file } = tls;
    for (field, file) in [("caFile", ca_file), ("certificateFile", certificate_file), ("keyFile", key_file)] {
        if let Some(file) = file {
            let path = format!("vectorStore.qdrant.tls.{field}");
            check_path(&path, file, checks);
            if is_plain {
                checks.refuse(path, "has no effect over plain http; use an https:// url or leave it out");
            }
        }
    }
    match (certificate_file, key_file) {
        (Some(_), None) => checks.refuse("vectorStore.qdrant.tls.keyFile", "is missing beside certificateFile"),
        (None, Some(_)) => checks.refuse("vectorStore.qdrant.tls.certificateFile", "is missing beside keyFile"),
        _ => {}
    }
}

/// Tells of a URL that is refused what would do instead: another form, or another host.
fn check_address(path: &str, result: Result<(), RefusedAddress>, allowed_form: &str, checks: &mut Checks) {
    match result {
        Ok(()) => {}
        Err(error @ RefusedAddress::Form { .. }) => checks.refuse_unless_allowed(path, error.to_string(), allowed_form),
        Err(error) => checks.refuse_unless_allowed(path, error.to_string(), "any other host"),
    }
}

fn check_collections(path: &str, collections: &[Collection], checks: &mut Checks) {
    if collections.is_empty() {
        checks.refuse(path, "is empty; name at least one collection, the first is the default");
    }
    check_entries(path, collections.len(), checks);
    let mut names = BTreeSet::new();
    for (index, collection) in collections.iter().enumerate() {
        let Collection { name, vector_name, text_field } = collection;
        let path = format!("{path}[{index}]");
        check_collection_name(&format!("{path}.name"), name, checks);
        if !names.insert(name) {
            checks.refuse(format!("{path}.name"), format!("`{name}` is named twice; name it once"));
        }
        if let Some(vector_name) = vector_name {
            checks.text(format!("{path}.vectorName"), vector_name, MAXIMUM_NAME_CHARACTERS);
        }
        checks.text(format!("{path}.textField"), text_field, MAXIMUM_NAME_CHARACTERS);
        if !text_field.is_empty() && text_field.split('.').any(str::is_empty) {
            checks.refuse(
                format!("{path}.textField"),
                "has an empty key; write a payload path with dots between keys, such as `document.text`",
            );
        }
    }
}

fn check_collection_name(path: &str, name: &str, checks: &mut Checks) {
    let is_forbidden = |character: char| FORBIDDEN_IN_COLLECTION_NAMES.contains(character) || character.is_control();
    // Bytes and not characters, as file systems count them.
    let fits = (1..=MAXIMUM_NAME_CHARACTERS).contains(&name.len());
    if !fits || name.contains(is_forbidden) || name.trim() != name || name.chars().all(|character| character == '.') {
        checks.refuse_unless_allowed(
            path,
            "is no name of a collection",
            format!(
                "1 to {MAXIMUM_NAME_CHARACTERS} bytes, no control character and none of \
                 {FORBIDDEN_IN_COLLECTION_NAMES}, no white space around it, not only dots"
            ),
        );
    }
}

fn check_weights(weights: &Weights, checks: &mut Checks) {
    let Weights { directory, hub, require_pinned: _ } = weights;
    check_path("weights.directory", directory, checks);
    if let Some(Hub { endpoint, token_file }) = hub {
        check_address("weights.hub.endpoint", check_hub_url(endpoint), ALLOWED_HUB_URL, checks);
        if let Some(file) = token_file {
            check_path("weights.hub.tokenFile", file, checks);
            if endpoint.starts_with("http://") && !is_loopback_url(endpoint) {
                checks.refuse(
                    "weights.hub.tokenFile",
                    "would send the token over plain http; use an https:// endpoint, or one of this machine",
                );
            }
        }
    }
}

fn check_api(api: &Api, checks: &mut Checks) {
    let Api { model_aliases: _, limits } = api;
    checks.range("api.limits.documents", limits.documents, 1..=100_000);
    checks.range("api.limits.bodyBytes", limits.body_bytes, 1_024..=1_073_741_824);
    checks.range("api.limits.queuePairs", limits.queue_pairs, 1..=10_000_000);
    checks.range("api.limits.queueBytes", limits.queue_bytes, 1_048_576..=1_099_511_627_776);
}

fn check_logging(logging: &Logging, checks: &mut Checks) {
    let Logging { filter, format: _, slow_request_milliseconds } = logging;
    checks.text("logging.filter", filter, MAXIMUM_FILTER_CHARACTERS);
    checks.range("logging.slowRequestMilliseconds", *slow_request_milliseconds, 0..=MAXIMUM_TIMEOUT_SECONDS * 1_000);
}

fn check_tracing(tracing: &Tracing, checks: &mut Checks) {
    let Tracing { otlp_endpoint, sample_ratio_percent } = tracing;
    if let Some(url) = otlp_endpoint {
        check_address("tracing.otlpEndpoint", check_collector_url(url), ALLOWED_COLLECTOR_URL, checks);
    }
    checks.range("tracing.sampleRatioPercent", *sample_ratio_percent, 0..=100);
}

/// Whether a revision names one content for ever.
fn is_commit(revision: &str) -> bool {
    // As hubs and snapshots write it.
    revision.len() == 40 && revision.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f'))
}

fn check_path(path: &str, value: &Path, checks: &mut Checks) {
    match value.to_str() {
        Some(text) => checks.text(path, text, MAXIMUM_PATH_CHARACTERS),
        None => checks.refuse(path, "is no Unicode"),
    }
}

fn check_entries(path: &str, entries: usize, checks: &mut Checks) {
    if entries > MAXIMUM_ENTRIES {
        let allowed = format!("at most {MAXIMUM_ENTRIES}");
        checks.refuse_unless_allowed(path, format!("has {entries} entries"), allowed);
    }
}
