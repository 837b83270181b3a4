//! A second Prometheus with its own configuration, as a process of this host.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use serin_cluster::Component;
use tokio::process::{Child, Command};

use crate::env::Env;
use crate::shop::eventually;

/// A running Prometheus. On drop it is killed and its data is removed.
pub struct Prometheus {
    _child: Child,
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
        let folder = env
            .checkout
            .join(".local/e2e")
            .join(format!("prometheus-{name}"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let configuration = json!({
            "global": {"scrape_interval": scrape_interval, "scrape_timeout": "1s"},
            "scrape_configs": [{
                "job_name": "traefik",
                "static_configs": [{"targets": [cluster.traefik_metrics_address()]}],
                "relabel_configs": relabeling,
            }],
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
            _child: child,
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
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // The next start removes the remains.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
