//! Records which large answers are being decoded, so that a restarted process knows which of them
//! may have ended it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::address::host_and_port;
use super::client::{AddressTrust, Server};
use super::error::QueryError;

/// A Prometheus server that a Rollout chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerSource {
    /// Namespace of the Rollout. The queries of one namespace do not affect the others.
    pub namespace: String,
    /// Host and port of the server, without credentials.
    pub server: String,
}

/// Decides whether a large answer is decoded.
pub trait AnswerGuard: Send + Sync {
    /// Records that a large answer is being decoded, until the returned value is dropped.
    ///
    /// # Errors
    /// The remaining time for which no large answer of this source is decoded, because one of them
    /// may have ended the process.
    fn begin(&self, source: &AnswerSource) -> Result<Box<dyn Any + Send>, Duration>;
}

/// The guard of one server. Servers of the installer are not guarded, because all Rollouts depend on
/// them.
#[derive(Clone)]
pub(super) struct ServerGuard {
    guard: Arc<dyn AnswerGuard>,
    source: AnswerSource,
}

impl fmt::Debug for ServerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerGuard").field(&self.source).finish()
    }
}

impl ServerGuard {
    /// The guard of a server. `None` if the installer chose it.
    pub fn new(guard: Option<&Arc<dyn AnswerGuard>>, server: &Server) -> Option<Self> {
        let rollout = server.rollout.as_ref()?;
        let (host, port) = host_and_port(&server.url);
        let source = AnswerSource {
            namespace: rollout.namespace.clone(),
            server: format!("{host}:{port}"),
        };
        let is_guarded = server.trust == AddressTrust::Restricted;
        let guard = guard.filter(|_| is_guarded).map(Arc::clone)?;
        Some(Self { guard, source })
    }

    /// Records that a large answer is being decoded, until the returned value is dropped.
    pub fn begin(&self) -> Result<Box<dyn Any + Send>, QueryError> {
        self.guard.begin(&self.source).map_err(|left| {
            QueryError::Unreachable(format!(
                "the controller process died while it decoded an answer of {}, so no large answer \
                 of it is decoded for {} s",
                self.source.server,
                left.as_secs().max(1)
            ))
        })
    }
}
