//! Which Prometheus a release is judged by, and what it is asked with: read from Secrets and
//! ConfigMaps, and read again.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serin_crds::analysis::{CaSourceSpec, PrometheusSpec, SecretSourceSpec, TlsSpec};
use serin_crds::api_status;
use serin_metrics_analysis::access::{Data, Kind, Source};
use serin_metrics_analysis::prometheus::{Server, Tls};
use serin_metrics_analysis::selector::Trouble;
use serin_metrics_analysis::{JudgeRequest, Phase, RolloutName};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// How many objects are read at once.
const CONCURRENT_READS: usize = 8;
/// How long the API server may take to tell of one.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The Prometheus of Rollouts that name none.
#[derive(Clone, Debug)]
pub struct DefaultServer {
    /// Its base URL.
    pub address: String,
    /// A directory whose files are the headers that it is asked with, as a Secret is mounted: by
    /// name and content.
    pub headers_dir: Option<PathBuf>,
}

/// How often what a Prometheus is asked with is read again.
#[derive(Clone, Copy, Debug)]
pub struct Rereading {
    /// For a release under way: so long a replaced token may still be used.
    pub release: Duration,
    /// For a Rollout that releases nothing: it asks seldom, and there may be thousands.
    pub idle: Duration,
}

impl Default for Rereading {
    fn default() -> Self {
        Self {
            release: Duration::from_secs(15),
            idle: Duration::from_secs(600),
        }
    }
}

/// Knows whom to ask for each Rollout; cheap to clone.
#[derive(Clone)]
pub struct Servers {
    client: Client,
    default: Option<DefaultServer>,
    rereading: Rereading,
    reads: Arc<Semaphore>,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers")
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

/// Why it is not known what a Prometheus is to be asked with.
#[derive(Debug)]
pub(super) enum Unread {
    /// Nobody tells: what was known before may well be so still.
    Untold(Trouble),
    /// A person has to change something.
    Wrong(Trouble),
}

impl From<Trouble> for Unread {
    fn from(trouble: Trouble) -> Self {
        Self::Wrong(trouble)
    }
}

impl Unread {
    pub(super) fn trouble(self) -> Trouble {
        match self {
            Self::Untold(trouble) | Self::Wrong(trouble) => trouble,
        }
    }
}

impl Servers {
    /// Reads Secrets and ConfigMaps by this client; `default` is asked for the Rollouts that name
    /// no Prometheus.
    pub fn new(client: Client, default: Option<DefaultServer>, rereading: Rereading) -> Self {
        Self {
            client,
            default,
            rereading,
            reads: Arc::new(Semaphore::new(CONCURRENT_READS)),
        }
    }

    /// How long what was read for this request is good for.
    pub(super) fn good_for(&self, request: &JudgeRequest) -> Duration {
        if request.phase == Phase::Idle {
            self.rereading.idle
        } else {
            self.rereading.release
        }
    }

    /// Whom to ask, and with what.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub(super) async fn of(&self, request: &JudgeRequest) -> Result<Server, Unread> {
        let prometheus = request.analysis.prometheus.as_ref();
        match prometheus.and_then(|prometheus| Some((prometheus, prometheus.address.as_ref()?))) {
            Some((prometheus, address)) => {
                self.own(prometheus, address, &request.rollout.namespace)
                    .await
            }
            None => self.usual().await,
        }
    }

    /// Waits until another answer than `known` is to be had.
    pub(super) async fn changed(&self, request: &JudgeRequest, known: &Result<Server, Trouble>) {
        loop {
            sleep(self.good_for(request)).await;
            let told = self.of(request).await;
            if let (Err(Unread::Untold(trouble)), true) = (&told, known.is_ok()) {
                let RolloutName { namespace, name } = &request.rollout;
                tracing::warn!(
                    namespace,
                    rollout = name,
                    message = trouble.message,
                    "what was read before is used on"
                );
            } else if told.map_err(Unread::trouble) != *known {
                return;
            }
        }
    }

    async fn usual(&self) -> Result<Server, Unread> {
        let Some(default) = &self.default else {
            return Err(Trouble::no_address().into());
        };
        let mut server = Server::at(&default.address);
        if let Some(directory) = &default.headers_dir {
            let name = directory.display().to_string();
            let source = Source {
                kind: Kind::Directory,
                namespace: "",
                name: &name,
                named_by: "--prometheus-headers-dir",
            };
            server.headers = source.headers(&read_directory(directory.clone(), &source).await?)?;
        }
        Ok(server)
    }

