//! The largest batch that the budget allows, from real template text. Making it is pure and CPU-bound; running it
//! waits for the engine.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ModelInput, WarmUp};
use crate::engine::{Engine, EngineError, LoadSpec, ScoreRequest};
use crate::prompt::{PromptError, Reading};

/// Longest warm-up. A device too slow for its own largest batch still serves smaller ones.
pub(super) const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

const INSTRUCTION: &str = "Given the query and document, determine if the document is relevant to the query.";
const QUERY: &str = "which document answers the question";
const WORD: &str = "word ";

/// What a warm-up runs.
#[derive(Debug)]
pub(super) enum Batch {
    Score(ScoreRequest),
    Embed(Vec<Vec<u32>>),
}

/// As many inputs as the batch size allows, each as long as the token budget leaves it; fewer where not even empty
/// documents would fit.
pub(super) fn largest_batch(input: &ModelInput, spec: &LoadSpec) -> Result<Batch, PromptError> {
    let batch_size = spec.batch_size.max(1);
    let longest = (spec.token_budget / batch_size).clamp(1, spec.max_length.max(1));
    match input {
        ModelInput::Rerank(prompt) => {
            let encode = |words: usize| {
                let document = WORD.repeat(words);
                prompt.encode(INSTRUCTION, QUERY, &[document.as_str()], Reading::default())
            };
            let words = most_words(longest, |words| Ok(encode(words)?.prompts.first().map_or(0, Vec::len)))?;
            let one = encode(words)?;
            let prompt_tokens = one.prompts.into_iter().next().unwrap_or_default();
            let pairs = pairs_that_fit(batch_size, spec.token_budget, prompt_tokens.len());
            Ok(Batch::Score(ScoreRequest {
                prompts: vec![prompt_tokens; pairs],
                // All of them are one and the same: counted as shared, most of the batch would not be computed.
                shared_prefix_tokens: 0,
                yes_token: prompt.yes_token,
                no_token: prompt.no_token,
            }))
        }
        ModelInput::Embed(prompt) => {
            let encode = |words: usize| prompt.document(&WORD.repeat(words)).0;
            let words = most_words(longest, |words| Ok(encode(words).len()))?;
            let text = encode(words);
            let texts = pairs_that_fit(batch_size, spec.token_budget, text.len());
            Ok(Batch::Embed(vec![text; texts]))
        }
    }
}

/// The most words with which an input has at most `longest` tokens. A word has at least one token.
fn most_words(longest: usize, tokens: impl Fn(usize) -> Result<usize, PromptError>) -> Result<usize, PromptError> {
    let (mut fits, mut too_many) = (0, longest + 1);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if tokens(middle)? <= longest {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    Ok(fits)
}

fn pairs_that_fit(batch_size: usize, token_budget: usize, tokens: usize) -> usize {
    (token_budget / tokens.max(1)).clamp(1, batch_size)
}

/// Runs the batch. `None`: it did not end in time and was stopped.
pub(super) async fn run(engine: &dyn Engine, batch: Batch) -> Result<Option<WarmUp>, EngineError> {
    let started = Instant::now();
    let cancel = CancellationToken::new();
    let (pairs, tokens) = match &batch {
        Batch::Score(request) => (request.prompts.len(), request.prompts.iter().map(Vec::len).sum()),
        Batch::Embed(texts) => (texts.len(), texts.iter().map(Vec::len).sum()),
    };
    let work = async {
        match batch {
            Batch::Score(request) => {
                let logits = engine.score(request, &cancel).await?;
                match logits.iter().position(|pair| !pair.log_odds().is_finite()) {
                    Some(index) => Err(EngineError::NotFinite { index }),
                    None => Ok(()),
                }
            }
            Batch::Embed(texts) => {
                let vectors = engine.embed(texts, &cancel).await?;
                match vectors.iter().position(|vector| vector.iter().any(|value| !value.is_finite())) {
                    Some(index) => Err(EngineError::NotFinite { index }),
                    None => Ok(()),
                }
            }
        }
    };
    match tokio::time::timeout(WARM_UP_LIMIT, work).await {
        Ok(Ok(())) => Ok(Some(WarmUp { pairs, tokens, seconds: started.elapsed().as_secs_f64() })),
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => {
            cancel.cancel();
            Ok(None)
        }
    }
}
