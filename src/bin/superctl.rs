//! superctl as a program of its own, for `cargo install` and `cargo run --bin superctl`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    superd::ctl::main(std::env::args_os())
}
