//! Resolves the Prometheus server and credentials of a Rollout from Secrets and ConfigMaps, and
//! refreshes them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serin_core::hold::HoldCode;
use serin_crds::analysis::{CaSourceSpec, PrometheusSpec, SecretSourceSpec, TlsSpec};
use serin_crds::api_status;
use serin_metrics_analysis::counter_selectors::AnalysisError;
use serin_metrics_analysis::credentials::{CredentialData, CredentialSource, CredentialSourceKind};
use serin_metrics_analysis::prometheus::{
    AddressTrust, AllowedAddress, RequiredMatcher, Server, Tls,
};
use serin_metrics_analysis::{AnalysisRequest, ReleasePhase, RolloutName};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::client::own_username;

/// Maximum number of concurrent reads.
const CONCURRENT_READS: usize = 8;
/// Maximum time to read one object.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The Prometheus for Rollouts that specify none.
#[derive(Clone, Debug)]
pub struct DefaultServer {
    /// Base URL.
    pub address: String,
    /// Directory with HTTP headers, in the layout of a mounted Secret: each file name is a header
    /// name.
    pub headers_dir: Option<PathBuf>,
}

/// How often credentials are read again.
#[derive(Clone, Copy, Debug)]
pub struct RefreshIntervals {
    /// Interval during a release. A replaced token is used for at most this time.
    pub release: Duration,
    /// Interval for Rollouts without a release. They query rarely, and there may be thousands of
    /// them.
    pub idle: Duration,
}

impl Default for RefreshIntervals {
    fn default() -> Self {
        Self {
            release: Duration::from_secs(15),
            idle: Duration::from_secs(600),
        }
    }
}

/// Resolves servers. Cheap to clone.
#[derive(Clone)]
pub struct ServerResolver {
    client: Client,
    default: Option<DefaultServer>,
    refresh_intervals: RefreshIntervals,
    allowed_addresses: Arc<[AllowedAddress]>,
    namespace_label: Option<Arc<str>>,
    reads: Arc<Semaphore>,
}

impl fmt::Debug for ServerResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerResolver")
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

/// Why the credentials of a Prometheus are not available.
#[derive(Debug)]
pub(super) enum CredentialError {
    /// The read failed. The credentials that were read before may still be valid.
    Transient(AnalysisError),
    /// A user must change something.
    Permanent(AnalysisError),
}

impl From<AnalysisError> for CredentialError {
    fn from(error: AnalysisError) -> Self {
        Self::Permanent(error)
    }
}

impl CredentialError {
    pub(super) fn into_error(self) -> AnalysisError {
        match self {
            Self::Transient(error) | Self::Permanent(error) => error,
        }
    }
}

impl ServerResolver {
    /// Creates a resolver. `default` is used for Rollouts that specify no Prometheus.
    pub fn new(
        client: Client,
        default: Option<DefaultServer>,
        refresh_intervals: RefreshIntervals,
    ) -> Self {
        Self {
            client,
            default,
            refresh_intervals,
            allowed_addresses: Arc::default(),
            namespace_label: None,
            reads: Arc::new(Semaphore::new(CONCURRENT_READS)),
        }
    }

    /// Limits the addresses that Rollouts may specify. If the list is empty, every address is
    /// allowed, except those that the HTTP client refuses.
    #[must_use]
    pub fn with_allowed_addresses(mut self, allowed: Vec<AllowedAddress>) -> Self {
        self.allowed_addresses = allowed.into();
        self
    }

    /// Limits the queries to the default server to series whose label of this name is the namespace
    /// of the Rollout.
    #[must_use]
    pub fn with_namespace_label(mut self, label: Option<String>) -> Self {
        self.namespace_label = label.map(Arc::from);
        self
    }

    /// How long the resolved server of this request is used before it is resolved again.
    pub(super) fn refresh_interval(&self, request: &AnalysisRequest) -> Duration {
        if request.phase == ReleasePhase::Idle {
            self.refresh_intervals.idle
        } else {
            self.refresh_intervals.release
        }
    }

