//! The imperative half: it performs what the machine decides. No decision is made here.
#![forbid(unsafe_code)]

pub mod actions;
pub mod clients;
pub mod history;
pub mod logs;
pub mod notify;
pub mod sink;
pub mod spawn;
pub mod token;
pub mod tree;
