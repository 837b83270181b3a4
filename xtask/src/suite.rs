//! A sequence of checks. Each has a heading, its output passed through, and its duration; a table
//! at the end has all results, below what the failed tests said.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use serin_e2e::interrupt::Interrupts;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// Time that an interrupted check has for cleanup. The demo has to remove a namespace.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(150);

/// How the result of a check is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountMode {
    /// As one check, by its exit status.
    ExitStatus,
    /// As one check, by its exit status. Standard output is discarded.
    SilentExitStatus,
    /// As the number of tests in its output. Zero tests are a failure.
    Tests,
    /// As the number of tests in its output. Zero tests are allowed.
    OptionalTests,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    /// The check ran. The fields are the numbers of tests or checks.
    Checked { passed: u64, failed: u64 },
    /// The check did not run, with the reason.
    Skipped(String),
}

impl CheckOutcome {
    /// Counts one check. Prints the error on standard error.
    pub(crate) fn from_result(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Checked {
                passed: 1,
                failed: 0,
            },
            Err(error) => {
                eprintln!("error: {error:#}");
                Self::Checked {
                    passed: 0,
                    failed: 1,
                }
            }
        }
    }
}

/// Prints the heading of a check.
pub(crate) fn heading(name: &str) {
    println!("\n=== {name}");
}

/// The results of the checks so far.
pub(crate) struct Suite {
    checkout: PathBuf,
    began: Instant,
    interrupts: Interrupts,
    interrupted: bool,
    results: Vec<(String, CheckOutcome, Duration)>,
    /// What failed tests printed, in order.
    failure_reports: Vec<String>,
}

impl Suite {
    /// Starts the suite. From now on Ctrl-C stops the current check after its cleanup and skips all
    /// other checks.
    pub(crate) fn new(checkout: &Path) -> Result<Self> {
        Ok(Self {
            checkout: checkout.to_owned(),
            began: Instant::now(),
            interrupts: Interrupts::listen()?,
            interrupted: false,
            results: Vec::new(),
            failure_reports: Vec::new(),
        })
    }

    /// Records the outcome of a check that ran elsewhere.
    pub(crate) fn record(&mut self, name: &str, outcome: CheckOutcome, took: Duration) {
        println!(
            "=== {name}: {} ({})",
            describe_outcome(&outcome),
            format_duration(took)
        );
        self.results.push((name.to_owned(), outcome, took));
    }

    /// Records a check that cannot run here.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        heading(name);
        self.record(name, CheckOutcome::Skipped(why.to_owned()), Duration::ZERO);
    }

    /// Runs work in this process until it completes or is interrupted.
    pub(crate) async fn unless_interrupted<T>(
        &mut self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self.interrupted {
            bail!("interrupted");
        }
        tokio::select! {
            result = work => result,
            () = self.interrupts.next() => {
                self.interrupted = true;
                bail!("interrupted")
            }
        }
    }

    /// Runs a program as a check and records its outcome.
    pub(crate) async fn run(&mut self, name: &str, mut command: Command, count_mode: CountMode) {
        if self.interrupted {
            return;
        }
        heading(name);
        let began = Instant::now();
        command
            .current_dir(&self.checkout)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // A separate process group: on Ctrl-C only this process signals it.
        command.process_group(0);
        let outcome = match self.pass_through(&mut command, count_mode).await {
            Ok((status_is_good, output)) => {
                self.failure_reports.extend(output.failure_reports);
                count_outcome(status_is_good, output.tally, count_mode)
            }
            Err(error) => CheckOutcome::from_result(Err(error)),
        };
        self.record(name, outcome, began.elapsed());
    }

    /// Passes the output through and counts the tests in it.
    async fn pass_through(
        &mut self,
        command: &mut Command,
        count_mode: CountMode,
    ) -> Result<(bool, TestOutput)> {
        let program = command.as_std().get_program().to_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let output = child.stdout.take().context("no output")?;
        let reading = read_output(output, count_mode == CountMode::SilentExitStatus);
        tokio::pin!(reading);
        let output = tokio::select! {
            output = &mut reading => output?,
            () = self.interrupts.next() => {
                self.interrupted = true;
                interrupt(&mut child).await?;
                bail!("interrupted")
            }
        };
        let status = child.wait().await?;
        if !status.success() {
            eprintln!("{}: {status}", program.display());
        }
        Ok((status.success(), output))
    }

    /// Prints what failed tests said and all results; the last line has the totals. Returns whether
    /// nothing failed.
    pub(crate) fn print_summary(self) -> bool {
        for report in &self.failure_reports {
            println!("\n{report}");
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["CHECK", "RESULT", "TIME"]);
        for (name, outcome, took) in &self.results {
            table.add_row([
                name.clone(),
                describe_outcome(outcome),
                format_duration(*took),
            ]);
        }
        let (passed, failed) = total(self.results.iter().map(|(_, outcome, _)| outcome));
        println!(
            "\n=== Total {}\n{table}\n",
            format_duration(self.began.elapsed())
        );
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}

