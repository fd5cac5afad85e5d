//! The pod: two-stage search over HTTP. Candidates come from a vector store, a cross-encoder reads every
//! query-document pair, the best `k` are returned.
//!
//! Dependencies point inwards: `api` (HTTP) -> `search` (the use case) -> `pool`, `prompt`, `store`, `engine` (traits).
//! `search` knows no HTTP and no model library; `engine` and `store` know nothing of each other.

pub mod access;
pub mod api;
pub mod args;
pub mod beir;
mod breaker;
pub mod chain;
pub mod comparison;
pub mod demo;
pub mod engine;
pub mod evaluate;
#[cfg(any(test, feature = "test-support"))]
pub mod fakes;
pub mod http;
pub mod hub;
pub mod index;
pub mod metrics;
pub mod models;
pub mod pool;
pub mod preflight;
pub mod prompt;
mod reload;
mod resolver;
pub mod run;
pub mod search;
pub mod self_test;
pub mod shutdown;
mod stages;
pub mod store;
pub mod telemetry;
pub mod traces;
mod watchdog;
pub mod wiring;
