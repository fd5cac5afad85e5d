//! One reconcile, step by step: observe -> validate -> build -> apply -> status.

pub mod actions;
pub mod additions;
pub mod apply;
pub mod build;
pub mod contains;
pub mod events;
pub mod fields;
pub mod kinds;
pub mod model_states;
pub mod nodes;
pub mod observe;
pub mod pods;
mod quantity;
pub mod reconcile;
pub mod rollout;
pub mod status;
pub mod validate;
pub mod words;
