//! What the tests of several crates need.

pub mod models;
