//! Writes the tables to the standard output and the chart to a file: what `cargo xtask bench
//! detect` runs.
//!
//! `cargo run --release -p serin-simulation --example detect -- RUNS SEED CHART.svg`

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runs, seed, chart] = arguments.as_slice() else {
        return Err("detect RUNS SEED CHART.svg: how many rollouts a cell, the seed of them, and where to draw".into());
    };
    let options = serin_simulation::Options {
        runs: runs.parse()?,
        seed: seed.parse()?,
    };
    let report = serin_simulation::run(options)?;
    std::fs::write(chart, serin_simulation::chart(&report))?;
    print!("{}", serin_simulation::markdown(&report));
    Ok(())
}
