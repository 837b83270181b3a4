//! Writes the tables to standard output and the chart to a file. Used by `cargo xtask bench
//! detect`.
//!
//! `cargo run --release -p serin-simulation --example detect -- RUNS SEED CHART.svg`

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runs, seed, chart] = arguments.as_slice() else {
        return Err(
            "usage: detect RUNS SEED CHART.svg (rollouts for each cell, base seed, output \
            file of the chart)"
                .into(),
        );
    };
    let options = serin_simulation::SimulationOptions {
        runs: runs.parse()?,
        seed: seed.parse()?,
    };
    let report = serin_simulation::run(options)?;
    std::fs::write(chart, serin_simulation::chart(&report))?;
    print!("{}", serin_simulation::markdown(&report));
    Ok(())
}
