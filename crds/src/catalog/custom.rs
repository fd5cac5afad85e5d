//! Rerankers that a user adds without code: mappings, batch sizes, prompt and scoring, and which are refused. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::execution::Quantization;

/// The most characters that a part of a prompt may have.
const MAXIMUM_PROMPT_CHARACTERS: usize = 16_384;

/// The most characters that an answer token may have.
const MAXIMUM_TOKEN_CHARACTERS: usize = 64;

/// The places of a prompt's body that are filled in.
const PLACEHOLDERS: [&str; 3] = ["{instruction}", "{query}", "{document}"];

/// A reranker that a user adds without code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomReranker {
    /// Model id.
    pub model: String,
    /// Embedding models that select it.
    #[serde(default)]
    pub embedding_models: Vec<String>,
    /// Pairs in a batch for each quantization. Default: the catalogue's row of the nearest size.
    #[serde(default)]
    pub batch_sizes: BTreeMap<Quantization, i32>,
    /// Prompt of the model. Default: Qwen3's.
    #[serde(default)]
    pub prompt: Prompt,
    /// Tokens that mean yes and no. Default: `yes` and `no`.
    #[serde(default)]
    pub scoring: Scoring,
}

/// The three parts of a prompt. `{instruction}`, `{query}` and `{document}` are replaced in the body.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Prompt {
    /// Before the body; control tokens are live.
    pub prefix: String,
    /// Ends with `{document}`; control tokens are never live.
    pub body: String,
    /// After the body; control tokens are live.
    pub suffix: String,
}

/// Score = softmax over the logits of the two tokens, the share of `yes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scoring {
    /// Text of the token that means relevant. Default `yes`.
    pub yes_token: String,
    /// Text of the token that means not relevant. Default `no`.
    pub no_token: String,
}

/// What is wrong with a field, relative to the struct that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field's name in configuration, such as `body`.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// A model that scores by a classification head, which no engine of ours runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "architecture `{architecture}` scores by a classification head; only decoders that answer with a token are run, such as \
     `Qwen3ForCausalLM`: use the causal variant of the model, or implement the Engine trait for this one"
)]
pub struct ClassificationHead {
    /// The architecture that was found.
    pub architecture: String,
}

/// Refuses a model whose `config.json` names an architecture with a classification head
/// (`*ForSequenceClassification`, `*ForTokenClassification`).
pub fn refuse_classification_head(architectures: &[String]) -> Result<(), ClassificationHead> {
    match architectures.iter().find(|name| name.ends_with("Classification")) {
        Some(architecture) => Err(ClassificationHead { architecture: architecture.clone() }),
        None => Ok(()),
    }
}

impl Default for Prompt {
    fn default() -> Self {
        Self {
            prefix: "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
                     Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n"
                .to_owned(),
            body: "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}".to_owned(),
            suffix: "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n".to_owned(),
        }
    }
}

impl Default for Scoring {
    fn default() -> Self {
        Self { yes_token: "yes".to_owned(), no_token: "no".to_owned() }
    }
}

impl Prompt {
    /// Everything that is wrong with the prompt; empty where it can be used.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        for (field, text) in [("prefix", &self.prefix), ("body", &self.body), ("suffix", &self.suffix)] {
            if text.chars().count() > MAXIMUM_PROMPT_CHARACTERS {
                let message = format!("is too long; allowed: at most {MAXIMUM_PROMPT_CHARACTERS} characters");
                problems.push(FieldProblem { field, message });
            }
        }
        for (field, text) in [("prefix", &self.prefix), ("suffix", &self.suffix)] {
            for placeholder in PLACEHOLDERS.iter().filter(|placeholder| text.contains(**placeholder)) {
                let message = format!("contains `{placeholder}`, which is filled in only in the body");
                problems.push(FieldProblem { field, message });
            }
        }
        let count = |placeholder: &str| self.body.matches(placeholder).count();
        let mut body = |message: &str| problems.push(FieldProblem { field: "body", message: message.to_owned() });
        if !self.body.ends_with("{document}") {
            body("does not end with `{document}`; documents are cut at their end, so they must stand last");
        }
        if count("{document}") > 1 {
            body("contains `{document}` more than once");
        }
        if count("{query}") != 1 {
            body("does not contain `{query}` exactly once");
        }
        if count("{instruction}") > 1 {
            body("contains `{instruction}` more than once");
        }
        problems
    }
}

