//! Which models a configuration serves, and which of them a request gets. Pure.

use serde::Serialize;

use super::{Instruction, ServerConfig, Timeouts};
use crate::catalog::{
    CustomReranker, DeviceKind, Prompt, Quantization, Scoring, Selection, batch_size, embedding_model, select_reranker,
    token_budget,
};

/// A reranker that is served, with how its weights are held.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ServedModel {
    /// Model id.
    pub model: String,
    /// How weights are held.
    pub quantization: Quantization,
}

/// Why a request cannot have the reranker that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// `reranker.enabled` is false.
    #[error("reranking is switched off by reranker.enabled")]
    Disabled,
    /// Neither served nor an alias.
    #[error("model `{model}` is not served; served: {}", served.join(", "))]
    Model {
        /// What was asked for.
        model: String,
        /// Every name that can be asked for, aliases last.
        served: Vec<String>,
    },
    /// Served, but not in this quantization.
    #[error("model `{model}` is not served in {quantization}; served: {}", names(served))]
    Quantization {
        /// Model id.
        model: String,
        /// What was asked for.
        quantization: Quantization,
        /// What can be asked for.
        served: Vec<Quantization>,
    },
}

fn names(quantizations: &[Quantization]) -> String {
    quantizations.iter().map(|quantization| quantization.as_str()).collect::<Vec<_>>().join(", ")
}

impl ServerConfig {
    /// The deployed reranker and why it was selected. None where reranking is switched off.
    pub fn selection(&self) -> Option<Selection> {
        self.reranker.enabled.then(|| select_reranker(self.embedding.model.as_deref(), &self.reranker))
    }

    /// Every reranker that a request can have, the deployed one first, each once. Empty where reranking is switched off.
    pub fn served_rerankers(&self) -> Vec<ServedModel> {
        let deployed_quantization = self.reranker.quantization;
        let mut served = Vec::new();
        let mut add = |model: &str, quantization| {
            let entry = ServedModel { model: model.to_owned(), quantization };
            if !served.contains(&entry) {
                served.push(entry);
            }
        };
        if let Some(selection) = self.selection() {
            add(&selection.model, deployed_quantization);
            for allowed in &self.reranker.allowed_overrides {
                if allowed.quantizations.is_empty() {
                    add(&allowed.model, deployed_quantization);
                }
                for quantization in &allowed.quantizations {
                    add(&allowed.model, *quantization);
                }
            }
        }
        served
    }

