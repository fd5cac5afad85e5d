//! Whether a loaded model scores as its reference does. A wrong template, swapped answer tokens or another model's
//! tokenizer still give numbers between 0 and 1; only known scores tell. Pure but for reading the model's folder.
//!
//! Expectations come from `self-test.json` in the model's folder, else from what is known of the model by its id. A model
//! without any is only asked whether it prefers an answer to a text about something else.

use std::fs::File;
use std::io;
use std::path::Path;

use rerank_crds::catalog::Quantization;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::engine::ModelRole;

/// Expectations in a model's folder.
pub const FILE: &str = "self-test.json";
const WEIGHTS: &str = "model.safetensors";

/// Largest difference from the reference in float32: of the log-odds, or of the cosine.
const TOLERANCE: f64 = 1e-4;
/// Largest difference in other precisions: of the score, or of the cosine.
const COARSE_TOLERANCE: f64 = 0.05;

const USUAL_CAUSES: &str =
    "usual causes: another prompt template, swapped answer tokens, the tokenizer or the weights of another model";

/// What a model must make of some texts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectations {
    /// SHA-256 of the `model.safetensors` that they were made with, in hexadecimal digits; left out: any weights.
    pub weights_sha256: Option<String>,
    /// Instruction of the query.
    pub instruction: String,
    /// The query.
    pub query: String,
    /// Texts, at least one.
    pub documents: Vec<ExpectedDocument>,
}

/// One text and what the reference makes of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExpectedDocument {
    /// The text.
    pub text: String,
    /// A reranker's log-odds of yes, or the cosine of an embedder's vectors of query and text.
    pub expected: f64,
}

/// Why expectations cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ExpectationsError {
    /// A file cannot be read.
    #[error("failed to read {file}")]
    Read {
        /// Its name in the folder.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what it must be.
    #[error("{FILE} cannot be used: {message}")]
    Format {
        /// What is wrong.
        message: String,
    },
    /// They were made with other weights.
    #[error("{WEIGHTS} has the SHA-256 {found}, the expectations in {FILE} were made with {expected}; {USUAL_CAUSES}")]
    OtherWeights {
        /// Of the folder.
        found: String,
        /// Of the file.
        expected: String,
    },
}

