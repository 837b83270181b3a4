//! Telling a person what is going on: a live line on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a long step says that it goes on, where there is no terminal.
const REMINDER: Duration = Duration::from_secs(30);

/// Where progress is told: standard error, so that standard output stays for answers.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    told: Told,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Live,
    Lines,
    Silent,
}

impl Progress {
    /// Live on a terminal, in plain lines elsewhere.
    pub fn detect() -> Self {
        let live = std::io::stderr().is_terminal();
        Self {
            told: if live { Told::Live } else { Told::Lines },
        }
    }

    /// Tells nothing.
    pub fn silent() -> Self {
        Self { told: Told::Silent }
    }

    /// Begins a step; it ends with [`Step::done`], or unfinished when dropped.
    pub(crate) fn step(self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = matches!(self.told, Told::Live).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if matches!(self.told, Told::Lines) {
            tell(format_args!("  {what} ..."));
        }
        let now = Instant::now();
        Step {
            what,
            bar,
            told: self.told,
            began: now,
            reminded: now,
        }
    }
}

/// Writes a line; when nobody reads any more, the work goes on all the same.
fn tell(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Something under way.
pub(crate) struct Step {
    what: String,
    bar: Option<ProgressBar>,
    told: Told,
    began: Instant,
    reminded: Instant,
}

impl Step {
    /// Says how far it is.
    pub(crate) fn detail(&mut self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        } else if matches!(self.told, Told::Lines) && self.reminded.elapsed() >= REMINDER {
            self.reminded = Instant::now();
            tell(format_args!(
                "  {} ... {} s: {detail}",
                self.what,
                self.began.elapsed().as_secs()
            ));
        }
    }

    /// It is finished; says how long it took.
    pub(crate) fn done(mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !matches!(self.told, Told::Silent) {
            tell(format_args!(
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
