//! The sample service under test: a Rollout, its route and its load, in a separate namespace.

mod actions;
mod conditions;
mod observe;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::data_plane::{DataPlane, RoutedService};
use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};

pub use actions::stop_and_ensure_no_loss;
pub use conditions::{is_aborted, is_paused, is_stable, verified_weight};
pub use observe::share_of;
pub use wait::eventually;

/// Namespace and name of the Gateway: the environment variable `GATEWAY` as `namespace/name`, or
/// the Gateway of the local cluster.
pub fn gateway() -> (String, String) {
    let named = std::env::var("GATEWAY").ok();
    let named = named.as_deref().and_then(|named| named.split_once('/'));
    named.map_or_else(
        || ("gateway-system".into(), "local".into()),
        |(space, name)| (space.into(), name.into()),
    )
}

/// The sample service under test, in a separate namespace.
pub struct Shop {
    /// A client with administrator permissions.
    pub client: Client,
    /// Its namespace.
    pub namespace: String,
    /// The name of the Rollout, of its route and of its stable Service.
    pub name: String,
    /// The host name of the route.
    pub host: String,
    gateway_url: String,
    data_plane: Arc<dyn DataPlane>,
}

impl Shop {
    /// Creates the namespace (with restricted pod security) and the route. Removes a namespace of a
    /// killed run first.
    ///
    /// # Errors
    /// If the API server rejects a request.
    pub async fn create(env: &Env, namespace: &str) -> Result<Self> {
        Self::create_named(env, namespace, "shop").await
    }

    /// Like [`Self::create`], with another name for the Rollout, the route and the stable Service.
    ///
    /// # Errors
    /// If the API server rejects a request.
    pub async fn create_named(env: &Env, namespace: &str, name: &str) -> Result<Self> {
        let shop = Self::create_without_route(env, namespace, name).await?;
        for object in shop.data_plane.route_objects(shop.routed_service()) {
            shop.apply(object).await?;
        }
        Ok(shop)
    }

    /// Creates the namespace only, for a cluster without the Gateway API.
    ///
    /// # Errors
    /// If the API server rejects a request.
    pub async fn create_without_route(env: &Env, namespace: &str, name: &str) -> Result<Self> {
        let shop = Self {
            client: env.client.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            host: format!("{namespace}.example"),
            gateway_url: env.gateway_url.clone(),
            data_plane: env.data_plane.clone(),
        };
        shop.remove_rollout_finalizers().await?;
        shop.remove_namespace().await?;
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        let namespaces = Api::<Namespace>::all(shop.client.clone());
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        Ok(shop)
    }

    /// The Rollout of a release, for the data plane of this environment.
    pub fn rollout_manifest(&self, spec: &RolloutOptions, release: &SampleRelease) -> Value {
        let mut rollout = manifests::rollout(&self.name, spec, release);
        self.data_plane.adapt(&mut rollout, self.routed_service());
        rollout
    }

    /// The data plane that routes its requests.
    pub fn data_plane(&self) -> &dyn DataPlane {
        &*self.data_plane
    }

    fn routed_service(&self) -> RoutedService<'_> {
        RoutedService {
            namespace: &self.namespace,
            name: &self.name,
            host: &self.host,
        }
    }

    /// The HTTPRoute as the user writes it.
    pub fn route(&self) -> Value {
        let (gateway_namespace, gateway_name) = gateway();
        manifests::http_route(&self.name, &self.host, (&gateway_namespace, &gateway_name))
    }

    /// Another Rollout in the same namespace with the same host.
    #[must_use]
    pub fn sibling(&self, name: &str) -> Self {
        Self {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            host: self.host.clone(),
            gateway_url: self.gateway_url.clone(),
            data_plane: self.data_plane.clone(),
        }
    }

    /// Removes the namespace and waits until it is gone.
    ///
    /// # Errors
    /// If it still exists after two minutes.
    pub async fn delete(self) -> Result<()> {
        self.remove_namespace().await
    }

    /// Removes the finalizers of Rollouts from a killed run. A controller that could restore their
    /// routes may not run, and the routes are deleted anyway.
    async fn remove_rollout_finalizers(&self) -> Result<()> {
        let rollouts = self.api::<Rollout>();
        let left = rollouts.list_metadata(&ListParams::default()).await?;
        for rollout in left
            .items
            .iter()
            .filter(|rollout| !rollout.finalizers().is_empty())
        {
            let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            rollouts
                .patch_metadata(&rollout.name_any(), &PatchParams::default(), &none)
                .await?;
        }
        Ok(())
    }

    async fn remove_namespace(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        if namespaces.get_opt(&self.namespace).await?.is_none() {
            return Ok(());
        }
        // Delete Rollouts first, while the controller can still restore their routes.
        let rollouts = self.api::<Rollout>();
        if rollouts
            .list(&ListParams::default())
            .await
            .is_ok_and(|list| !list.items.is_empty())
        {
            rollouts
                .delete_collection(&DeleteParams::default(), &ListParams::default())
                .await?;
            self.eventually(
                "the Rollouts are gone",
                Duration::from_secs(60),
                async || {
                    Ok(rollouts
                        .list(&ListParams::default())
                        .await?
                        .items
                        .is_empty())
                },
            )
            .await?;
        }
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        self.eventually(
            "the namespace is gone",
            Duration::from_secs(120),
            async || Ok(namespaces.get_opt(&self.namespace).await?.is_none()),
        )
        .await
    }

    /// The API of a namespaced kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The API of HTTPRoutes in this namespace.
    pub fn routes(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::from_gvk(&kind),
        )
    }

    /// Applies an object in this namespace, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// If the API server rejects a request.
    pub async fn apply(&self, object: Value) -> kube::Result<DynamicObject> {
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let (group, version) = text("apiVersion").split_once('/').map_or_else(
            || (String::new(), text("apiVersion")),
            |(group, version)| (group.to_owned(), version.to_owned()),
        );
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk(&group, &version, &text("kind")));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        api.patch(
            &name,
            &PatchParams::apply("serin-e2e").force(),
            &Patch::Apply(&object),
        )
        .await
    }
}
