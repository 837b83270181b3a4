//! The controller as a process of this host, so that it can be killed at any moment.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::env::Env;

/// A running controller; killed when it is dropped.
pub struct Controller {
    child: Child,
    /// Where `/metrics`, `/healthz` and `/readyz` answer.
    pub address: String,
    /// Its log.
    pub log: PathBuf,
}

/// How a controller is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name in file names.
    pub name: String,
    /// The port of its HTTP endpoints on the loopback.
    pub port: u16,
    /// Whether it takes part in an election; the namespace of the Lease.
    pub election: Option<String>,
}

/// How far a controller reaches and how long it lives.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The one namespace that it looks after; without it all.
    pub namespace: Option<String>,
    /// Whether it runs apart from this process: Ctrl-C does not reach it, and dropping it does not
    /// end it.
    pub apart: bool,
}

impl Controller {
    /// Starts the controller of this checkout; it must have been built.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(env: &Env, options: &Options) -> Result<Self> {
        Self::start_in(env, options, &Scope::default())
    }

    /// The same for a scope.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in(env: &Env, options: &Options, scope: &Scope) -> Result<Self> {
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
            .kill_on_drop(!scope.apart);
        if scope.apart {
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

    /// Leaves a controller that runs [apart](Scope::apart) to itself; its process id, while it
    /// runs.
    pub fn detach(self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready after 60 s.
    pub async fn ready(&mut self) -> Result<()> {
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

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills it as an outage does: SIGKILL, no clean-up.
    ///
    /// # Errors
    /// When it has ended by itself before.
    pub async fn kill(mut self) -> Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Stops it as a node drain does: SIGTERM, and waits.
    ///
    /// # Errors
    /// When it does not end within 20 s.
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
