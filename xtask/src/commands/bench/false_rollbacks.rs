//! `cargo xtask bench real` and `cargo xtask bench worlds`: false rollbacks of good releases.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{
    BENCHMARKS, capture_stdout, cargo, children_cpu_seconds, environment, format_seconds,
    write_section,
};

/// The page for users that contains a part of the tables.
pub(super) const TRUST: &str = "docs/explanation/when-to-trust-the-verdict.md";
/// The headings of the first section in that part, and of the first one after it.
const SUMMARY_BEGINS: &str = "### Cells above 1 %";
const SUMMARY_ENDS: &str = "### Good releases by scrape interval";

/// Logs and size of the tests on real requests.
#[derive(Args)]
pub(crate) struct RealArguments {
    /// Directory with request logs, .csv or .csv.gz, as written by `kubectl serin requests
    /// convert`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Draws per table cell. Fewer draws are faster, but small rates become less precise.
    #[arg(long, default_value_t = 1000)]
    splits: u32,
    /// Seed of the random numbers. The same seed gives the same tables.
    #[arg(long, default_value_t = 20_260_101)]
    seed: u64,
    /// Print the tables instead of writing them into the documentation.
    #[arg(long)]
    print: bool,
}

/// Size of the simulation of harsher worlds.
#[derive(Args)]
pub(crate) struct WorldsArguments {
    /// Releases per table cell. Fewer releases are faster, but small rates become less precise.
    #[arg(long, default_value_t = 2000)]
    runs: u32,
    /// Seed of the random numbers. The same seed gives the same table.
    #[arg(long, default_value_t = 20_260_101)]
    seed: u64,
    /// Print the table instead of writing it into the documentation.
    #[arg(long)]
    print: bool,
}

/// Tests the rule on real requests.
pub(super) async fn real(root: &Path, arguments: &RealArguments) -> Result<()> {
    let RealArguments {
        data,
        splits,
        seed,
        print,
    } = arguments;
    ensure!(*splits > 0, "--splits is 0: set at least 1 draw per cell");
    let data = data.canonicalize().with_context(|| {
        format!(
            "--data {}: not a directory. Set a directory with request logs (.csv or .csv.gz)",
            data.display()
        )
    })?;
    let options = [
        splits.to_string(),
        seed.to_string(),
        data.to_string_lossy().into_owned(),
    ];
    let command = format!("cargo xtask bench real --data DIR --splits {splits} --seed {seed}");
    let text = run_example(root, "real", &options, &command, *print).await?;
    if let Some(text) = text {
        write_section(&root.join(BENCHMARKS), "real", &text)?;
        write_section(&root.join(TRUST), "trust", &summary(&text)?)?;
    }
    Ok(())
}

/// The part of the tables for users: the first line and the sections on good releases.
fn summary(text: &str) -> Result<String> {
    let (provenance, _) = text.split_once("\n\n").unwrap_or((text, ""));
    let (_, rest) = text
        .split_once(SUMMARY_BEGINS)
        .with_context(|| format!("the tables have no section {SUMMARY_BEGINS:?}"))?;
    let (tables, _) = rest
        .split_once(SUMMARY_ENDS)
        .with_context(|| format!("the tables have no section {SUMMARY_ENDS:?}"))?;
    Ok(format!("{provenance}\n\n{SUMMARY_BEGINS}{tables}"))
}

/// Simulates harsher worlds.
pub(super) async fn worlds(root: &Path, arguments: &WorldsArguments) -> Result<()> {
    let WorldsArguments { runs, seed, print } = arguments;
    ensure!(*runs > 0, "--runs is 0: set at least 1 release per cell");
    let options = [runs.to_string(), seed.to_string()];
    let command = format!("cargo xtask bench worlds --runs {runs} --seed {seed}");
    let text = run_example(root, "worlds", &options, &command, *print).await?;
    text.map_or(Ok(()), |text| {
        write_section(&root.join(BENCHMARKS), "worlds", &text)
    })
}

/// Runs an example of the simulation. Returns the text of its section, or prints its tables.
async fn run_example(
    root: &Path,
    name: &str,
    options: &[String],
    command: &str,
    print: bool,
) -> Result<Option<String>> {
    let example = [
        "--release",
        "--package",
        "serin-simulation",
        "--example",
        name,
    ];
    // Build first, so that the time below covers the simulation only.
    capture_stdout(cargo(root, &["build"]).args(example)).await?;
    let (began, used_before) = (Instant::now(), children_cpu_seconds()?);
    let tables =
        capture_stdout(cargo(root, &["run"]).args(example).arg("--").args(options)).await?;
    let (took, used) = (
        began.elapsed().as_secs_f64(),
        children_cpu_seconds()? - used_before,
    );
    if print {
        print!("{tables}");
        return Ok(None);
    }
    Ok(Some(format!(
        "`{command}` wrote this section in {}, with {} of CPU time. {}\n\n{tables}",
        format_seconds(took),
        format_seconds(used),
        environment(root).await?
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_provenance_and_the_sections_on_good_releases() {
        let text = format!(
            "cargo, today\n\nlogs\n\n{SUMMARY_BEGINS}\na\n\n### By weight\nb\n\n{SUMMARY_ENDS}\nc\n"
        );
        assert_eq!(
            summary(&text).unwrap(),
            format!("cargo, today\n\n{SUMMARY_BEGINS}\na\n\n### By weight\nb\n\n")
        );
        assert!(summary("cargo, today").is_err());
    }
}
