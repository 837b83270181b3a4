//! Pods: evicted by a restart.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::EvictParams;
use serin_crds::api_status;

use super::{EffectError, EffectExecutor, post_params};

impl EffectExecutor<'_> {
    /// Evicts a pod. The API server refuses it while a disruption budget does not permit it, and the
    /// next attempt follows with a delay.
    pub(super) async fn evict_pod(&self, name: &str) -> Result<(), EffectError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace());
        let params = EvictParams {
            post_options: post_params(),
            ..EvictParams::default()
        };
        self.authorize_write("Pod", "evict")?;
        match api.evict(name, &params).await {
            Ok(_) => {
                tracing::info!(pod = %name, "evicted pod");
                Ok(())
            }
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
            Err(error) => Err(EffectError::api(format!("Pod {name}"))(error)),
        }
    }
}
