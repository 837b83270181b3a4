//! Static binaries of the workspace's packages, to be packed into images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::host::{command, run};

/// What cargo tells of each thing it has built; only the part that is read here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds a binary that needs no library: glibc, linked statically, so that no other target
/// has to be installed. Its debug information is left out, since it goes into an image.
///
/// # Errors
/// When it does not compile, with the compiler's words.
pub async fn build_static(checkout: &Path, package: &str, binary: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = command("cargo");
    cargo
        .current_dir(checkout)
        // With an explicit target the flags leave build scripts and procedural macros alone.
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
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
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
    fn the_binary_is_found_among_cargos_messages() {
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
