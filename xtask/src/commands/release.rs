//! `cargo xtask release`: builds everything that users install.

use std::env::current_dir;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serin_cluster::{Progress, build_cluster_programs};
use serin_release::{Architecture, Release};

/// What to build, and for which places.
#[derive(Args)]
pub(crate) struct ReleaseArguments {
    /// Folder for the files. It must be empty.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "target/release-files/out"
    )]
    out: PathBuf,
    /// Name of the image without a tag. The chart and install.yaml refer to it.
    #[arg(long, value_name = "NAME", default_value = "serin.local/controller")]
    image_repository: String,
    /// URL of the folder from which krew downloads the plugin.
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://example.invalid/serin"
    )]
    download_url: String,
    /// Architecture of the programs. Repeat it for several. Defaults to all.
    #[arg(long = "architecture", value_name = "ARCHITECTURE", value_enum)]
    architectures: Vec<ArchitectureArgument>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ArchitectureArgument {
    Amd64,
    Arm64,
}

/// Builds the files and prints their paths.
pub(crate) async fn run(arguments: ReleaseArguments) -> Result<()> {
    let checkout = current_dir()?;
    let programs = build_cluster_programs(&checkout, &["helm"], Progress::detect()).await?;
    let chosen = if arguments.architectures.is_empty() {
        ArchitectureArgument::value_variants()
    } else {
        &arguments.architectures
    };
    let release = Release {
        out: checkout.join(arguments.out),
        helm: programs.get("helm").context("helm was not built")?.clone(),
        checkout,
        image_repository: arguments.image_repository,
        download_url: arguments.download_url,
        architectures: chosen
            .iter()
            .map(|architecture| match architecture {
                ArchitectureArgument::Amd64 => Architecture::Amd64,
                ArchitectureArgument::Arm64 => Architecture::Arm64,
            })
            .collect(),
    };
    for path in release.build().await? {
        println!("{}", path.display());
    }
    Ok(())
}
