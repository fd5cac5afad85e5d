//! Which reranker belongs to an embedding model, and why. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::models::{RERANKERS, reranker_model};
use super::size::{nearest_by_ratio, parse_size};
use crate::server_config::Reranker;

/// Why a reranker was selected: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SelectionReason {
    /// `reranker.model` names it.
    Explicit,
    /// The embedding model is mapped to it, by the user or by the catalogue.
    ExactMatch,
    /// Its size is the nearest to the one in the embedding model's name.
    SizeMatch,
    /// Nothing else matched: `reranker.defaultModel`.
    Default,
}

impl SelectionReason {
    /// The name in status, logs and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "Explicit",
            Self::ExactMatch => "ExactMatch",
            Self::SizeMatch => "SizeMatch",
            Self::Default => "Default",
        }
    }
}

impl fmt::Display for SelectionReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The selected reranker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// Model id.
    pub model: String,
    /// Why.
    pub reason: SelectionReason,
    /// Why, as a sentence for people.
    pub explanation: String,
}

/// Selects the reranker: the one named, else the one mapped to the embedding model (the user's own mapping before the
/// catalogue's), else the nearest by size, else the default.
///
/// A user's own rerankers take part by their mappings and by name, not by size: of their sizes nothing is known.
pub fn select_reranker(embedding_model: Option<&str>, config: &Reranker) -> Selection {
    let explicit = config.model.as_ref().map(|model| Selection {
        model: model.clone(),
        reason: SelectionReason::Explicit,
        explanation: "reranker.model names it".to_owned(),
    });
    explicit
        .or_else(|| embedding_model.and_then(|embedding| match_users_mapping(embedding, config)))
        .or_else(|| embedding_model.and_then(match_catalogue))
        .or_else(|| embedding_model.and_then(match_size))
        .unwrap_or_else(|| Selection {
            model: config.default_model.clone(),
            reason: SelectionReason::Default,
            explanation: match embedding_model {
                Some(embedding) => format!(
                    "no reranker is mapped to {embedding} and its name states no size, so reranker.defaultModel is used"
                ),
                None => "no embedding model is configured, so reranker.defaultModel is used".to_owned(),
            },
        })
}

fn match_users_mapping(embedding: &str, config: &Reranker) -> Option<Selection> {
    let entry = config.custom.iter().find(|entry| entry.embedding_models.iter().any(|model| model == embedding))?;
    Some(Selection {
        model: entry.model.clone(),
        reason: SelectionReason::ExactMatch,
        explanation: format!("reranker.custom maps {embedding} to it"),
    })
}

fn match_catalogue(embedding: &str) -> Option<Selection> {
    let known = RERANKERS.iter().find(|known| known.embedding_model == embedding)?;
    Some(Selection {
        model: known.id.to_owned(),
        reason: SelectionReason::ExactMatch,
        explanation: format!("the catalogue maps {embedding} to it"),
    })
}

fn match_size(embedding: &str) -> Option<Selection> {
    let size = parse_size(embedding)?;
    let nearest = nearest_by_ratio(size, &RERANKERS.each_ref(), |known| known.nominal_parameters)?;
    Some(Selection {
        model: nearest.id.to_owned(),
        reason: SelectionReason::SizeMatch,
        explanation: format!(
            "{embedding} has {} million parameters by its name, and of the catalogue's sizes this one's {} million are \
             nearest",
            size / 1_000_000,
            nearest.nominal_parameters / 1_000_000
        ),
    })
}

impl Selection {
    /// Whether the catalogue knows the model.
    pub fn is_known(&self) -> bool {
        reranker_model(&self.model).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CustomReranker;

    fn mapping(embedding: &str, model: &str) -> CustomReranker {
        serde_json::from_value(serde_json::json!({"model": model, "embeddingModels": [embedding]})).unwrap()
    }

    #[test]
    fn the_reranker_is_the_named_the_mapped_the_nearest_or_the_default_one() {
        let small = "Qwen/Qwen3-Reranker-0.6B";
        let medium = "Qwen/Qwen3-Reranker-4B";
        let large = "Qwen/Qwen3-Reranker-8B";
        for (embedding, model, reason) in [
            (Some("Qwen/Qwen3-Embedding-0.6B"), small, SelectionReason::ExactMatch),
            (Some("Qwen/Qwen3-Embedding-4B"), medium, SelectionReason::ExactMatch),
            (Some("Qwen/Qwen3-Embedding-8B"), large, SelectionReason::ExactMatch),
            (Some("acme/embed-335M"), small, SelectionReason::SizeMatch),
            (Some("acme/embed-1.5b-v2"), small, SelectionReason::SizeMatch),
            (Some("acme/embed-1.6b"), medium, SelectionReason::SizeMatch),
            (Some("intfloat/e5-mistral-7b-instruct"), large, SelectionReason::SizeMatch),
            (Some("acme/embed-70B"), large, SelectionReason::SizeMatch),
            (Some("acme/text-embedding-v2"), small, SelectionReason::Default),
            (None, small, SelectionReason::Default),
        ] {
            let selection = select_reranker(embedding, &Reranker::default());
            assert_eq!((selection.model.as_str(), selection.reason), (model, reason), "{embedding:?}");
            assert!(!selection.explanation.is_empty() && selection.is_known());
        }
    }

    #[test]
    fn a_named_reranker_comes_before_everything() {
        let config = Reranker {
            model: Some("acme/named".to_owned()),
            custom: vec![mapping("Qwen/Qwen3-Embedding-4B", "acme/mapped")],
            ..Reranker::default()
        };
        let selection = select_reranker(Some("Qwen/Qwen3-Embedding-4B"), &config);
        assert_eq!((selection.model.as_str(), selection.reason), ("acme/named", SelectionReason::Explicit));
        assert!(!selection.is_known());
    }

    #[test]
    fn a_users_mapping_comes_before_the_catalogues() {
        let config = Reranker {
            custom: vec![mapping("acme/other", "acme/no"), mapping("Qwen/Qwen3-Embedding-4B", "acme/mapped")],
            ..Reranker::default()
        };
        let selection = select_reranker(Some("Qwen/Qwen3-Embedding-4B"), &config);
        assert_eq!((selection.model.as_str(), selection.reason), ("acme/mapped", SelectionReason::ExactMatch));
        assert_eq!(selection.explanation, "reranker.custom maps Qwen/Qwen3-Embedding-4B to it");
    }

    #[test]
    fn the_default_is_the_users_where_one_is_named() {
        let config = Reranker { default_model: "acme/default".to_owned(), ..Reranker::default() };
        for embedding in [None, Some("acme/unsized")] {
            let selection = select_reranker(embedding, &config);
            assert_eq!((selection.model.as_str(), selection.reason), ("acme/default", SelectionReason::Default));
        }
    }

    #[test]
    fn reasons_are_written_as_they_are_named() {
        for reason in [
            SelectionReason::Explicit,
            SelectionReason::ExactMatch,
            SelectionReason::SizeMatch,
            SelectionReason::Default,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.to_string());
        }
    }
}
