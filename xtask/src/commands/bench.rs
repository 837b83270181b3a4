//! `cargo xtask bench`: runs benchmarks and writes the results into the documentation.

use std::env::var_os;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Zoned;
use tokio::process::Command;

mod false_rollbacks;
mod mutations;
mod scale;

use false_rollbacks::{RealArguments, WorldsArguments};
use mutations::MutationArguments;
use scale::ScaleArguments;

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
    /// Measure false rollbacks of good releases, and the detection of bad ones, on logs of real
    /// requests.
    Real(RealArguments),
    /// Simulate good releases of services with clustered errors, pods that differ and other
    /// conditions that break assumptions.
    Worlds(WorldsArguments),
    /// Measure the cost of evaluating one tick of one objective.
    Tick,
    /// Feed arbitrary input to everything that reads what tenants and Prometheus write.
    Fuzz(FuzzArguments),
    /// Take each protection against a known attack away, and expect that its test fails.
    Mutations(MutationArguments),
    /// Measure memory, allocations, CPU time and requests of the controller for a release, on the
    /// fake cluster.
    Footprint(FootprintArguments),
    /// Create, update and abort thousands of rollouts, and compare time, CPU, memory and requests
    /// with other controllers on the same control plane.
    Scale(ScaleArguments),
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

/// Number of rollouts.
#[derive(Args)]
pub(crate) struct FootprintArguments {
    /// Rollouts that are released at the same time.
    #[arg(long, default_value_t = 1_000)]
    rollouts: u32,
}

/// Kinds and number of inputs.
#[derive(Args)]
pub(crate) struct FuzzArguments {
    /// Inputs of each kind, in equal parts for the properties of the kind.
    #[arg(long, default_value_t = 1_000_000)]
    cases: u32,
    /// Kind of input. Repeat it for several kinds. Defaults to all kinds.
    #[arg(long = "kind", value_name = "KIND", value_enum)]
    kinds: Vec<FuzzKind>,
}

/// What untrusted input is tried as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FuzzKind {
    /// Conditions of checks.
    Conditions,
    /// PromQL queries and regular expressions.
    Queries,
    /// Rollouts.
    Rollouts,
    /// RolloutCommands.
    Commands,
    /// Responses of Prometheus.
    Answers,
    /// Labels of series.
    Labels,
    /// Lines, configurations and samples of the statistics.
    Statistics,
}

impl FuzzKind {
    /// The package, and what the paths of its tests contain.
    const fn tests(self) -> (&'static str, &'static str) {
        match self {
            Self::Conditions => ("serin-crds", "condition::fuzz::fuzz_"),
            Self::Queries => ("serin-crds", "promql::fuzz::fuzz_"),
            Self::Rollouts => ("serin-crds", "fuzz::fuzz_rollouts"),
            Self::Commands => ("serin-crds", "fuzz::fuzz_commands"),
            Self::Answers => ("serin-metrics-analysis", "prometheus::fuzz::fuzz_"),
            Self::Labels => ("serin-metrics-analysis", "fuzz::fuzz_labels"),
            Self::Statistics => ("serin-analysis", "fuzz_"),
        }
    }
}

/// Runs a benchmark and rewrites its section of the documentation.
pub(crate) async fn run(command: BenchCommand) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is not inside the workspace")?;
    match command {
        BenchCommand::Detect(arguments) => detect(root, &arguments).await,
        BenchCommand::Real(arguments) => false_rollbacks::real(root, &arguments).await,
        BenchCommand::Worlds(arguments) => false_rollbacks::worlds(root, &arguments).await,
        BenchCommand::Tick => tick(root).await,
        BenchCommand::Footprint(arguments) => footprint(root, &arguments).await,
        BenchCommand::Fuzz(arguments) => fuzz(root, &arguments).await,
        BenchCommand::Mutations(arguments) => mutations::run(root, &arguments).await,
        BenchCommand::Scale(arguments) => scale::run(root, arguments).await,
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
        (
            "evidence of pods",
            "the same with 24 stable and 2 canary pods, whose differences are learned on all time scales",
            "",
        ),
        ("bounds", "both bounds of the excess", ""),
    ];
    for (id, what, goal) in rows {
        let estimate = read_estimate(&estimates.join(id).join("new/estimates.json"))?;
        text.push_str(&format!("| {what} | {estimate} | {goal} |\n"));
    }
    write_section(&root.join(BENCHMARKS), "tick", &text)
}

async fn footprint(root: &Path, arguments: &FootprintArguments) -> Result<()> {
    let rollouts = arguments.rollouts;
    ensure!(rollouts > 0, "--rollouts is 0: set at least 1 rollout");
    let example = [
        "--release",
        "--package",
        "serin-footprint",
        "--example",
        "footprint",
        "--",
    ];
    let mut run = cargo(root, &["run"]);
    let table = capture_stdout(run.args(example).arg(rollouts.to_string())).await?;
    let text = format!(
        "`cargo xtask bench footprint --rollouts {rollouts}` wrote this section. {}\n\n{table}",
        environment(root).await?
    );
    write_section(&root.join(BENCHMARKS), "footprint", &text)
}

