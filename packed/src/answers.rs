//! What a model answers: logits of two tokens, or a vector.

use crate::elementwise::normalize;
use crate::forward::{Stopped, run};
use crate::model::Model;
use crate::weights::LoadError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was asked to stop.
    #[error("it was stopped")]
    Stopped,
    /// The rows of the output head could not be read.
    #[error(transparent)]
    Head(#[from] LoadError),
}

impl From<Stopped> for RunError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl Model {
    /// Logits of the `answers` tokens at the end of each prompt. The first `shared` tokens are the same in all
    /// prompts and are computed once. No prompt is empty and all tokens are in the vocabulary; `stop` is asked
    /// between tiles of a layer.
    ///
    /// Runs on the threads of the rayon pool that it is called in. What an answer is depends on its prompt, on
    /// `shared` and on the instructions of the processor alone: not on the other prompts, nor on the number of threads.
    pub fn score(
        &self,
        prompts: &[Vec<u32>],
        shared: usize,
        answers: [u32; 2],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<[f32; 2]>, RunError> {
        let Some(shortest) = prompts.iter().map(Vec::len).min() else { return Ok(Vec::new()) };
        let beginning = &prompts[0][..shared.min(shortest.saturating_sub(1))];
        let texts: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[beginning.len()..]).collect();
        let [yes, no] = [self.head_row(answers[0])?, self.head_row(answers[1])?];
        let states = run(self, beginning, &texts, stop)?;
        Ok(self.normed(&states).map(|state| [dot(&state, &yes), dot(&state, &no)]).collect())
    }

    /// The vector of each text, of length 1. No text is empty and all tokens are in the vocabulary; `stop` as in
    /// [`score`](Self::score).
    pub fn embed(&self, texts: &[Vec<u32>], stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Vec<f32>>, RunError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let states = run(self, &[], &texts, stop)?;
        Ok(self.normed(&states).map(of_length_one).collect())
    }

    fn normed(&self, states: &[f32]) -> impl Iterator<Item = Vec<f32>> {
        states.chunks_exact(self.shape.hidden).map(|state| {
            let mut normed = vec![0.0; state.len()];
            normalize(state, &self.norm, self.shape.norm_epsilon, &mut normed);
            normed
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a logit is float32")]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum::<f64>() as f32
}

#[expect(clippy::cast_possible_truncation, reason = "a vector is float32")]
fn of_length_one(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    vector.into_iter().map(|value| (f64::from(value) / length) as f32).collect()
}
