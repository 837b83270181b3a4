//! The manifests that the cases apply.

use serde_json::{Value, json};

use crate::env::SAMPLE_IMAGE;

/// A release of the sample service.
#[derive(Clone, Debug)]
pub struct SampleRelease {
    /// Its version, which every response has.
    pub version: String,
    /// Additional environment variables that configure faults.
    pub faults: Vec<(&'static str, String)>,
}

impl SampleRelease {
    /// A good release: one of two thousand requests fails.
    pub fn good(version: &str) -> Self {
        Self::failing(version, "0.05")
    }

    /// A release with this percentage of failing requests.
    pub fn failing(version: &str, percent: &str) -> Self {
        Self {
            version: version.into(),
            faults: vec![("ERROR_RATE", percent.into())],
        }
    }

    /// A release with one fault.
    pub fn with_fault(version: &str, fault: &'static str, value: &str) -> Self {
        Self {
            version: version.into(),
            faults: vec![(fault, value.into())],
        }
    }
}

/// The fields of the Rollout that cases vary.
#[derive(Clone, Debug)]
pub struct RolloutOptions {
    /// `spec.replicas`.
    pub replicas: u32,
    /// `spec.strategy.canary.steps`. If `None`, the evidence sets the pace.
    pub steps: Option<Value>,
    /// `spec.analysis`. If `None`, metrics are not analyzed.
    pub analysis: Option<Value>,
    /// `spec.progressDeadlineSeconds`.
    pub progress_deadline_seconds: u32,
    /// Delay before unused pods are removed.
    pub scale_down_delay_seconds: u32,
}

impl Default for RolloutOptions {
    fn default() -> Self {
        Self {
            replicas: 2,
            steps: Some(
                json!([{"setWeight": 20}, {"pause": {"duration": "3s"}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}]),
            ),
            analysis: Some(analysis()),
            progress_deadline_seconds: 60,
            scale_down_delay_seconds: 5,
        }
    }
}

/// The indicator of the gateway of the local cluster.
pub const INDICATOR: &str = "traefik";

/// One objective of 99.9 % on gateway metrics that are scraped every second.
pub fn analysis() -> Value {
    json!({
        "prometheus": {"scrapeInterval": "1s"},
        // The sample service needs almost no warm-up.
        "warmUp": "5s",
        "objectives": [{"name": "availability", "objective": 99.9, "indicator": INDICATOR}],
    })
}

/// The Rollout.
pub fn rollout(name: &str, spec: &RolloutOptions, release: &SampleRelease) -> Value {
    let mut canary = json!({
        "trafficRouting": {"gatewayAPI": {"httpRoute": name}},
        "scaleDownDelaySeconds": spec.scale_down_delay_seconds,
        "abortScaleDownDelaySeconds": spec.scale_down_delay_seconds,
    });
    if let Some(steps) = &spec.steps {
        canary["steps"] = steps.clone();
    }
    let mut rollout = json!({
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {
            "replicas": spec.replicas,
            "progressDeadlineSeconds": spec.progress_deadline_seconds,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, release),
            "strategy": {"canary": canary},
        },
    });
    if let Some(analysis) = &spec.analysis {
        rollout["spec"]["analysis"] = analysis.clone();
    }
    rollout
}

/// Adds an environment variable to the container.
pub fn set_env(rollout: &mut Value, name: &str, value: &str) {
    if let Some(env) = rollout["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut() {
        env.push(json!({"name": name, "value": value}));
    }
}

/// The pod template of the sample service, with probes, limits and a restricted security context.
pub fn template(app: &str, release: &SampleRelease) -> Value {
    let mut env = vec![json!({"name": "VERSION", "value": release.version})];
    env.extend(
        release
            .faults
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    json!({
        "metadata": {
            "labels": {"app": app},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "sample",
                "image": SAMPLE_IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "env": env,
                "ports": [{"name": "http", "containerPort": 8080}],
                // On a busy machine a response may take longer than the default of 1 s.
                "readinessProbe": {
                    "httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5,
                },
                "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                },
            }],
        },
    })
}

/// The HTTPRoute as a user writes it, with the stable Service as its only backend.
pub fn http_route(name: &str, host: &str, gateway: (&str, &str)) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {
            "parentRefs": [{"name": gateway.1, "namespace": gateway.0}],
            "hostnames": [host],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{"name": name, "port": 8080}],
                },
            ],
        },
    })
}
