//! What can be declared: `RerankDeployment`, the model catalogue and the server's configuration. Pure: no I/O, no clock, no
//! client.
//!
//! `rerank_deployment` is what a platform team applies (feature `kubernetes`, which the server does without).
//! `catalog` answers which reranker belongs to an embedding model, how large a batch may be and how much memory a
//! load takes. `server_config` is the file that the operator renders and the server reads.

pub mod catalog;
#[cfg(feature = "kubernetes")]
pub mod rerank_deployment;
pub mod server_config;

#[cfg(feature = "kubernetes")]
pub use rerank_deployment::{RerankDeployment, RerankDeploymentSpec};
pub use server_config::ServerConfig;
