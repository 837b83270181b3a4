//! Runs programs of the host and waits for conditions.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// Debian installs `ip`, `nft` and `runc` in folders that may not be on the PATH of a user.
const SYSTEM_FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Interval between checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// The PATH of the components.
pub(crate) fn system_path() -> String {
    SYSTEM_FOLDERS.join(":")
}

/// The path of a program on PATH or in one of the system folders.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A command whose program is located with [`find_program`].
pub(crate) fn command(name: &str) -> Command {
    let program = find_program(name).unwrap_or_else(|| PathBuf::from(name));
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command. Returns its standard output, or an error with its output.
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

/// Like [`run`], with `input` on standard input.
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

/// Writes a file atomically: to a temporary file first, which is then renamed.
pub(crate) fn write_atomically(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, content)
        .with_context(|| format!("cannot write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Why a condition does not hold.
#[derive(Debug)]
pub(crate) enum UnmetCondition {
    /// It may hold later. The reason why it does not hold yet.
    NotYet(String),
    /// It will never hold.
    Never(anyhow::Error),
}

impl UnmetCondition {
    /// A reason to continue waiting.
    pub(crate) fn not_yet(reason: impl Into<String>) -> Self {
        Self::NotYet(reason.into())
    }
}

/// Polls a condition until it holds.
///
/// # Errors
/// If it can never hold, or if it does not hold within `limit`. The error has the last reason.
pub(crate) async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, UnmetCondition>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let reason = match probe().await {
            Ok(value) => return Ok(value),
            Err(UnmetCondition::Never(error)) => {
                return Err(error.context(format!("waiting for {what}")));
            }
            Err(UnmetCondition::NotYet(reason)) => reason,
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s: {reason}", limit.as_secs());
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_returns_the_end() {
        assert_eq!(last_lines("a\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }

    #[tokio::test]
    async fn the_error_of_a_failed_command_has_its_output() {
        let error = run(command("sh").args(["-c", "echo wrong >&2; exit 3"]))
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("wrong") && text.contains('3'), "{text}");
    }

    #[tokio::test]
    async fn input_reaches_the_command() {
        assert_eq!(
            run_with_input(&mut command("cat"), "input").await.unwrap(),
            "input"
        );
    }

    #[tokio::test]
    async fn waiting_ends_with_a_value_an_error_or_the_last_reason() {
        let mut left = 3;
        let value = wait_until("three polls", Duration::from_secs(5), async || {
            left -= 1;
            if left == 0 {
                Ok(7)
            } else {
                Err(UnmetCondition::not_yet("more"))
            }
        });
        assert_eq!(value.await.unwrap(), 7);
        let never = wait_until("a dead process", Duration::from_secs(5), async || {
            Err::<(), _>(UnmetCondition::Never(anyhow::anyhow!("dead")))
        });
        assert!(format!("{:#}", never.await.unwrap_err()).contains("dead"));
        let late = wait_until("a sleeper", Duration::ZERO, async || {
            Err::<(), _>(UnmetCondition::not_yet("still asleep"))
        });
        assert!(late.await.unwrap_err().to_string().contains("still asleep"));
    }
}
