//! superd: a process supervisor for embedded Linux that stops servers safely.
//!
//! Arrows point one way: `machine <- config, control <- daemon, ctl <- main`;
//! `latch` and `sys` know nobody.
//!
//! - [`machine`]: what is to be done. Pure.
//! - [`config`]: TOML files, as typed and as meant.
//! - [`control`]: the words on the control socket.
//! - [`daemon`]: performs what the machine decides.
//! - [`ctl`]: the client.
//! - [`latch`]: the one word that signal handlers write.
//! - [`sys`]: the kernel's interfaces; the only unsafe code.

pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod latch;
pub mod machine;
pub mod sys;

#[cfg(test)]
mod shipped;
