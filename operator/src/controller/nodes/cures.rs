//! What would make it fit: each of these is computed to do so, none is a guess. Pure.

use rerank_crds::ServerConfig;
use rerank_crds::catalog::{DeviceKind, Quantization, RERANKERS, reranker_model};
use rerank_crds::server_config::Reranker;

use crate::controller::build::bytes_on;
use crate::controller::validate::Plan;

/// A prompt of fewer tokens leaves no room for a document behind the longest query and instruction.
const SHORTEST_PROMPT: i32 = 2_048;

/// Lengths that are tried are multiples of it.
const LENGTH_STEP: i32 = 128;

/// So many are named; more would not be read.
const MOST: usize = 3;

/// Changes of the object, as its fields and values, each of which alone makes it fit into so many bytes of what the models lie in.
pub(super) fn cures(plan: &Plan, found_bytes: u64) -> Vec<String> {
    let room = Room { device: plan.device, found_bytes };
    let config = &plan.config;
    let mut all = Vec::new();
    all.extend(room.smaller_batch(config));
    all.extend(room.other_quantization(config));
    all.extend(room.smaller_model(config, plan));
    all.extend(room.shorter_prompts(config));
    let without = changed(config, |reranker| reranker.allowed_overrides.clear());
    if !config.reranker.allowed_overrides.is_empty() && room.holds(&without) {
        all.push("fewer reranker.allowedOverrides".to_owned());
    }
    all.truncate(MOST);
    all
}

/// What there is.
struct Room {
    device: DeviceKind,
    found_bytes: u64,
}

impl Room {
    fn holds(&self, config: &ServerConfig) -> bool {
        let needed = config.footprint(self.device).map(|footprint| bytes_on(self.device, config, &footprint));
        needed.is_ok_and(|needed| needed <= self.found_bytes) && config.validate().is_ok()
    }

    /// The largest number below `now` and not below `least` with which it fits. The more, the more memory.
    fn largest(&self, least: i32, now: i32, with: impl Fn(i32) -> ServerConfig) -> Option<i32> {
        let (mut fits, mut too_many) = (least, now);
        if least >= now || !self.holds(&with(least)) {
            return None;
        }
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if self.holds(&with(middle)) {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        Some(fits)
    }

    /// Fewer tokens in a batch where their number is named, else fewer pairs.
    fn smaller_batch(&self, config: &ServerConfig) -> Option<String> {
        if let Some(now) = config.reranker.token_budget {
            let with = |tokens| changed(config, |reranker| reranker.token_budget = Some(tokens));
            let tokens = self.largest(config.reranker.max_length, now, with)?;
            return Some(format!("reranker.tokenBudget: {tokens}"));
        }
        let pairs = self.largest_batch(config)?;
        Some(format!("reranker.batchSize: {pairs}"))
    }

    fn largest_batch(&self, config: &ServerConfig) -> Option<i32> {
        let now = config.served_rerankers().iter().map(|served| config.batch_size(served)).max()?;
        self.largest(1, now, |pairs| changed(config, |reranker| reranker.batch_size = Some(pairs)))
    }

    /// Alone, or with the largest batch with which it fits.
    fn named(&self, name: &str, config: &ServerConfig) -> Option<String> {
        if self.holds(config) {
            return Some(name.to_owned());
        }
        let has_budget = config.reranker.token_budget.is_some();
        let pairs = self.largest_batch(config).filter(|_| !has_budget)?;
        Some(format!("{name} with reranker.batchSize: {pairs}"))
    }

    fn other_quantization(&self, config: &ServerConfig) -> Option<String> {
        let now = config.reranker.quantization;
        let held = |quantization| matches!(quantization, Quantization::Float16 | Quantization::Bfloat16);
        let others = [Quantization::Float16, Quantization::Int8].into_iter();
        let mut others = others.filter(|other| *other != now && !(held(*other) && held(now)));
        others.find_map(|other| {
            let config = changed(config, |reranker| reranker.quantization = other);
            self.named(&format!("reranker.quantization: {}", other.as_str()), &config)
        })
    }

    /// The largest of the smaller ones.
    fn smaller_model(&self, config: &ServerConfig, plan: &Plan) -> Option<String> {
        let now = reranker_model(&plan.selection.as_ref()?.model)?.nominal_parameters;
        let smaller = RERANKERS.iter().rev().filter(|known| known.nominal_parameters < now);
        let mut named = smaller.filter_map(|known| {
            let config = changed(config, |reranker| {
                reranker.model = Some(known.id.to_owned());
                reranker.revision = None;
            });
            self.named(&format!("reranker.model: {}", known.id), &config)
        });
        named.next()
    }

    /// Where the longest prompt is what bounds a batch.
    fn shorter_prompts(&self, config: &ServerConfig) -> Option<String> {
        let least = SHORTEST_PROMPT / LENGTH_STEP;
        let now = config.reranker.max_length / LENGTH_STEP;
        let steps =
            self.largest(least, now, |steps| changed(config, |reranker| reranker.max_length = steps * LENGTH_STEP));
        steps.map(|steps| format!("reranker.maxLength: {}", steps * LENGTH_STEP))
    }
}

fn changed(config: &ServerConfig, change: impl FnOnce(&mut Reranker)) -> ServerConfig {
    let mut config = config.clone();
    change(&mut config.reranker);
    config
}
