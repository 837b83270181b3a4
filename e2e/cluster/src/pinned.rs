//! Pinned programs for other users than the local cluster, in the same cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::run;
use crate::progress::Progress;
use crate::tools::{GO_MODULES, GoModule, Tools};
use crate::wheel::WheelProgram;

/// Files of programs by name.
pub type ProgramFiles = BTreeMap<&'static str, PathBuf>;

/// Builds the missing ones of the named programs of the local cluster.
///
/// # Errors
/// If Go is missing, or if a program does not build.
pub async fn build_cluster_programs(
    checkout: &Path,
    names: &[&str],
    progress: Progress,
) -> Result<ProgramFiles> {
    let tools = Tools::for_checkout(checkout)?;
    build(&tools, &GO_MODULES, Some(names), progress).await
}

/// Builds the missing programs of `modules`. Each module is pinned by the `go.mod` and the `go.sum`
/// in the folder of its name in `sources`.
///
/// # Errors
/// If Go is missing, or if a program does not build.
pub async fn build_programs(
    sources: &Path,
    modules: &[GoModule],
    progress: Progress,
) -> Result<ProgramFiles> {
    let tools = Tools::with_sources(sources.to_owned())?;
    build(&tools, modules, None, progress).await
}

/// Installs a program from the wheel that the `requirements.txt` in the folder of its name in
/// `sources` pins. Returns its file.
///
/// # Errors
/// If pip is missing, or if the wheel cannot be installed.
pub async fn install_wheel_program(
    sources: &Path,
    program: &WheelProgram,
    progress: Progress,
) -> Result<PathBuf> {
    let tools = Tools::with_sources(sources.to_owned())?;
    let (_, folder) = tools.wheel_cache_entry(program)?;
    if !folder.is_dir() {
        std::fs::create_dir_all(tools.cache())?;
        let _lock = tools.lock(progress).await?;
        tools.install_wheel(program, &folder, progress).await?;
    }
    Ok(folder.join(program.name))
}

/// The folder of the sources of a Go module, downloaded if necessary. `pins` is the folder with the
/// `go.mod` that pins its version.
///
/// # Errors
/// If the module cannot be downloaded.
pub async fn module_sources(pins: &Path, module: &str) -> Result<PathBuf> {
    let parent = pins.parent().context("the pins are in no folder")?;
    let set = pins.file_name().unwrap_or_default().to_string_lossy();
    let tools = Tools::with_sources(parent.to_owned())?;
    run(tools.go(&set).args(["mod", "download", module])).await?;
    let folder = run(tools
        .go(&set)
        .args(["list", "-m", "-f", "{{.Dir}}", module]))
    .await?;
    Ok(PathBuf::from(folder.trim()))
}

async fn build(
    tools: &Tools,
    modules: &[GoModule],
    names: Option<&[&str]>,
    progress: Progress,
) -> Result<ProgramFiles> {
    let mut files = ProgramFiles::new();
    let is_wanted = |name: &str| names.is_none_or(|names| names.contains(&name));
    let mut missing = Vec::new();
    for module in modules {
        let (_, folder) = tools.go_cache_entry(module)?;
        let programs = module.programs.iter().map(|(program, _)| *program);
        for program in programs.filter(|program| is_wanted(program)) {
            let file = folder.join(program);
            if !file.is_file() {
                missing.push((module, program, folder.clone()));
            }
            files.insert(program, file);
        }
    }
    if missing.is_empty() {
        return Ok(files);
    }
    std::fs::create_dir_all(tools.cache())?;
    let _lock = tools.lock(progress).await?;
    for (module, program, folder) in missing {
        tools
            .build_go_program(module, program, &folder, progress)
            .await?;
    }
    Ok(files)
}
