//! `kubectl abort NAME`: same program as kubectl-serin.

use std::process::ExitCode;

fn main() -> ExitCode {
    serin_kubectl::main()
}
