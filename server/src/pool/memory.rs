//! What fits, who has to leave, and what would help. Pure.

use tokio::time::Instant;

use super::slot::{LoadStep, Phase};
use super::{MemoryFix, ModelKey, State};

/// What the slots hold, seen from one load.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Bytes promised to other loads under way.
    pub(super) reserved_bytes: u64,
    /// Predicted bytes of models that nobody uses.
    pub(super) idle_bytes: u64,
    /// Predicted bytes of models that requests use.
    pub(super) used_bytes: u64,
    /// The model that nobody has used for longest.
    pub(super) least_recently_used: Option<ModelKey>,
    /// Another load or an unload will end by itself and change the sum.
    pub(super) others_under_way: bool,
}

impl Holdings {
    /// What all slots but `own` hold.
    pub(super) fn without(state: &State, own: &ModelKey) -> Self {
        let mut holdings = Self::default();
        let mut oldest: Option<Instant> = None;
        for (key, slot) in state.slots.iter().filter(|(key, _)| *key != own) {
            holdings.reserved_bytes += slot.reserved_bytes();
            // A load that has not passed its own memory check waits for ours: waiting for it would never end.
            let waits_for_us = matches!(
                slot.phase,
                Phase::Loading(LoadStep::Checking | LoadStep::Downloading | LoadStep::WaitingForMemory)
            );
            holdings.others_under_way |= slot.is_busy() && !waits_for_us;
            if slot.is_idle() {
                holdings.idle_bytes += slot.held_bytes();
                if oldest.is_none_or(|oldest| slot.idle_since < oldest) {
                    oldest = Some(slot.idle_since);
                    holdings.least_recently_used = Some(key.clone());
                }
            } else if matches!(slot.phase, Phase::Ready(_)) {
                holdings.used_bytes += slot.held_bytes();
            }
        }
        holdings
    }
}

/// What a load does about its memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It fits.
    Fits,
    /// It fits once idle models are gone; this one first.
    Evict(ModelKey),
    /// It may fit when what is under way has ended.
    WaitForOthers,
    /// It does not fit.
    DoesNotFit,
}

/// Judges a load of `needed` bytes while the device has `free` bytes.
pub(super) fn judge(needed: u64, free: u64, holdings: &Holdings) -> Verdict {
    let available = free.saturating_sub(holdings.reserved_bytes);
    if needed <= available {
        return Verdict::Fits;
    }
    match &holdings.least_recently_used {
        // Nobody is sent away in vain.
        Some(key) if needed <= available.saturating_add(holdings.idle_bytes) => Verdict::Evict(key.clone()),
        _ if holdings.others_under_way => Verdict::WaitForOthers,
        _ => Verdict::DoesNotFit,
    }
}

/// The fixes with which the load would have fit. `alternatives`: predicted bytes under each fix. `used_bytes`: what
/// models hold that could not be sent away.
pub(super) fn fixes_that_help(
    needed: u64,
    available: u64,
    alternatives: &[(MemoryFix, u64)],
    used_bytes: u64,
) -> Vec<MemoryFix> {
    let mut fixes = Vec::new();
    for (fix, bytes) in alternatives {
        if *bytes <= available && !fixes.contains(fix) {
            fixes.push(*fix);
        }
    }
    if used_bytes > 0 && needed <= available.saturating_add(used_bytes) {
        fixes.push(MemoryFix::ShorterUnloadTimeout);
    }
    fixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::ModelRole;

    fn key(model: &str) -> ModelKey {
        ModelKey {
            role: ModelRole::Reranker,
            model: model.to_owned(),
            quantization: rerank_crds::catalog::Quantization::Float16,
        }
    }

    #[test]
    fn what_other_loads_were_promised_is_not_free() {
        let holdings = Holdings { reserved_bytes: 60, ..Holdings::default() };
        assert_eq!(judge(40, 100, &holdings), Verdict::Fits);
        assert_eq!(judge(41, 100, &holdings), Verdict::DoesNotFit);
    }

    #[test]
    fn an_idle_model_leaves_only_where_that_suffices() {
        let holdings = Holdings { idle_bytes: 50, least_recently_used: Some(key("old")), ..Holdings::default() };
        assert_eq!(judge(60, 10, &holdings), Verdict::Evict(key("old")));
        assert_eq!(judge(61, 10, &holdings), Verdict::DoesNotFit);
    }

    #[test]
    fn a_load_waits_for_others_before_it_gives_up() {
        let holdings = Holdings { reserved_bytes: 60, others_under_way: true, ..Holdings::default() };
        assert_eq!(judge(80, 100, &holdings), Verdict::WaitForOthers);
    }

    #[test]
    fn only_fixes_with_which_it_would_fit_are_named() {
        let alternatives = [(MemoryFix::SmallerModel, 90), (MemoryFix::Int8, 120), (MemoryFix::SmallerBatch, 100)];
        assert_eq!(
            fixes_that_help(200, 100, &alternatives, 0),
            [MemoryFix::SmallerModel, MemoryFix::SmallerBatch],
            "int8 would still need 120 of 100"
        );
        assert_eq!(fixes_that_help(200, 10, &alternatives, 0), []);
        assert_eq!(fixes_that_help(200, 10, &alternatives, 190), [MemoryFix::ShorterUnloadTimeout]);
        assert_eq!(fixes_that_help(200, 10, &alternatives, 189), []);
    }

    proptest! {
        #[test]
        fn nothing_is_promised_twice(needed in 0u64..1000, free in 0u64..1000, reserved in 0u64..1000, idle in 0u64..1000) {
            let holdings = Holdings {
                reserved_bytes: reserved,
                idle_bytes: idle,
                least_recently_used: (idle > 0).then(|| key("old")),
                ..Holdings::default()
            };
            if judge(needed, free, &holdings) == Verdict::Fits {
                prop_assert!(needed == 0 || needed + reserved <= free);
            }
        }
    }
}
