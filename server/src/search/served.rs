//! Which models and collections this service answers for, and what a name in a request means. Pure.

use rerank_crds::ServerConfig;
use rerank_crds::catalog::{Quantization, Selection, select_reranker};
use rerank_crds::server_config::Reranker;

use super::{RerankChoice, RerankerName, SearchError};
use crate::engine::ModelRole;
use crate::pool::ModelKey;

/// Field names of a request, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChoiceFields {
    pub(super) model: &'static str,
    pub(super) quantization: &'static str,
}

/// As the search routes name them.
pub(super) const SEARCH_FIELDS: ChoiceFields =
    ChoiceFields { model: "rerank_model", quantization: "rerank_quantization" };
/// As the rerank routes name them.
pub(super) const RERANK_FIELDS: ChoiceFields = ChoiceFields { model: "model", quantization: "quantization" };

/// Models that requests may name. Whatever is not in here is never loaded.
#[derive(Clone, Debug)]
pub struct ServedModels {
    embedder: Option<ModelKey>,
    /// The deployed one first. Empty where reranking is off.
    rerankers: Vec<ModelKey>,
    selection: Selection,
    aliases: Vec<(String, String)>,
    collections: Vec<String>,
}

impl ServedModels {
    /// Reads the configuration: the embedder, the selected reranker, the allowed overrides, aliases, collections.
    pub fn from_config(config: &ServerConfig) -> Self {
        let embedder = config.embedding.model.as_ref().map(|model| ModelKey {
            role: ModelRole::Embedder,
            model: model.clone(),
            quantization: config.embedding.quantization,
        });
        let selection = select_reranker(config.embedding.model.as_deref(), &config.reranker);
        let rerankers =
            if config.reranker.enabled { rerankers(&selection.model, &config.reranker) } else { Vec::new() };
        let aliases = config.api.model_aliases.iter().map(|(alias, model)| (alias.clone(), model.clone())).collect();
        let collections = config
            .vector_store
            .as_ref()
            .map(|store| store.collections().iter().map(|collection| collection.name.clone()).collect())
            .unwrap_or_default();
        Self { embedder, rerankers, selection, aliases, collections }
    }

    /// The embedder, where one is configured.
    pub fn embedder(&self) -> Option<&ModelKey> {
        self.embedder.as_ref()
    }

    /// The deployed reranker, where reranking is on.
    pub fn deployed_reranker(&self) -> Option<&ModelKey> {
        self.rerankers.first()
    }

    /// Which reranker was selected, and why; also where reranking is off.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Every model that may be loaded: the embedder, the deployed reranker, the allowed overrides.
    pub fn keys(&self) -> Vec<ModelKey> {
        self.embedder.iter().chain(&self.rerankers).cloned().collect()
    }

    /// Searchable collections; the first is the default.
    pub fn collections(&self) -> &[String] {
        &self.collections
    }

    /// The model id behind a name that clients send: itself, or what an alias stands for.
    pub fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        if self.keys_of(name).next().is_some() || self.embedder.as_ref().is_some_and(|key| key.model == name) {
            return name;
        }
        self.aliases.iter().find(|(alias, _)| alias == name).map_or(name, |(_, model)| model)
    }

    fn keys_of<'a>(&'a self, model: &'a str) -> impl Iterator<Item = &'a ModelKey> {
        self.rerankers.iter().filter(move |key| key.model == model)
    }

    /// The reranker that a request asks for. Fields left out are the deployed ones; of an override without a
    /// quantization the first allowed one.
    pub(super) fn reranker(&self, choice: &RerankChoice, fields: ChoiceFields) -> Result<ModelKey, SearchError> {
        let unknown =
            |field, model: String| SearchError::UnknownModel { field, model, served: self.describe_rerankers() };
        let deployed = self
            .rerankers
            .first()
            .ok_or_else(|| unknown(fields.model, choice.model.clone().unwrap_or_else(|| "reranker".to_owned())))?;
        let model = choice.model.as_deref().map_or(deployed.model.as_str(), |name| self.canonical(name));
        let mut of_model = self.keys_of(model).peekable();
        if of_model.peek().is_none() {
            return Err(unknown(fields.model, choice.model.clone().unwrap_or_else(|| model.to_owned())));
        }
        let found = match choice.quantization {
            None => of_model.next(),
            Some(wanted) => of_model.find(|key| key.quantization == wanted),
        };
        found.cloned().ok_or_else(|| {
            let wanted = choice.quantization.map(Quantization::as_str).unwrap_or_default();
            unknown(fields.quantization, format!("{model} ({wanted})"))
        })
    }

    /// A configured model of either role. A quantization left out is the deployed one, or the first that is allowed.
    pub(super) fn any_model(&self, choice: &RerankChoice) -> Result<ModelKey, SearchError> {
        let name = choice.model.as_deref().unwrap_or_default();
        let model = self.canonical(name);
        let of_model: Vec<&ModelKey> =
            self.embedder.iter().chain(&self.rerankers).filter(|key| key.model == model).collect();
        let unknown = |field, model: String| {
            let describe = |key: &ModelKey| format!("{} ({})", key.model, key.quantization.as_str());
            SearchError::UnknownModel { field, model, served: self.keys().iter().map(describe).collect() }
        };
        let Some(first) = of_model.first() else { return Err(unknown("model", name.to_owned())) };
        match choice.quantization {
            None => Ok((*first).clone()),
            Some(wanted) => {
                let found = of_model.iter().find(|key| key.quantization == wanted);
                found
                    .map(|key| (*key).clone())
                    .ok_or_else(|| unknown("quantization", format!("{model} ({})", wanted.as_str())))
            }
        }
    }

    /// Whether a name is the embedder's.
    pub(super) fn check_embedder(&self, name: &str) -> Result<(), SearchError> {
        match &self.embedder {
            Some(embedder) if self.canonical(name) == embedder.model => Ok(()),
            embedder => Err(SearchError::UnknownModel {
                field: "model",
                model: name.to_owned(),
                served: embedder.iter().map(|key| key.model.clone()).collect(),
            }),
        }
    }

    /// What is served, such as `Qwen/Qwen3-Reranker-0.6B (float16)`.
    pub fn describe_rerankers(&self) -> Vec<String> {
        self.rerankers.iter().map(|key| format!("{} ({})", key.model, key.quantization.as_str())).collect()
    }
}

