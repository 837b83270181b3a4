//! The controller as a process of this host, so that tests can kill it at any time.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::env::Env;

/// A running controller. It is killed on drop.
pub struct Controller {
    child: Child,
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub address: String,
    /// Its log file.
    pub log: PathBuf,
}

/// Options of a controller process.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// The name of its log file.
    pub name: String,
    /// The port of its HTTP endpoints on the loopback interface.
    pub port: u16,
    /// The namespace of the Lease. If `None`, leader election is disabled.
    pub election: Option<String>,
}

/// The scope and the lifetime of a controller.
#[derive(Clone, Debug, Default)]
pub struct ControllerScope {
    /// The namespace to watch. If `None`, it watches all namespaces.
    pub namespace: Option<String>,
    /// If true, Ctrl-C does not reach the controller, and dropping it does not kill it.
    pub detached: bool,
}

impl Controller {
    /// Starts the controller of this checkout, which must be built.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(env: &Env, options: &ControllerOptions) -> Result<Self> {
        Self::start_with_scope(env, options, &ControllerScope::default())
    }

    /// Like [`Self::start`] with a scope.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with_scope(
        env: &Env,
        options: &ControllerOptions,
        scope: &ControllerScope,
    ) -> Result<Self> {
        let folder = env.checkout.join(".local/e2e");
        std::fs::create_dir_all(&folder)?;
        let log = folder.join(format!("{}.log", options.name));
        let output = File::options().create(true).append(true).open(&log)?;
        let address = format!("127.0.0.1:{}", options.port);
        let mut command = Command::new(env.program("serin-controller"));
        command
            .env("KUBECONFIG", &env.kubeconfig)
            .env("RUST_LOG", "info,serin_runtime=debug")
            .args([
                "--prometheus-address",
                &env.prometheus_url,
                "--metrics-address",
                &address,
                "--log-format",
                "json",
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(!scope.detached);
        if scope.detached {
            command.process_group(0);
        }
        if let Some(namespace) = &scope.namespace {
            command.args(["--namespace", namespace]);
        }
        match &options.election {
            Some(namespace) => {
                command.args(["--leader-elect=true", "--lease-namespace", namespace])
            }
            None => command.args(["--leader-elect=false"]),
        };
        let child = command.spawn().with_context(
            || "the controller is not built: cargo build --package serin-controller",
        )?;
        Ok(Self {
            child,
            address,
            log,
        })
    }

    /// Releases a [detached](ControllerScope::detached) controller. Returns its process id if it
    /// runs.
    pub fn detach(self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until `/readyz` reports success.
    ///
    /// # Errors
    /// If it ends, or if it is not ready after 60 s.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let url = format!("http://{}/readyz", self.address);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the controller ended: {status}; see {}", self.log.display());
            }
            if let Ok(answer) = reqwest::get(&url).await
                && answer.status().is_success()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the controller is not ready after 60 s; see {}",
                    self.log.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether it is still running.
    ///
    /// # Errors
    /// If the process cannot be inspected.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills it without cleanup (SIGKILL), as in an outage.
    ///
    /// # Errors
    /// If it has already ended.
    pub async fn kill(mut self) -> Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Stops it gracefully (SIGTERM), as in a node drain, and waits.
    ///
    /// # Errors
    /// If it does not end within 20 s.
    pub async fn stop(mut self) -> Result<()> {
        let Some(id) = self.child.id() else {
            return Ok(());
        };
        let status = Command::new("kill")
            .args(["-TERM", &id.to_string()])
            .status()
            .await?;
        if !status.success() {
            bail!("kill -TERM {id}: {status}");
        }
        tokio::time::timeout(Duration::from_secs(20), self.child.wait())
            .await
            .context("the controller does not end within 20 s of SIGTERM")??;
        Ok(())
    }
}