/// Sends SIGINT to the process group of a check and waits for its cleanup.
async fn interrupt(child: &mut Child) -> Result<()> {
    let Some(id) = child.id() else { return Ok(()) };
    Command::new("kill")
        .args(["-INT", "--", &format!("-{id}")])
        .status()
        .await?;
    if tokio::time::timeout(CLEANUP_TIMEOUT, child.wait())
        .await
        .is_err()
    {
        child.kill().await?;
    }
    Ok(())
}

async fn read_output(output: impl AsyncRead + Unpin, silent: bool) -> Result<TestOutput> {
    let mut lines = BufReader::new(output);
    let mut printed = std::io::stdout();
    let (mut tests, mut line) = (TestOutput::default(), Vec::new());
    while lines.read_until(b'\n', &mut line).await? > 0 {
        if !silent {
            printed.write_all(&line)?;
            printed.flush()?;
        }
        tests.add_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(tests)
}

/// Lines of a failed test that are repeated at the end. Its last ones say what was expected.
const MAX_FAILURE_LINES: usize = 30;

/// What the output of test programs says.
#[derive(Debug, Default)]
struct TestOutput {
    tally: Tally,
    /// The last lines of each failed test, below its name.
    failure_reports: Vec<String>,
    /// The lines of the failed test that is being read.
    failure: Option<Vec<String>>,
}

impl TestOutput {
    /// Reads a line of libtest's output: the counts, and what stands between `---- NAME stdout ----`
    /// and the next such line or the list of failures.
    fn add_line(&mut self, line: &str) {
        self.tally.add_line(line);
        let begins = line.starts_with("---- ") && line.ends_with(" ----");
        if begins || line == "failures:" {
            self.end_failure();
        }
        if begins {
            self.failure = Some(vec![line.to_owned()]);
        } else if let Some(failure) = &mut self.failure {
            failure.push(line.to_owned());
            if failure.len() > MAX_FAILURE_LINES {
                failure.remove(1);
            }
        }
    }

    fn end_failure(&mut self) {
        if let Some(lines) = self.failure.take() {
            self.failure_reports
                .push(lines.join("\n").trim_end().to_owned());
        }
    }
}

/// The test counts in the output of test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; ...`. Ignores other
    /// lines.
    fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        let number_before = |word: &str| {
            let before = counts.split_once(word).map_or("", |(before, _)| before);
            before
                .split_whitespace()
                .next_back()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        self.passed += number_before(" passed");
        self.failed += number_before(" failed");
    }
}

fn count_outcome(status_is_good: bool, tally: Tally, count_mode: CountMode) -> CheckOutcome {
    let Tally { passed, failed } = tally;
    match count_mode {
        CountMode::ExitStatus | CountMode::SilentExitStatus => CheckOutcome::Checked {
            passed: u64::from(status_is_good),
            failed: u64::from(!status_is_good),
        },
        CountMode::Tests | CountMode::OptionalTests => {
            // A program can fail without a failed test: it does not compile, or it is killed.
            let ran_nothing = count_mode == CountMode::Tests && passed + failed == 0;
            let failed_otherwise = failed == 0 && (!status_is_good || ran_nothing);
            CheckOutcome::Checked {
                passed,
                failed: failed + u64::from(failed_otherwise),
            }
        }
    }
}

fn total<'a>(outcomes: impl Iterator<Item = &'a CheckOutcome>) -> (u64, u64) {
    outcomes.fold((0, 0), |(all_passed, all_failed), outcome| match outcome {
        CheckOutcome::Checked { passed, failed } => (all_passed + passed, all_failed + failed),
        CheckOutcome::Skipped(_) => (all_passed, all_failed),
    })
}

