//! The machine: it decides, the daemon performs.
//!
//! Pure: no I/O, no clock, no descriptors; time is an argument and randomness a seed.
//! The same inputs give the same outputs.
#![forbid(unsafe_code)]

pub mod crash;
pub mod event;
pub mod report;
pub mod signal;
pub mod spec;
pub mod time;
