//! The measured controllers: their objects, their command lines, and how their status is read.

mod argo;
mod flagger;
mod serin;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Api, PatchFormat};
use crate::control_plane::NAMESPACE;

/// Image of the pods, which nobody pulls.
const IMAGE: &str = "registry.invalid/app:1";
/// The label of the pods of the rollouts that are aborted.
pub(crate) const PROBE_LABEL: &str = "scale-probe";

/// A controller with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// Serin with defaults.
    Serin,
    /// Argo Rollouts with defaults: 40 requests per second, bursts of 80.
    Argo,
    /// Argo Rollouts with 1,000 requests per second, bursts of 2,000.
    ArgoRaised,
    /// Flagger with its Kubernetes provider, and leader election enabled.
    Flagger,
}

/// A controller without its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProductKind {
    Serin,
    Argo,
    Flagger,
}

/// What the status of a rollout reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Changes when the controller has observed a change of the spec.
    pub(crate) observed: String,
    /// The stable revision, if it is also the current one and the rollout is complete.
    pub(crate) complete: Option<String>,
    /// Whether a release waits at a pause.
    pub(crate) paused: bool,
    /// Whether the current release was aborted.
    pub(crate) aborted: bool,
}

/// The fields that are read of a rollout of any product.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WatchedRollout {
    pub(crate) metadata: WatchedMetadata,
    status: WatchedStatus,
}

/// The fields that are read of the metadata of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WatchedMetadata {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WatchedStatus {
    phase: Option<String>,
    stage: Option<String>,
    /// A number, or the same as text.
    observed_generation: Option<Value>,
    current_revision: Option<String>,
    stable_revision: Option<String>,
    current_pod_hash: Option<String>,
    #[serde(rename = "stableRS")]
    stable_rs: Option<String>,
    last_applied_spec: Option<String>,
    last_promoted_spec: Option<String>,
}

/// How a process of a controller is started.
pub(crate) struct ControllerStart<'a> {
    pub(crate) account: &'a str,
    pub(crate) kubeconfig: &'a Path,
    /// Two unused ports.
    pub(crate) ports: [u16; 2],
}

impl Product {
    /// All products in the order of the report.
    pub const ALL: [Self; 4] = [Self::Serin, Self::Argo, Self::ArgoRaised, Self::Flagger];

    /// The name in options and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serin => "serin",
            Self::Argo => "argo",
            Self::ArgoRaised => "argo-raised",
            Self::Flagger => "flagger",
        }
    }

    /// The name in reports.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Serin => "Serin",
            Self::Argo => "Argo Rollouts, defaults",
            Self::ArgoRaised => "Argo Rollouts, raised limits",
            Self::Flagger => "Flagger",
        }
    }

    pub(crate) const fn kind(self) -> ProductKind {
        match self {
            Self::Serin => ProductKind::Serin,
            Self::Argo | Self::ArgoRaised => ProductKind::Argo,
            Self::Flagger => ProductKind::Flagger,
        }
    }

    /// The command-line arguments and environment variables of a controller.
    pub(crate) fn arguments(
        self,
        start: &ControllerStart<'_>,
    ) -> (Vec<String>, Vec<(&'static str, String)>) {
        let kubeconfig = start.kubeconfig.to_string_lossy().into_owned();
        match self {
            Self::Serin => (serin::arguments(start), vec![("KUBECONFIG", kubeconfig)]),
            Self::Argo => (argo::arguments(start, &kubeconfig), Vec::new()),
            Self::ArgoRaised => {
                let mut arguments = argo::arguments(start, &kubeconfig);
                arguments.extend(["--qps=1000".into(), "--burst=2000".into()]);
                (arguments, Vec::new())
            }
            Self::Flagger => (flagger::arguments(start, &kubeconfig), Vec::new()),
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Product {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|product| product.name() == text);
        let names = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("unknown product {text:?}: use {names}"))
    }
}

impl ProductKind {
    /// The program of the controller, if it is pinned.
    pub(crate) const fn program(self) -> Option<&'static str> {
        match self {
            Self::Serin => None,
            Self::Argo => Some("rollouts-controller"),
            Self::Flagger => Some("flagger"),
        }
    }

    /// The plural of the resource whose status is watched.
    pub(crate) const fn resource(self) -> &'static str {
        match self {
            Self::Serin | Self::Argo => "rollouts",
            Self::Flagger => "canaries",
        }
    }

    /// The path of the collection whose status is watched.
    pub(crate) fn collection(self) -> String {
        let group = match self {
            Self::Serin => "serin.dev/v1alpha1",
            Self::Argo => "argoproj.io/v1alpha1",
            Self::Flagger => "flagger.app/v1beta1",
        };
        format!("/apis/{group}/namespaces/{NAMESPACE}/{}", self.resource())
    }

    /// Whether a rollout can wait at a pause and be aborted by a request.
    pub(crate) const fn can_abort(self) -> bool {
        matches!(self, Self::Serin | Self::Argo)
    }

    pub(crate) fn observe(self, rollout: &WatchedRollout) -> Observation {
        match self {
            Self::Serin => serin::observe(&rollout.status),
            Self::Argo => argo::observe(&rollout.status),
            Self::Flagger => flagger::observe(&rollout.status),
        }
    }

    /// Creates a rollout. A probe waits at its pauses until it is promoted or aborted.
    pub(crate) async fn create(self, api: &Api, name: &str, is_probe: bool) -> Result<()> {
        match self {
            Self::Serin | Self::Argo => {
                let version = match self {
                    Self::Serin => "serin.dev/v1alpha1",
                    _ => "argoproj.io/v1alpha1",
                };
                let object = rollout(version, name, is_probe);
                api.create(&self.collection(), &object).await
            }
            Self::Flagger => flagger::create(api, &self.collection(), name).await,
        }
    }

    /// Changes the template of a rollout.
    pub(crate) async fn update(self, api: &Api, name: &str, release: u32) -> Result<()> {
        let path = match self {
            Self::Serin | Self::Argo => format!("{}/{name}", self.collection()),
            Self::Flagger => format!("{}/{name}", flagger::deployments()),
        };
        let change = json!([{
            "op": "replace",
            "path": "/spec/template/spec/containers/0/env/0/value",
            "value": release_value(release),
        }]);
        api.patch(&path, PatchFormat::JsonPatch, &change).await
    }

    /// Requests that the current release of a rollout is aborted.
    pub(crate) async fn abort(self, api: &Api, name: &str) -> Result<()> {
        match self {
            Self::Serin => serin::abort(api, name).await,
            Self::Argo => argo::abort(api, &format!("{}/{name}", self.collection())).await,
            Self::Flagger => bail!("Flagger has no command to abort a release"),
        }
    }

    pub(crate) async fn delete(self, api: &Api, name: &str) -> Result<()> {
        api.delete(&format!("{}/{name}", self.collection())).await?;
        if self == Self::Flagger {
            api.delete(&format!("{}/{name}", flagger::deployments()))
                .await?;
        }
        Ok(())
    }
}