    /// Every model id that is served, rerankers first, then the embedding model.
    pub fn served_model_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        let rerankers = self.served_rerankers().into_iter().map(|served| served.model);
        for id in rerankers.chain(self.embedding.model.clone()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The model id behind an alias; any other name is its own.
    pub fn resolve_alias<'a>(&'a self, name: &'a str) -> &'a str {
        self.api.model_aliases.get(name).map_or(name, String::as_str)
    }

    /// The reranker that a request gets. What it leaves out is the deployed one's; a model that is not served in the
    /// deployed quantization comes in the first one allowed for it.
    pub fn choose_reranker(
        &self,
        model: Option<&str>,
        quantization: Option<Quantization>,
    ) -> Result<ServedModel, NotServed> {
        let served = self.served_rerankers();
        let deployed = served.first().ok_or(NotServed::Disabled)?;
        let model = model.map_or(deployed.model.as_str(), |name| self.resolve_alias(name));
        let of_model: Vec<_> = served.iter().filter(|entry| entry.model == model).collect();
        let Some(first) = of_model.first() else {
            return Err(NotServed::Model { model: model.to_owned(), served: self.names_to_ask_for(&served) });
        };
        let find = |wanted| of_model.iter().find(|entry| entry.quantization == wanted);
        match quantization {
            None => Ok((*find(self.reranker.quantization).unwrap_or(first)).clone()),
            Some(wanted) => find(wanted).map(|entry| (*entry).clone()).ok_or_else(|| NotServed::Quantization {
                model: model.to_owned(),
                quantization: wanted,
                served: of_model.iter().map(|entry| entry.quantization).collect(),
            }),
        }
    }

    fn names_to_ask_for(&self, served: &[ServedModel]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let aliases = self.api.model_aliases.iter();
        let aliases = aliases.filter(|(_, model)| served.iter().any(|entry| entry.model == **model));
        for name in served.iter().map(|entry| &entry.model).chain(aliases.map(|(alias, _)| alias)) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// What the user says about a reranker in `reranker.custom`.
    pub fn custom_reranker(&self, model: &str) -> Option<&CustomReranker> {
        self.reranker.custom.iter().find(|entry| entry.model == model)
    }

    /// Prompt of a reranker: the user's own, else Qwen3's.
    pub fn prompt(&self, model: &str) -> Prompt {
        self.custom_reranker(model).map(|entry| entry.prompt.clone()).unwrap_or_default()
    }

    /// Tokens that mean yes and no to a reranker: the user's own, else Qwen3's.
    pub fn scoring(&self, model: &str) -> Scoring {
        self.custom_reranker(model).map(|entry| entry.scoring.clone()).unwrap_or_default()
    }

    /// Pairs in a batch of a served reranker: `reranker.batchSize`, else the catalogue's.
    pub fn batch_size(&self, served: &ServedModel) -> i32 {
        self.reranker
            .batch_size
            .unwrap_or_else(|| batch_size(&served.model, served.quantization, &self.reranker.custom))
    }

    /// Tokens in a batch of a served reranker: `reranker.tokenBudget`, else derived from its batch size and the device.
    pub fn token_budget(&self, served: &ServedModel, device: DeviceKind) -> i32 {
        token_budget(self.reranker.token_budget, self.batch_size(served), self.reranker.max_length, device)
    }

    /// What is put before a query when it is embedded: the user's own, else the model's. None where neither is known.
    pub fn query_instruction(&self) -> Option<&str> {
        let known = || embedding_model(self.embedding.model.as_deref()?).map(|model| model.query_instruction);
        self.embedding.instruction.as_deref().or_else(known)
    }
}

impl Instruction {
    /// The words that stand in the prompt.
    pub fn words(&self) -> &str {
        self.text.as_deref().unwrap_or_else(|| self.template.unwrap_or_default().text())
    }
}

impl Timeouts {
    /// Time for stage 2, which is never more than the whole request has.
    pub fn effective_rerank_seconds(&self) -> i32 {
        self.rerank_seconds.min(self.request_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::SelectionReason;

    fn config(text: &str) -> ServerConfig {
        ServerConfig::load(text).unwrap()
    }

    const OVERRIDES: &str = r"
embedding: {model: Qwen/Qwen3-Embedding-0.6B}
reranker:
  allowedOverrides:
    - {model: Qwen/Qwen3-Reranker-4B, quantizations: [int8, float32]}
    - {model: acme/rerank}
    - {model: Qwen/Qwen3-Reranker-0.6B, quantizations: [float16, int8]}
api: {modelAliases: {rerank-english-v3.0: acme/rerank, text-embedding-3-small: Qwen/Qwen3-Embedding-0.6B}}
";

    fn served(model: &str, quantization: Quantization) -> ServedModel {
        ServedModel { model: model.to_owned(), quantization }
    }

    #[test]
    fn the_deployed_reranker_is_served_first_and_each_override_once() {
        assert_eq!(
            config(OVERRIDES).served_rerankers(),
            [
                served("Qwen/Qwen3-Reranker-0.6B", Quantization::Float16),
                served("Qwen/Qwen3-Reranker-4B", Quantization::Int8),
                served("Qwen/Qwen3-Reranker-4B", Quantization::Float32),
                served("acme/rerank", Quantization::Float16),
                served("Qwen/Qwen3-Reranker-0.6B", Quantization::Int8),
            ]
        );
        assert_eq!(
            config(OVERRIDES).served_model_ids(),
            ["Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-4B", "acme/rerank", "Qwen/Qwen3-Embedding-0.6B"]
        );
    }

    #[test]
    fn a_request_gets_what_it_asks_for_and_the_deployed_one_for_what_it_leaves_out() {
        let config = config(OVERRIDES);
        let small = "Qwen/Qwen3-Reranker-0.6B";
        let medium = "Qwen/Qwen3-Reranker-4B";
        for (model, quantization, expected) in [
            (None, None, served(small, Quantization::Float16)),
            (None, Some(Quantization::Int8), served(small, Quantization::Int8)),
            (Some(medium), None, served(medium, Quantization::Int8)),
            (Some(medium), Some(Quantization::Float32), served(medium, Quantization::Float32)),
            (Some("rerank-english-v3.0"), None, served("acme/rerank", Quantization::Float16)),
        ] {
            assert_eq!(config.choose_reranker(model, quantization), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_served_is_refused_with_what_is() {
        let config = config(OVERRIDES);
        assert_eq!(
            config.choose_reranker(Some("gpt"), None).unwrap_err().to_string(),
            "model `gpt` is not served; served: Qwen/Qwen3-Reranker-0.6B, Qwen/Qwen3-Reranker-4B, acme/rerank, \
             rerank-english-v3.0"
        );
        assert_eq!(
            config
                .choose_reranker(Some("Qwen/Qwen3-Reranker-4B"), Some(Quantization::Bfloat16))
                .unwrap_err()
                .to_string(),
            "model `Qwen/Qwen3-Reranker-4B` is not served in bfloat16; served: int8, float32"
        );
        let model = Some("text-embedding-3-small");
        assert!(matches!(config.choose_reranker(model, None), Err(NotServed::Model { .. })));
    }

    #[test]
    fn without_reranking_no_reranker_is_served() {
        let config = config("embedding: {model: a}\nreranker: {enabled: false, model: b}");
        assert_eq!(config.selection(), None);
        assert_eq!(config.served_rerankers(), []);
        assert_eq!(config.choose_reranker(None, None), Err(NotServed::Disabled));
        assert_eq!(config.served_model_ids(), ["a"]);
    }

    #[test]
    fn batches_follow_the_configuration_before_the_catalogue() {
        let config = config(OVERRIDES);
        let int8 = served("Qwen/Qwen3-Reranker-4B", Quantization::Int8);
        assert_eq!(config.batch_size(&int8), 64);
        assert_eq!(config.token_budget(&int8, DeviceKind::Cuda), 32_768);
        assert_eq!(config.token_budget(&int8, DeviceKind::Cpu), 8_192);
        let own = ServerConfig::load("reranker: {model: a, batchSize: 3, tokenBudget: 9000}").unwrap();
        assert_eq!(own.batch_size(&int8), 3);
        assert_eq!(own.token_budget(&int8, DeviceKind::Cuda), 9_000);
    }

    #[test]
    fn prompts_and_instructions_are_the_users_own_before_the_known_ones() {
        let known = config(OVERRIDES);
        assert_eq!(known.prompt("acme/rerank"), Prompt::default());
        assert_eq!(known.query_instruction(), Some(crate::catalog::QUERY_INSTRUCTION));
        assert!(known.reranker.instruction.words().starts_with("Given the query and document"));
        let own = config(
            "embedding: {model: acme/embed, instruction: find}\n\
             reranker: {instruction: {text: Same topic?}, custom: [{model: acme/rerank, embeddingModels: [acme/embed],\n\
             prompt: {prefix: p}, scoring: {yesToken: 'true', noToken: 'false'}}]}",
        );
        assert_eq!(own.selection().unwrap().reason, SelectionReason::ExactMatch);
        assert_eq!(own.prompt("acme/rerank").prefix, "p");
        assert_eq!(own.prompt("acme/rerank").suffix, Prompt::default().suffix);
        assert_eq!(own.scoring("acme/rerank").yes_token, "true");
        assert_eq!(own.scoring("other"), Scoring::default());
        assert_eq!(own.query_instruction(), Some("find"));
        assert_eq!(own.reranker.instruction.words(), "Same topic?");
        assert_eq!(config("embedding: {model: acme/embed}").query_instruction(), None);
    }

    #[test]
    fn reranking_has_no_more_time_than_the_request() {
        let seconds = |request_seconds, rerank_seconds| {
            Timeouts { request_seconds, rerank_seconds, ..Timeouts::default() }.effective_rerank_seconds()
        };
        assert_eq!([seconds(30, 20), seconds(10, 20)], [20, 10]);
    }
}
