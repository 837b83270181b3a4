//! The watch of a standby.

use std::fmt;

use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};

/// Duration of one watch request, in seconds.
const WATCH_SECONDS: u32 = 60;

/// A change of the Lease.
#[derive(Debug)]
pub(super) enum LeaseChange {
    /// It was created or updated.
    Written(Box<Lease>),
    /// It was deleted.
    Deleted,
    /// The request has ended. Another one continues where it ended.
    End,
}

/// A watch of the Lease.
pub(super) struct LeaseWatch(BoxStream<'static, kube::Result<WatchEvent<Lease>>>);

impl fmt::Debug for LeaseWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeaseWatch").finish_non_exhaustive()
    }
}

impl LeaseWatch {
    /// Watches changes after a version.
    pub(super) async fn start(api: &Api<Lease>, name: &str, version: &str) -> kube::Result<Self> {
        // RBAC can permit a watch of one object only if the request selects it by name.
        let params = WatchParams::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(WATCH_SECONDS)
            .disable_bookmarks();
        Ok(Self(api.watch(&params, version).await?.boxed()))
    }

    /// Waits for the next change. Dropping the future loses no change.
    ///
    /// # Errors
    /// The watch was interrupted, or its version is too old. The Lease must be read again.
    pub(super) async fn next(&mut self) -> kube::Result<LeaseChange> {
        loop {
            match self.0.next().await {
                None => return Ok(LeaseChange::End),
                Some(Err(error)) => return Err(error),
                Some(Ok(WatchEvent::Error(status))) => return Err(kube::Error::Api(status)),
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                Some(Ok(WatchEvent::Deleted(_))) => return Ok(LeaseChange::Deleted),
                Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) => {
                    return Ok(LeaseChange::Written(Box::new(lease)));
                }
            }
        }
    }
}
