//! A program of a data plane, as a process of this host.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::shop::eventually;

/// Maximum time for a program to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How to start a program.
#[derive(Clone, Debug)]
pub(super) struct ProcessOptions {
    /// The file of the program.
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Environment variables in addition to those of this process.
    pub(super) environment: Vec<(&'static str, String)>,
    /// The file of its output.
    pub(super) log: PathBuf,
    /// A URL that responds with success when the program is ready.
    pub(super) ready_url: String,
}

/// A running program. It is killed on drop.
pub(super) struct HostProcess {
    options: ProcessOptions,
    child: Mutex<Child>,
}

impl HostProcess {
    /// Starts a program and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started, or if it is not ready in time.
    pub(super) async fn start(options: ProcessOptions) -> Result<Self> {
        let child = Mutex::new(spawn(&options)?);
        let process = Self { options, child };
        process.wait_until_ready().await?;
        Ok(process)
    }

    /// Kills the program and starts it again, without waiting until it is ready.
    ///
    /// # Errors
    /// If it does not run, or if it cannot be started.
    pub(super) async fn restart(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        child.kill().await?;
        *child = spawn(&self.options)?;
        Ok(())
    }

    /// Kills the program.
    ///
    /// # Errors
    /// If it has already ended.
    pub(super) async fn stop(&self) -> Result<()> {
        Ok(self.child.lock().await.kill().await?)
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let ProcessOptions {
            ready_url,
            program,
            log,
            ..
        } = &self.options;
        let what = format!("{} is ready, see {}", program.display(), log.display());
        let is_ready = async || {
            if let Some(status) = self.child.lock().await.try_wait()? {
                bail!("{} ended: {status}", program.display());
            }
            Ok(reqwest::get(ready_url).await?.status().is_success())
        };
        eventually(&what, READY_TIMEOUT, is_ready).await
    }
}

fn spawn(options: &ProcessOptions) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&options.log)?;
    Command::new(&options.program)
        .args(&options.arguments)
        .envs(options.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} does not run", options.program.display()))
}
