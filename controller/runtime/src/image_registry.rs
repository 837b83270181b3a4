//! Asks image registries, within the rules of the installer and with the Secrets that the pod
//! template names for pulling its images.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serin_crds::api_status;
use serin_metrics_analysis::credentials::{CredentialSource, CredentialSourceKind};
use serin_metrics_analysis::prometheus::{AddressTrust, AllowedAddress, HttpClient};
use serin_registry::{
    Connections, Credentials, PullSecret, Registry, RegistryError, Repository, StoredSignature,
    Target,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::client::own_username;

/// Maximum number of Secrets of a pod template that are read.
const MAX_PULL_SECRETS: usize = 4;
/// Maximum number of Secrets that are read at the same time.
const CONCURRENT_READS: usize = 8;
/// Maximum time to read one Secret.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// Field that names the Secrets.
const PULL_SECRETS_FIELD: &str = "spec.template.spec.imagePullSecrets";

/// The repository that is asked about, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageSource {
    /// Namespace of the Rollout.
    pub namespace: String,
    /// Registry and path, for example `docker.io/library/nginx`.
    pub name: String,
    /// Names of the Secrets in the namespace with which the pods pull their images.
    pub pull_secrets: Vec<String>,
}

/// Why a registry did not answer: sentences without their ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupFailure {
    /// The problem.
    pub problem: String,
    /// How to correct it.
    pub fix: String,
}

impl From<RegistryError> for LookupFailure {
    fn from(error: RegistryError) -> Self {
        Self {
            problem: error.to_string(),
            fix: error.fix().to_owned(),
        }
    }
}

/// Answers questions about images. Every answer takes a bounded time.
pub trait ImageRegistry: Send + Sync {
    /// The digest of a tag.
    fn digest<'a>(
        &'a self,
        source: &'a ImageSource,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<String, LookupFailure>>;

    /// The signatures that are stored next to an image. They have not been verified.
    fn signatures<'a>(
        &'a self,
        source: &'a ImageSource,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Vec<StoredSignature>, LookupFailure>>;
}

/// Asks registries by HTTP.
pub struct HttpImageRegistry {
    registry: Registry,
    allowed: Vec<AllowedAddress>,
    secrets: PullSecretReader,
}

impl fmt::Debug for HttpImageRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpImageRegistry")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl HttpImageRegistry {
    /// Asks registries over the connections of `http`. If `allowed` is not empty, only its
    /// addresses are connected to; those with `http://` without encryption.
    pub fn new(client: Client, http: HttpClient, allowed: Vec<AllowedAddress>) -> Self {
        let connections = Connections {
            trusted: http.with_system_trust(AddressTrust::Trusted),
            restricted: http.with_system_trust(AddressTrust::Restricted),
            check: Arc::new(move |url| http.refusal(url)),
        };
        Self {
            registry: Registry::new(connections),
            allowed,
            secrets: PullSecretReader {
                client,
                reads: Semaphore::new(CONCURRENT_READS),
            },
        }
    }

    /// How the repository is reached, without credentials.
    fn target(&self, name: &str) -> Result<Target, LookupFailure> {
        let repository = Repository::parse(name).map_err(RegistryError::from)?;
        let (host, path) = (repository.registry(), repository.path());
        let permits = |scheme: &str| {
            let address = format!("{scheme}://{host}/{path}");
            self.allowed.iter().any(|allowed| allowed.permits(&address))
        };
        let (is_https, is_plain_http) = (permits("https"), permits("http"));
        if !self.allowed.is_empty() && !is_https && !is_plain_http {
            return Err(LookupFailure {
                problem: format!(
                    "{host}/{path} is not below an address of --registry-allowed-address of the \
                     controller"
                ),
                fix: "Use an image of a registry in registries.allowedAddresses of the chart, or ask \
                      the operator of the controller to add this one"
                    .to_owned(),
            });
        }
        Ok(Target {
            is_plain_http: is_plain_http && !is_https,
            is_trusted: is_https || is_plain_http,
            credentials: None,
            repository,
        })
    }

    /// Asks with the credentials of the Secrets, or anonymously if none is for the registry.
    async fn ask<'a, T, F>(
        &'a self,
        source: &'a ImageSource,
        request: impl FnOnce(Target) -> F,
    ) -> Result<T, LookupFailure>
    where
        F: Future<Output = Result<T, RegistryError>> + 'a,
    {
        let mut target = self.target(&source.name)?;
        let found = self.secrets.credentials(source, &target.repository).await;
        target.credentials = found.credentials;
        let answer = request(target).await;
        answer.map_err(|error| match (&error, found.problem) {
            // Credentials would have been needed, and this is why there were none.
            (RegistryError::Denied { .. } | RegistryError::NotFound, Some(problem)) => {
                LookupFailure {
                    problem: format!(
                        "{error}, and its Secrets were not read: {}",
                        problem.problem
                    ),
                    fix: problem.fix,
                }
            }
            _ => error.into(),
        })
    }
}