fn describe_outcome(outcome: &CheckOutcome) -> String {
    match outcome {
        CheckOutcome::Checked { passed, failed: 0 } => format!("{passed} passed"),
        CheckOutcome::Checked { passed, failed } => format!("{passed} passed, {failed} FAILED"),
        CheckOutcome::Skipped(why) => format!("skipped: {why}"),
    }
}

fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.add_line(line);
        }
        tally
    }

    #[test]
    fn tests_are_counted_from_their_output() {
        let lines = [
            "running 14 tests",
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "\u{1b}[0mtest result: \u{1b}[31mFAILED\u{1b}[0m. 3 passed; 1 failed; 0 ignored; 0 measured",
        ];
        assert_eq!(
            tally(&lines),
            Tally {
                passed: 15,
                failed: 1
            }
        );
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let mut output = TestOutput::default();
        let long = (0..100).map(|line| format!("line {line}"));
        let lines = [
            "test a ... ok",
            "test b ... FAILED",
            "",
            "failures:",
            "",
            "---- b stdout ----",
            "expected 1",
            "",
            "---- c stdout ----",
        ]
        .map(str::to_owned);
        let end = [
            "",
            "failures:",
            "    b",
            "    c",
            "test result: FAILED. 1 passed; 2 failed;",
        ];
        for line in lines.into_iter().chain(long).chain(end.map(str::to_owned)) {
            output.add_line(&line);
        }
        let [b, c] = output.failure_reports.try_into().unwrap();
        assert_eq!(b, "---- b stdout ----\nexpected 1");
        assert!(c.starts_with("---- c stdout ----\nline 7"), "{c}");
        assert!(c.ends_with("line 99"), "{c}");
        assert_eq!(
            output.tally,
            Tally {
                passed: 1,
                failed: 2
            }
        );
    }

    #[test]
    fn a_failure_without_a_failed_test_counts() {
        let checked = |passed, failed| CheckOutcome::Checked { passed, failed };
        let some = Tally {
            passed: 3,
            failed: 0,
        };
        assert_eq!(count_outcome(true, some, CountMode::Tests), checked(3, 0));
        assert_eq!(
            count_outcome(false, some, CountMode::Tests),
            checked(3, 1),
            "a program was killed or does not compile"
        );
        assert_eq!(
            count_outcome(
                false,
                Tally {
                    passed: 3,
                    failed: 2
                },
                CountMode::Tests
            ),
            checked(3, 2)
        );
        assert_eq!(
            count_outcome(true, Tally::default(), CountMode::Tests),
            checked(0, 1),
            "no test ran"
        );
        assert_eq!(
            count_outcome(true, Tally::default(), CountMode::OptionalTests),
            checked(0, 0),
            "no test matches the filter"
        );
        assert_eq!(
            count_outcome(false, Tally::default(), CountMode::ExitStatus),
            checked(0, 1)
        );
    }

    #[test]
    fn a_skipped_check_neither_passes_nor_fails() {
        let outcomes = [
            CheckOutcome::Checked {
                passed: 4,
                failed: 1,
            },
            CheckOutcome::Skipped("no tool".into()),
        ];
        assert_eq!(total(outcomes.iter()), (4, 1));
    }

    #[tokio::test]
    async fn a_check_runs_after_an_earlier_one_failed() {
        let mut suite = Suite::new(Path::new(".")).unwrap();
        suite
            .run(
                "missing",
                Command::new("/no/such/program"),
                CountMode::ExitStatus,
            )
            .await;
        suite
            .run("bad", Command::new("false"), CountMode::ExitStatus)
            .await;
        suite
            .run("good", Command::new("true"), CountMode::ExitStatus)
            .await;
        let outcomes: Vec<_> = suite
            .results
            .iter()
            .map(|(_, outcome, _)| outcome.clone())
            .collect();
        let (bad, good) = (
            CheckOutcome::Checked {
                passed: 0,
                failed: 1,
            },
            CheckOutcome::Checked {
                passed: 1,
                failed: 0,
            },
        );
        assert_eq!(outcomes, [bad.clone(), bad, good]);
        assert!(!suite.print_summary());
    }
}
