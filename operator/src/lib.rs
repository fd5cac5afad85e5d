//! The operator: what a `RerankDeployment` asks for becomes a Deployment, a Service and the rest, and status says what is true.
//!
//! One reconcile is `observe -> validate -> build -> apply -> status`; only the first, the fourth and the writing of status do
//! I/O.

pub mod admin;
pub mod args;
pub mod controller;
pub mod leader;
pub mod metrics;
pub mod pauses;
pub mod run;
