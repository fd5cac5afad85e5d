//! A model's folder that cannot be used is refused before anything is loaded, with a message that says what to do.

use std::fs;
use std::path::{Path, PathBuf};

use rerank_crds::catalog::Quantization;
use rerank_server::engine::weights::{self, WeightsError};
use rerank_server::engine::{EngineError, EngineLoader, ModelRole};
use rerank_server::prompt::Reading;
use rerank_tests::models::{self, GoldenPairs, RANDOM_TIED, RANDOM_UNTIED, RERANKERS, TINY_EMBEDDER, TINY_RERANKER};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A copy of a model that a test may break.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(models::model(name).join(file), copy.path().join(file)).unwrap();
        }
        copy
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let mut config: Value = serde_json::from_slice(&fs::read(self.file("config.json")).unwrap()).unwrap();
        edit(&mut config);
        fs::write(self.file("config.json"), config.to_string()).unwrap();
    }

    fn refusal(&self, role: ModelRole) -> String {
        let error = weights::inspect(self.path(), role).unwrap_err();
        let message = error.to_string();
        assert!(!message.contains("No such file"), "{message} says what to do instead");
        message
    }
}

fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn whole_models_are_accepted() {
    for name in RERANKERS {
        let info = weights::inspect(&models::model(name), ModelRole::Reranker).unwrap();
        assert_eq!(info.config.vocabulary_size, models::vocabulary(name) as usize, "{name}");
        assert_eq!(info.config.tied_embeddings, name != RANDOM_UNTIED, "{name}");
        assert_eq!(info.bytes, fs::metadata(models::model(name).join("model.safetensors")).unwrap().len());
        assert!(info.parameters > 100_000 && info.bytes > info.parameters * 2, "{name}: float16 and a header");
    }
    weights::inspect(&models::model(TINY_EMBEDDER), ModelRole::Embedder).unwrap();
}

#[test]
fn missing_files_are_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let copy = Copy::of(RANDOM_TIED);
        fs::remove_file(copy.file(file)).unwrap();
        assert_has(&copy.refusal(ModelRole::Reranker), &[file, "copy the whole model folder"]);
    }
}

#[test]
fn pickle_alone_is_refused_and_never_read() {
    for file in ["pytorch_model.bin", "model.pt", "consolidated.00.pth"] {
        let copy = Copy::of(RANDOM_TIED);
        fs::rename(copy.file("model.safetensors"), copy.file(file)).unwrap();
        assert_has(&copy.refusal(ModelRole::Reranker), &["pickle", file, "run any code", "save_pretrained"]);
    }
}

#[test]
fn pickle_beside_safetensors_is_ignored() {
    let copy = Copy::of(RANDOM_TIED);
    fs::write(copy.file("pytorch_model.bin"), b"garbage").unwrap();
    let info = weights::inspect(copy.path(), ModelRole::Reranker).unwrap();
    assert_eq!(info.files, [copy.file("model.safetensors")]);
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = fs::read(models::model(RANDOM_TIED).join("model.safetensors")).unwrap();
    let copy = Copy::of(RANDOM_TIED);
    for length in [0, 1, 7, 8, 9, 100, 2000, whole.len() / 2, whole.len() - 1] {
        fs::write(copy.file("model.safetensors"), &whole[..length]).unwrap();
        assert_has(
            &copy.refusal(ModelRole::Reranker),
            &["model.safetensors", "is damaged", "copy or download it again"],
        );
    }
    let longer = [whole.as_slice(), b"x"].concat();
    fs::write(copy.file("model.safetensors"), longer).unwrap();
    assert_has(&copy.refusal(ModelRole::Reranker), &["is damaged", "its header asks for"]);
}

#[test]
fn a_changed_header_is_refused() {
    let whole = fs::read(models::model(RANDOM_TIED).join("model.safetensors")).unwrap();
    let copy = Copy::of(RANDOM_TIED);
    for (at, byte) in [(7, 0xff_u8), (3, 0x10), (8, b'x'), (20, 0)] {
        let mut changed = whole.clone();
        changed[at] = byte;
        fs::write(copy.file("model.safetensors"), changed).unwrap();
        assert_has(&copy.refusal(ModelRole::Reranker), &["is damaged"]);
    }
}

#[test]
fn an_index_must_name_files_and_tensors_that_are_there() {
    let copy = Copy::of(RANDOM_TIED);
    let index =
        |map: Value| fs::write(copy.file("model.safetensors.index.json"), json!({"weight_map": map}).to_string());
    index(json!({"model.embed_tokens.weight": "model-00001-of-00002.safetensors"})).unwrap();
    assert_has(&copy.refusal(ModelRole::Reranker), &["holds no model-00001-of-00002.safetensors"]);
    index(json!({"model.extra": "model.safetensors"})).unwrap();
    assert_has(&copy.refusal(ModelRole::Reranker), &["model.extra", "no file holds"]);
    for outside in ["../model.safetensors", "/etc/passwd", "pytorch_model.bin"] {
        index(json!({"model.embed_tokens.weight": outside})).unwrap();
        assert_has(&copy.refusal(ModelRole::Reranker), &[outside, "no safetensors file of this folder"]);
    }
    index(json!({})).unwrap();
    assert_has(&copy.refusal(ModelRole::Reranker), &["weight_map is empty"]);
    fs::write(copy.file("model.safetensors.index.json"), "{").unwrap();
    assert_has(&copy.refusal(ModelRole::Reranker), &["no valid JSON"]);
    index(json!({"model.embed_tokens.weight": "model.safetensors"})).unwrap();
    weights::inspect(copy.path(), ModelRole::Reranker).unwrap();
}

