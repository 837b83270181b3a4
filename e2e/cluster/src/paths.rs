//! The paths of the files of a cluster.

use std::path::{Path, PathBuf};

use crate::instance::Instance;

/// The folders and files of one cluster, all in `<checkout>/.local`.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    checkout: PathBuf,
    root: PathBuf,
}

impl Paths {
    pub(crate) fn for_instance(instance: &Instance) -> Self {
        Self {
            checkout: instance.checkout().to_owned(),
            root: instance.checkout().join(".local/cluster"),
        }
    }

    /// Everything that `down` removes.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that `up` and `down` lock. It remains when the root is removed.
    pub(crate) fn lock(&self) -> PathBuf {
        self.checkout.join("e2e/cluster/tools")
    }

    /// The record of the cluster. It is written last: without it, the creation of the cluster was
    /// not completed.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Links to the programs for users: kubectl and helm.
    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.root.join("config").join(name)
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// The /var/lib, /var/log and sysctls of the node.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// Creates the folders.
    pub(crate) fn create(&self) -> std::io::Result<()> {
        for folder in [
            "bin",
            "config/cni",
            "data/etcd",
            "data/prometheus",
            "images",
            "log",
            "node",
        ] {
            std::fs::create_dir_all(self.root.join(folder))?;
        }
        Ok(())
    }
}
