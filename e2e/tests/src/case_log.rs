//! The log of each case. Cases run in parallel, so every line has the name of its case.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

thread_local! {
    /// The log of the case that runs on this thread. Each case has its own thread.
    static CURRENT: RefCell<Option<CaseLog>> = const { RefCell::new(None) };
}

/// The log of one case.
struct CaseLog {
    case: &'static str,
    file: File,
    started_at: Instant,
}

impl CaseLog {
    fn write(&mut self, text: &str) {
        let seconds = self.started_at.elapsed().as_secs_f64();
        for line in text.lines() {
            println!("[{}] {line}", self.case);
            // The line is also printed, so a full disk must not fail the case.
            let _ = writeln!(self.file, "{seconds:>8.2} {line}");
        }
    }
}

/// Ends the log of a case on drop.
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| {
            if let Some(mut log) = current.take() {
                let seconds = log.started_at.elapsed().as_secs_f64();
                log.write(&format!("ended after {seconds:.1} s"));
            }
        });
    }
}

/// Starts the log of a case on this thread, in `.local/e2e/cases/NAME.log` of the checkout.
///
/// # Errors
/// If the file cannot be created.
pub fn start(checkout: &Path, case: &'static str) -> Result<LogGuard> {
    let folder = checkout.join(".local/e2e/cases");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{case}.log"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    CURRENT.set(Some(CaseLog {
        case,
        file,
        started_at: Instant::now(),
    }));
    Ok(LogGuard(()))
}

/// Writes a line to the log of the current case. See [`note!`](crate::note).
pub fn write(text: fmt::Arguments<'_>) {
    CURRENT.with_borrow_mut(|current| match current {
        Some(log) => log.write(&text.to_string()),
        None => println!("{text}"),
    });
}

/// Prints a line with the name of the current case and adds it to the log of the case.
/// Without a current case, for example in the demo, the line is printed as it is.
#[macro_export]
macro_rules! note {
    ($($argument:tt)*) => {
        $crate::case_log::write(format_args!($($argument)*))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_own_log() {
        let checkout = tempfile::tempdir().unwrap();
        let log_path = |case: &str| checkout.path().join(format!(".local/e2e/cases/{case}.log"));
        std::thread::scope(|scope| {
            for case in ["one", "two"] {
                let checkout = checkout.path();
                scope.spawn(move || {
                    let _guard = start(checkout, case).unwrap();
                    note!("first of {case}\nsecond of {case}");
                });
            }
        });
        for case in ["one", "two"] {
            let text = std::fs::read_to_string(log_path(case)).unwrap();
            let lines: Vec<&str> = text
                .lines()
                .map(|line| line.get(9..).unwrap_or_default())
                .collect();
            assert_eq!(
                lines[..2],
                [format!("first of {case}"), format!("second of {case}")]
            );
            assert!(lines[2].starts_with("ended after"), "{text}");
        }
    }
}
