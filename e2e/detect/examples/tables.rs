//! Writes the tables to the standard output: `cargo run --release -p serin-detect --example tables -- RUNS`.

fn main() -> Result<(), serin_analysis::ConfigError> {
    let runs = std::env::args().nth(1).and_then(|runs| runs.parse().ok());
    let options = serin_detect::Options::default();
    let report = serin_detect::run(serin_detect::Options { runs: runs.unwrap_or(options.runs), ..options })?;
    print!("{}", serin_detect::markdown(&report));
    Ok(())
}
