//! The server's configuration from the specification. Pure; every field is destructured, so that a new one is not forgotten.

use std::path::PathBuf;

use rerank_crds::ServerConfig;
use rerank_crds::catalog::{self, EngineKind, Quantization};
use rerank_crds::rerank_deployment as object;
use rerank_crds::rerank_deployment::RerankDeploymentSpec;
use rerank_crds::server_config as server;

use super::mounts;

/// The configuration that a pod of this specification reads.
pub fn render(spec: &RerankDeploymentSpec) -> ServerConfig {
    let RerankDeploymentSpec {
        engine,
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
        // Of the pod and around it.
        image: _,
        image_pull_policy: _,
        image_pull_secrets: _,
        accelerator: _,
        replicas: _,
        autoscaling: _,
        rollout: _,
        service: _,
        pod_template: _,
    } = spec;
    ServerConfig {
        listen: listen(access),
        engine: match engine {
            object::Engine::Auto => EngineKind::Auto,
            object::Engine::Mistralrs => EngineKind::Mistralrs,
            object::Engine::Packed => EngineKind::Packed,
        },
        embedding: render_embedding(embedding),
        reranker: render_reranker(reranker),
        candidates: server::Candidates {
            multiplier: candidates.multiplier,
            minimum: candidates.minimum,
            maximum: candidates.maximum,
        },
        lifecycle: server::Lifecycle {
            loading: lifecycle.loading,
            while_loading: lifecycle.while_loading,
            warm: lifecycle.warm,
            unload_timeout_seconds: lifecycle.unload_timeout_seconds,
        },
        timeouts: server::Timeouts {
            request_seconds: timeouts.request_seconds,
            vector_search_seconds: timeouts.vector_search_seconds,
            rerank_seconds: timeouts.rerank_seconds,
        },
        vector_store: vector_store.as_ref().map(render_store),
        weights: render_weights(weights),
        access: render_access(access),
        api: render_api(api),
        logging: server::Logging { filter: logging.filter.clone(), ..server::Logging::default() },
        tracing: server::Tracing {
            otlp_endpoint: tracing.otlp_endpoint.clone(),
            sample_ratio_percent: tracing.sample_ratio_percent,
        },
    }
}

fn listen(access: &object::Access) -> server::Listen {
    let tls = access.tls_secret_ref.as_ref().map(|_| server::ListenTls {
        certificate_file: mounts::TLS.file("tls.crt"),
        key_file: mounts::TLS.file("tls.key"),
    });
    server::Listen { tls, ..server::Listen::default() }
}

fn render_embedding(embedding: &object::Embedding) -> server::Embedding {
    let object::Embedding { model, revision, instruction, quantization } = embedding;
    server::Embedding {
        model: model.clone(),
        revision: revision.clone(),
        instruction: instruction.clone(),
        quantization: *quantization,
    }
}

fn render_reranker(reranker: &object::Reranker) -> server::Reranker {
    let object::Reranker {
        enabled,
        model,
        revision,
        default_model,
        quantization,
        instruction,
        batch_size,
        token_budget,
        max_length,
        allowed_overrides,
        custom,
        self_test,
    } = reranker;
    let allowed = |allowed: &object::Override| server::AllowedOverride {
        model: allowed.model.clone(),
        revision: allowed.revision.clone(),
        quantizations: allowed.quantizations.clone(),
    };
    server::Reranker {
        enabled: *enabled,
        model: model.clone(),
        revision: revision.clone(),
        default_model: default_model.clone(),
        quantization: *quantization,
        instruction: server::Instruction { template: instruction.template, text: instruction.text.clone() },
        batch_size: *batch_size,
        token_budget: *token_budget,
        max_length: *max_length,
        allowed_overrides: allowed_overrides.iter().map(allowed).collect(),
        custom: custom.iter().map(render_custom).collect(),
        self_test: *self_test,
    }
}

