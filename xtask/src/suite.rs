//! A sequence of checks: each with a heading, its output passed through, its time, and all of their
//! results at the end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use serin_e2e::interrupt::Interrupts;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// How long a check may take to clean up once it is interrupted; the demo has a namespace to
/// remove.
const CLEAN_UP: Duration = Duration::from_secs(150);

/// What a check counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// One, by its exit status.
    Whole,
    /// The same, and its standard output is of no interest.
    Silent,
    /// The tests that it says it has run; none at all is a failure.
    Tests,
    /// The same, and none is no failure.
    SomeTests,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With so many passed and failed.
    Checked { passed: u64, failed: u64 },
    /// It was not run, and why.
    Skipped(String),
}

impl Outcome {
    /// One check; tells on standard error what it failed with.
    pub(crate) fn of(result: Result<()>) -> Self {
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

/// Announces a check.
pub(crate) fn heading(name: &str) {
    println!("\n=== {name}");
}

/// The checks so far.
pub(crate) struct Suite {
    checkout: PathBuf,
    began: Instant,
    interrupts: Interrupts,
    interrupted: bool,
    results: Vec<(String, Outcome, Duration)>,
}

impl Suite {
    /// Begins; from here on Ctrl-C ends the check at hand, skips all others and leaves time to
    /// clean up.
    pub(crate) fn new(checkout: &Path) -> Result<Self> {
        Ok(Self {
            checkout: checkout.to_owned(),
            began: Instant::now(),
            interrupts: Interrupts::listen()?,
            interrupted: false,
            results: Vec::new(),
        })
    }

    /// Notes how a check ended that was run elsewhere.
    pub(crate) fn record(&mut self, name: &str, outcome: Outcome, took: Duration) {
        println!("=== {name}: {} ({})", told(&outcome), seconds(took));
        self.results.push((name.to_owned(), outcome, took));
    }

    /// Notes a check that cannot be run here.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        heading(name);
        self.record(name, Outcome::Skipped(why.to_owned()), Duration::ZERO);
    }

    /// Does something in this process, unless it is interrupted meanwhile.
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

    /// Runs a program as a check. Whatever becomes of it is on record, and the next check may
    /// follow.
    pub(crate) async fn run(&mut self, name: &str, mut command: Command, counting: Counting) {
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
        // A group of its own: on Ctrl-C it is told once, by this process.
        command.process_group(0);
        let outcome = match self.watch(&mut command, counting).await {
            Ok((status_is_good, tally)) => judged(status_is_good, tally, counting),
            Err(error) => Outcome::of(Err(error)),
        };
        self.record(name, outcome, began.elapsed());
    }

    /// Passes the output on, and counts what it tells.
    async fn watch(&mut self, command: &mut Command, counting: Counting) -> Result<(bool, Tally)> {
        let program = command.as_std().get_program().to_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let output = child.stdout.take().context("no output")?;
        let reading = read(output, counting == Counting::Silent);
        tokio::pin!(reading);
        let tally = tokio::select! {
            tally = &mut reading => tally?,
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
        Ok((status.success(), tally))
    }

    /// Tells the results, and with the last line how many passed and failed; whether none failed.
    pub(crate) fn close(self) -> bool {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["CHECK", "RESULT", "TIME"]);
        for (name, outcome, took) in &self.results {
            table.add_row([name.clone(), told(outcome), seconds(*took)]);
        }
        let (passed, failed) = total(self.results.iter().map(|(_, outcome, _)| outcome));
        println!("\n=== In all {}\n{table}\n", seconds(self.began.elapsed()));
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}

/// Asks a check's whole process group to end, and waits until it has cleaned up.
async fn interrupt(child: &mut Child) -> Result<()> {
    let Some(id) = child.id() else { return Ok(()) };
    Command::new("kill")
        .args(["-INT", "--", &format!("-{id}")])
        .status()
        .await?;
    if tokio::time::timeout(CLEAN_UP, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

async fn read(output: impl AsyncRead + Unpin, silent: bool) -> Result<Tally> {
    let mut lines = BufReader::new(output);
    let mut printed = std::io::stdout();
    let (mut tally, mut line) = (Tally::default(), Vec::new());
    while lines.read_until(b'\n', &mut line).await? > 0 {
        if !silent {
            printed.write_all(&line)?;
            printed.flush()?;
        }
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(tally)
}

/// Tests by what test programs say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; ...`; other lines
    /// count nothing.
    fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        let of = |word: &str| {
            let before = counts.split_once(word).map_or("", |(before, _)| before);
            before
                .split_whitespace()
                .next_back()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        self.passed += of(" passed");
        self.failed += of(" failed");
    }
}

fn judged(status_is_good: bool, tally: Tally, counting: Counting) -> Outcome {
    let Tally { passed, failed } = tally;
    match counting {
        Counting::Whole | Counting::Silent => Outcome::Checked {
            passed: u64::from(status_is_good),
            failed: u64::from(!status_is_good),
        },
        Counting::Tests | Counting::SomeTests => {
            // It may also fail without a failed test: it does not compile, or is killed.
            let ran_nothing = counting == Counting::Tests && passed + failed == 0;
            let failed_otherwise = failed == 0 && (!status_is_good || ran_nothing);
            Outcome::Checked {
                passed,
                failed: failed + u64::from(failed_otherwise),
            }
        }
    }
}

fn total<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> (u64, u64) {
    outcomes.fold((0, 0), |(all_passed, all_failed), outcome| match outcome {
        Outcome::Checked { passed, failed } => (all_passed + passed, all_failed + failed),
        Outcome::Skipped(_) => (all_passed, all_failed),
    })
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Checked { passed, failed: 0 } => format!("{passed} passed"),
        Outcome::Checked { passed, failed } => format!("{passed} passed, {failed} FAILED"),
        Outcome::Skipped(why) => format!("skipped: {why}"),
    }
}

fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn tests_are_counted_from_what_they_print() {
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
    fn a_failure_without_a_failed_test_counts() {
        let checked = |passed, failed| Outcome::Checked { passed, failed };
        let some = Tally {
            passed: 3,
            failed: 0,
        };
        assert_eq!(judged(true, some, Counting::Tests), checked(3, 0));
        assert_eq!(
            judged(false, some, Counting::Tests),
            checked(3, 1),
            "killed, or another does not compile"
        );
        assert_eq!(
            judged(
                false,
                Tally {
                    passed: 3,
                    failed: 2
                },
                Counting::Tests
            ),
            checked(3, 2)
        );
        assert_eq!(
            judged(true, Tally::default(), Counting::Tests),
            checked(0, 1),
            "nothing was tested"
        );
        assert_eq!(
            judged(true, Tally::default(), Counting::SomeTests),
            checked(0, 0),
            "nothing has that name"
        );
        assert_eq!(
            judged(false, Tally::default(), Counting::Whole),
            checked(0, 1)
        );
    }

    #[test]
    fn what_is_skipped_counts_neither_way() {
        let outcomes = [
            Outcome::Checked {
                passed: 4,
                failed: 1,
            },
            Outcome::Skipped("no tool".into()),
        ];
        assert_eq!(total(outcomes.iter()), (4, 1));
    }

    #[tokio::test]
    async fn a_later_check_runs_whatever_fails_before() {
        let mut suite = Suite::new(Path::new(".")).unwrap();
        suite
            .run("missing", Command::new("/no/such/program"), Counting::Whole)
            .await;
        suite
            .run("bad", Command::new("false"), Counting::Whole)
            .await;
        suite
            .run("good", Command::new("true"), Counting::Whole)
            .await;
        let outcomes: Vec<_> = suite
            .results
            .iter()
            .map(|(_, outcome, _)| outcome.clone())
            .collect();
        let (bad, good) = (
            Outcome::Checked {
                passed: 0,
                failed: 1,
            },
            Outcome::Checked {
                passed: 1,
                failed: 0,
            },
        );
        assert_eq!(outcomes, [bad.clone(), bad, good]);
        assert!(!suite.close());
    }
}
