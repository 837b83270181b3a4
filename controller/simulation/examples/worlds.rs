//! Writes the table of harsher worlds to standard output. Used by `cargo xtask bench worlds`.
//!
//! `cargo run --release -p serin-simulation --example worlds -- RUNS SEED`

use std::error::Error;

use serin_simulation::worlds::{WorldsOptions, markdown, run};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runs, seed] = arguments.as_slice() else {
        return Err("usage: worlds RUNS SEED (releases per cell, base seed)".into());
    };
    let report = run(WorldsOptions {
        runs: runs.parse()?,
        seed: seed.parse()?,
    })?;
    print!("{}", markdown(&report));
    Ok(())
}
