//! What guardrails look at: RolloutPolicies, minimal CustomResourceDefinitions of the programs that
//! the cluster does not have, and objects as these programs write them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_core::hold::{Hold, HoldCode};
use serin_crds::names::REVISION_LABEL;
use serin_crds::{Rollout, api_status};

use crate::env::{Env, SAMPLE_IMAGE};
use crate::manifests::{self, SampleRelease};
use crate::shop::{Shop, eventually};

/// Maximum time for a CustomResourceDefinition to be served, or not to be served any more.
const DEFINITION_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for the controller to read a RolloutPolicy. It writes the status every 5 s.
const POLICY_IS_READ: Duration = Duration::from_secs(30);
const FIELD_MANAGER: &str = "serin-e2e";

/// A kind that the cluster does not have by itself.
#[derive(Clone, Copy, Debug)]
pub struct ForeignKind {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    is_namespaced: bool,
}

impl ForeignKind {
    /// VulnerabilityReports of the Trivy operator.
    pub const VULNERABILITY_REPORT: Self = Self {
        group: "aquasecurity.github.io",
        kind: "VulnerabilityReport",
        plural: "vulnerabilityreports",
        is_namespaced: true,
    };
    /// PolicyReports, which Kyverno writes.
    pub const POLICY_REPORT: Self = Self {
        group: "wgpolicyk8s.io",
        kind: "PolicyReport",
        plural: "policyreports",
        is_namespaced: true,
    };
    /// A constraint, whose kind Gatekeeper creates for its ConstraintTemplate.
    pub const CONSTRAINT: Self = Self {
        group: "constraints.gatekeeper.sh",
        kind: "K8sRequiredLabels",
        plural: "k8srequiredlabels",
        is_namespaced: false,
    };
    /// ExternalSecrets of the External Secrets Operator.
    pub const EXTERNAL_SECRET: Self = Self {
        group: "external-secrets.io",
        kind: "ExternalSecret",
        plural: "externalsecrets",
        is_namespaced: true,
    };
    /// PodMonitors of the Prometheus Operator.
    pub const POD_MONITOR: Self = Self {
        group: "monitoring.coreos.com",
        kind: "PodMonitor",
        plural: "podmonitors",
        is_namespaced: true,
    };
    /// ClusterImagePolicies of sigstore's policy-controller.
    pub const CLUSTER_IMAGE_POLICY: Self = Self {
        group: "policy.sigstore.dev",
        kind: "ClusterImagePolicy",
        plural: "clusterimagepolicies",
        is_namespaced: false,
    };

    fn name(self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// Its CustomResourceDefinition with these versions, of which the last one is stored.
    fn definition(self, versions: &[&str]) -> Value {
        let schema = json!({"openAPIV3Schema": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        }});
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                json!({
                    "name": version, "served": true, "storage": Some(version) == versions.last(),
                    "schema": schema,
                })
            })
            .collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": self.name()},
            "spec": {
                "group": self.group,
                "names": {"kind": self.kind, "plural": self.plural},
                "scope": if self.is_namespaced { "Namespaced" } else { "Cluster" },
                "versions": versions,
            },
        })
    }

    /// Installs it with these versions, of which the last one is stored, and waits until the API
    /// server serves them.
    ///
    /// # Errors
    /// If it is not served in time.
    pub async fn install(self, env: &Env, versions: &[&str]) -> Result<()> {
        let api = Api::<CustomResourceDefinition>::all(env.client.clone());
        let name = self.name();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&self.definition(versions)))
            .await?;
        let established = await_condition(api, &name, conditions::is_crd_established());
        tokio::time::timeout(DEFINITION_TIMEOUT, established)
            .await
            .with_context(|| format!("{name} is not established"))??;
        for version in versions {
            self.wait_until_served(env, version, true).await?;
        }
        Ok(())
    }

    /// Removes it, and waits until the API server does not serve any of these versions.
    ///
    /// # Errors
    /// If it is still served after some time.
    pub async fn remove(self, env: &Env, versions: &[&str]) -> Result<()> {
        let api = Api::<CustomResourceDefinition>::all(env.client.clone());
        match api.delete(&self.name(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {}
            Err(error) => return Err(error.into()),
        }
        for version in versions {
            self.wait_until_served(env, version, false).await?;
        }
        Ok(())
    }

    async fn wait_until_served(self, env: &Env, version: &str, is_expected: bool) -> Result<()> {
        let group_kind = GroupVersionKind::gvk(self.group, version, self.kind);
        let resource = ApiResource::from_gvk_with_plural(&group_kind, self.plural);
        let api: Api<DynamicObject> = Api::all_with(env.client.clone(), &resource);
        let what = format!("{} in {version} is served: {is_expected}", self.name());
        eventually(&what, DEFINITION_TIMEOUT, async || {
            Ok(api.list(&ListParams::default()).await.is_ok() == is_expected)
        })
        .await
    }
}

