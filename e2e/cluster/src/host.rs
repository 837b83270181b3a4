//! Running the host's programs, and waiting for conditions.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// Debian keeps `ip`, `nft` and `runc` in folders that a user's PATH may lack.
const SYSTEM_FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// The PATH that the components run with.
pub(crate) fn system_path() -> String {
    SYSTEM_FOLDERS.join(":")
}

/// Where a program is: on PATH, or in one of the system's own folders.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A command by its program's name, found as [`find_program`] does.
pub(crate) fn command(name: &str) -> Command {
    let program = find_program(name).unwrap_or_else(|| PathBuf::from(name));
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end; its standard output, or an error that holds its standard error.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {}", describe(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{} failed ({}):\n{}",
        describe(command),
        output.status,
        last_lines(&format!("{text}{errors}"), 20)
    )
}

/// As [`run`], with `input` on its standard input.
pub(crate) async fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let what = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {what}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{what} failed ({}):\n{}",
        output.status,
        last_lines(&errors, 20)
    )
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(text, " {}", argument.to_string_lossy());
    }
    text
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Writes a file as a whole or not at all: beside its place first, then renamed.
pub(crate) fn write_atomically(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let beside = path.with_extension("partial");
    std::fs::write(&beside, content)
        .with_context(|| format!("cannot write {}", beside.display()))?;
    std::fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Why a condition does not hold: yet, or for good.
#[derive(Debug)]
pub(crate) enum Unmet {
    /// It may still come; why it has not.
    NotYet(String),
    /// Waiting on is no use.
    Never(anyhow::Error),
}

impl Unmet {
    /// A reason to go on waiting.
    pub(crate) fn yet(reason: impl Into<String>) -> Self {
        Self::NotYet(reason.into())
    }
}

/// Looks at a condition until it holds.
///
/// # Errors
/// When it never will, or does not within `limit`; the error says why it did not the last time.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, Unmet>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let reason = match probe().await {
            Ok(value) => return Ok(value),
            Err(Unmet::Never(error)) => return Err(error.context(format!("waiting for {what}"))),
            Err(Unmet::NotYet(reason)) => reason,
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s: {reason}", limit.as_secs());
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines("a\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }

    #[tokio::test]
    async fn a_failed_command_says_what_it_said() {
        let error = run(command("sh").args(["-c", "echo wrong >&2; exit 3"]))
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("wrong") && text.contains('3'), "{text}");
    }

    #[tokio::test]
    async fn input_reaches_the_command() {
        assert_eq!(
            run_with_input(&mut command("cat"), "told").await.unwrap(),
            "told"
        );
    }

    #[tokio::test]
    async fn waiting_ends_with_the_value_the_verdict_or_the_last_reason() {
        let mut left = 3;
        let value = until("three looks", Duration::from_secs(5), async || {
            left -= 1;
            if left == 0 {
                Ok(7)
            } else {
                Err(Unmet::yet("more"))
            }
        });
        assert_eq!(value.await.unwrap(), 7);
        let never = until("a corpse", Duration::from_secs(5), async || {
            Err::<(), _>(Unmet::Never(anyhow::anyhow!("dead")))
        });
        assert!(format!("{:#}", never.await.unwrap_err()).contains("dead"));
        let late = until("a late one", Duration::ZERO, async || {
            Err::<(), _>(Unmet::yet("still asleep"))
        });
        assert!(late.await.unwrap_err().to_string().contains("still asleep"));
    }
}
