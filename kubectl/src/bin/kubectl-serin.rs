//! `kubectl serin ...`. Also provides `kubectl promote` and `kubectl abort` if linked under those
//! names.

use std::process::ExitCode;

fn main() -> ExitCode {
    serin_kubectl::main()
}
