//! The configuration: TOML files as typed (`raw`), and as meant (`model`).
#![forbid(unsafe_code)]

pub mod model;