    /// Resolves the server with its credentials.
    ///
    /// # Errors
    /// A Secret or ConfigMap is missing, invalid or not readable.
    pub(super) async fn resolve(
        &self,
        request: &AnalysisRequest,
    ) -> Result<Server, CredentialError> {
        let prometheus = request.analysis.prometheus.as_ref();
        let namespace = &request.rollout.namespace;
        let server = match prometheus
            .and_then(|prometheus| Some((prometheus, prometheus.address.as_ref()?)))
        {
            Some((prometheus, address)) => {
                self.rollout_server(prometheus, address, namespace).await?
            }
            None => self.default_server(namespace).await?,
        };
        Ok(Server {
            rollout: Some(request.rollout.clone()),
            ..server
        })
    }

    /// Waits until the result differs from `previous`.
    pub(super) async fn wait_for_change(
        &self,
        request: &AnalysisRequest,
        previous: &Result<Server, AnalysisError>,
    ) {
        loop {
            sleep(self.refresh_interval(request)).await;
            let resolved = self.resolve(request).await;
            if let (Err(CredentialError::Transient(error)), true) = (&resolved, previous.is_ok()) {
                let RolloutName { namespace, name } = &request.rollout;
                tracing::warn!(
                    namespace,
                    rollout = name,
                    message = error.message,
                    "failed to refresh credentials; using the previous ones"
                );
            } else if resolved.map_err(CredentialError::into_error) != *previous {
                return;
            }
        }
    }

    /// The value of a header of a check, from a Secret in the namespace of the Rollout.
    ///
    /// # Errors
    /// The Secret or its key is missing, invalid or not readable.
    pub async fn header_value(
        &self,
        namespace: &str,
        secret: &str,
        key: &str,
    ) -> Result<String, AnalysisError> {
        let source = CredentialSource {
            kind: CredentialSourceKind::Secret,
            namespace,
            name: secret,
            referenced_by: "spec.analysis.checks[].http.headers",
        };
        let data = self
            .read(&source)
            .await
            .map_err(CredentialError::into_error)?;
        source.header_value(&data, key)
    }

    async fn default_server(&self, namespace: &str) -> Result<Server, CredentialError> {
        let Some(default) = &self.default else {
            return Err(AnalysisError::no_address().into());
        };
        let mut server = Server::with_url(&default.address);
        server.required_matcher = self.namespace_label.as_ref().map(|label| RequiredMatcher {
            label: label.to_string(),
            value: namespace.to_owned(),
        });
        if let Some(directory) = &default.headers_dir {
            let name = directory.display().to_string();
            let source = CredentialSource {
                kind: CredentialSourceKind::Directory,
                namespace: "",
                name: &name,
                referenced_by: "--prometheus-headers-dir",
            };
            server.headers = source.headers(&read_directory(directory.clone(), &source).await?)?;
        }
        Ok(server)
    }

    async fn rollout_server(
        &self,
        spec: &PrometheusSpec,
        address: &str,
        namespace: &str,
    ) -> Result<Server, CredentialError> {
        let mut server = Server {
            trust: self.check_address(address)?,
            ..Server::with_url(address)
        };
        if let Some(SecretSourceSpec { secret_ref }) = &spec.headers_from {
            let named_by = "spec.analysis.prometheus.headersFrom";
            let source = CredentialSource {
                kind: CredentialSourceKind::Secret,
                namespace,
                name: &secret_ref.name,
                referenced_by: named_by,
            };
            server.headers = source.headers(&self.read(&source).await?)?;
        }
        let Some(TlsSpec {
            ca_from,
            client_certificate_from,
        }) = &spec.tls
        else {
            return Ok(server);
        };
        if let Some(ca) = ca_from {
            server.tls = self.load_authorities(ca, namespace, server.tls).await?;
        }
        if let Some(SecretSourceSpec { secret_ref }) = client_certificate_from {
            let named_by = "spec.analysis.prometheus.tls.clientCertificateFrom";
            let source = CredentialSource {
                kind: CredentialSourceKind::Secret,
                namespace,
                name: &secret_ref.name,
                referenced_by: named_by,
            };
            server.tls = source.add_client_certificate(&self.read(&source).await?, server.tls)?;
        }
        Ok(server)
    }

