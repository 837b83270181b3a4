//! Reads what the pods of a revision run. The cache of pods does not keep it.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serin_crds::api_status;
use serin_crds::names::{REVISION_LABEL, ROLLOUT_LABEL};
use serin_guardrails::facts::{Fact, POD_ANNOTATIONS, PodFacts, RunningContainer};
use tokio::time::{Instant, timeout_at};

use crate::cluster_cache::Key;

/// Maximum number of pods that are read. More of them show nothing else.
const MAX_PODS: u32 = 500;

/// The pods of a revision that are not terminating.
pub async fn read_pods(
    client: &Client,
    rollout: &Key,
    revision: &str,
    deadline: Instant,
) -> Fact<Vec<PodFacts>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &rollout.namespace);
    let labels = format!(
        "{ROLLOUT_LABEL}={},{REVISION_LABEL}={revision}",
        rollout.name
    );
    let params = ListParams::default().labels(&labels).limit(MAX_PODS);
    let pods = match timeout_at(deadline, api.list(&params)).await {
        Ok(Ok(pods)) => pods.items,
        Ok(Err(kube::Error::Api(status))) if api_status::is_forbidden(&status) => {
            return Fact::Forbidden(api_status::message(&status));
        }
        Ok(Err(error)) => return Fact::Failed(error.to_string()),
        Err(_) => return Fact::Failed("the API server did not answer in time".to_owned()),
    };
    let is_active = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    Fact::Known(pods.into_iter().filter(is_active).map(facts_of).collect())
}

fn facts_of(pod: Pod) -> PodFacts {
    let name = pod.name_any();
    let mut annotations = pod.metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| POD_ANNOTATIONS.contains(&key.as_str()));
    let status = pod.status.unwrap_or_default();
    let running = |status: ContainerStatus| RunningContainer {
        name: status.name,
        image_id: status.image_id,
    };
    let main = status.container_statuses.unwrap_or_default();
    let init = status.init_container_statuses.unwrap_or_default();
    PodFacts {
        name,
        annotations,
        containers: main.into_iter().chain(init).map(running).collect(),
    }
}
