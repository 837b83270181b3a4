//! `kubectl serin ...`: the whole family; also `kubectl promote` and `kubectl abort` where it is
//! linked under those names.

use std::process::ExitCode;

fn main() -> ExitCode {
    serin_kubectl::main()
}