/// A RolloutPolicy for one namespace.
pub fn policy(name: &str, namespace: &str, spec: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
        "metadata": {"name": name}, "spec": spec,
    });
    policy["spec"]["namespaceSelector"] =
        json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    policy
}

/// A Rollout without a router and with few fields.
pub fn short_rollout(name: &str, replicas: u32, version: &str) -> Value {
    let mut rollout = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": manifests::template(name, &SampleRelease::good(version)),
            "strategy": {"canary": {}},
        },
    });
    rollout["metadata"]["labels"] = json!({"team": "checkout"});
    rollout
}

fn cluster_api(env: &Env, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let version = text(&object["apiVersion"]).context("an object has an apiVersion")?;
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = text(&object["kind"]).context("an object has a kind")?;
    let name = text(&object["metadata"]["name"]).context("an object has a name")?;
    let group_kind = GroupVersionKind::gvk(group, version, &kind);
    // The plural of a constraint is the name of its kind.
    let resource = if kind == ForeignKind::CONSTRAINT.kind {
        ApiResource::from_gvk_with_plural(&group_kind, ForeignKind::CONSTRAINT.plural)
    } else {
        ApiResource::from_gvk(&group_kind)
    };
    Ok((Api::all_with(env.client.clone(), &resource), name))
}

/// Applies an object of the cluster.
///
/// # Errors
/// If the API server rejects it.
pub async fn apply_to_cluster(env: &Env, object: &Value) -> Result<DynamicObject> {
    let (api, name) = cluster_api(env, object)?;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.with_context(|| format!("cannot apply {} {name}", object["kind"]))
}

/// Applies a RolloutPolicy, and waits until the controller has read it: a release that is applied
/// right afterward could begin without it.
///
/// # Errors
/// If the API server rejects it, or if the controller does not read it.
pub async fn apply_policy(env: &Env, policy: &Value) -> Result<()> {
    let applied = apply_to_cluster(env, policy).await?;
    let (api, name) = cluster_api(env, policy)?;
    let what = format!("the controller reads {name}");
    eventually(&what, POLICY_IS_READ, async || {
        let now = api.get(&name).await?;
        let observed = now.data["status"]["observedGeneration"].as_i64();
        Ok(observed >= applied.metadata.generation)
    })
    .await
}

