//! What is scored: prompts made of the corpus, the same in every run.

use std::path::Path;

use anyhow::{Context, Result};
use rerank_crds::catalog::{Prompt, QUERY_INSTRUCTION, Scoring};
use rerank_server::prompt::{Reading, RerankPrompt, TextEncoder};
use rerank_tests::corpus::Corpus;
use serde::Serialize;

const SEED: u64 = 1;
/// No prompt is cut.
const MAXIMUM_LENGTH: usize = 8_192;

/// Of the sets, in their order.
pub(crate) const NAMES: [&str; 3] = ["documents50", "titles200", "long10"];

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    /// In the published figures.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) about: &'static str,
    pub(crate) request: Request,
}

/// What an engine is given.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Request {
    pub(crate) prompts: Vec<Vec<u32>>,
    /// Tokens that all prompts begin with.
    pub(crate) shared: usize,
    pub(crate) yes: u32,
    pub(crate) no: u32,
}

impl Set {
    /// Tokens of all prompts, what they share counted in each.
    pub(crate) fn tokens(&self) -> usize {
        self.request.prompts.iter().map(Vec::len).sum()
    }
}

/// All of them, for a model's tokenizer.
pub(crate) fn all(model: &Path) -> Result<[Set; 3]> {
    let corpus = Corpus::read()?;
    let encoder = TextEncoder::from_file(&model.join("tokenizer.json"))?;
    let prompt = RerankPrompt::new(encoder, &Prompt::default(), &Scoring::default(), MAXIMUM_LENGTH)?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let query = random.choice(&corpus.queries).context("the corpus has no queries")?.text.clone();
    let mut words_of_any = |words: usize| {
        let mut text: Vec<&str> = Vec::with_capacity(words + 100);
        while text.len() < words {
            let document = random.choice(&corpus.documents).map_or("", |document| &document.text);
            text.extend(document.split_whitespace());
        }
        text.truncate(words);
        text.join(" ")
    };
    let documents: Vec<String> = (0..50).map(|at| words_of_any(60 + 140 * at / 49)).collect();
    // Words have more than a token each: so many come to about 2,000.
    let long: Vec<String> = (0..10).map(|_| words_of_any(1_250)).collect();
    let titles: Vec<String> =
        corpus.documents.iter().cycle().take(200).map(|document| document.title.clone()).collect();
    let [name_of_documents, name_of_titles, name_of_long] = NAMES;
    let set = |name, about, documents: &[String]| {
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let pairs = prompt.encode(QUERY_INSTRUCTION, &query, &documents, Reading::default())?;
        let (yes, no) = (prompt.yes_token, prompt.no_token);
        let request = Request { prompts: pairs.prompts, shared: pairs.shared_prefix_tokens, yes, no };
        Ok::<_, anyhow::Error>(Set { name, about, request })
    };
    Ok([
        set(name_of_documents, "50 documents of 60 to 200 words", &documents)?,
        set(name_of_titles, "200 titles", &titles)?,
        set(name_of_long, "10 documents of about 2,000 tokens", &long)?,
    ])
}