impl From<&ModelKey> for RerankerName {
    fn from(key: &ModelKey) -> Self {
        Self { model: key.model.clone(), quantization: key.quantization }
    }
}

/// The deployed reranker first, then what requests may ask for, each once.
fn rerankers(deployed: &str, config: &Reranker) -> Vec<ModelKey> {
    let key = |model: &str, quantization| ModelKey { role: ModelRole::Reranker, model: model.to_owned(), quantization };
    let mut keys = vec![key(deployed, config.quantization)];
    for allowed in &config.allowed_overrides {
        let quantizations =
            if allowed.quantizations.is_empty() { &[config.quantization] } else { allowed.quantizations.as_slice() };
        for quantization in quantizations {
            let key = key(&allowed.model, *quantization);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use rerank_crds::server_config::{AllowedOverride, Collection, Embedded, VectorStore};

    use super::*;

    fn config() -> ServerConfig {
        let mut config = ServerConfig::default();
        config.embedding.model = Some("Qwen/Qwen3-Embedding-4B".to_owned());
        config.reranker.allowed_overrides = vec![
            AllowedOverride {
                model: "Qwen/Qwen3-Reranker-4B".to_owned(),
                revision: None,
                quantizations: vec![Quantization::Int8],
            },
            AllowedOverride { model: "Qwen/Qwen3-Reranker-0.6B".to_owned(), revision: None, quantizations: Vec::new() },
        ];
        config.api.model_aliases.insert("rerank-v3.5".to_owned(), "Qwen/Qwen3-Reranker-0.6B".to_owned());
        let collection =
            |name: &str| Collection { name: name.to_owned(), vector_name: None, text_field: "text".to_owned() };
        config.vector_store = Some(VectorStore {
            embedded: Some(Embedded { path: "/tmp".into(), collections: vec![collection("docs"), collection("faq")] }),
            ..VectorStore::default()
        });
        config
    }

    fn choose(model: Option<&str>, quantization: Option<Quantization>) -> Result<String, SearchError> {
        let choice = RerankChoice { model: model.map(str::to_owned), quantization };
        ServedModels::from_config(&config())
            .reranker(&choice, SEARCH_FIELDS)
            .map(|key| format!("{} {}", key.model, key.quantization.as_str()))
    }

    #[test]
    fn fields_left_out_are_the_deployed_ones() {
        assert_eq!(choose(None, None).unwrap(), "Qwen/Qwen3-Reranker-4B float16");
        assert_eq!(choose(None, Some(Quantization::Int8)).unwrap(), "Qwen/Qwen3-Reranker-4B int8");
        assert_eq!(choose(Some("Qwen/Qwen3-Reranker-4B"), None).unwrap(), "Qwen/Qwen3-Reranker-4B float16");
    }

    #[test]
    fn an_override_without_quantizations_has_the_deployed_one() {
        assert_eq!(choose(Some("Qwen/Qwen3-Reranker-0.6B"), None).unwrap(), "Qwen/Qwen3-Reranker-0.6B float16");
    }

    #[test]
    fn an_alias_stands_for_its_model() {
        assert_eq!(choose(Some("rerank-v3.5"), None).unwrap(), "Qwen/Qwen3-Reranker-0.6B float16");
    }

    #[test]
    fn what_is_not_served_is_refused_with_the_list_and_the_field() {
        let refused = choose(Some("Qwen/Qwen3-Embedding-4B"), None).unwrap_err();
        let SearchError::UnknownModel { field, model, served } = refused else { panic!("{refused}") };
        assert_eq!((field, model.as_str()), ("rerank_model", "Qwen/Qwen3-Embedding-4B"));
        assert_eq!(
            served,
            ["Qwen/Qwen3-Reranker-4B (float16)", "Qwen/Qwen3-Reranker-4B (int8)", "Qwen/Qwen3-Reranker-0.6B (float16)"]
        );
        let refused = choose(Some("rerank-v3.5"), Some(Quantization::Int8)).unwrap_err();
        let SearchError::UnknownModel { field, model, .. } = refused else { panic!("{refused}") };
        assert_eq!((field, model.as_str()), ("rerank_quantization", "Qwen/Qwen3-Reranker-0.6B (int8)"));
    }

    #[test]
    fn a_service_that_does_not_rerank_serves_no_reranker_but_still_names_the_selection() {
        let mut config = config();
        config.reranker.enabled = false;
        let served = ServedModels::from_config(&config);
        assert_eq!(served.deployed_reranker(), None);
        assert_eq!(served.keys().len(), 1);
        assert_eq!(served.selection().model, "Qwen/Qwen3-Reranker-4B");
        assert!(served.reranker(&RerankChoice::default(), SEARCH_FIELDS).is_err());
    }
}
