//! A second Prometheus with its own configuration, as a process of this host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use serin_cluster::{Cluster, Component};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::env::Env;
use crate::shop::eventually;

/// A running Prometheus. On drop it is killed and its data is removed.
pub struct Prometheus {
    child: Mutex<Child>,
    folder: PathBuf,
    /// Its base URL.
    pub url: String,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes Traefik of the local cluster, and waits until it is ready.
    ///
    /// # Errors
    /// If this is not the local cluster, or if it is not ready after a minute.
    pub async fn scraping_traefik(
        env: &Env,
        name: &str,
        scrape_interval: &str,
        relabeling: Value,
    ) -> Result<Self> {
        let cluster = env
            .cluster
            .as_ref()
            .context("a second Prometheus needs the programs of the local cluster")?;
        let job = json!({
            "job_name": "traefik",
            "static_configs": [{"targets": [cluster.traefik_metrics_address()]}],
            "relabel_configs": relabeling,
        });
        Self::start(cluster, &env.checkout, name, scrape_interval, vec![job]).await
    }

    /// Starts a Prometheus with these jobs, and waits until it is ready.
    ///
    /// # Errors
    /// If it is not ready after a minute.
    pub async fn start(
        cluster: &Cluster,
        checkout: &Path,
        name: &str,
        scrape_interval: &str,
        jobs: Vec<Value>,
    ) -> Result<Self> {
        let folder = checkout
            .join(".local/e2e")
            .join(format!("prometheus-{name}"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let configuration = json!({
            "global": {"scrape_interval": scrape_interval, "scrape_timeout": "1s"},
            "scrape_configs": jobs,
        });
        let file = folder.join("prometheus.json");
        std::fs::write(&file, format!("{configuration:#}"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let log = File::create(folder.join("log"))?;
        let child = Command::new(cluster.program(Component::Prometheus))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let prometheus = Self {
            child: Mutex::new(child),
            folder,
            url: format!("http://127.0.0.1:{port}"),
        };
        let ready = format!("{}/-/ready", prometheus.url);
        eventually(
            "the second Prometheus is ready",
            Duration::from_secs(60),
            async || Ok(reqwest::get(&ready).await?.status().is_success()),
        )
        .await?;
        Ok(prometheus)
    }

    /// Kills it.
    ///
    /// # Errors
    /// If it has already ended.
    pub async fn stop(&self) -> Result<()> {
        Ok(self.child.lock().await.kill().await?)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // The next start removes the remains.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
