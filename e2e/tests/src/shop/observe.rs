//! Reading the state of the Rollout and of its objects.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::Value;
use serin_core::units::Weight;
use serin_crds::{Rollout, RolloutStatus};
use serin_traffic::{Services, router_of};

use super::Shop;

impl Shop {
    /// The current Rollout.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn rollout(&self) -> Result<Rollout> {
        Ok(self.api::<Rollout>().get(&self.name).await?)
    }

    /// The current status of the Rollout. Empty if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn status(&self) -> Result<RolloutStatus> {
        Ok(self.rollout().await?.status.unwrap_or_default())
    }

    /// The share of the canary in the route.
    ///
    /// # Errors
    /// If the route cannot be read.
    pub async fn route_share(&self) -> Result<Weight> {
        let router = router_of(self.data_plane.route_kind());
        let kind = GroupVersionKind::gvk(router.group(), router.versions()[0], router.kind());
        let resource = ApiResource::from_gvk_with_plural(&kind, router.plural());
        let objects: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let route = serde_json::to_value(objects.get(&self.name).await?)?;
        let canary = format!("{}-canary", self.name);
        let services = Services {
            stable: &self.name,
            canary: &canary,
        };
        Ok(router.canary_weight(&route, None, services)?)
    }

    /// Desired replicas by revision.
    ///
    /// # Errors
    /// If the ReplicaSets cannot be read.
    pub async fn desired_replicas(&self) -> Result<BTreeMap<String, i32>> {
        let sets = self
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await?;
        let desired = sets.iter().map(|set| {
            let revision = set
                .labels()
                .get("serin.dev/revision")
                .cloned()
                .unwrap_or_default();
            (
                revision,
                set.spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1),
            )
        });
        Ok(desired.collect())
    }

    /// The sum of the desired replicas of all revisions of this Rollout.
    ///
    /// # Errors
    /// If the ReplicaSets cannot be read.
    pub async fn own_desired_replicas(&self) -> Result<i32> {
        let sets = self
            .api::<ReplicaSet>()
            .list(&ListParams::default())
            .await?;
        let is_own = |set: &&ReplicaSet| {
            set.owner_references()
                .iter()
                .any(|owner| owner.name == self.name)
        };
        Ok(sets
            .iter()
            .filter(is_own)
            .filter_map(|set| set.spec.as_ref()?.replicas)
            .sum())
    }

    /// The pods in this namespace.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.api::<Pod>().list(&ListParams::default()).await?.items)
    }

    /// The notes of the Events in this namespace with a reason.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = self.api::<Event>().list(&ListParams::default()).await?;
        let of_reason = events
            .items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason));
        Ok(of_reason.filter_map(|event| event.note).collect())
    }
}

/// The share of a backend in the first rule of a route.
pub fn share_of(route: &DynamicObject, backend: &str) -> Weight {
    let backends = route.data["spec"]["rules"][0]["backendRefs"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let weight = |backend: &Value| backend["weight"].as_u64().unwrap_or(1);
    let total: u64 = backends.iter().map(weight).sum();
    let share: u64 = backends
        .iter()
        .filter(|found| found["name"] == backend)
        .map(weight)
        .sum();
    let thousandths = (share * 100_000).checked_div(total).unwrap_or(0);
    Weight::from_thousandths(u32::try_from(thousandths).unwrap_or(u32::MAX))
}
