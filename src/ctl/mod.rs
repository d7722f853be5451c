//! superctl: the client.
#![forbid(unsafe_code)]
