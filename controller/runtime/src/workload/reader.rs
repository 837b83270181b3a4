//! Reads the Deployment of a Rollout, its ReplicaSets and the autoscalers that may scale it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::json;
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AdoptableReplicaSet;
use serin_core::units::Revision;
use serin_crds::api_status;
use tokio::time::Instant;

use super::listed::{self, ListedSet};
use super::spec::{TemplateSource, resolve_spec};
use super::watch::DeploymentReport;
use super::{DeploymentObject, WorkloadObjects, holds};
use crate::cluster_cache::{CachedReplicaSet, ClusterCache, Key, RolloutObject};
use crate::status::selector_string;

/// Time after which a Deployment is read again although no change was reported.
const TTL: Duration = Duration::from_secs(300);
/// The same for a Deployment that does not exist: its creation may be missed.
const ABSENT_TTL: Duration = Duration::from_secs(10);

/// Why a Deployment could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The Role of the controller does not permit it.
    #[error("the controller may not {0}: update its Role with the chart of this version")]
    Forbidden(&'static str),
    /// The request failed.
    #[error(transparent)]
    Failed(kube::Error),
}

fn read_error(what: &'static str) -> impl FnOnce(kube::Error) -> ReadError {
    move |error| match error {
        kube::Error::Api(status) if status.code == 403 => ReadError::Forbidden(what),
        other => ReadError::Failed(other),
    }
}

/// What was read for one Rollout.
#[derive(Debug, Default)]
pub struct WorkloadReader {
    deployment: Option<CachedDeployment>,
    resolved: Option<Resolved>,
}

#[derive(Debug)]
struct CachedDeployment {
    name: String,
    read_at: Instant,
    /// When its template was seen first.
    seen_at: Instant,
    object: Option<DeploymentObject>,
}

#[derive(Debug)]
struct Resolved {
    resource_version: String,
    template_version: String,
    rollout: Arc<RolloutObject>,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadRequest<'a> {
    /// The Rollout, with the template of its Deployment.
    pub rollout: &'a RolloutObject,
    /// The name of the Deployment.
    pub deployment: &'a str,
    /// Whether its pods are being taken over, or may be.
    pub is_taking: bool,
    /// Whether its pods are being given back, or may be.
    pub is_returning: bool,
    /// The ReplicaSet of the stable revision.
    pub stable: Option<&'a CachedReplicaSet>,
}

impl WorkloadReader {
    /// The Rollout with the template of the Deployment that it refers to. The Rollout itself if it
    /// has its own template.
    ///
    /// # Errors
    /// A request fails.
    pub async fn resolve(
        &mut self,
        client: &Client,
        cache: &ClusterCache,
        rollout: Arc<RolloutObject>,
    ) -> Result<Arc<RolloutObject>, ReadError> {
        let Ok(spec) = &rollout.spec else {
            return Ok(rollout);
        };
        let Some(name) = spec.template_source() else {
            self.resolved = None;
            return Ok(rollout);
        };
        let namespace = rollout.key().namespace;
        let source = match self.read(client, cache, &namespace, name, false).await {
            Ok(Some(deployment)) => TemplateSource::Deployment(deployment.clone()),
            Ok(None) => last_template(client, cache, &rollout, name).await?,
            Err(ReadError::Forbidden(what)) => TemplateSource::Missing(format!(
                "spec.workloadRef.name: {}",
                ReadError::Forbidden(what)
            )),
            Err(error) => return Err(error),
        };
        let (version, template_version) = (rollout.resource_version(), source.version());
        if let Some(resolved) = &self.resolved
            && resolved.resource_version == version
            && resolved.template_version == template_version
        {
            return Ok(Arc::clone(&resolved.rollout));
        }
        let deployment = self.deployment.as_ref();
        let seen_at = deployment.map_or_else(Instant::now, |deployment| deployment.seen_at);
        let resolved = resolve_spec(&rollout, spec, &source, seen_at);
        self.resolved = Some(Resolved {
            resource_version: version.to_owned(),
            template_version,
            rollout: Arc::clone(&resolved),
        });
        Ok(resolved)
    }

