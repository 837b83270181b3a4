//! Programs that Python wheels carry. pip downloads them with the hashes that are pinned.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::{command, run};
use crate::progress::Progress;
use crate::tools::{Tools, fresh_folder};

/// A program that a Python wheel carries.
#[derive(Clone, Copy, Debug)]
pub struct WheelProgram {
    /// Its name, and the name of the folder with its `requirements.txt`, which pins the wheel.
    pub name: &'static str,
    /// The pinned version, for display.
    pub version: &'static str,
    /// Its file in the wheel.
    pub path: &'static str,
}

pub(crate) const TRAEFIK: WheelProgram = WheelProgram {
    name: "traefik",
    version: "Traefik 3.7.15",
    path: "bin/traefik",
};

impl Tools {
    /// The folder of a program that is installed from a wheel.
    pub(crate) fn wheel_cache_entry(
        &self,
        program: &WheelProgram,
    ) -> Result<(&'static str, PathBuf)> {
        self.cache_entry(program.name, &["requirements.txt"], program.path)
    }

    /// Installs a program from its pinned wheel.
    pub(crate) async fn install_wheel(
        &self,
        program: &WheelProgram,
        folder: &Path,
        progress: Progress,
    ) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let step = progress.step(format!("Fetching {}", program.version));
        let partial = fresh_folder(folder)?;
        let requirements = self.sources.join(program.name).join("requirements.txt");
        let mut pip = command("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(["--require-hashes", "--only-binary", ":all:", "--target"])
        .arg(partial.join("package"))
        .arg("--requirement")
        .arg(requirements);
        run(&mut pip).await?;
        let file = partial.join(program.name);
        std::fs::rename(partial.join("package").join(program.path), &file)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        std::fs::remove_dir_all(partial.join("package"))?;
        std::fs::rename(&partial, folder)?;
        step.done();
        Ok(())
    }
}
