//! The pods of another controller, for Rollouts in observe mode. They lack the labels of Serin, so
//! no watch delivers them: they are read every few seconds, and never written.

mod grouping;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serin_core::observation::ObservedWorkload;
use serin_core::units::Revision;
use tokio::time::Instant;

use crate::cluster_cache::{CachedPod, CachedReplicaSet, PodObject, ReplicaSetObject};
use grouping::{REVISION_ANNOTATIONS, group};

/// Time until the objects are read again during a release.
pub const RELEASE_INTERVAL: Duration = Duration::from_secs(5);
/// Time until the objects are read again without a release.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum number of ReplicaSets of one workload.
const SET_LIMIT: usize = 500;
/// Maximum number of pods of one workload.
const POD_LIMIT: usize = 5_000;
/// Maximum number of objects in one answer. Whoever may create them chooses their size.
const PAGE: u32 = 100;

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRequest {
    /// The namespace of the Rollout.
    pub namespace: String,
    /// Label selector of the pods.
    pub selector: String,
    /// The stable and the canary Service. `None` if the spec names none.
    pub services: Option<[String; 2]>,
}

/// The pods of another controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignObjects {
    /// The revisions with their numbers of pods.
    pub workload: ObservedWorkload,
    /// The ReplicaSets by revision.
    pub replica_sets: BTreeMap<Revision, Arc<CachedReplicaSet>>,
    /// The pods of these ReplicaSets.
    pub pods: Vec<Arc<CachedPod>>,
}

/// Reads the pods of another controller for one Rollout.
#[derive(Debug, Default)]
pub struct ForeignWorkloadReader(Option<LastRead>);

#[derive(Debug)]
struct LastRead {
    request: ForeignRequest,
    read_at: Instant,
    /// The objects, or why the two revisions cannot be told apart.
    result: Result<ForeignObjects, String>,
}

impl ForeignWorkloadReader {
    /// The objects, at most `max_age` old. The inner error is why they cannot be observed.
    ///
    /// # Errors
    /// A request fails.
    pub async fn read(
        &mut self,
        client: &Client,
        request: ForeignRequest,
        max_age: Duration,
    ) -> kube::Result<Result<ForeignObjects, String>> {
        let is_fresh =
            |last: &&LastRead| last.request == request && last.read_at.elapsed() < max_age;
        if let Some(last) = self.0.as_ref().filter(is_fresh) {
            return Ok(last.result.clone());
        }
        let result = read_objects(client, &request).await?;
        self.0 = Some(LastRead {
            request,
            read_at: Instant::now(),
            result: result.clone(),
        });
        Ok(result)
    }
}

async fn read_objects(
    client: &Client,
    request: &ForeignRequest,
) -> kube::Result<Result<ForeignObjects, String>> {
    let sets: Api<ReplicaSetObject> = Api::namespaced(client.clone(), &request.namespace);
    let sets = list(&sets, &request.selector, SET_LIMIT).await?;
    let pods: Api<PodObject> = Api::namespaced(client.clone(), &request.namespace);
    let pods = list(&pods, &request.selector, POD_LIMIT).await?;
    let (Some(sets), Some(pods)) = (sets, pods) else {
        return Ok(Err(format!(
            "spec.selector: it selects more than {SET_LIMIT} ReplicaSets or {POD_LIMIT} pods; add \
             a label"
        )));
    };
    let services = match &request.services {
        None => None,
        Some(names) => match read_selectors(client, &request.namespace, names).await? {
            Ok(selectors) => Some(selectors),
            Err(problem) => return Ok(Err(problem)),
        },
    };
    Ok(group(sets, pods, services.as_ref()))
}

/// The objects with these labels, read page by page, and without the annotations that are not used.
/// `None` if there are more than `limit`.
async fn list<K: Resource + Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    selector: &str,
    limit: usize,
) -> kube::Result<Option<Vec<K>>> {
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await?;
        for mut object in page.items {
            if let Some(annotations) = &mut object.meta_mut().annotations {
                annotations.retain(|name, _| REVISION_ANNOTATIONS.contains(&name.as_str()));
            }
            found.push(object);
        }
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(Some(found));
        }
        if found.len() >= limit {
            return Ok(None);
        }
    }
}

type Selector = BTreeMap<String, String>;

/// The selectors of the two Services.
async fn read_selectors(
    client: &Client,
    namespace: &str,
    names: &[String; 2],
) -> kube::Result<Result<[Selector; 2], String>> {
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let mut selectors = Vec::new();
    for name in names {
        let Some(service) = api.get_opt(name).await? else {
            return Ok(Err(format!(
                "spec.strategy.canary: Service {name} does not exist; set stableService and \
                 canaryService to those of the other controller"
            )));
        };
        let selector = service.spec.and_then(|spec| spec.selector);
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => selectors.push(selector),
            None => return Ok(Err(format!("Service {name} has no selector"))),
        }
    }
    Ok(<[Selector; 2]>::try_from(selectors).map_err(|_| "a Service is missing".to_owned()))
}
