//! Optional kinds. A cluster may add or remove them, or change the served version, at any time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIGroupList};
use kube::Client;
use kube::api::{ApiResource, GroupVersionKind};
use serin_crds::api_status;
use serin_crds::names::GROUP;
use serin_traffic::Router;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, timeout};

/// Maximum time for one discovery request.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// First and maximum delay between two discoveries of an absent kind.
const ABSENT_RECHECK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// A kind that the controller uses if the cluster serves it.
#[derive(Clone, Copy, Debug)]
pub struct OptionalKind {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// The supported versions, in order of preference.
    versions: &'static [&'static str],
    /// How to install the kind.
    installed_by: &'static str,
}

/// Commands for a Rollout. Rollouts also progress without them.
pub const ROLLOUT_COMMAND: OptionalKind = OptionalKind {
    group: GROUP,
    kind: "RolloutCommand",
    plural: "rolloutcommands",
    versions: &["v1alpha1"],
    installed_by: "Serin's CRDs",
};

/// Shared settings of Rollouts. A Rollout without one is not affected.
pub const ROLLOUT_POLICY: OptionalKind = OptionalKind {
    group: GROUP,
    kind: "RolloutPolicy",
    plural: "rolloutpolicies",
    versions: &["v1alpha1"],
    installed_by: "Serin's CRDs",
};

/// Definitions that Rollouts refer to. A Rollout that refers to none is not affected.
pub const ANALYSIS_TEMPLATE: OptionalKind = OptionalKind {
    group: GROUP,
    kind: "AnalysisTemplate",
    plural: "analysistemplates",
    versions: &["v1alpha1"],
    installed_by: "Serin's CRDs",
};

/// Result of the discovery of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// The cluster serves it in this version.
    Served(&'static str),
    /// The cluster serves none of the versions.
    Absent,
    /// This process may not read the discovery documents.
    Forbidden,
    /// Discovery failed.
    Failed(String),
}

impl OptionalKind {
    /// The kind of route that a router writes.
    pub fn of_router(router: &dyn Router) -> Self {
        Self {
            group: router.group(),
            kind: router.kind(),
            plural: router.plural(),
            versions: router.versions(),
            installed_by: router.installed_by(),
        }
    }

    /// The resource in one version.
    pub fn resource(&self, version: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(self.group, version, self.kind),
            self.plural,
        )
    }

    /// The plural, for example `httproutes`.
    pub const fn plural(&self) -> &'static str {
        self.plural
    }

    /// Whether it is a part of policies. These kinds may be forbidden, and a change of them concerns
    /// many Rollouts.
    pub fn is_of_policies(&self) -> bool {
        [ROLLOUT_POLICY.plural, ANALYSIS_TEMPLATE.plural].contains(&self.plural)
    }

    /// The version to try on the given attempt if discovery is forbidden.
    pub(super) fn version_to_try(&self, attempt: usize) -> &'static str {
        self.versions[attempt % self.versions.len()]
    }

    /// Looks up which version the cluster serves.
    pub async fn discover(&self, client: &Client) -> Discovery {
        self.discover_in(client, &ApiGroups::default(), Duration::ZERO)
            .await
    }

    /// As [`OptionalKind::discover`], with a list of API groups that is at most `max_age` old.
    pub(super) async fn discover_in(
        &self,
        client: &Client,
        groups: &ApiGroups,
        max_age: Duration,
    ) -> Discovery {
        match timeout(DISCOVERY_TIMEOUT, self.lookup(client, groups, max_age)).await {
            Ok(Ok(discovery)) => discovery,
            Ok(Err(kube::Error::Api(status))) if api_status::is_forbidden(&status) => {
                Discovery::Forbidden
            }
            Ok(Err(kube::Error::Api(status))) => Discovery::Failed(api_status::message(&status)),
            Ok(Err(error)) => Discovery::Failed(error.to_string()),
            Err(_) => Discovery::Failed(format!(
                "no response within {} s",
                DISCOVERY_TIMEOUT.as_secs()
            )),
        }
    }

    async fn lookup(
        &self,
        client: &Client,
        groups: &ApiGroups,
        max_age: Duration,
    ) -> kube::Result<Discovery> {
        let groups = groups.read(client, max_age).await?;
        // Every API server has API groups, so an empty list is an invalid response.
        if groups.is_empty() {
            return Ok(Discovery::Failed(
                "the list of API groups is empty".to_owned(),
            ));
        }
        let Some(group) = groups.iter().find(|group| group.name == self.group) else {
            return Ok(Discovery::Absent);
        };
        for version in self
            .versions
            .iter()
            .filter(|version| has_version(group, version))
        {
            match client
                .list_api_group_resources(&format!("{}/{version}", self.group))
                .await
            {
                Ok(list)
                    if list
                        .resources
                        .iter()
                        .any(|resource| resource.name == self.plural) =>
                {
                    return Ok(Discovery::Served(version));
                }
                Ok(_) => {}
                // The version was removed between the two requests.
                Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Discovery::Absent)
    }
}

