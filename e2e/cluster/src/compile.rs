//! Builds static binaries of workspace packages for images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::host::{command, run};

/// The fields that are used here of a JSON message of cargo.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<CargoTarget>,
}

#[derive(Deserialize)]
struct CargoTarget {
    name: String,
}

/// Builds a static binary. It links glibc statically, so that no additional target has to be
/// installed, and has no debug information, which keeps the image small.
///
/// # Errors
/// If it does not compile, with the output of the compiler.
pub async fn build_static(checkout: &Path, package: &str, binary: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = command("cargo");
    cargo
        .current_dir(checkout)
        // With an explicit target, the flags do not apply to build scripts and procedural macros.
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=debuginfo",
        )
        .args([
            "build",
            "--quiet",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--target", &target, "--package", package, "--bin", binary]);
    let messages = run(&mut cargo).await?;
    executable(&messages, binary)
        .with_context(|| format!("cargo built no binary {binary} in {package}"))
}

fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoMessage>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| {
            message
                .target
                .as_ref()
                .is_some_and(|target| target.name == binary)
        })
        .find_map(|message| message.executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_in_the_output_of_cargo() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","target":{"name":"sample"},"executable":"/t/sample"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "sample").unwrap(),
            Path::new("/t/sample")
        );
        assert_eq!(executable(messages, "other"), None);
    }
}
