//! The controller as a process of this host, so that tests can kill it at any time.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::env::Env;

/// The port of the HTTP endpoints of the controller that cases share.
pub const SHARED_PORT: u16 = 18_180;

/// A running controller. It is killed on drop.
pub struct Controller {
    child: Child,
    /// The address of `/metrics`.
    pub address: String,
    /// The address of `/healthz` and `/readyz`. A previous version may serve them at `address`.
    health_address: String,
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
    /// The namespace to manage. It watches all namespaces and changes nothing in the others.
    pub manages_only: Option<String>,
    /// If true, Ctrl-C does not reach the controller, and dropping it does not kill it.
    pub detached: bool,
    /// The program. If `None`, it is the controller of this checkout. The flags that every
    /// controller gets exist in all versions.
    pub program: Option<PathBuf>,
    /// The directory of its journal of first attempts. If `None`, it has no journal.
    pub state_dir: Option<PathBuf>,
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
        let health_address = free_address()?;
        // The cases start servers on the loopback interface, at any port.
        let allowed_addresses =
            format!("http://127.0.0.1,https://127.0.0.1,{}", env.prometheus_url);
        let program = scope.program.clone();
        let program = program.unwrap_or_else(|| env.program("serin-controller"));
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", &env.kubeconfig)
            .env("RUST_LOG", "info,serin_runtime=debug")
            // What a previous version may not know is passed in variables: it ignores those, and
            // would refuse a flag.
            .env("SERIN_HEALTH_ADDRESS", &health_address)
            .env("SERIN_PROMETHEUS_ALLOWED_ADDRESS", &allowed_addresses)
            .env("SERIN_REGISTRY_ALLOWED_ADDRESS", "http://127.0.0.1")
            .env("SERIN_CHECK_ALLOWED_ADDRESS", &env.gateway_url)
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
        if let Some(state_dir) = &scope.state_dir {
            command.env("SERIN_STATE_DIR", state_dir);
        }
        if let Some(namespace) = &scope.namespace {
            command.args(["--namespace", namespace]);
        }
        if let Some(namespace) = &scope.manages_only {
            let selector = format!("kubernetes.io/metadata.name={namespace}");
            command.args(["--namespace-selector", &selector]);
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
            health_address,
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
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the controller ended: {status}; see {}", self.log.display());
            }
            for address in [&self.health_address, &self.address] {
                if let Ok(answer) = reqwest::get(format!("http://{address}/readyz")).await
                    && answer.status().is_success()
                {
                    return Ok(());
                }
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
    pub async fn kill(&mut self) -> Result<()> {
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

/// A free address on the loopback interface.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
