//! Handling of Ctrl-C and SIGTERM.

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives Ctrl-C and SIGTERM, which would otherwise end the process.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Starts to listen.
    ///
    /// # Errors
    /// If a signal handler cannot be installed.
    pub fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