impl Scoring {
    /// Everything that is wrong with the scoring rule; empty where it can be used.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        for (field, token) in [("yesToken", &self.yes_token), ("noToken", &self.no_token)] {
            let characters = token.chars().count();
            if !(1..=MAXIMUM_TOKEN_CHARACTERS).contains(&characters) {
                let message = format!(
                    "has {characters} characters; allowed: the text of one token, 1 to {MAXIMUM_TOKEN_CHARACTERS} \
                     characters"
                );
                problems.push(FieldProblem { field, message });
            }
        }
        if self.yes_token == self.no_token {
            let message = "is the same as `yesToken`; the two tokens must differ".to_owned();
            problems.push(FieldProblem { field: "noToken", message });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Prompt {
        Prompt { body: text.to_owned(), ..Prompt::default() }
    }

    #[test]
    fn the_default_prompt_and_scoring_are_qwens_and_valid() {
        let prompt = Prompt::default();
        assert_eq!(
            [prompt.prefix.as_str(), &prompt.body, &prompt.suffix],
            [
                "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n",
                "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
                "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            ]
        );
        assert_eq!(prompt.problems(), []);
        assert_eq!(Scoring::default().problems(), []);
    }

    #[test]
    fn a_body_needs_one_query_and_ends_with_the_document() {
        assert_eq!(body("{query}{document}").problems(), []);
        for (text, part) in [
            ("", "does not end with `{document}`"),
            ("{query} {document} ", "does not end with `{document}`"),
            ("{document}", "`{query}` exactly once"),
            ("{query} {query} {document}", "`{query}` exactly once"),
            ("{document} {query} {document}", "`{document}` more than once"),
            ("{instruction}{instruction}{query}{document}", "`{instruction}` more than once"),
        ] {
            let problems = body(text).problems();
            assert!(
                problems.iter().any(|problem| problem.field == "body" && problem.message.contains(part)),
                "{text}: {problems:?}"
            );
        }
    }

    #[test]
    fn the_parts_around_the_body_have_no_placeholders_and_a_bound() {
        let prompt = Prompt { prefix: "{query}".to_owned(), suffix: "x".repeat(16_385), ..Prompt::default() };
        let problems = prompt.problems();
        assert_eq!(problems.iter().map(|problem| problem.field).collect::<Vec<_>>(), ["suffix", "prefix"]);
    }

    #[test]
    fn answer_tokens_are_texts_that_differ() {
        for (yes, no, fields) in [
            ("true", "false", vec![]),
            (" yes", "yes", vec![]),
            ("", "no", vec!["yesToken"]),
            ("yes", "", vec!["noToken"]),
            ("same", "same", vec!["noToken"]),
            (&*"y".repeat(65), "no", vec!["yesToken"]),
        ] {
            let scoring = Scoring { yes_token: yes.to_owned(), no_token: no.to_owned() };
            let found: Vec<_> = scoring.problems().iter().map(|problem| problem.field).collect();
            assert_eq!(found, fields, "{yes:?} {no:?}");
        }
    }

    #[test]
    fn classification_heads_are_refused_with_a_reason() {
        let names = |name: &str| vec![name.to_owned()];
        assert_eq!(refuse_classification_head(&names("Qwen3ForCausalLM")), Ok(()));
        assert_eq!(refuse_classification_head(&[]), Ok(()));
        for name in ["XLMRobertaForSequenceClassification", "Qwen3ForSequenceClassification"] {
            let error = refuse_classification_head(&names(name)).unwrap_err();
            assert!(error.to_string().contains("classification head") && error.to_string().contains(name));
        }
    }
}
