//! The Services of a plan that the Rollout has not bound yet. They lack its label, so no watch
//! delivers them or their EndpointSlices: both are read every few seconds until they are bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use serin_core::plan::Routing;
use tokio::time::Instant;

use crate::cluster_cache::{
    CachedEndpointSlice, CachedService, ClusterCache, Key, SERVICE_NAME_LABEL,
};

/// Time until a Service and its EndpointSlices are read again.
const TTL: Duration = Duration::from_secs(5);
/// Maximum number of EndpointSlices to read of one Service. Each has up to 1,000 endpoints, and one
/// ready endpoint suffices to know that the Service is in use.
const SLICE_LIMIT: u32 = 10;

/// What was read of the Services that one Rollout has not bound.
#[derive(Debug, Default)]
pub struct UnboundServices(BTreeMap<String, UnboundService>);

#[derive(Debug)]
struct UnboundService {
    read_at: Instant,
    exists: bool,
    slices: Vec<Arc<CachedEndpointSlice>>,
}

impl UnboundServices {
    /// Reads the Services of a plan that the Rollout has not bound, and puts them into the cache.
    /// Services that another Rollout holds are not read.
    ///
    /// # Errors
    /// A request fails.
    pub async fn read(
        &mut self,
        client: &Client,
        cache: &ClusterCache,
        rollout: &Key,
        routing: Option<&Routing>,
    ) -> kube::Result<()> {
        let services = routing.map(Routing::services);
        let unbound = |name: &str| {
            let key = Key::new(&rollout.namespace, name);
            let cached = cache.services.get(&key);
            let label = cached.and_then(|cached| cached.rollout.clone());
            label.as_ref() != Some(&rollout.name) && cache.other_holder(&key, rollout).is_none()
        };
        let names: Vec<&String> = services
            .into_iter()
            .flatten()
            .map(|(_, name)| name)
            .filter(|name| unbound(name))
            .collect();
        self.0.retain(|name, _| names.contains(&name));
        for name in names {
            let key = Key::new(&rollout.namespace, name);
            let is_cached = cache.services.get(&key).is_some();
            let is_fresh = |service: &UnboundService| {
                service.read_at.elapsed() < TTL && service.exists == is_cached
            };
            if !self.0.get(name).is_some_and(is_fresh) {
                let read = read_service(client, cache, &key).await?;
                self.0.insert(name.clone(), read);
            }
        }
        Ok(())
    }

    /// The EndpointSlices of these Services.
    pub fn slices(&self) -> impl Iterator<Item = Arc<CachedEndpointSlice>> {
        let slices = self.0.values().flat_map(|service| &service.slices);
        slices.map(Arc::clone)
    }
}

async fn read_service(
    client: &Client,
    cache: &ClusterCache,
    key: &Key,
) -> kube::Result<UnboundService> {
    let Key { namespace, name } = key;
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let Some(service) = api.get_opt(name).await? else {
        cache.services.remove(key);
        return Ok(UnboundService {
            read_at: Instant::now(),
            exists: false,
            slices: Vec::new(),
        });
    };
    cache.services.put(CachedService::from(service));
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default()
        .labels(&format!("{SERVICE_NAME_LABEL}={name}"))
        .limit(SLICE_LIMIT);
    let slices = api.list(&of_service).await?.items;
    Ok(UnboundService {
        read_at: Instant::now(),
        exists: true,
        slices: slices
            .into_iter()
            .map(|slice| Arc::new(CachedEndpointSlice::from(slice)))
            .collect(),
    })
}
