//! A client for image registries, by the OCI distribution specification.
//!
//! It answers two questions about an image: which digest a tag has, and what was signed about a
//! digest. It does not pull images. The name of an image is text of a tenant, so that every answer,
//! redirect and token is bounded, and addresses are checked before they are connected to.
//!
//! Whether a signature is valid is not decided here: [`Registry::signatures`] returns what is stored
//! next to the image, and the caller verifies it with its keys.

#![warn(missing_docs)]

mod challenge;
mod credentials;
mod error;
mod repository;
mod session;
mod signatures;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use tokio::time::timeout;

pub use credentials::{Credentials, InvalidPullSecret, PullSecret};
pub use error::RegistryError;
pub use repository::{InvalidImage, Repository};
pub use signatures::StoredSignature;

use session::{Accept, Session};

/// Maximum time for all requests about one image.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a manifest whose digest is computed here, as the specification recommends it.
const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// Why an address must not be connected to. `None` if it may be.
pub type AddressCheck = Arc<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

/// HTTP clients for registries. They must not follow redirects: the client here checks each of them.
#[derive(Clone)]
pub struct Connections {
    /// For registries that the installer has listed.
    pub trusted: reqwest::Client,
    /// For all others. Its resolver refuses names that lead to forbidden addresses.
    pub restricted: reqwest::Client,
    /// Checks a URL of the restricted client whose host is an IP address, which is not resolved.
    pub check: AddressCheck,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// A repository of images, and how it is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// Registry and path.
    pub repository: Repository,
    /// Whether the registry is reached by HTTP without encryption.
    pub is_plain_http: bool,
    /// Whether the installer has listed the registry.
    pub is_trusted: bool,
    /// Credentials for the registry. Without them, requests are anonymous.
    pub credentials: Option<Credentials>,
}

/// Asks registries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    connections: Connections,
}

impl Registry {
    /// A client with these connections.
    pub fn new(connections: Connections) -> Self {
        Self { connections }
    }

    /// The digest of a tag, for example `sha256:...`.
    ///
    /// # Errors
    /// The registry does not have the tag, refuses the request, cannot be reached, or its answer
    /// cannot be used.
    pub async fn digest(&self, target: &Target, tag: &str) -> Result<String, RegistryError> {
        let tag = repository::checked_tag(tag)?;
        let lookup = async {
            let mut session = Session::new(&self.connections, target)?;
            let path = format!("manifests/{tag}");
            let answer = session.send(Method::HEAD, &path, Accept::Manifest).await?;
            if let Some(digest) = session::content_digest(&answer)? {
                return Ok(digest);
            }
            // A registry may leave the header out. The digest of a manifest is that of its bytes.
            session
                .hash(&path, Accept::Manifest, MAX_MANIFEST_BYTES)
                .await
        };
        limited(lookup).await
    }

    /// The signatures that are stored next to the image with this digest, at most 32. Each is about
    /// this digest, and none has been verified.
    ///
    /// # Errors
    /// The registry refuses the request, cannot be reached, or its answer cannot be used. An image
    /// without signatures is not an error.
    pub async fn signatures(
        &self,
        target: &Target,
        digest: &str,
    ) -> Result<Vec<StoredSignature>, RegistryError> {
        let digest = repository::checked_digest(digest)?;
        let lookup = async {
            let session = Session::new(&self.connections, target)?;
            signatures::find(session, digest).await
        };
        limited(lookup).await
    }
}

async fn limited<T>(
    lookup: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let ended = timeout(IMAGE_TIMEOUT, lookup).await;
    ended.unwrap_or(Err(RegistryError::Timeout))
}
