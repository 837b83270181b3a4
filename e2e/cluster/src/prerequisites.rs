//! What must be on the machine: checked, and installed where that is possible.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::{command, find_program, run};
use crate::node::REPLACED;
use crate::progress::Progress;

/// Where distributions put the CNI plugins.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Programs of the machine, with the Debian package of each.
const PROGRAMS: [(&str, &str); 10] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("python3", "python3"),
];

/// Sees to everything that `up` needs from the machine.
///
/// # Errors
/// When something is missing that cannot be installed from here; names all of it, with the
/// command that installs it.
pub(crate) async fn ensure(progress: Progress) -> Result<()> {
    require_root("up")?;
    let missing = missing_packages().await;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find_program("apt-get").is_none() {
        bail!("missing on this machine (names of Debian packages): {list}");
    }
    let step = progress.step(format!("Installing {list}"));
    if install(&missing).await.is_err() {
        // The usual reason is a package list that is missing or old.
        run(command("apt-get").arg("update").args(["-qq"]))
            .await
            .context("apt-get update")?;
        install(&missing)
            .await
            .with_context(|| format!("try `apt-get install {list}` by hand"))?;
    }
    step.done();
    let missing = missing_packages().await;
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "still missing after their installation: {}",
        missing.join(" ")
    )
}

/// Namespaces, links and control groups are root's to make.
///
/// # Errors
/// When this is not root.
pub(crate) fn require_root(verb: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "a cluster with real pods needs root: try `sudo -E env PATH=\"$PATH\" cargo xtask cluster {verb}`"
    )
}

/// The node has its own folders in place of some of the host's: nothing of ours may lie there.
///
/// # Errors
/// When `folder` does.
pub(crate) fn require_outside_node(folder: &Path, what: &str) -> Result<()> {
    match REPLACED
        .iter()
        .find(|replaced| folder.starts_with(replaced))
    {
        None => Ok(()),
        Some(replaced) => bail!("{what} ({}) must not lie in {replaced}", folder.display()),
    }
}

/// Where the CNI plugins are.
///
/// # Errors
/// When they are in none of the usual places.
pub(crate) fn plugin_folder() -> Result<PathBuf> {
    let mut folders = PLUGIN_FOLDERS.iter().map(PathBuf::from);
    folders
        .find(|folder| folder.join("ptp").is_file() && folder.join("host-local").is_file())
        .with_context(|| format!("no CNI plugins in {}", PLUGIN_FOLDERS.join(", ")))
}

/// The containerd snapshotter that works in `folder`: an overlay does not go on an overlay.
pub(crate) async fn snapshotter(folder: &Path) -> Result<&'static str> {
    let kind = run(command("stat").args(["-f", "-c", "%T"]).arg(folder)).await?;
    Ok(if kind.trim().starts_with("overlay") {
        "native"
    } else {
        "overlayfs"
    })
}

async fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if plugin_folder().is_err() {
        missing.push("containernetworking-plugins");
    }
    let pip = run(command("python3").args(["-m", "pip", "--version"])).await;
    if pip.is_err() {
        missing.push("python3-pip");
    }
    missing.sort_unstable();
    missing.dedup();
    missing
}

async fn install(packages: &[&str]) -> Result<String> {
    let mut apt = command("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "-qq"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Keeps Debian from starting a containerd of its own on a machine with an init system.
        .env("RUNLEVEL", "1");
    run(&mut apt).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_hides_is_refused() {
        assert!(require_outside_node(Path::new("/home/me/serin"), "the checkout").is_ok());
        assert!(require_outside_node(Path::new("/var/library/serin"), "the checkout").is_ok());
        let error =
            require_outside_node(Path::new("/var/lib/ci/serin"), "the checkout").unwrap_err();
        assert!(error.to_string().contains("/var/lib"), "{error}");
    }
}
