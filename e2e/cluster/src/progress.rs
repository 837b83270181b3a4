//! Progress output: a live line on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Interval of progress lines of a long step without a terminal.
const REMINDER: Duration = Duration::from_secs(30);

/// Reports progress on standard error. Standard output is reserved for results.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    mode: ProgressMode,
}

#[derive(Clone, Copy, Debug)]
enum ProgressMode {
    Live,
    Lines,
    Silent,
}

impl Progress {
    /// Live output on a terminal, plain lines otherwise.
    pub fn detect() -> Self {
        let live = std::io::stderr().is_terminal();
        Self {
            mode: if live {
                ProgressMode::Live
            } else {
                ProgressMode::Lines
            },
        }
    }

    /// No output.
    pub fn silent() -> Self {
        Self {
            mode: ProgressMode::Silent,
        }
    }

    /// Starts a step. It ends with [`Step::done`], or unfinished on drop.
    pub(crate) fn step(self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = matches!(self.mode, ProgressMode::Live).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if matches!(self.mode, ProgressMode::Lines) {
            print_line(format_args!("  {what} ..."));
        }
        let now = Instant::now();
        Step {
            what,
            bar,
            mode: self.mode,
            began: now,
            reminded: now,
        }
    }
}

/// Writes a line. Ignores a closed standard error.
fn print_line(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A step in progress.
pub(crate) struct Step {
    what: String,
    bar: Option<ProgressBar>,
    mode: ProgressMode,
    began: Instant,
    reminded: Instant,
}

impl Step {
    /// Reports a detail of the step.
    pub(crate) fn detail(&mut self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        } else if matches!(self.mode, ProgressMode::Lines) && self.reminded.elapsed() >= REMINDER {
            self.reminded = Instant::now();
            print_line(format_args!(
                "  {} ... {} s: {detail}",
                self.what,
                self.began.elapsed().as_secs()
            ));
        }
    }

    /// Completes the step and reports its duration.
    pub(crate) fn done(mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !matches!(self.mode, ProgressMode::Silent) {
            print_line(format_args!(
                "✓ {} ({:.1} s)",
                self.what,
                self.began.elapsed().as_secs_f64()
            ));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