impl Expectations {
    /// What is expected of the model in a folder; None where nothing is known.
    pub fn find(model: &str, folder: &Path) -> Result<Option<Self>, ExpectationsError> {
        match std::fs::read(folder.join(FILE)) {
            Ok(bytes) => Self::parse(&bytes).and_then(|found| found.check_weights(folder)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::known(model)),
            Err(source) => Err(ExpectationsError::Read { file: FILE, source }),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, ExpectationsError> {
        let found: Self =
            serde_json::from_slice(bytes).map_err(|error| ExpectationsError::Format { message: error.to_string() })?;
        if found.documents.is_empty() {
            return Err(ExpectationsError::Format { message: "documents is empty".to_owned() });
        }
        Ok(found)
    }

    fn check_weights(self, folder: &Path) -> Result<Self, ExpectationsError> {
        let Some(expected) = &self.weights_sha256 else { return Ok(self) };
        let read = |source| ExpectationsError::Read { file: WEIGHTS, source };
        let mut hash = Sha256::new();
        io::copy(&mut File::open(folder.join(WEIGHTS)).map_err(read)?, &mut hash).map_err(read)?;
        let found = hex::encode(hash.finalize());
        if found.eq_ignore_ascii_case(expected) {
            return Ok(self);
        }
        Err(ExpectationsError::OtherWeights { found, expected: expected.clone() })
    }

    /// What is known of a model by its id. Source: the reference code of Qwen3-Reranker's model card, in float32.
    pub fn known(model: &str) -> Option<Self> {
        (model == "Qwen/Qwen3-Reranker-0.6B").then(|| Self {
            weights_sha256: None,
            instruction: "Given a web search query, retrieve relevant passages that answer the query".to_owned(),
            query: PLANETS_QUERY.to_owned(),
            documents: PLANETS
                .iter()
                .zip([-3.109_297_752, 7.120_389_938, -0.378_754_616, 3.541_637_421])
                .map(|(text, expected)| ExpectedDocument { text: (*text).to_owned(), expected })
                .collect(),
        })
    }

    /// Judges what a model made of the texts, in their order.
    ///
    /// # Errors
    /// A sentence that names the first text that is off.
    pub fn judge(&self, role: ModelRole, quantization: Quantization, measured: &[f64]) -> Result<(), String> {
        if measured.len() != self.documents.len() {
            return Err(format!("{} texts were given, {} values came back", self.documents.len(), measured.len()));
        }
        let unit = match role {
            ModelRole::Reranker => "log-odds",
            ModelRole::Embedder => "cosine",
        };
        for (number, (document, measured)) in self.documents.iter().zip(measured).enumerate() {
            let expected = document.expected;
            let (difference, tolerance) = match (role, quantization) {
                (_, Quantization::Float32) => (measured - expected, TOLERANCE),
                (ModelRole::Reranker, _) => (sigmoid(*measured) - sigmoid(expected), COARSE_TOLERANCE),
                (ModelRole::Embedder, _) => (measured - expected, COARSE_TOLERANCE),
            };
            if difference.is_nan() || difference.abs() > tolerance {
                return Err(format!(
                    "text {} has {unit} {measured:.4} where the reference has {expected:.4}; {USUAL_CAUSES}",
                    number + 1
                ));
            }
        }
        if order(measured) != order(&self.documents.iter().map(|document| document.expected).collect::<Vec<_>>()) {
            return Err(format!("the texts come in another order than the reference's; {USUAL_CAUSES}"));
        }
        Ok(())
    }
}

const PLANETS_QUERY: &str = "Which planet is known as the Red Planet?";
const PLANETS: [&str; 4] = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
];
const ELSEWHERE: &str = "Sourdough bread rises slowly in a cold kitchen.";

/// What any English model should find: an answer fits its question better than a text about something else. The
/// expected values are not known, only their order.
pub fn plausible() -> Expectations {
    let documents = [PLANETS[1], ELSEWHERE].map(|text| ExpectedDocument { text: text.to_owned(), expected: f64::NAN });
    Expectations {
        weights_sha256: None,
        instruction: "Given the query and document, determine if the document is relevant to the query.".to_owned(),
        query: PLANETS_QUERY.to_owned(),
        documents: documents.into(),
    }
}

/// Whether the answer of [`plausible`] fits better.
pub fn is_plausible(measured: &[f64]) -> bool {
    matches!(measured, [answer, elsewhere] if answer > elsewhere)
}

fn sigmoid(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// Positions, best first.
fn order(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let value = |at: &usize| values.get(*at).copied().unwrap_or(f64::NAN);
    order.sort_by(|a, b| value(b).total_cmp(&value(a)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: [f64; 4] = [-3.109_297_752, 7.120_389_938, -0.378_754_616, 3.541_637_421];

    fn judge(quantization: Quantization, measured: [f64; 4]) -> Result<(), String> {
        let known = Expectations::known("Qwen/Qwen3-Reranker-0.6B").unwrap();
        known.judge(ModelRole::Reranker, quantization, &measured)
    }

    #[test]
    fn the_reference_passes_and_a_tenth_of_a_thousandth_is_the_bound_in_float32() {
        judge(Quantization::Float32, REFERENCE).unwrap();
        judge(Quantization::Float32, REFERENCE.map(|value| value + 9e-5)).unwrap();
        let message = judge(Quantization::Float32, REFERENCE.map(|value| value + 2e-4)).unwrap_err();
        assert!(message.contains("text 1") && message.contains("-3.1093"), "{message}");
    }

    #[test]
    fn coarser_precisions_may_move_scores_a_little_and_keep_the_order() {
        let moved = [-3.3, 6.0, -0.5, 3.2];
        judge(Quantization::Int8, moved).unwrap();
        assert!(judge(Quantization::Float32, moved).is_err());
        assert!(judge(Quantization::Float16, [-3.1, 7.1, 0.2, 3.5]).unwrap_err().contains("text 3"));
        // Scores near one move less than the tolerance, and the order is wrong all the same.
        assert!(judge(Quantization::Float16, [-3.1, 3.4, -0.37, 3.5]).unwrap_err().contains("order"));
    }

    #[test]
    fn swapped_answers_no_template_and_values_that_are_no_numbers_fail() {
        assert!(judge(Quantization::Int8, REFERENCE.map(|value| -value)).is_err());
        // Measured without the template, as scores: 0.559, 0.988, 0.887, 0.910.
        assert!(judge(Quantization::Float16, [0.237, 4.41, 2.06, 2.31]).is_err());
        assert!(judge(Quantization::Float16, [f64::NAN; 4]).is_err());
        let known = Expectations::known("Qwen/Qwen3-Reranker-0.6B").unwrap();
        assert!(known.judge(ModelRole::Reranker, Quantization::Float32, &[1.0]).unwrap_err().contains("1 values"));
    }

    #[test]
    fn only_an_answer_that_fits_better_is_plausible() {
        assert!(is_plausible(&[0.5, 0.4]));
        for odd in [&[0.4, 0.5][..], &[f64::NAN, 0.4], &[0.5, f64::NAN], &[0.5]] {
            assert!(!is_plausible(odd), "{odd:?}");
        }
    }

    #[test]
    fn a_folder_s_own_expectations_come_first_and_hold_for_their_weights_only() {
        let folder = tempfile::tempdir().unwrap();
        let find = |model: &str| Expectations::find(model, folder.path());
        assert_eq!(find("other").unwrap(), None);
        assert!(find("Qwen/Qwen3-Reranker-0.6B").unwrap().is_some());
        let write = |text: &str| std::fs::write(folder.path().join(FILE), text).unwrap();
        write(r#"{"instruction": "i", "query": "q", "documents": [{"text": "t", "expected": 1.5}]}"#);
        assert_eq!(find("other").unwrap().unwrap().documents[0].text, "t");

        std::fs::write(folder.path().join(WEIGHTS), "abc").unwrap();
        let of_weights = |digest: &str| {
            format!(
                r#"{{"weightsSha256": "{digest}", "instruction": "i", "query": "q", "documents": [{{"text": "t", "expected": 1.5}}]}}"#
            )
        };
        write(&of_weights("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"));
        assert!(find("other").unwrap().is_some());
        write(&of_weights("00"));
        assert!(find("other").unwrap_err().to_string().contains("ba7816bf"));
        write(r#"{"instruction": "i", "query": "q", "documents": []}"#);
        assert!(find("other").unwrap_err().to_string().contains("documents is empty"));
        write(r#"{"instruction": "i"}"#);
        assert!(find("other").unwrap_err().to_string().contains("query"));
    }
}
