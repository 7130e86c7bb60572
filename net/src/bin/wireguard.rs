//! A tunnel's process alone, for this crate's tests; `skep wireguard` is the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    skep_wg::main(std::env::args_os().collect())
}
