//! superd: a process supervisor for embedded Linux that stops servers safely.
//!
//! Arrows point one way: `machine <- config, control <- daemon, ctl <- main`;
//! `latch` and `sys` know nobody, but everybody may use a [`map`] and [`json`].
//!
//! - [`machine`]: what is to be done. Pure.
//! - [`config`]: TOML files, as typed and as meant.
//! - [`control`]: the words on the control socket.
//! - [`daemon`]: performs what the machine decides.
//! - [`ctl`]: the client.
//! - [`json`]: superd's own types as JSON.
//! - [`map`]: a small map and set, for all of these.
//! - [`latch`]: the one word that signal handlers write.
//! - [`sys`]: the kernel's interfaces; the only unsafe code.

pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod json;
pub mod latch;
pub mod machine;
pub mod map;
pub mod sys;

#[cfg(test)]
mod shipped;

/// musl's own asks the kernel for a mapping for each new size of block, and gives it back as
/// often: a hundred system calls until superd is in its loop.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
