//! `kubectl abort NAME`: the same program by another name.

use std::process::ExitCode;

fn main() -> ExitCode {
    serin_kubectl::main()
}