fn render_custom(custom: &object::CustomReranker) -> catalog::CustomReranker {
    let object::CustomReranker { model, embedding_models, batch_sizes, prompt, scoring } = custom;
    let object::BatchSizes { float32, float16, bfloat16, int8 } = batch_sizes.clone().unwrap_or_default();
    let sizes = [
        (Quantization::Float32, float32),
        (Quantization::Float16, float16),
        (Quantization::Bfloat16, bfloat16),
        (Quantization::Int8, int8),
    ];
    let prompt = prompt.as_ref().map(|object::Prompt { prefix, body, suffix }| catalog::Prompt {
        prefix: prefix.clone(),
        body: body.clone(),
        suffix: suffix.clone(),
    });
    let scoring = scoring.as_ref().map(|object::Scoring { yes_token, no_token }| catalog::Scoring {
        yes_token: yes_token.clone(),
        no_token: no_token.clone(),
    });
    catalog::CustomReranker {
        model: model.clone(),
        embedding_models: embedding_models.clone(),
        batch_sizes: sizes.into_iter().filter_map(|(quantization, size)| Some((quantization, size?))).collect(),
        prompt: prompt.unwrap_or_default(),
        scoring: scoring.unwrap_or_default(),
    }
}

fn render_store(store: &object::VectorStore) -> server::VectorStore {
    let object::VectorStore { qdrant, writable } = store;
    let object::Qdrant { url, collections, api_key_secret_ref, tls, allow_insecure } = qdrant;
    let collection = |collection: &object::Collection| server::Collection {
        name: collection.name.clone(),
        vector_name: collection.vector_name.clone(),
        text_field: collection.text_field.clone(),
    };
    let client = tls.as_ref().and_then(|tls| tls.client_secret_ref.as_ref());
    let ca = tls.as_ref().and_then(|tls| tls.ca_secret_ref.as_ref());
    let qdrant = server::Qdrant {
        url: url.clone(),
        collections: collections.iter().map(collection).collect(),
        api_key_file: api_key_secret_ref.as_ref().map(|secret| mounts::QDRANT_KEY.file(&secret.key)),
        tls: server::QdrantTls {
            ca_file: ca.map(|secret| mounts::QDRANT_CA.file(&secret.key)),
            certificate_file: client.map(|_| mounts::QDRANT_CLIENT.file("tls.crt")),
            key_file: client.map(|_| mounts::QDRANT_CLIENT.file("tls.key")),
        },
        allow_insecure: *allow_insecure,
        // Inside a pod loopback is the pod itself.
        allow_loopback: false,
    };
    server::VectorStore { qdrant: Some(qdrant), embedded: None, writable: *writable }
}

fn render_weights(weights: &object::Weights) -> server::Weights {
    let object::Weights { hub, persistent_volume_claim, image, cache: _, require_pinned } = weights;
    let has_weights = persistent_volume_claim.is_some() || image.is_some();
    let hub = hub.clone().or_else(|| (!has_weights).then(object::Hub::default));
    let hub = hub.map(|object::Hub { endpoint, token_secret_ref, proxy: _ }| server::Hub {
        endpoint,
        token_file: token_secret_ref.map(|secret| mounts::HUB_TOKEN.file(&secret.key)),
    });
    server::Weights { directory: PathBuf::from(mounts::WEIGHTS), hub, require_pinned: *require_pinned }
}

fn render_access(access: &object::Access) -> server::Access {
    let object::Access { api_keys_secret_ref, clients, model_control, network_policy: _, tls_secret_ref: _ } = access;
    let client = |client: &object::ClientAccess| server::ClientAccess {
        name: client.name.clone(),
        collections: client.collections.clone(),
    };
    server::Access {
        api_keys_file: api_keys_secret_ref.as_ref().map(|_| mounts::API_KEYS.directory()),
        clients: clients.iter().map(client).collect(),
        model_control: *model_control,
    }
}

fn render_api(api: &object::Api) -> server::Api {
    let object::Api { model_aliases, limits } = api;
    let object::Limits { documents, body_bytes, queue_pairs } = limits;
    server::Api {
        model_aliases: model_aliases.clone(),
        limits: server::Limits {
            documents: *documents,
            body_bytes: *body_bytes,
            queue_pairs: *queue_pairs,
            ..server::Limits::default()
        },
    }
}
