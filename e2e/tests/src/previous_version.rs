//! The controller of the previous version, built from its commit.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

/// The file with the commit, relative to the checkout. The environment variable `SERIN_PREVIOUS`
/// (a commit, tag or branch) overrides it.
pub const COMMIT_FILE: &str = "e2e/previous-version";

/// Builds the controller of the previous version, and returns the path of the program. The first
/// build of a commit takes minutes, because it shares no file with the build of this checkout:
/// each could otherwise overwrite the program of the other.
///
/// # Errors
/// If the commit is not in this clone, or if it does not compile.
pub async fn build(checkout: &Path) -> Result<PathBuf> {
    let commit = commit(checkout).await?;
    // One folder per commit: cargo compares times, and an archive has the time of its commit.
    let source = checkout.join(".local/previous-version").join(&commit);
    if !source.join("Cargo.toml").is_file() {
        extract(checkout, &commit, &source).await?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| checkout.join("target"), PathBuf::from)
        .join("previous-version");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--locked"])
        .args(["--package", "serin-controller", "--bin", "serin-controller"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&source)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // The toolchain of this checkout, set by `cargo xtask`.
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot run cargo")?;
    ensure!(
        status.success(),
        "the controller of commit {commit} does not compile: {status}"
    );
    Ok(target.join("debug/serin-controller"))
}

/// The full hash of the commit of the previous version.
///
/// # Errors
/// If the commit is not in this clone, for example because the clone has no history.
pub async fn commit(checkout: &Path) -> Result<String> {
    let revision = match std::env::var("SERIN_PREVIOUS") {
        Ok(revision) if !revision.is_empty() => revision,
        _ => std::fs::read_to_string(checkout.join(COMMIT_FILE))
            .with_context(|| format!("cannot read {COMMIT_FILE}"))?,
    };
    resolve(checkout, revision.trim()).await
}

/// The full hash of a revision.
async fn resolve(checkout: &Path, revision: &str) -> Result<String> {
    let commit = format!("{revision}^{{commit}}");
    let output = Command::new("git")
        .args([
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &commit,
        ])
        .current_dir(checkout)
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run git")?;
    if !output.status.success() {
        bail!(
            "commit {revision} of {COMMIT_FILE} is not in this clone: fetch it with `git fetch \
             --unshallow` or `git fetch origin {revision}`, or set SERIN_PREVIOUS to a commit that \
             is: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Extracts the files of a commit into a new folder.
async fn extract(checkout: &Path, commit: &str, folder: &Path) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    let archive = partial.with_extension("tar");
    let mut git = Command::new("git");
    git.args(["archive", "--format", "tar", "--output"])
        .arg(&archive)
        .arg(commit)
        .current_dir(checkout);
    run(git).await?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&archive);
    tar.arg("--directory").arg(&partial);
    run(tar).await?;
    std::fs::remove_file(&archive)?;
    std::fs::rename(&partial, folder)?;
    Ok(())
}

async fn run(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("cannot run {:?}", command.as_std()))?;
    ensure!(
        output.status.success(),
        "{:?}: {}: {}",
        command.as_std(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn the_previous_version_is_a_full_commit_hash() {
        let text = std::fs::read_to_string(checkout().join(COMMIT_FILE)).unwrap();
        let hash = text.strip_suffix('\n').unwrap();
        assert_eq!(hash.len(), 40);
        assert!(
            hash.chars().all(|digit| digit.is_ascii_hexdigit()),
            "{hash}"
        );
    }

    #[tokio::test]
    async fn a_commit_that_is_not_in_the_clone_is_reported_with_a_fix() {
        let missing = "0".repeat(40);
        let error = resolve(&checkout(), &missing)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("git fetch") && error.contains("SERIN_PREVIOUS"),
            "{error}"
        );
    }
}
