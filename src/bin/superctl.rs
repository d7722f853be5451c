//! superctl as a program of its own, for `cargo install` and `cargo run --bin superctl`.
#![forbid(unsafe_code)]
fn main() {}
