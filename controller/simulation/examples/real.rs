//! Writes the tables of A/A and A/B tests on request logs to standard output. Used by `cargo xtask
//! bench real`.
//!
//! `cargo run --release -p serin-simulation --example real -- SPLITS SEED DIR`

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serin_simulation::real_requests::{NamedLog, RealRequestsOptions, markdown, run};
use serin_simulation::request_log::RequestLog;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [splits, seed, directory] = arguments.as_slice() else {
        return Err(
            "usage: real SPLITS SEED DIR (draws per cell, base seed, directory with request logs: \
             .csv or .csv.gz)"
                .into(),
        );
    };
    let options = RealRequestsOptions {
        splits: splits.parse()?,
        seed: seed.parse()?,
    };
    let logs = read_logs(Path::new(directory))?;
    print!("{}", markdown(&run(&logs, options)?));
    Ok(())
}

/// Reads all logs of a directory in order of their names.
fn read_logs(directory: &Path) -> Result<Vec<NamedLog>, Box<dyn Error>> {
    let entries = fs::read_dir(directory)
        .map_err(|error| format!("cannot read the directory {}: {error}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut logs = Vec::new();
    for file in files {
        let name = file
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let Some(stem) = name
            .strip_suffix(".csv.gz")
            .or_else(|| name.strip_suffix(".csv"))
        else {
            continue;
        };
        let opened = File::open(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let input: Box<dyn BufRead> = if file.extension().is_some_and(|extension| extension == "gz")
        {
            Box::new(BufReader::new(MultiGzDecoder::new(opened)))
        } else {
            Box::new(BufReader::new(opened))
        };
        let log =
            RequestLog::read(input).map_err(|error| format!("{}: {error}", file.display()))?;
        logs.push(NamedLog {
            name: stem.to_owned(),
            log,
        });
    }
    if logs.is_empty() {
        return Err(format!(
            "{} contains no request log: add a file .csv or .csv.gz, for example with kubectl \
             serin requests convert",
            directory.display()
        )
        .into());
    }
    Ok(logs)
}
