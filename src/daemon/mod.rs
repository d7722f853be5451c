//! The imperative half: it performs what the machine decides. No decision is made here.
#![forbid(unsafe_code)]

mod actions;
mod adopt;
mod announce;
mod answer;
mod channel;
mod checkers;
mod clients;
mod clock;
mod crashes;
pub mod demo;
mod doctor;
mod drain;
mod history;
mod instances;
mod journal;
mod keep;
mod logs;
mod notify;
mod packer;
mod perform;
mod probes;
mod reactor;
mod reaper;
mod registry;
mod rundir;
mod signals;
mod sink;
mod sockets;
mod spawn;
mod start;
mod status;
mod token;
mod tree;
mod trees;
pub mod upgrade;
mod watches;
mod world;

pub use start::{run, wrap, DaemonOptions};