async fn fuzz(root: &Path, arguments: &FuzzArguments) -> Result<()> {
    let cases = arguments.cases;
    ensure!(cases > 0, "--cases is 0: set at least 1 input per kind");
    let kinds = match arguments.kinds.as_slice() {
        [] => FuzzKind::value_variants(),
        kinds => kinds,
    };
    let page = root.join(TESTING);
    let environment = environment(root).await?;
    for kind in kinds {
        let name = format!("{kind:?}").to_lowercase();
        let (inputs, seconds) = fuzz_kind(root, *kind, cases).await?;
        let row = format!(
            "| {name} | {} | {} | {environment} |",
            group_thousands(inputs),
            format_seconds(seconds)
        );
        // A kind takes up to an hour, so the kinds that have ended are kept if a later one fails.
        let text = fs::read_to_string(&page)?;
        write_section(&page, "fuzz", &with_fuzz_row(&text, &name, &row))?;
    }
    Ok(())
}

/// The section of fuzzing, in which the row of this kind is replaced or added.
fn with_fuzz_row(page: &str, kind: &str, row: &str) -> String {
    let kept = section(page, "fuzz").unwrap_or_default();
    let mut rows: Vec<&str> = kept
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| kind "))
        .filter(|line| !line.starts_with(&format!("| {kind} |")))
        .collect();
    rows.push(row);
    rows.sort_unstable();
    format!(
        "`cargo xtask bench fuzz` found no failure in:\n\n| kind of input | inputs | time | \
         machine, compiler, commit, date |\n|---|---|---|---|\n{}",
        rows.join("\n")
    )
}

/// Tries at least this number of inputs of one kind. Returns their number and the time in seconds.
async fn fuzz_kind(root: &Path, kind: FuzzKind, cases: u32) -> Result<(u64, f64)> {
    let (package, filter) = kind.tests();
    let test = |arguments: &[&str]| {
        let mut test = cargo(
            root,
            &[
                "test",
                "--profile",
                "fuzz",
                "--package",
                package,
                "--lib",
                "--",
                filter,
            ],
        );
        test.args(arguments);
        test
    };
    // Also builds, so that the time below covers the inputs only.
    let listed = capture_stdout(&mut test(&["--list"])).await?;
    let count = listed
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count();
    let properties = u32::try_from(count)?;
    ensure!(properties > 0, "no test of {package} contains {filter:?}");
    let each = cases.div_ceil(properties);
    let began = Instant::now();
    let printed = capture_stdout(test(&[]).env("PROPTEST_CASES", each.to_string())).await?;
    let seconds = began.elapsed().as_secs_f64();
    let passed = printed.lines().filter_map(property_name).count();
    ensure!(
        passed == count,
        "only {passed} of {count} properties were tested"
    );
    Ok((u64::from(each) * u64::from(properties), seconds))
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
    let (begin, end) = markers(name);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!(
        "{before}{begin}\n{}\n\n{end}{after}",
        text.trim_end()
    ))
}

/// The text between the markers of a section.
fn section<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (begin, end) = markers(name);
    let (_, rest) = page.split_once(&begin)?;
    rest.split_once(&end).map(|(text, _)| text)
}

fn markers(name: &str) -> (String, String) {
    (
        format!("<!-- bench {name}: begin -->\n"),
        format!("<!-- bench {name}: end -->"),
    )
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
    fn one_kind_of_fuzzing_keeps_the_rows_of_the_others() {
        let page = "<!-- bench fuzz: begin -->\n| kind of input | a |\n|---|---|\n| labels | 1 |\n\
                    | queries | 2 |\n<!-- bench fuzz: end -->";
        let text = with_fuzz_row(page, "labels", "| labels | 3 |");
        assert!(
            text.ends_with("|---|---|---|---|\n| labels | 3 |\n| queries | 2 |"),
            "{text}"
        );
    }

    #[test]
    fn each_page_has_its_generated_section() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (page, section) in [
            (BENCHMARKS, "detect"),
            (BENCHMARKS, "real"),
            (BENCHMARKS, "worlds"),
            (false_rollbacks::TRUST, "trust"),
            (BENCHMARKS, "tick"),
            (BENCHMARKS, "footprint"),
            (BENCHMARKS, "scale"),
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
    fn each_kind_of_fuzzing_has_tests_of_its_own() {
        let tests = FuzzKind::value_variants().iter().map(|kind| kind.tests());
        let tests: Vec<_> = tests.collect();
        for (index, (package, filter)) in tests.iter().enumerate() {
            let is_same = |other: &(&str, &str)| other.0 == *package && other.1 == *filter;
            assert!(!tests[..index].iter().any(is_same), "{package} {filter}");
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
