//! The other controllers, for runs that need one of them beside Serin.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::product::{Product, ProductKind};
use crate::tools::Tools;

/// A controller of another project.
#[derive(Clone, Debug)]
pub struct PeerController {
    /// Its program.
    pub program: PathBuf,
    /// Its CustomResourceDefinitions.
    pub definitions: Vec<Value>,
}

/// The controllers to migrate from.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Argo Rollouts.
    pub argo_rollouts: PeerController,
    /// Flagger.
    pub flagger: PeerController,
}

impl Peers {
    /// Builds what is missing in the cache.
    ///
    /// # Errors
    /// If Go is missing, or if a program does not build.
    pub async fn prepare(checkout: &Path) -> Result<Self> {
        let tools = Tools::prepare(checkout, &[Product::Argo, Product::Flagger]).await?;
        let peer = |kind: ProductKind, program: &str| -> Result<PeerController> {
            Ok(PeerController {
                program: tools.program(program)?.clone(),
                definitions: tools.definitions(kind).to_vec(),
            })
        };
        Ok(Self {
            argo_rollouts: peer(ProductKind::Argo, "rollouts-controller")?,
            flagger: peer(ProductKind::Flagger, "flagger")?,
        })
    }
}