    /// The objects of the workload.
    ///
    /// # Errors
    /// A request fails.
    pub async fn objects(
        &mut self,
        client: &Client,
        cache: &ClusterCache,
        request: WorkloadRequest<'_>,
    ) -> Result<WorkloadObjects, ReadError> {
        let (name, rollout) = (request.deployment, request.rollout);
        let namespace = rollout.key().namespace;
        let is_fresh = request.is_taking || request.is_returning;
        let mut objects = WorkloadObjects {
            name: name.to_owned(),
            deployment: None,
            replica_set: None,
            idle_replica_sets: Vec::new(),
            hold: None,
            return_problem: None,
            replicas: None,
        };
        match self.read(client, cache, &namespace, name, is_fresh).await {
            Ok(deployment) => objects.deployment = deployment.cloned(),
            Err(error @ ReadError::Forbidden(_)) => {
                objects.hold = Some(Hold::new(HoldCode::WorkloadForbidden, error.to_string()));
                return Ok(objects);
            }
            Err(error) => return Err(error),
        }
        let deployment = objects.deployment.as_ref();
        if request.is_returning {
            objects.return_problem = holds::return_problem(name, deployment, request.stable);
        }
        if request.is_taking
            && let Some(other) = cache.older_adopter(&Key::new(&namespace, name), rollout)
        {
            let message = format!("Rollout {other} takes over Deployment {name}, too");
            objects.hold = Some(Hold::new(HoldCode::WorkloadClaimed, message));
        } else if request.is_taking {
            let selector = match (deployment, &rollout.spec) {
                (Some(deployment), _) => deployment.selector(),
                (None, Ok(spec)) => spec.selector.clone(),
                (None, Err(_)) => return Ok(objects),
            };
            let sets = list_sets(client, cache, &namespace, &selector).await?;
            let found = adoptable(name, objects.deployment.as_ref(), rollout, &sets);
            (objects.replica_set, objects.hold) = (found.replica_set, found.hold);
            (objects.replicas, objects.idle_replica_sets) = (found.replicas, found.idle);
            let was_ours = found.was_ours;
            if objects.hold.is_none() {
                let hold = takeover_hold(client, cache, request, &objects, was_ours);
                objects.hold = hold.await?;
            }
        }
        Ok(objects)
    }

    /// The Deployment, read again if it has changed. `None` if it does not exist or is being
    /// deleted.
    async fn read(
        &mut self,
        client: &Client,
        cache: &ClusterCache,
        namespace: &str,
        name: &str,
        is_fresh: bool,
    ) -> Result<Option<&DeploymentObject>, ReadError> {
        let key = Key::new(namespace, name);
        let reported = cache.adopters.last_report(&key);
        let is_current = |cached: &CachedDeployment| {
            let object = cached.object.as_ref();
            let ttl = if object.is_some() { TTL } else { ABSENT_TTL };
            let version = object.map_or("", |object| &object.resource_version);
            cached.name == name
                && cached.read_at.elapsed() < ttl
                && reported
                    .as_ref()
                    .is_none_or(|reported| reported.resource_version == version)
        };
        if is_fresh || !self.deployment.as_ref().is_some_and(is_current) {
            let kind = ApiResource::erase::<Deployment>(&());
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
            let permit = cache.adopters.begin_read().await;
            let object = api
                .get_opt(name)
                .await
                .map_err(read_error("read Deployments"))?;
            drop(permit);
            let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
            let object = object.map(DeploymentObject::from);
            self.deployment = Some(CachedDeployment {
                name: name.to_owned(),
                read_at: Instant::now(),
                seen_at: seen_at(object.as_ref(), cache.adopters.last_report(&key)),
                object,
            });
        }
        Ok(self
            .deployment
            .as_ref()
            .and_then(|cached| cached.object.as_ref()))
    }
}