impl ImageRegistry for HttpImageRegistry {
    fn digest<'a>(
        &'a self,
        source: &'a ImageSource,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<String, LookupFailure>> {
        let request = move |target: Target| async move { self.registry.digest(&target, tag).await };
        self.ask(source, request).boxed()
    }

    fn signatures<'a>(
        &'a self,
        source: &'a ImageSource,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Vec<StoredSignature>, LookupFailure>> {
        let request =
            move |target: Target| async move { self.registry.signatures(&target, digest).await };
        self.ask(source, request).boxed()
    }
}

/// Reads the Secrets for pulling images. The controller has no permission to read Secrets, unless
/// somebody has granted it for the single ones.
struct PullSecretReader {
    client: Client,
    reads: Semaphore,
}

/// What the Secrets contain for a repository.
#[derive(Default)]
struct FoundCredentials {
    credentials: Option<Credentials>,
    /// The first problem with a Secret.
    problem: Option<LookupFailure>,
}

impl PullSecretReader {
    async fn credentials(&self, source: &ImageSource, repository: &Repository) -> FoundCredentials {
        let mut found = FoundCredentials::default();
        for name in source.pull_secrets.iter().take(MAX_PULL_SECRETS) {
            let of_secret = CredentialSource {
                kind: CredentialSourceKind::Secret,
                namespace: &source.namespace,
                name,
                referenced_by: PULL_SECRETS_FIELD,
            };
            match self.read(&of_secret).await {
                Ok(secret) => {
                    if let Some(credentials) = secret.credentials_for(repository) {
                        found.credentials = Some(credentials.clone());
                        return found;
                    }
                }
                Err(problem) => {
                    found.problem.get_or_insert(problem);
                }
            }
        }
        found
    }

    async fn read(&self, source: &CredentialSource<'_>) -> Result<PullSecret, LookupFailure> {
        const FIX: &str = "Correct the Secret, or imagePullSecrets in the pod template";
        let failure = |problem: String, fix: &str| LookupFailure {
            problem,
            fix: fix.to_owned(),
        };
        // The semaphore is never closed.
        let _permit = self.reads.acquire().await;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), source.namespace);
        let read = timeout(READ_TIMEOUT, api.get(source.name)).await;
        let data: BTreeMap<String, Vec<u8>> = match read {
            Ok(Ok(secret)) => {
                let data = secret.data.unwrap_or_default().into_iter();
                data.map(|(key, value)| (key, value.0)).collect()
            }
            Ok(Err(kube::Error::Api(status))) if api_status::is_missing_object(&status) => {
                return Err(failure(format!("the {source} does not exist"), FIX));
            }
            Ok(Err(kube::Error::Api(status))) if api_status::is_forbidden(&status) => {
                let user = own_username(&self.client).await;
                let problem = format!("the controller may not read the {source}");
                return Err(failure(problem, &format!("Run {}", source.grant(&user))));
            }
            // The error of the client is not shown, because it could contain the data.
            Ok(Err(_)) | Err(_) => {
                let problem = format!("the API server did not return the {source}");
                return Err(failure(problem, "Serin reads it again"));
            }
        };
        PullSecret::parse(&data)
            .map_err(|error| failure(format!("the {source} cannot be used: {error}"), FIX))
    }
}

/// Answers nothing, for processes that ask no registry.
#[derive(Clone, Copy, Debug)]
pub struct NoImageRegistry;

impl NoImageRegistry {
    fn failure() -> LookupFailure {
        LookupFailure {
            problem: "this controller asks no registry".to_owned(),
            fix: "Write the image with its digest".to_owned(),
        }
    }
}

impl ImageRegistry for NoImageRegistry {
    fn digest<'a>(
        &'a self,
        _: &'a ImageSource,
        _: &'a str,
    ) -> BoxFuture<'a, Result<String, LookupFailure>> {
        async { Err(Self::failure()) }.boxed()
    }

    fn signatures<'a>(
        &'a self,
        _: &'a ImageSource,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Vec<StoredSignature>, LookupFailure>> {
        async { Err(Self::failure()) }.boxed()
    }
}

#[cfg(test)]
mod tests;