/// Removes an object of the cluster, if it exists.
///
/// # Errors
/// If the API server rejects the request.
pub async fn remove_from_cluster(env: &Env, object: &Value) -> Result<()> {
    let (api, name) = cluster_api(env, object)?;
    match api.delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The holds of a Rollout.
pub fn holds(rollout: &Rollout) -> &[Hold] {
    let status = rollout.status.as_ref();
    status.map_or(&[], |status| &status.state.holds)
}

/// The message of the hold with a code.
///
/// # Errors
/// If there is none.
pub fn message_of(rollout: &Rollout, code: HoldCode) -> Result<String> {
    let mut holds = holds(rollout).iter();
    let hold = holds.find(|hold| hold.code == code);
    let hold = hold.with_context(|| format!("no hold {}", code.as_str()))?;
    Ok(hold.message.to_string())
}

/// Checks that the message of a hold has these parts.
///
/// # Errors
/// If one is missing.
pub fn ensure_message(rollout: &Rollout, code: HoldCode, parts: &[&str]) -> Result<()> {
    let message = message_of(rollout, code)?;
    for part in parts {
        ensure!(message.contains(part), "{part} is not in: {message}");
    }
    Ok(())
}

/// Status and reason of the condition GuardrailsPassed.
pub fn passed(rollout: &Rollout) -> Option<(&str, &str)> {
    let status = rollout.status.as_ref()?;
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == "GuardrailsPassed")?;
    Some((&condition.status, &condition.reason))
}

