//! What can be declared: the model catalogue and the server's configuration. Pure: no I/O, no clock, no client.
//!
//! `catalog` answers which reranker belongs to an embedding model, how large a batch may be and how much memory a
//! load takes. `server_config` is the file that the operator renders and the server reads.

pub mod catalog;
pub mod server_config;

pub use server_config::ServerConfig;
