//! `cargo xtask bench`: runs benchmarks and writes the results into the documentation.

use std::env::var_os;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use jiff::Zoned;
use tokio::process::Command;

const BENCHMARKS: &str = "docs/benchmarks.md";
const TESTING: &str = "docs/explanation/testing.md";
/// The chart of the detection benchmark.
const CHART: &str = "docs/benchmarks-detect.svg";

/// Which benchmark to run.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Simulate how fast and how reliably bad releases are detected, compared with the rules of
    /// other controllers.
    Detect(DetectArguments),
    /// Measure the cost of evaluating one tick of one objective.
    Tick,
    /// Feed arbitrary input to the evaluator and to the decoder of Prometheus responses.
    Fuzz(FuzzArguments),
}

/// Size of the simulation.
#[derive(Args)]
pub(crate) struct DetectArguments {
    /// Rollouts per table cell. Fewer rollouts are faster, but small rates become less precise.
    #[arg(long, default_value_t = 100_000)]
    runs: u32,
    /// Seed of the random numbers. The same seed gives the same tables.
    #[arg(long, default_value_t = 20_260_101)]
    seed: u64,
}

/// Number of inputs.
#[derive(Args)]
pub(crate) struct FuzzArguments {
    /// Inputs per property.
    #[arg(long, default_value_t = 200_000)]
    cases: u32,
}

/// Runs a benchmark and rewrites its section of the documentation.
pub(crate) async fn run(command: BenchCommand) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is not inside the workspace")?;
    match command {
        BenchCommand::Detect(arguments) => detect(root, &arguments).await,
        BenchCommand::Tick => tick(root).await,
        BenchCommand::Fuzz(arguments) => fuzz(root, &arguments).await,
    }
}

async fn detect(root: &Path, arguments: &DetectArguments) -> Result<()> {
    let (runs, seed) = (arguments.runs, arguments.seed);
    ensure!(runs > 0, "--runs is 0: set at least 1 rollout per cell");
    // Build first, so that the time below covers the simulation only.
    let example = [
        "--release",
        "--package",
        "serin-simulation",
        "--example",
        "detect",
    ];
    capture_stdout(cargo(root, &["build"]).args(example)).await?;
    let environment = environment(root).await?;
    let (began, used_before) = (Instant::now(), children_cpu_seconds()?);
    let numbers = [runs.to_string(), seed.to_string(), CHART.to_owned()];
    let tables =
        capture_stdout(cargo(root, &["run"]).args(example).arg("--").args(&numbers)).await?;
    let (took, used) = (
        began.elapsed().as_secs_f64(),
        children_cpu_seconds()? - used_before,
    );
    let text = format!(
        "`cargo xtask bench detect --runs {runs} --seed {seed}` wrote this section in {}, with {} \
         of CPU time. {environment}\n\n![Errors that a bad release serves within an hour, by \
         rule]({})\n\n{tables}",
        format_seconds(took),
        format_seconds(used),
        CHART.trim_start_matches("docs/"),
    );
    write_section(&root.join(BENCHMARKS), "detect", &text)
}

async fn tick(root: &Path) -> Result<()> {
    let estimates = root.join("target/criterion");
    let mut bench = cargo(
        root,
        &["bench", "--package", "serin-analysis", "--bench", "tick"],
    );
    capture_stdout(bench.env("CRITERION_HOME", &estimates)).await?;
    let mut text = format!(
        "`cargo xtask bench tick` wrote this section. {}\n\n",
        environment(root).await?
    );
    text.push_str("| what | mean, 95 % interval | goal |\n|---|---|---|\n");
    let rows = [
        (
            "evidence",
            "one tick of one objective: the evidence and the three e-values that decide",
            "under 2 µs",
        ),
        ("bounds", "both bounds of the excess", ""),
    ];
    for (id, what, goal) in rows {
        let estimate = read_estimate(&estimates.join(id).join("new/estimates.json"))?;
        text.push_str(&format!("| {what} | {estimate} | {goal} |\n"));
    }
    write_section(&root.join(BENCHMARKS), "tick", &text)
}

async fn fuzz(root: &Path, arguments: &FuzzArguments) -> Result<()> {
    let cases = arguments.cases;
    let began = Instant::now();
    let mut run = cargo(
        root,
        &[
            "test",
            "--release",
            "--package",
            "serin-analysis",
            "--package",
            "serin-metrics-analysis",
            "--package",
            "serin-crds",
        ],
    );
    run.args(["--", "fuzz_"])
        .env("PROPTEST_CASES", cases.to_string());
    let printed = capture_stdout(&mut run).await?;
    let names: Vec<_> = printed.lines().filter_map(property_name).collect();
    ensure!(!names.is_empty(), "no property test ran");
    let inputs = u64::from(cases) * u64::try_from(names.len())?;
    let mut text = format!(
        "`cargo xtask bench fuzz --cases {cases}` tested {} inputs in {} without a failure. {}\n\n",
        group_thousands(inputs),
        format_seconds(began.elapsed().as_secs_f64()),
        environment(root).await?
    );
    for name in names {
        text.push_str(&format!("- {name}: {}\n", group_thousands(cases.into())));
    }
    write_section(&root.join(TESTING), "fuzz", &text)
}

