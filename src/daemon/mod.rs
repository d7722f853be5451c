//! The imperative half: it performs what the machine decides. No decision is made here.
#![forbid(unsafe_code)]

pub mod actions;
mod adopt;
mod announce;
mod answer;
mod channel;
mod checkers;
pub mod clients;
mod clock;
mod crashes;
pub mod demo;
mod doctor;
mod drain;
pub mod history;
mod instances;
pub mod journal;
mod keep;
pub mod logs;
pub mod notify;
mod packer;
mod perform;
mod probes;
pub mod reactor;
mod reaper;
pub mod registry;
pub mod rundir;
pub mod signals;
pub mod sink;
mod sockets;
pub mod spawn;
pub mod start;
pub mod status;
pub mod token;
pub mod tree;
pub mod trees;
pub mod upgrade;
mod watches;
mod world;

pub use start::{run, wrap, DaemonOptions};
