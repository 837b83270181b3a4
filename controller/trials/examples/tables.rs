//! Writes the tables to the standard output: `cargo run --release -p serin-trials --example tables -- RUNS`.

fn main() -> Result<(), serin_analysis::ConfigError> {
    let runs = std::env::args().nth(1).and_then(|runs| runs.parse().ok());
    let options = serin_trials::Options::default();
    let report = serin_trials::run(serin_trials::Options { runs: runs.unwrap_or(options.runs), ..options })?;
    print!("{}", serin_trials::markdown(&report));
    Ok(())
}