/// The API groups of the cluster. The kinds share the list, because most clusters lack most of them.
#[derive(Debug, Default)]
pub struct ApiGroups(Mutex<Option<(Instant, Arc<[APIGroup]>)>>);

impl ApiGroups {
    /// A list that is less than `max_age` old. Concurrent calls with a `max_age` send one request.
    async fn read(&self, client: &Client, max_age: Duration) -> kube::Result<Arc<[APIGroup]>> {
        let called_at = Instant::now();
        let mut known = self.0.lock().await;
        if let Some((read_at, groups)) = &*known
            && called_at.saturating_duration_since(*read_at) < max_age
        {
            return Ok(Arc::clone(groups));
        }
        let read_at = Instant::now();
        let APIGroupList { groups } = client.list_api_groups().await?;
        let groups: Arc<[APIGroup]> = groups.into();
        *known = Some((read_at, Arc::clone(&groups)));
        Ok(groups)
    }
}

/// For example `HTTPRoute (gateway.networking.k8s.io/v1 or v1beta1)`.
impl fmt::Display for OptionalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}/{})",
            self.kind,
            self.group,
            self.versions.join(" or ")
        )
    }
}

fn has_version(group: &APIGroup, version: &str) -> bool {
    group
        .versions
        .iter()
        .any(|served| served.version == version)
}

/// Maximum age of the API groups in the first discovery of a kind.
pub(super) const FIRST_MAX_AGE: Duration = Duration::from_secs(2);

/// Delay before the next discovery of a kind that was absent `lookups` times in a row. `jitter` is
/// between 0 and 1.
pub(super) fn absent_recheck_delay(lookups: u32, jitter: f64) -> Duration {
    let (first, longest) = ABSENT_RECHECK;
    let wait = first
        .saturating_mul(2_u32.saturating_pow(lookups.saturating_sub(1)))
        .min(longest);
    wait.mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0))
}

/// Whether the cluster serves an optional kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// Discovery has not finished.
    #[default]
    Unknown,
    /// The cluster does not serve it.
    Absent,
    /// The cluster serves it in this version, and its objects have been listed.
    Served(&'static str),
    /// The cluster may serve it, but this process may not list its objects. Only of the kinds of
    /// policies.
    Forbidden,
}

/// The current availability of one optional kind.
#[derive(Debug)]
pub struct KindState {
    kind: OptionalKind,
    availability: watch::Sender<Availability>,
    recheck: Notify,
}

impl KindState {
    /// Creates the state with unknown availability.
    pub fn new(kind: OptionalKind) -> Self {
        Self {
            kind,
            availability: watch::Sender::new(Availability::Unknown),
            recheck: Notify::new(),
        }
    }

    /// The kind.
    pub const fn kind(&self) -> &OptionalKind {
        &self.kind
    }

    /// Whether the cluster serves it.
    pub fn availability(&self) -> Availability {
        *self.availability.borrow()
    }

    /// Whether the cluster serves it and its objects are known.
    pub fn is_served(&self) -> bool {
        matches!(self.availability(), Availability::Served(_))
    }