/// When the template of a Deployment that was read now was seen first.
fn seen_at(deployment: Option<&DeploymentObject>, reported: Option<DeploymentReport>) -> Instant {
    let version = deployment.map(DeploymentObject::template_version);
    let reported = reported.filter(|reported| Some(&reported.template_version) == version.as_ref());
    reported.map_or_else(Instant::now, |reported| reported.seen_at)
}

/// Why a ReplicaSet that was found is not taken over yet.
async fn takeover_hold(
    client: &Client,
    cache: &ClusterCache,
    request: WorkloadRequest<'_>,
    objects: &WorkloadObjects,
    was_ours: bool,
) -> Result<Option<Hold>, ReadError> {
    let (name, rollout) = (request.deployment, request.rollout);
    let key = rollout.key();
    let Some(deployment) = &objects.deployment else {
        return Ok(None);
    };
    let selector = rollout.spec.as_ref().map(|spec| spec.selector.clone());
    let selector = selector.unwrap_or_default();
    // A ReplicaSet that the Deployment has adopted from an earlier Rollout has labels that its
    // template lacks, so it never counts as updated.
    let hold = holds::of_deployment(name, deployment, &selector);
    let is_expected = |hold: &Hold| was_ours && hold.code == HoldCode::WorkloadProgressing;
    if let Some(hold) = hold.filter(|hold| !is_expected(hold)) {
        return Ok(Some(hold));
    }
    // An autoscaler is looked for before the takeover alone: after it, it has no effect.
    let is_begun = rollout.status.state.workload.is_some();
    if is_begun {
        return Ok(None);
    }
    match find_autoscaler(client, cache, &key.namespace, name).await {
        Ok(autoscaler) => Ok(autoscaler.map(|found| holds::of_autoscaler(name, &found))),
        Err(error @ ReadError::Forbidden(_)) => Ok(Some(Hold::new(
            HoldCode::WorkloadForbidden,
            error.to_string(),
        ))),
        Err(error) => Err(error),
    }
}

/// The template of the newest revision that the Rollout has pods of, or may have.
async fn last_template(
    client: &Client,
    cache: &ClusterCache,
    rollout: &RolloutObject,
    deployment: &str,
) -> Result<TemplateSource, ReadError> {
    let (key, state) = (rollout.key(), &rollout.status.state);
    let revision = state
        .current_revision
        .as_ref()
        .or(state.stable_revision.as_ref());
    let sets = cache.replica_sets.for_rollout(&key);
    let is_own = |set: &&Arc<CachedReplicaSet>| {
        set.owner_uid.as_deref() == Some(rollout.uid())
            && revision.is_some()
            && set.revision.as_ref() == revision
    };
    let missing = || {
        TemplateSource::Missing(format!(
            "spec.workloadRef.name: Deployment {deployment} does not exist: create it, or replace \
             spec.workloadRef with spec.selector and spec.template"
        ))
    };
    let Some(set) = sets.iter().find(is_own) else {
        return Ok(missing());
    };
    let kind = ApiResource::erase::<ReplicaSet>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &kind);
    let _permit = cache.adopters.begin_read().await;
    let found = api.get_opt(&set.identity.key.name).await;
    let found = found.map_err(ReadError::Failed)?;
    Ok(
        found.map_or_else(missing, |found| TemplateSource::ReplicaSet {
            uid: set.identity.uid.clone(),
            object: json!(found),
        }),
    )
}

async fn list_sets(
    client: &Client,
    cache: &ClusterCache,
    namespace: &str,
    selector: &LabelSelector,
) -> Result<Vec<ListedSet>, ReadError> {
    let labels = selector_string(selector).unwrap_or_default();
    let _permit = cache.adopters.begin_read().await;
    let sets = listed::replica_sets(client, namespace, &labels).await;
    sets.map_err(ReadError::Failed)
}

/// The name of an autoscaler that scales the Deployment.
async fn find_autoscaler(
    client: &Client,
    cache: &ClusterCache,
    namespace: &str,
    deployment: &str,
) -> Result<Option<String>, ReadError> {
    let _permit = cache.adopters.begin_read().await;
    match listed::autoscaler_of(client, namespace, deployment).await {
        Ok(found) => Ok(found),
        Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => Ok(None),
        Err(error) => Err(read_error("list HorizontalPodAutoscalers")(error)),
    }
}