impl Shop {
    /// Waits until the release is held by exactly these guardrails and policies.
    ///
    /// # Errors
    /// If it is not in time.
    pub async fn wait_for_holds(&self, codes: &[HoldCode], time: Duration) -> Result<Rollout> {
        let what = format!(
            "held by {}",
            codes
                .iter()
                .map(|code| code.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
        let is_held = |rollout: &Rollout| {
            let found = holds(rollout);
            let is_current = rollout.status.as_ref().is_some_and(|status| {
                Some(status.state.observed_generation) == rollout.metadata.generation
            });
            let has = |code: &HoldCode| found.iter().any(|hold| hold.code == *code);
            let is_one = |hold: &&Hold| hold.source == serin_core::hold::HoldSource::Guardrail;
            let unexpected = found.iter().filter(is_one);
            is_current
                && codes.iter().all(has)
                && unexpected
                    .into_iter()
                    .all(|hold| codes.contains(&hold.code))
        };
        let waited = self.wait_until(&what, time, is_held).await;
        match waited {
            Ok(rollout) => Ok(rollout),
            Err(error) => {
                let rollout = self.rollout().await?;
                let found: Vec<String> = holds(&rollout)
                    .iter()
                    .map(|hold| format!("{}: {}", hold.code.as_str(), hold.message))
                    .collect();
                Err(error.context(format!("the holds are: {found:#?}")))
            }
        }
    }

    /// Revisions of the Rollout that have a ReplicaSet.
    ///
    /// # Errors
    /// If the ReplicaSets cannot be read.
    pub async fn revisions(&self) -> Result<Vec<String>> {
        let sets = self.api::<ReplicaSet>();
        let sets = sets.list(&ListParams::default()).await?;
        let is_own = |set: &&ReplicaSet| {
            let mut owners = set.owner_references().iter();
            owners.any(|owner| owner.name == self.name)
        };
        let revisions = sets.iter().filter(is_own);
        Ok(revisions
            .filter_map(|set| set.labels().get(REVISION_LABEL).cloned())
            .collect())
    }

    /// Waits until the current revision, which is not stable, has `count` running pods. Returns the
    /// revision and their names.
    ///
    /// # Errors
    /// If they do not run in time.
    pub async fn wait_for_canary_pods(
        &self,
        count: usize,
        time: Duration,
    ) -> Result<(String, Vec<String>)> {
        let is_canary = |rollout: &Rollout| {
            let state = rollout.status.as_ref().map(|status| &status.state);
            state.is_some_and(|state| {
                Some(state.observed_generation) == rollout.metadata.generation
                    && state.current_revision != state.stable_revision
            })
        };
        let rollout = self
            .wait_until("the release starts", time, is_canary)
            .await?;
        let status = rollout.status.unwrap_or_default();
        let revision = status.state.current_revision.context("a revision")?;
        let selector = ListParams::default().labels(&format!("{REVISION_LABEL}={revision}"));
        let pods = self.api::<Pod>();
        let running = async || -> Result<Vec<String>> {
            let list = pods.list(&selector).await?;
            let is_running = |pod: &&Pod| {
                let status = pod.status.as_ref();
                status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
            };
            Ok(list.iter().filter(is_running).map(Pod::name_any).collect())
        };
        let what = format!("{count} pods of {revision} run");
        self.eventually(&what, time, async || Ok(running().await?.len() >= count))
            .await?;
        Ok((revision.to_string(), running().await?))
    }

    /// Writes Kyverno's verdict on the image of a pod, as its admission webhook does.
    ///
    /// # Errors
    /// If the API server rejects it.
    pub async fn write_kyverno_verdict(&self, pod: &str) -> Result<()> {
        let verdict = json!({SAMPLE_IMAGE: "pass"}).to_string();
        let patch = json!({"metadata": {"annotations": {"kyverno.io/verify-images": verdict}}});
        self.api::<Pod>()
            .patch(pod, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }
}

/// A VulnerabilityReport as the Trivy operator writes it about the container of a ReplicaSet.
pub fn vulnerability_report(replica_set: &str, critical: &[&str]) -> Value {
    let vulnerabilities: Vec<Value> = critical
        .iter()
        .map(|id| {
            json!({
                "vulnerabilityID": id, "severity": "CRITICAL", "resource": "libssl3",
                "installedVersion": "3.0.11-1", "fixedVersion": "3.0.13-1",
                "primaryLink": format!("https://avd.aquasec.com/nvd/{}", id.to_lowercase()),
                "title": "openssl: remote code execution", "score": 9.8, "target": "",
            })
        })
        .collect();
    json!({
        "apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "VulnerabilityReport",
        "metadata": {
            "name": format!("replicaset-{replica_set}-sample"),
            "labels": {
                "trivy-operator.container.name": "sample",
                "trivy-operator.resource.kind": "ReplicaSet",
                "trivy-operator.resource.name": replica_set,
            },
        },
        "report": {
            "updateTimestamp": Timestamp::now().to_string(),
            "artifact": {"repository": "sample", "tag": "v1"},
            "registry": {"server": "serin.local"},
            "scanner": {"name": "Trivy", "vendor": "Aqua Security", "version": "0.60.0"},
            "summary": {
                "criticalCount": critical.len(), "highCount": 0, "mediumCount": 0, "lowCount": 0,
                "unknownCount": 0,
            },
            "vulnerabilities": vulnerabilities,
        },
    })
}

/// A PolicyReport as Kyverno writes it: one for each object, which is its scope.
pub fn policy_report(kind: &str, name: &str, result: &str) -> Value {
    json!({
        "apiVersion": "wgpolicyk8s.io/v1alpha2", "kind": "PolicyReport",
        "metadata": {
            "name": format!("report-{name}"),
            "labels": {"app.kubernetes.io/managed-by": "kyverno"},
        },
        "scope": {"kind": kind, "name": name},
        "results": [{
            "policy": "require-ro-rootfs", "rule": "validate-readOnlyRootFilesystem",
            "result": result, "scored": true, "severity": "medium", "source": "kyverno",
            "message": "root filesystem must be read-only",
        }],
        "summary": {"error": 0, "fail": 1, "pass": 0, "skip": 0, "warn": 0},
    })
}

/// A constraint of Gatekeeper with its status after an audit: one violation by each of these pods.
pub fn constraint(name: &str, namespace: &str, pods: &[String]) -> Value {
    let violations: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({
                "enforcementAction": "deny", "group": "", "version": "v1", "kind": "Pod",
                "name": pod, "namespace": namespace,
                "message": "you must provide labels: {\"owner\"}",
            })
        })
        .collect();
    json!({
        "apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "K8sRequiredLabels",
        "metadata": {"name": name},
        "spec": {
            "match": {"kinds": [{"apiGroups": [""], "kinds": ["Pod"]}], "namespaces": [namespace]},
            "parameters": {"labels": ["owner"]},
        },
        "status": {
            "auditTimestamp": Timestamp::now().to_string(),
            "totalViolations": violations.len(), "violations": violations,
        },
    })
}
