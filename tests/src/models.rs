//! The models of the tests: where they are, what the reference says of them, and how an engine loads them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rerank_crds::catalog::{DeviceKind, EngineKind, Prompt, Quantization, Scoring};
use rerank_server::engine::choice::Engines;
use rerank_server::engine::{Engine, EngineError, EngineLoader, LoadSpec, ModelRole, ScoreRequest};
use rerank_server::prompt::{EmbedPrompt, EncodedPairs, RerankPrompt, TextEncoder};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Trained to embed.
pub const TINY_EMBEDDER: &str = "tiny-embedder";
/// Trained to rerank.
pub const TINY_RERANKER: &str = "tiny-reranker";
/// Random, output head tied to the embedding table, `config.json` with `rope_parameters`.
pub const RANDOM_TIED: &str = "random-tied";
/// Random, output head of its own.
pub const RANDOM_UNTIED: &str = "random-untied";
/// All that score pairs.
pub const RERANKERS: [&str; 3] = [TINY_RERANKER, RANDOM_TIED, RANDOM_UNTIED];

/// Positions of every model here.
pub const MAXIMUM_POSITIONS: usize = 2048;

/// Folder of all models.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// Folder of one model.
pub fn model(name: &str) -> PathBuf {
    directory().join(name)
}

/// Tokens of a model's vocabulary, as its `config.json` says.
///
/// # Panics
///
/// Where the file is not there or does not say it.
pub fn vocabulary(name: &str) -> u32 {
    #[derive(Deserialize)]
    struct Config {
        vocab_size: u32,
    }
    let config: Config = read_json(&model(name).join("config.json"));
    config.vocab_size
}

/// One of the tiny pair's published figures, by its name in `figures.json`.
///
/// # Panics
///
/// Where the file or the figure is not there.
pub fn figure(name: &str) -> f64 {
    let figures: serde_json::Value = read_json(&directory().join("figures.json"));
    figures[name].as_f64().unwrap_or_else(|| panic!("figures.json has no number {name:?}"))
}

/// Golden scores of a reranker.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenPairs {
    /// Tokens of one prompt, at most.
    pub max_length: usize,
    /// Token that means relevant.
    pub token_yes: u32,
    /// Token that means not relevant.
    pub token_no: u32,
    /// Ids before the body.
    pub prefix_ids: Vec<u32>,
    /// Ids after the body.
    pub suffix_ids: Vec<u32>,
    /// What was scored.
    pub pairs: Vec<GoldenPair>,
}

/// One scored pair.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenPair {
    /// What it shows.
    pub name: String,
    /// Of the prompt.
    pub instruction: String,
    /// Of the prompt.
    pub query: String,
    /// Of the prompt.
    pub document: String,
    /// The whole prompt.
    pub token_ids: Vec<u32>,
    /// Whether the document was cut.
    pub truncated: bool,
    /// Of the token that means relevant.
    pub logit_yes: f64,
    /// Of the token that means not relevant.
    pub logit_no: f64,
    /// Difference of the two.
    pub log_odds: f64,
    /// Softmax over the two.
    pub score: f64,
}

/// Golden embeddings.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenTexts {
    /// Of the queries.
    pub instruction: String,
    /// What was embedded.
    pub texts: Vec<GoldenText>,
}

/// One embedded text.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenText {
    /// What it shows.
    pub name: String,
    /// `query` or `document`.
    pub kind: String,
    /// As a user writes it.
    pub text: String,
    /// End token included.
    pub token_ids: Vec<u32>,
    /// Of length 1.
    pub embedding: Vec<f32>,
}

/// Golden token ids.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenTokenization {
    /// What was encoded.
    pub strings: Vec<GoldenString>,
}

/// One encoded text.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenString {
    /// The text.
    pub text: String,
    /// Ids where control tokens are ordinary characters.
    pub ids_without_control: Vec<u32>,
}

/// Reads `golden/<name>.json`.
pub fn golden<T: DeserializeOwned>(name: &str) -> T {
    read_json(&directory().join("golden").join(format!("{name}.json")))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A model's tokenizers.
pub fn encoder(name: &str) -> TextEncoder {
    TextEncoder::from_file(&model(name).join("tokenizer.json")).expect("the models of the tests have a tokenizer")
}

/// The default prompt of a model.
pub fn rerank_prompt(name: &str, max_length: usize) -> RerankPrompt {
    RerankPrompt::new(encoder(name), &Prompt::default(), &Scoring::default(), max_length)
        .expect("the default prompt fits")
}

/// Makes the embedder's inputs.
pub fn embed_prompt() -> EmbedPrompt {
    EmbedPrompt::new(encoder(TINY_EMBEDDER), MAXIMUM_POSITIONS).expect("the embedder has an end token")
}

/// The scoring of one request.
pub fn score_request(prompt: &RerankPrompt, pairs: EncodedPairs) -> ScoreRequest {
    ScoreRequest {
        prompts: pairs.prompts,
        shared_prefix_tokens: pairs.shared_prefix_tokens,
        yes_token: prompt.yes_token,
        no_token: prompt.no_token,
    }
}

/// Every engine that runs the models of the tests on a CPU.
pub const ENGINES: [EngineKind; 2] = [EngineKind::Packed, EngineKind::Mistralrs];

/// What to load, with a batch of 16 pairs, by the engine that is chosen on a CPU.
pub fn load_spec(name: &str, quantization: Quantization) -> LoadSpec {
    LoadSpec {
        engine: EngineKind::Auto.for_the_catalogue(DeviceKind::Cpu),
        model: name.to_owned(),
        directory: model(name),
        role: if name == TINY_EMBEDDER { ModelRole::Embedder } else { ModelRole::Reranker },
        quantization,
        batch_size: 16,
        token_budget: 8192,
        max_length: MAXIMUM_POSITIONS,
    }
}

/// All engines, for the whole process: as in a server.
pub fn engines() -> &'static Engines {
    static ENGINES: OnceLock<Engines> = OnceLock::new();
    ENGINES.get_or_init(|| Engines::new(false).expect("a CPU is always there"))
}

/// Loads a model by the engine that is chosen on a CPU.
pub async fn load(name: &str, quantization: Quantization) -> Result<Arc<dyn Engine>, EngineError> {
    engines().load(load_spec(name, quantization)).await
}

/// Loads a model by that engine.
pub async fn load_by(
    engine: EngineKind,
    name: &str,
    quantization: Quantization,
) -> Result<Arc<dyn Engine>, EngineError> {
    engines().load(LoadSpec { engine, ..load_spec(name, quantization) }).await
}