/// The ReplicaSet to take over.
#[derive(Debug, Default)]
struct Adoptable {
    replica_set: Option<AdoptableReplicaSet>,
    /// The other ReplicaSets of the Deployment.
    idle: Vec<AdoptableReplicaSet>,
    /// Why it is not known yet.
    hold: Option<Hold>,
    /// The number of pods that the workload has.
    replicas: Option<u32>,
    /// Whether an earlier Rollout of this name has had it.
    was_ours: bool,
}

fn adoptable(
    name: &str,
    deployment: Option<&DeploymentObject>,
    rollout: &RolloutObject,
    sets: &[ListedSet],
) -> Adoptable {
    let own_name = rollout.metadata.name.as_deref().unwrap_or_default();
    let is_labelled = |set: &ListedSet| set.rollout.as_deref() == Some(own_name);
    let is_named =
        |set: &ListedSet| set.is_named(name) || (is_labelled(set) && set.is_named(own_name));
    let candidates: Vec<&ListedSet> = sets
        .iter()
        .filter(|set| is_of_deployment(name, deployment, set))
        .filter(|set| deployment.is_some() || is_named(set))
        .collect();
    let is_own = |set: &ListedSet| {
        let controller = set.controller.as_ref();
        controller.is_some_and(|owner| owner.uid == rollout.uid())
    };
    let own = sets.iter().find(|set| is_own(set) && set.has_pods());
    let active: Vec<&ListedSet> = candidates
        .iter()
        .copied()
        .filter(|set| set.has_pods())
        .collect();
    let waiting = |message: String| Adoptable {
        hold: Some(Hold::new(HoldCode::WorkloadProgressing, message)),
        ..Adoptable::default()
    };
    // The Deployment controller could scale it up later.
    if let Some(foreign) = candidates.iter().find(|set| !is_named(set)) {
        let message = format!(
            "ReplicaSet {} of Deployment {name} is not named after its pod-template-hash: delete \
             it if it has no pods",
            foreign.name
        );
        return Adoptable {
            hold: Some(Hold::new(HoldCode::WorkloadUnsupported, message)),
            ..Adoptable::default()
        };
    }
    let chosen = match active[..] {
        [] if own.is_some() => None,
        [] => candidates
            .iter()
            .copied()
            .max_by_key(|set| set.revision_number),
        [only] => Some(only),
        _ => {
            let count = active.len();
            return waiting(format!("Deployment {name} has pods of {count} revisions"));
        }
    };
    if chosen.is_none() && own.is_none() && deployment.is_some() {
        return waiting(format!("Deployment {name} has no ReplicaSet yet"));
    }
    let adoptable = |set: &ListedSet| {
        Some(AdoptableReplicaSet {
            name: set.name.clone(),
            revision: Revision::new(set.hash.clone()?),
        })
    };
    let serving = chosen.map(|set| &set.uid);
    let idle = candidates.iter().filter(|set| serving != Some(&set.uid));
    Adoptable {
        replica_set: chosen.and_then(adoptable),
        idle: idle.filter_map(|set| adoptable(set)).collect(),
        hold: None,
        replicas: deployment
            .map(DeploymentObject::replicas)
            .max(chosen.and_then(|set| set.replicas))
            .max(own.and_then(|set| set.replicas)),
        was_ours: chosen.is_some_and(is_labelled),
    }
}

/// Whether a ReplicaSet belongs to the Deployment, or has belonged to it and has no controller now.
fn is_of_deployment(name: &str, deployment: Option<&DeploymentObject>, set: &ListedSet) -> bool {
    let is_controlled = match (&set.controller, deployment) {
        (Some(owner), Some(deployment)) => owner.uid == deployment.uid,
        (Some(owner), None) => owner.kind == "Deployment" && owner.name == name,
        // The Deployment controller adopts it unless the Deployment is gone.
        (None, deployment) => deployment.is_none(),
    };
    is_controlled && !set.is_deleting
}
