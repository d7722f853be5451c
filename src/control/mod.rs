//! The control protocol: newline-delimited JSON over a unix stream socket (DESIGN 7).
#![forbid(unsafe_code)]

pub mod codec;
pub mod crash;
pub mod findings;
pub mod reply;
pub mod request;
