//! superctl: the client.
#![forbid(unsafe_code)]

pub mod render;