/// The name of a property in a line such as `test evaluate::fuzz::fuzz_no_line_panics ... ok`.
fn property_name(line: &str) -> Option<String> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... ok")?;
    let (_, property) = name.rsplit_once("fuzz_")?;
    Some(property.replace('_', " "))
}

/// The mean of a Criterion estimate with its interval, in microseconds.
fn read_estimate(path: &Path) -> Result<String> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text)?;
    let microseconds = |pointer: &str| {
        let nanoseconds = estimates
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64);
        nanoseconds
            .map(|value| value / 1000.0)
            .with_context(|| format!("{} has no {pointer}", path.display()))
    };
    Ok(format!(
        "{:.2} µs, {:.2} to {:.2}",
        microseconds("/mean/point_estimate")?,
        microseconds("/mean/confidence_interval/lower_bound")?,
        microseconds("/mean/confidence_interval/upper_bound")?
    ))
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    cargo
}

/// Runs a program and returns its standard output. Standard error is passed through.
async fn capture_stdout(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().await?;
    let printed = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        print!("{printed}");
        bail!(
            "{}: {}",
            command.as_std().get_program().display(),
            output.status
        );
    }
    Ok(printed)
}

/// The processor, compiler, commit and date of a benchmark, without which results are not
/// comparable.
async fn environment(root: &Path) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let rustc = var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = capture_stdout(Command::new(rustc).arg("--version")).await?;
    let commit = capture_stdout(
        Command::new("git")
            .args(["describe", "--always", "--dirty", "--exclude=*"])
            .current_dir(root),
    )
    .await;
    let commit = commit.map_or_else(
        |_| "no commit".to_owned(),
        |commit| format!("commit {}", commit.trim()),
    );
    let date = Zoned::now().date();
    Ok(format!(
        "{model}, {cores} cores, {}, {commit}, {date}.",
        rustc.trim()
    ))
}

/// CPU time of this process's finished children in seconds. Unlike wall-clock time, it does not
/// depend on the load of the machine.
fn children_cpu_seconds() -> Result<f64> {
    /// `proc_pid_stat(5)`: `cutime` and `cstime`, counted from the state, which follows the name in
    /// parentheses.
    const CHILDREN: std::ops::Range<usize> = 13..15;
    /// The kernel reports time in hundredths of a second.
    const PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").context("cannot read the CPU time")?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let ticks = fields
        .get(CHILDREN)
        .context("/proc/self/stat has no CPU time")?;
    ticks.iter().try_fold(0.0, |sum, ticks| {
        Ok(sum + ticks.parse::<f64>()? / PER_SECOND)
    })
}

fn format_seconds(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}

fn group_thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Replaces the text between the markers of a section. The rest of the file is not generated.
fn write_section(file: &PathBuf, name: &str, text: &str) -> Result<()> {
    let page =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let page = with_section(&page, name, text)
        .with_context(|| format!("{} has no section {name}", file.display()))?;
    fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
    println!("wrote the section {name} of {}", file.display());
    Ok(())
}

fn with_section(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- bench {name}: begin -->\n"),
        format!("<!-- bench {name}: end -->"),
    );
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!(
        "{before}{begin}\n{}\n\n{end}{after}",
        text.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_is_replaced() {
        let page = "a\n<!-- bench tick: begin -->\nold\n<!-- bench tick: end -->\nb\n";
        let expected = "a\n<!-- bench tick: begin -->\n\nnew\n\n<!-- bench tick: end -->\nb\n";
        assert_eq!(with_section(page, "tick", "new\n").unwrap(), expected);
        assert_eq!(with_section(expected, "tick", "new").unwrap(), expected);
        assert_eq!(with_section(page, "detect", "new"), None);
    }

    #[test]
    fn each_page_has_its_generated_section() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (page, section) in [
            (BENCHMARKS, "detect"),
            (BENCHMARKS, "tick"),
            (TESTING, "fuzz"),
        ] {
            let text = fs::read_to_string(root.join(page)).unwrap();
            assert!(
                with_section(&text, section, "").is_some(),
                "{page} has no section {section}"
            );
        }
    }

    #[test]
    fn property_names_come_from_test_names() {
        assert_eq!(
            property_name("test evaluate::fuzz::fuzz_no_line_panics ... ok").unwrap(),
            "no line panics"
        );
        assert_eq!(property_name("test evaluate::tests::other ... ok"), None);
        assert_eq!(property_name("test fuzz_a ... FAILED"), None);
        assert_eq!(group_thousands(1_234_567), "1,234,567");
    }
}