    /// Whether the installer allows this address of a Rollout.
    fn check_address(&self, address: &str) -> Result<AddressTrust, AnalysisError> {
        let mut allowed = self.allowed_addresses.iter();
        if allowed.any(|allowed| allowed.permits(address)) {
            return Ok(AddressTrust::Trusted);
        }
        if self.allowed_addresses.is_empty() {
            return Ok(AddressTrust::Restricted);
        }
        let message = format!(
            "spec.analysis.prometheus.address {address:?} is not allowed: \
             --prometheus-allowed-address of the controller lists the allowed addresses. Use one \
             of them, or ask the operator of the controller to add this one."
        );
        Err(AnalysisError {
            code: HoldCode::InvalidSpec,
            message,
        })
    }

    async fn load_authorities(
        &self,
        ca: &CaSourceSpec,
        namespace: &str,
        tls: Tls,
    ) -> Result<Tls, CredentialError> {
        let in_config_map = ca
            .config_map_key_ref
            .as_ref()
            .map(|reference| (CredentialSourceKind::ConfigMap, reference));
        let in_secret = || {
            ca.secret_key_ref
                .as_ref()
                .map(|reference| (CredentialSourceKind::Secret, reference))
        };
        // A spec with neither is refused by validation.
        let Some((kind, reference)) = in_config_map.or_else(in_secret) else {
            return Ok(tls);
        };
        let source = CredentialSource {
            kind,
            namespace,
            name: &reference.name,
            referenced_by: "spec.analysis.prometheus.tls.caFrom",
        };
        Ok(source.add_ca_bundle(&self.read(&source).await?, &reference.key, tls)?)
    }

    async fn read(&self, source: &CredentialSource<'_>) -> Result<CredentialData, CredentialError> {
        // The semaphore is never closed.
        let _permit = self.reads.acquire().await;
        let reading = async {
            if source.kind == CredentialSourceKind::ConfigMap {
                let found = self
                    .get_object::<ConfigMap>(source)
                    .await?
                    .data
                    .unwrap_or_default();
                return Ok(found
                    .into_iter()
                    .map(|(key, value)| (key, value.into_bytes()))
                    .collect());
            }
            let found = self
                .get_object::<Secret>(source)
                .await?
                .data
                .unwrap_or_default();
            Ok(found
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect())
        };
        let timed_out = |_| {
            Err(CredentialError::Transient(
                source.unavailable("the API server does not respond"),
            ))
        };
        timeout(READ_TIMEOUT, reading)
            .await
            .unwrap_or_else(timed_out)
    }

    async fn get_object<K>(&self, source: &CredentialSource<'_>) -> Result<K, CredentialError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + fmt::Debug
            + DeserializeOwned,
    {
        match Api::<K>::namespaced(self.client.clone(), source.namespace)
            .get(source.name)
            .await
        {
            Ok(found) => Ok(found),
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {
                Err(source.not_found().into())
            }
            Err(kube::Error::Api(status)) if api_status::is_forbidden(&status) => {
                Err(source.forbidden(&own_username(&self.client).await).into())
            }
            Err(kube::Error::Api(status)) => Err(CredentialError::Transient(
                source.unavailable(&api_status::message(&status)),
            )),
            // The client error is not shown, because it could contain the secret data.
            Err(_) => Err(CredentialError::Transient(
                source.unavailable("the request to the API server failed"),
            )),
        }
    }
}

async fn read_directory(
    directory: PathBuf,
    source: &CredentialSource<'_>,
) -> Result<CredentialData, CredentialError> {
    let read = tokio::task::spawn_blocking(move || read_files(&directory)).await;
    read.unwrap_or_else(|ended| Err(io::Error::other(ended)))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => source.not_found().into(),
            io::ErrorKind::PermissionDenied => source.forbidden("the controller's user").into(),
            kind => CredentialError::Transient(source.unavailable(&kind.to_string())),
        })
}

/// The files by name. Hidden files are skipped: a mounted Secret uses them for atomic updates.
fn read_files(directory: &Path) -> io::Result<CredentialData> {
    let mut files = CredentialData::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            files.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(files)
}
