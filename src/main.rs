//! superd and superctl in one file: which one it is, argv[0] decides.
#![forbid(unsafe_code)]
fn main() {}
