//! What tests that cross crates need: the judged corpus, measures of a ranking, the tiny models, a Qdrant server and a
//! collector of traces on loopback, the real server as a child process. Nothing here ships.

pub mod bm25;
pub mod breakable;
pub mod classifier;
pub mod corpus;
pub mod cycles;
pub mod fault_proxy;
pub mod http;
pub mod models;
pub mod otlp_collector;
pub mod peers;
pub mod process;
pub mod python;
pub mod qdrant_server;
pub mod random_model;
pub mod service;
pub mod small_hub;