/// The value in the template that distinguishes releases.
pub(crate) fn release_value(release: u32) -> String {
    format!("r{release}")
}

/// A Rollout with the fields that Serin and Argo Rollouts share: two steps with a pause each,
/// without a router and an analysis.
fn rollout(version: &str, name: &str, is_probe: bool) -> Value {
    let pause = if is_probe {
        json!({"pause": {}})
    } else {
        json!({"pause": {"duration": "5s"}})
    };
    json!({
        "apiVersion": version,
        "kind": "Rollout",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": pod_template(name, is_probe),
            "strategy": {"canary": {
                "steps": [{"setWeight": 20}, pause, {"setWeight": 50}, pause],
            }},
        },
    })
}

fn pod_template(name: &str, is_probe: bool) -> Value {
    let mut labels = json!({"app": name});
    if is_probe {
        labels[PROBE_LABEL] = json!("true");
    }
    json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{
            "name": "app",
            "image": IMAGE,
            "env": [{"name": "RELEASE", "value": release_value(0)}],
            "ports": [{"name": "http", "containerPort": 8080}],
        }]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(kind: ProductKind, status: Value) -> Observation {
        let rollout = json!({"metadata": {"name": "a"}, "status": status});
        kind.observe(&serde_json::from_value(rollout).unwrap())
    }

    #[test]
    fn products_are_parsed_by_their_names() {
        for product in Product::ALL {
            assert_eq!(product.name().parse(), Ok(product));
        }
        let error = "argos".parse::<Product>().unwrap_err();
        assert!(error.contains("argo-raised"), "{error}");
    }

    #[test]
    fn a_release_is_complete_when_its_revision_is_stable() {
        for (kind, done, under_way) in [
            (
                ProductKind::Serin,
                json!({"phase": "Healthy", "currentRevision": "b", "stableRevision": "b"}),
                json!({"phase": "Progressing", "currentRevision": "b", "stableRevision": "a"}),
            ),
            (
                ProductKind::Argo,
                json!({"phase": "Healthy", "currentPodHash": "b", "stableRS": "b"}),
                json!({"phase": "Healthy", "currentPodHash": "b", "stableRS": "a"}),
            ),
            (
                ProductKind::Flagger,
                json!({"phase": "Succeeded", "lastAppliedSpec": "b", "lastPromotedSpec": "b"}),
                json!({"phase": "Progressing", "lastAppliedSpec": "b", "lastPromotedSpec": "a"}),
            ),
        ] {
            assert_eq!(
                observe(kind, done).complete.as_deref(),
                Some("b"),
                "{kind:?}"
            );
            assert_eq!(observe(kind, under_way).complete, None, "{kind:?}");
            assert_eq!(observe(kind, json!({})).complete, None, "{kind:?}");
        }
    }

    #[test]
    fn pauses_and_aborts_are_read() {
        assert!(observe(ProductKind::Serin, json!({"phase": "Paused"})).paused);
        assert!(observe(ProductKind::Argo, json!({"phase": "Paused"})).paused);
        assert!(observe(ProductKind::Serin, json!({"stage": "Aborted"})).aborted);
        let argo = json!({"phase": "Degraded", "abort": true});
        assert!(observe(ProductKind::Argo, argo).aborted);
        let requested = json!({"phase": "Paused", "abort": true});
        assert!(!observe(ProductKind::Argo, requested).aborted);
    }

    #[test]
    fn the_observed_generation_is_a_number_or_a_text() {
        let serin = observe(ProductKind::Serin, json!({"observedGeneration": 3}));
        let argo = observe(ProductKind::Argo, json!({"observedGeneration": "3"}));
        assert_eq!((serin.observed, argo.observed), ("3".into(), "3".into()));
    }

    #[test]
    fn serin_and_argo_run_the_same_steps() {
        let [serin, argo] = ["serin.dev/v1alpha1", "argoproj.io/v1alpha1"]
            .map(|version| rollout(version, "a", false)["spec"].clone());
        assert_eq!(serin, argo);
        let probe = rollout("serin.dev/v1alpha1", "a", true);
        let steps = &probe["spec"]["strategy"]["canary"]["steps"];
        assert_eq!(steps[1], json!({"pause": {}}));
    }
}