    /// The resource in the served version, or in the preferred version while the availability is
    /// unknown.
    ///
    /// # Errors
    /// The cluster does not serve the kind. The message names what to install.
    pub fn resource(&self) -> Result<ApiResource, String> {
        match self.availability() {
            Availability::Served(version) => Ok(self.kind.resource(version)),
            Availability::Unknown | Availability::Forbidden => {
                Ok(self.kind.resource(self.kind.version_to_try(0)))
            }
            Availability::Absent => Err(self.absent_message()),
        }
    }

    /// The message for users if the kind is absent.
    pub fn absent_message(&self) -> String {
        format!(
            "this cluster does not serve {}: install {}",
            self.kind, self.kind.installed_by
        )
    }

    /// Requests a new discovery, because a response indicated that the kind does not exist.
    pub fn request_recheck(&self) {
        self.recheck.notify_one();
    }

    /// Waits until a discovery is requested.
    pub(super) async fn wait_for_recheck(&self) {
        self.recheck.notified().await;
    }

    /// Records a new availability and returns the previous one.
    pub fn set(&self, availability: Availability) -> Availability {
        self.availability.send_replace(availability)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use kube::client::Body;
    use serde_json::json;
    use serin_traffic::ROUTERS;

    use super::*;

    /// A cluster with one API group, and the number of requests that it received.
    fn cluster_without_routes() -> (Client, Arc<AtomicU64>) {
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        let service = tower::service_fn(move |_: http::Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let versions = json!([{"groupVersion": "apps/v1", "version": "v1"}]);
            let groups = json!({"groups": [{"name": "apps", "versions": versions}]});
            let body = Body::from(groups.to_string().into_bytes());
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        });
        (Client::new(service, "default"), requests)
    }

    #[tokio::test(start_paused = true)]
    async fn absent_kinds_share_one_request_unless_a_fresh_list_is_needed() {
        let (client, requests) = cluster_without_routes();
        let groups = ApiGroups::default();
        let kinds = || {
            ROUTERS
                .iter()
                .map(|router| OptionalKind::of_router(*router))
        };
        for kind in kinds() {
            let found = kind.discover_in(&client, &groups, FIRST_MAX_AGE).await;
            assert_eq!(found, Discovery::Absent, "{kind}");
        }
        assert_eq!(requests.load(Ordering::Relaxed), 1);
        tokio::time::advance(FIRST_MAX_AGE).await;
        for kind in kinds() {
            kind.discover_in(&client, &groups, FIRST_MAX_AGE).await;
        }
        assert_eq!(requests.load(Ordering::Relaxed), 2);
        let kind = OptionalKind::of_router(ROUTERS[0]);
        kind.discover_in(&client, &groups, Duration::ZERO).await;
        kind.discover(&client).await;
        assert_eq!(requests.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn an_absent_kind_is_rediscovered_after_5_to_30_seconds() {
        let waits: Vec<u64> = (1..=6)
            .map(|lookups| absent_recheck_delay(lookups, 0.0).as_secs())
            .collect();
        assert_eq!(waits, [5, 10, 20, 30, 30, 30]);
        assert_eq!(absent_recheck_delay(1, 1.0), Duration::from_secs(4));
        assert_eq!(absent_recheck_delay(u32::MAX, 0.0).as_secs(), 30);
    }

    #[test]
    fn the_message_for_an_absent_kind_says_what_to_install() {
        let state = KindState::new(OptionalKind::of_router(ROUTERS[0]));
        assert_eq!(
            state.resource().unwrap().api_version,
            "gateway.networking.k8s.io/v1"
        );
        state.set(Availability::Served("v1beta1"));
        assert_eq!(
            state.resource().unwrap().api_version,
            "gateway.networking.k8s.io/v1beta1"
        );
        state.set(Availability::Absent);
        assert_eq!(
            state.resource().unwrap_err(),
            "this cluster does not serve HTTPRoute (gateway.networking.k8s.io/v1 or v1beta1): install the CRDs of the \
             Gateway API"
        );
    }
}