    async fn own(
        &self,
        spec: &PrometheusSpec,
        address: &str,
        namespace: &str,
    ) -> Result<Server, Unread> {
        let mut server = Server::at(address);
        if let Some(SecretSourceSpec { secret_ref }) = &spec.headers_from {
            let named_by = "spec.analysis.prometheus.headersFrom";
            let source = Source {
                kind: Kind::Secret,
                namespace,
                name: &secret_ref.name,
                named_by,
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
            server.tls = self.authorities(ca, namespace, server.tls).await?;
        }
        if let Some(SecretSourceSpec { secret_ref }) = client_certificate_from {
            let named_by = "spec.analysis.prometheus.tls.clientCertificateFrom";
            let source = Source {
                kind: Kind::Secret,
                namespace,
                name: &secret_ref.name,
                named_by,
            };
            server.tls = source.identity(&self.read(&source).await?, server.tls)?;
        }
        Ok(server)
    }

    async fn authorities(
        &self,
        ca: &CaSourceSpec,
        namespace: &str,
        tls: Tls,
    ) -> Result<Tls, Unread> {
        let in_config_map = ca
            .config_map_key_ref
            .as_ref()
            .map(|named| (Kind::ConfigMap, named));
        let in_secret = || {
            ca.secret_key_ref
                .as_ref()
                .map(|named| (Kind::Secret, named))
        };
        // Neither of them is refused with the spec.
        let Some((kind, named)) = in_config_map.or_else(in_secret) else {
            return Ok(tls);
        };
        let source = Source {
            kind,
            namespace,
            name: &named.name,
            named_by: "spec.analysis.prometheus.tls.caFrom",
        };
        Ok(source.authorities(&self.read(&source).await?, &named.key, tls)?)
    }

    async fn read(&self, source: &Source<'_>) -> Result<Data, Unread> {
        // The semaphore is never closed.
        let _permit = self.reads.acquire().await;
        let reading = async {
            if source.kind == Kind::ConfigMap {
                let found = self
                    .get::<ConfigMap>(source)
                    .await?
                    .data
                    .unwrap_or_default();
                return Ok(found
                    .into_iter()
                    .map(|(key, value)| (key, value.into_bytes()))
                    .collect());
            }
            let found = self.get::<Secret>(source).await?.data.unwrap_or_default();
            Ok(found
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect())
        };
        let late = |_| {
            Err(Unread::Untold(
                source.unavailable("the API server does not answer"),
            ))
        };
        timeout(READ_TIMEOUT, reading).await.unwrap_or_else(late)
    }

    async fn get<K>(&self, source: &Source<'_>) -> Result<K, Unread>
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
                Err(source.forbidden(&self.user().await).into())
            }
            Err(kube::Error::Api(status)) => Err(Unread::Untold(
                source.unavailable(&api_status::message(&status)),
            )),
            // What cannot be read could be quoted in the error.
            Err(_) => Err(Unread::Untold(
                source.unavailable("the API server cannot be reached, or not understood"),
            )),
        }
    }

    /// What the API server knows this process as, for whoever is to give it a right.
    async fn user(&self) -> String {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = reviews
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await
            .ok();
        let user = review.and_then(|review| review.status?.user_info?.username);
        user.unwrap_or_else(|| "THE-USER-OF-THE-CONTROLLER".to_owned())
    }
}

async fn read_directory(directory: PathBuf, source: &Source<'_>) -> Result<Data, Unread> {
    let read = tokio::task::spawn_blocking(move || files(&directory)).await;
    read.unwrap_or_else(|ended| Err(io::Error::other(ended)))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => source.not_found().into(),
            io::ErrorKind::PermissionDenied => source.forbidden("the controller's user").into(),
            kind => Unread::Untold(source.unavailable(&kind.to_string())),
        })
}

/// The files by name; a mounted Secret has hidden ones beside them, by which all of it is exchanged
/// at once.
fn files(directory: &Path) -> io::Result<Data> {
    let mut files = Data::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            files.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(files)
}
