//! A thousand random configurations, every field random and allowed, come back unchanged from YAML and can be served.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use rerank_crds::ServerConfig;
use rerank_crds::catalog::{CustomReranker, EngineKind, InstructionTemplate, Prompt, Quantization, Scoring};
use rerank_crds::server_config::{
    Access, AllowedOverride, Api, Candidates, ClientAccess, Collection, Embedded, Embedding, Hub, Instruction,
    Lifecycle, Limits, Listen, ListenTls, Loading, LogFormat, Logging, ModelControl, Qdrant, QdrantTls, Reranker,
    SelfTest, Timeouts, Tracing, VectorStore, Weights, WhileLoading,
};

/// Texts that YAML could mistake for something else, or that are hard to write.
fn awkward_text() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "null",
        "~",
        "true",
        "no",
        "1",
        "1e3",
        "0x1f",
        "- a",
        "a: b",
        "#c",
        "'",
        "\"",
        "a\nb\n",
        " a ",
        "a\tb",
        "é😀漢",
        "\u{feff}x",
        "\u{85}x",
        "\u{2028}x",
        "|",
        ">",
        "&a",
        "*a",
        "!t",
        "%d",
        "{a}",
        "[a]",
        "2026-01-01",
        "<|im_end|>",
        "a\r\nb",
        "\u{7f}x",
    ]);
    // At least one character that is not white space; no NUL, which is refused.
    prop_oneof![known.prop_map(str::to_owned), "[^\\x00]{0,20}[a-zA-Z0-9][^\\x00]{0,20}"]
}

fn model_id() -> impl Strategy<Value = String> {
    "([A-Za-z0-9][A-Za-z0-9_-]{0,8}/)?[A-Za-z0-9][A-Za-z0-9_-]{0,8}(\\.[0-9A-Z]{1,3})?"
}

fn revision() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9a-f]{40}", "[0-9]{1,8}", "main", "refs/pr/[1-9]"]
}

fn file() -> impl Strategy<Value = PathBuf> {
    awkward_text().prop_map(PathBuf::from)
}

fn quantization() -> impl Strategy<Value = Quantization> {
    prop::sample::select(Quantization::ALL.to_vec())
}

fn listen() -> impl Strategy<Value = Listen> {
    let tls = option::of((file(), file()));
    (any::<std::net::IpAddr>(), any::<std::net::IpAddr>(), 0_u16..30_000, tls).prop_map(|(api, control, port, tls)| {
        Listen {
            api_address: SocketAddr::new(api, port),
            tls: tls.map(|(certificate_file, key_file)| ListenTls { certificate_file, key_file }),
            control_address: SocketAddr::new(control, port + 30_000),
        }
    })
}

fn embedding(model: String) -> impl Strategy<Value = Embedding> {
    (option::of(revision()), option::of(awkward_text()), quantization()).prop_map(
        move |(revision, instruction, quantization)| Embedding {
            model: Some(model.clone()),
            revision,
            instruction,
            quantization,
        },
    )
}

fn instruction() -> impl Strategy<Value = Instruction> {
    prop_oneof![
        option::of(prop::sample::select(InstructionTemplate::ALL.to_vec()))
            .prop_map(|template| Instruction { template, text: None }),
        awkward_text().prop_map(|text| Instruction { template: None, text: Some(text) }),
    ]
}

fn prompt() -> impl Strategy<Value = Prompt> {
    let plain = || awkward_text().prop_map(|text| text.replace(['{', '}'], ""));
    (plain(), plain(), plain(), any::<bool>()).prop_map(|(prefix, middle, suffix, with_instruction)| Prompt {
        body: format!("{}{{query}}{middle}{{document}}", if with_instruction { "{instruction}" } else { "" }),
        prefix,
        suffix,
    })
}

fn scoring() -> impl Strategy<Value = Scoring> {
    awkward_text().prop_map(|token| Scoring { no_token: format!("{token}!"), yes_token: token })
}