#[test]
fn other_architectures_are_refused_with_the_reason() {
    let copy = Copy::of(RANDOM_TIED);
    copy.edit_config(|config| config["architectures"] = json!(["Qwen3ForSequenceClassification"]));
    assert_has(&copy.refusal(ModelRole::Reranker), &["classification head", "supported: Qwen3ForCausalLM"]);
    copy.edit_config(|config| config["architectures"] = json!(["BertModel"]));
    assert_has(&copy.refusal(ModelRole::Embedder), &["\"BertModel\" cannot serve as an embedder", "supported: "]);
    copy.edit_config(|config| config["architectures"] = json!(null));
    assert_has(&copy.refusal(ModelRole::Reranker), &["config.json", "architectures must name one class"]);
}

#[test]
fn weights_that_do_not_fit_their_config_are_refused() {
    let copy = Copy::of(RANDOM_TIED);
    for (field, value, expected) in [
        ("num_hidden_layers", json!(3), "num_hidden_layers is 3, the weights hold 2 layers"),
        ("vocab_size", json!(5000), "expected [5000, 64]"),
        ("tie_word_embeddings", json!(false), "\"lm_head.weight\" is missing"),
    ] {
        let copy = Copy::of(RANDOM_TIED);
        copy.edit_config(|config| config[field] = value);
        assert_has(&copy.refusal(ModelRole::Reranker), &["do not fit their config.json", expected]);
    }
    assert_has(&copy.refusal(ModelRole::Embedder), &["save the base model"]);
    let embedder = Copy::of(TINY_EMBEDDER);
    assert_has(&embedder.refusal(ModelRole::Reranker), &["a base model without an output head"]);
}

#[tokio::test]
async fn a_load_of_a_broken_folder_is_a_weights_error() {
    let copy = Copy::of(RANDOM_TIED);
    fs::write(copy.file("model.safetensors"), b"short").unwrap();
    for engine in models::ENGINES {
        let mut spec = models::load_spec(RANDOM_TIED, Quantization::Float32);
        (spec.engine, spec.directory) = (engine, copy.path().to_owned());
        let error = models::engines().load(spec.clone()).await.unwrap_err();
        assert!(matches!(error, EngineError::Weights(WeightsError::Damaged { .. })), "{error}");
        spec.directory = PathBuf::from("/nowhere");
        let error = models::engines().load(spec).await.unwrap_err();
        assert!(matches!(error, EngineError::Weights(WeightsError::MissingFile { .. })), "{error}");
    }
}

/// `rope_theta` and transformers 5's `rope_parameters` are two spellings of one model.
#[tokio::test]
async fn both_spellings_of_the_rotary_base_load_and_score_alike() {
    for name in [RANDOM_TIED, TINY_RERANKER] {
        let golden: GoldenPairs = models::golden(name);
        let copy = Copy::of(name);
        copy.edit_config(|config| {
            let config = config.as_object_mut().unwrap();
            if let Some(parameters) = config.remove("rope_parameters") {
                config.insert("rope_theta".to_owned(), parameters["rope_theta"].clone());
            } else {
                let theta = config.remove("rope_theta").unwrap();
                config.insert("rope_parameters".to_owned(), json!({"rope_theta": theta, "rope_type": "default"}));
            }
        });
        for engine in models::ENGINES {
            let mut spec = models::load_spec(name, Quantization::Float32);
            (spec.engine, spec.directory) = (engine, copy.path().to_owned());
            let engine = models::engines().load(spec).await.unwrap();
            let prompt = models::rerank_prompt(name, golden.max_length);
            let pair = &golden.pairs[0];
            let pairs = prompt.encode(&pair.instruction, &pair.query, &[&pair.document], Reading::default()).unwrap();
            let logits = engine.score(models::score_request(&prompt, pairs), &CancellationToken::new()).await.unwrap();
            assert!((f64::from(logits[0].score()) - pair.score).abs() <= 1e-5, "{name}");
            engine.unload().await.unwrap();
        }
    }
}

/// Nothing is written beside the weights, which may be mounted read-only.
#[tokio::test]
async fn loading_leaves_the_folder_as_it_is() {
    let copy = Copy::of(TINY_RERANKER);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(copy.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for engine in models::ENGINES {
        let mut spec = models::load_spec(TINY_RERANKER, Quantization::Float32);
        (spec.engine, spec.directory) = (engine, copy.path().to_owned());
        models::engines().load(spec).await.unwrap().unload().await.unwrap();
        assert_eq!(names(), before);
    }
}
