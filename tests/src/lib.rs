//! What tests that cross crates need: the judged corpus, measures of a ranking, the tiny models, a Qdrant server and a
//! collector of traces on loopback, the real server and a real API server of Kubernetes as child processes. Nothing here ships.

pub mod api_server;
pub mod bm25;
pub mod breakable;
pub mod classifier;
pub mod cluster;
pub mod corpus;
pub mod cut_client;
pub mod cycles;
pub mod deaf_proxy;
pub mod end_state;
pub mod fake_nodes;
pub mod fault_proxy;
pub mod http;
pub mod kubectl;
pub mod models;
pub mod node;
pub mod operator;
pub mod otlp_collector;
pub mod peers;
pub mod process;
pub mod python;
pub mod qdrant_server;
pub mod random_model;
pub mod random_specification;
pub mod schema;
pub mod service;
pub mod small_hub;