/// Rerankers whose models and mappings do not repeat.
fn custom() -> impl Strategy<Value = Vec<CustomReranker>> {
    let entry = (vec(model_id(), 0..3), btree_map(quantization(), 1..=4_096, 0..4), prompt(), scoring());
    btree_map(model_id(), entry, 0..3).prop_map(|entries| {
        let mut mapped = std::collections::BTreeSet::new();
        entries
            .into_iter()
            .map(|(model, (mut embedding_models, batch_sizes, prompt, scoring))| {
                embedding_models.retain(|embedding| mapped.insert(embedding.clone()));
                CustomReranker { model, embedding_models, batch_sizes, prompt, scoring }
            })
            .collect()
    })
}

fn overrides() -> impl Strategy<Value = Vec<AllowedOverride>> {
    let quantizations = prop::sample::subsequence(Quantization::ALL.to_vec(), 0..=4);
    btree_map(model_id(), (option::of(revision()), quantizations), 0..4).prop_map(|entries| {
        let allowed = |(model, (revision, quantizations))| AllowedOverride { model, revision, quantizations };
        entries.into_iter().map(allowed).collect()
    })
}

fn reranker() -> impl Strategy<Value = Reranker> {
    let models = (any::<bool>(), option::of(model_id()), option::of(revision()), model_id(), quantization());
    let bounds = (option::of(1..=4_096), 128..=32_768, option::of(0..100_000));
    let self_test = prop::sample::select(vec![SelfTest::Enforce, SelfTest::Warn, SelfTest::Off]);
    (models, bounds, instruction(), overrides(), custom(), self_test).prop_map(
        |(models, (batch_size, max_length, more), instruction, allowed_overrides, custom, self_test)| {
            let (enabled, model, revision, default_model, quantization) = models;
            Reranker {
                enabled,
                model,
                revision,
                default_model,
                quantization,
                instruction,
                batch_size,
                token_budget: more.map(|more: i32| max_length + more),
                max_length,
                allowed_overrides,
                custom,
                self_test,
            }
        },
    )
}

fn candidates() -> impl Strategy<Value = Candidates> {
    (1..=100, 1..=1_000, 1..=1_000).prop_map(|(multiplier, one, other): (i32, i32, i32)| Candidates {
        multiplier,
        minimum: one.min(other),
        maximum: one.max(other),
    })
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    let loading = prop::sample::select(vec![Loading::OnDemand, Loading::Preload]);
    let while_loading = prop::sample::select(vec![WhileLoading::Wait, WhileLoading::Fallback]);
    (loading, while_loading, any::<bool>(), 0..=604_800).prop_map(
        |(loading, while_loading, warm, unload_timeout_seconds)| Lifecycle {
            loading,
            while_loading,
            warm,
            unload_timeout_seconds,
        },
    )
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (1..=3_600, 1..=3_600, 1..=3_600).prop_map(|(request_seconds, vector_search_seconds, rerank_seconds)| Timeouts {
        request_seconds,
        vector_search_seconds,
        rerank_seconds,
    })
}

fn collections() -> impl Strategy<Value = Vec<Collection>> {
    let text_field = "[a-z]{1,5}(\\.[a-z]{1,5}){0,2}";
    btree_map("[A-Za-z0-9_.-]{0,10}[a-z0-9]", (option::of(awkward_text()), text_field), 1..4).prop_map(|entries| {
        entries
            .into_iter()
            .map(|(name, (vector_name, text_field))| Collection { name, vector_name, text_field })
            .collect()
    })
}

fn qdrant() -> impl Strategy<Value = Qdrant> {
    let host = prop_oneof!["[a-z]{1,10}(\\.[a-z]{1,5}){0,2}", Just("127.0.0.1".to_owned()), Just("[::1]".to_owned())];
    let files = (option::of(file()), option::of(file()), option::of((file(), file())));
    (any::<bool>(), host, 1..=u16::MAX, collections(), files, any::<bool>()).prop_map(
        |(secure, host, port, collections, (key, ca_file, client), allow_insecure)| {
            // Over plain http a key needs consent and TLS files have no place.
            let (certificate_file, key_file) = client.filter(|_| secure).unzip();
            Qdrant {
                url: format!("{}://{host}:{port}", if secure { "https" } else { "http" }),
                collections,
                api_key_file: key.filter(|_| secure || allow_insecure),
                tls: QdrantTls { ca_file: ca_file.filter(|_| secure), certificate_file, key_file },
                allow_insecure,
                allow_loopback: true,
            }
        },
    )
}

