//! The machine: it decides, the daemon performs.
//!
//! Pure: no I/O, no clock, no descriptors; time is an argument and randomness a seed.
//! The same inputs give the same outputs.
#![forbid(unsafe_code)]

pub mod announce;
#[cfg(test)]
mod cells;
mod companions;
pub mod crash;
pub mod end;
pub mod event;
pub mod files;
pub mod health;
pub mod hook;
#[cfg(test)]
mod jobs;
pub mod keep;
pub mod memory;
pub mod order;
pub mod outlook;
mod poll;
pub mod ready;
pub mod report;
pub mod restart;
mod resume;
#[cfg(test)]
mod rig;
pub mod service;
pub mod signal;
pub mod spec;
pub mod stop;
#[cfg(test)]
mod succession;
pub mod supervisor;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod time;
pub mod timer;
pub mod upgrade;
pub mod zone;
