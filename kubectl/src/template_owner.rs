//! The object that has the pod template of a Rollout: the Rollout, or the Deployment that it refers
//! to.

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::connect::{Connection, send, send_exact};
use crate::exit::{CliError, Exit};
use crate::resources::rollouts;

/// Field manager of the changes.
const FIELD_MANAGER: &str = "kubectl-serin";
/// Field managers of tools that write what is in Git.
const GIT_TOOLS: [(&str, &str); 4] = [
    ("argocd", "Argo CD"),
    ("kustomize-controller", "Flux"),
    ("helm-controller", "Flux"),
    ("fleet", "Fleet"),
];

/// The object that has the pod template.
pub struct TemplateOwner {
    /// Its kind and name, as kubectl writes them.
    pub label: String,
    object: DynamicObject,
    api: Api<DynamicObject>,
}

impl TemplateOwner {
    /// Reads the object for a Rollout.
    ///
    /// # Errors
    /// The object cannot be read.
    pub async fn read(connection: &Connection, rollout: &str) -> Result<Self, CliError> {
        let Connection { client, namespace } = connection;
        let api = rollouts(client.clone(), namespace);
        let object = send_exact("read the Rollout", api.get(rollout)).await?;
        let deployment = object.data["spec"]["workloadRef"]["name"].as_str();
        let Some(deployment) = deployment.map(ToOwned::to_owned) else {
            return Ok(Self {
                label: format!("rollout.serin.dev/{rollout}"),
                object,
                api,
            });
        };
        let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
        let resource = ApiResource::from_gvk_with_plural(&kind, "deployments");
        let api = Api::namespaced_with(client.clone(), namespace, &resource);
        let doing = "read the Deployment that has the pod template";
        Ok(Self {
            label: format!("deployment.apps/{deployment}"),
            object: send_exact(doing, api.get(&deployment)).await?,
            api,
        })
    }

    /// The pod template. Null if there is none.
    pub fn template(&self) -> &Value {
        &self.object.data["spec"]["template"]
    }

    /// Applies JSON Patch operations, provided that the object has not changed since it was read.
    ///
    /// # Errors
    /// The object has changed, or the API server refuses the patch.
    pub async fn patch(&self, operations: Vec<Value>) -> Result<(), CliError> {
        let version = self.object.resource_version();
        let unchanged =
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
        let all: Value = std::iter::once(unchanged).chain(operations).collect();
        let patch = serde_json::from_value(all).map_err(|error| {
            CliError::new(Exit::Usage, format!("cannot write the patch: {error}"))
        })?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch: Patch<()> = Patch::Json(patch);
        let name = self.object.name_any();
        let doing = format!("change the template of {}", self.label);
        send(&doing, self.api.patch(&name, &params, &patch)).await?;
        Ok(())
    }

    /// A warning if a tool applies the object from Git and will revert a change.
    pub fn git_warning(&self) -> Option<String> {
        let managers = self.object.managed_fields().iter();
        let mut managers = managers.filter_map(|entry| entry.manager.as_deref());
        let tool = managers.find_map(|manager| {
            let mut tools = GIT_TOOLS.iter();
            tools.find_map(|(prefix, tool)| manager.starts_with(prefix).then_some(*tool))
        })?;
        Some(format!(
            "{tool} applies {} from Git and may revert this: change it there, too",
            self.label
        ))
    }
}