fn vector_store() -> impl Strategy<Value = VectorStore> {
    let embedded = (file(), collections()).prop_map(|(path, collections)| Embedded { path, collections });
    let kind = prop_oneof![
        qdrant().prop_map(|qdrant| (Some(qdrant), None)),
        embedded.prop_map(|embedded| (None, Some(embedded))),
    ];
    (kind, any::<bool>()).prop_map(|((qdrant, embedded), writable)| VectorStore { qdrant, embedded, writable })
}

fn access() -> impl Strategy<Value = Access> {
    let model_control = prop::sample::select(vec![ModelControl::Authenticated, ModelControl::Open, ModelControl::Off]);
    (option::of(file()), vec(awkward_text(), 0..3), model_control).prop_map(|(api_keys_file, names, model_control)| {
        let names: std::collections::BTreeSet<_> = names.into_iter().filter(|_| api_keys_file.is_some()).collect();
        let clients = names.into_iter().map(|name| ClientAccess { name, collections: Vec::new() }).collect();
        Access { api_keys_file, clients, model_control }
    })
}

fn api(embedding_model: String) -> impl Strategy<Value = Api> {
    let limits = (1..=100_000, 1_024_i64..=1_073_741_824, 1..=10_000_000, 1_048_576_i64..=1_099_511_627_776).prop_map(
        |(documents, body_bytes, queue_pairs, queue_bytes)| Limits { documents, body_bytes, queue_pairs, queue_bytes },
    );
    // The embedding model is served by every one of these configurations, and no model's name has a blank.
    (vec(awkward_text(), 0..3), limits).prop_map(move |(aliases, limits)| Api {
        model_aliases: aliases
            .into_iter()
            .map(|alias| (format!("{alias} x"), embedding_model.clone()))
            .collect::<BTreeMap<_, _>>(),
        limits,
    })
}

fn logging() -> impl Strategy<Value = Logging> {
    let format = prop::sample::select(vec![LogFormat::Json, LogFormat::Text]);
    (awkward_text(), format, 0..=3_600_000).prop_map(|(filter, format, slow_request_milliseconds)| Logging {
        filter,
        format,
        slow_request_milliseconds,
    })
}

fn tracing() -> impl Strategy<Value = Tracing> {
    let host = "[a-z]{1,10}(\\.[a-z]{1,5}){0,2}";
    (option::of((any::<bool>(), host, 1..=u16::MAX)), 0..=100).prop_map(|(endpoint, sample_ratio_percent)| Tracing {
        otlp_endpoint: endpoint
            .map(|(secure, host, port)| format!("{}://{host}:{port}", if secure { "https" } else { "http" })),
        sample_ratio_percent,
    })
}

fn configuration() -> impl Strategy<Value = ServerConfig> {
    let engine = prop::sample::select(EngineKind::ALL.to_vec());
    model_id().prop_flat_map(move |model| {
        let models = (embedding(model.clone()), reranker(), api(model), option::of(vector_store()), tracing());
        let weights = (file(), option::of(option::of(file()))).prop_map(|(directory, hub)| Weights {
            directory,
            hub: hub.map(|token_file| Hub { token_file, ..Hub::default() }),
            require_pinned: false,
        });
        let service = (listen(), engine.clone(), candidates(), lifecycle(), timeouts(), weights, access(), logging());
        (models, service).prop_map(|((embedding, reranker, api, vector_store, tracing), service)| {
            let (listen, engine, candidates, lifecycle, timeouts, weights, access, logging) = service;
            ServerConfig {
                listen,
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
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_configuration_comes_back_unchanged_and_can_be_served(config in configuration()) {
        let yaml = config.to_yaml().unwrap();
        let back = ServerConfig::load(&yaml).map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?;
        prop_assert_eq!(back, config);
    }

    #[test]
    fn no_text_makes_reading_panic(text in any::<String>()) {
        // What comes back is an error or a configuration; both are fine.
        let _ = ServerConfig::load(&text);
    }
}
