//! `spec.analysis`: how a release is compared with the stable revision.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis_template::{DefinitionRef, MAX_PARAMETERS, ParameterValue};
use crate::comparison::{BaselineSpec, CalibrationSpec, CountedUnit};
use crate::http_check::HttpCheckSpec;
use crate::job_check::JobCheckSpec;
use crate::rules;
use crate::workload::is_unset;

/// Analysis of a release. The canary is compared with the stable revision over the same period,
/// from the first canary request to the end of the release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::analysis_is_not_empty())]
#[x_kube(validation = rules::baseline_distinguishes_pods())]
#[x_kube(validation = rules::checkpoint_fits_into_status())]
pub struct AnalysisSpec {
    /// Prometheus that is queried. Defaults to the Prometheus that the controller is configured
    /// with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSpec>,
    /// Service level objectives. At least one objective or check is required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = rules::names_or_refs_are_unique())]
    pub objectives: Vec<ObjectiveSpec>,
    /// Additional conditions that a ratio of good requests cannot express. Each check is a query
    /// and a condition on its result. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = rules::names_or_refs_are_unique())]
    pub checks: Vec<CheckSpec>,
    /// Time for which a release with all of the traffic is analyzed before it becomes stable, for
    /// example `10m`. The old pods are kept during this time, so that a breach moves the traffic
    /// back at once. If unset, a release becomes stable without a bake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub bake_time: Option<String>,
    /// When evidence rolls a release back. If unset, the defaults of its fields apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackSpec>,
    /// Share of the service's error budget that one release may spend. If unset, the defaults of
    /// its fields apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSpec>,
    /// What happens while metrics are missing. The release is held in any case. If unset, the
    /// defaults of its fields apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<OnNoDataSpec>,
    /// Time after the start of a pod during which the pod counts as warming up, for example `60s`.
    /// During this time a canary error rate of up to five percentage points above stable is
    /// tolerated, checks are not queried, and the release is not promoted. Defaults to 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub warm_up: Option<String>,
    /// Stable pods that start together with the canary's. If set, the canary is compared with them
    /// alone, so that cold caches and a warm-up affect both sides alike. Errors are charged to the
    /// error budget by the rate of all stable pods. If unset, the canary is compared with all stable
    /// pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineSpec>,
    /// Maximum time without a verdict before the rollout pauses for manual action, for example
    /// `60m`. Defaults to 60m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub max_duration: Option<String>,
}

/// A Prometheus server and how to connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::credentials_require_address())]
#[x_kube(validation = rules::tls_requires_https())]
#[x_kube(validation = rules::headers_require_https())]
pub struct PrometheusSpec {
    /// Base URL, for example `http://prometheus.monitoring:9090`. Defaults to the Prometheus that
    /// the controller is configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::prometheus_address())]
    pub address: Option<String>,
    /// Scrape interval of the series, for example `15s`. It is used until the interval has been
    /// measured from the samples, and only has to be set if it is longer than 5 minutes. If it
    /// differs from the samples, this is reported but does not hold the release. Defaults to 15s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub scrape_interval: Option<String>,
    /// HTTP headers of each request, for example `Authorization` or `X-Scope-OrgID`. Each key of
    /// the Secret is a header name and its data is the header value. The Secret must be in the
    /// Rollout's namespace, and the controller needs permission to read it. If unset, no additional
    /// headers are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_from: Option<SecretSourceSpec>,
    /// If true, the headers of `headersFrom` may be sent to an http address, unencrypted. Everyone
    /// who can read the traffic can then read a token in them. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_insecure_headers: Option<bool>,
    /// TLS settings for an https address. If unset, the controller's own CA certificates are used
    /// and no client certificate is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// All keys of a Secret in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSourceSpec {
    /// Reference to the Secret.
    pub secret_ref: NameRefSpec,
}

/// Reference to an object in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameRefSpec {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
}

/// TLS settings of a connection to Prometheus. The server certificate must match the host of the
/// address and is always verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::tls_is_not_empty())]
pub struct TlsSpec {
    /// CA certificates in PEM format that verify the server certificate. They replace the
    /// controller's own CA certificates. If unset, the controller's own CA certificates are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<CaSourceSpec>,
    /// Client certificate, from a Secret of type `kubernetes.io/tls` with the keys `tls.crt` and
    /// `tls.key`. If unset, no client certificate is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_from: Option<SecretSourceSpec>,
}

/// One key of a ConfigMap or Secret in the Rollout's namespace. Exactly one field must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::exactly_one_ca_source())]
pub struct CaSourceSpec {
    /// Key of a ConfigMap, for example `{name: kube-root-ca.crt, key: ca.crt}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRefSpec>,
    /// Key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRefSpec>,
}

/// Reference to a key of an object in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRefSpec {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Key in the object's data, for example `ca.crt`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::data_key())]
    pub key: String,
}

/// A service level objective and the two counters that measure it, or a reference to one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::objective_is_complete())]
#[x_kube(validation = rules::one_source_of_an_objective())]
#[x_kube(validation = rules::reference_fields_require_ref())]
#[x_kube(validation = rules::bad_requests_are_defined_once())]
#[x_kube(validation = rules::latency_requires_histogram())]
#[x_kube(validation = rules::latency_counts_requests())]
#[x_kube(validation = rules::calibration_distinguishes_pods())]
pub struct ObjectiveSpec {
    /// Name of the objective, for example `availability`. Must be unique. Defaults to that of `ref`.
    /// Required without `ref`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Objective of a RolloutPolicy that matches the Rollout, or of `analysisTemplate`. The other
    /// fields replace those of it. If unset, the objective is written out here.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub reference: Option<String>,
    /// AnalysisTemplate in the Rollout's namespace that has the objective of `ref`. If unset, it is
    /// an objective of the RolloutPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub analysis_template: Option<String>,
    /// Values of the parameters of the objective of `ref`. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PARAMETERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterValue>,
    /// Percentage of requests that must be good, for example 99.9. Above 0 and below 100. Defaults
    /// to that of `ref`. Required without `ref`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[schemars(range(min = 0, max = 100))]
    #[x_kube(validation = rules::objective_leaves_error_budget())]
    pub objective: f64,
    /// Period that the objective covers, for example `30d`. Defaults to 30d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub window: Option<String>,
    /// Built-in source of the counters: `traefik`, `istio`, `linkerd`, `nginx` or `pod`. Exactly
    /// one of `indicator`, `counters` and `indicatorRef` must be set. With `ref`, none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator: Option<Indicator>,
    /// Custom counters, as PromQL series selectors. Excludes `indicator` and `indicatorRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<CountersSpec>,
    /// Indicator of a RolloutPolicy or of an AnalysisTemplate. Excludes `indicator` and `counters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator_ref: Option<DefinitionRef>,
    /// Counts requests slower than `threshold` as bad, whatever their response. If unset, failed
    /// requests are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySpec>,
    /// Label of the series whose value names the endpoint of a request, for example `route`,
    /// `handler`, `http_route` or `grpc_method`. If set, half of the evidence is gathered by
    /// endpoint, so that a broken endpoint with little traffic is found sooner. The 19 endpoints
    /// with the most requests are distinguished, all others are added up. If unset, all requests
    /// are added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub endpoint_label: Option<String>,
    /// Calibration of the evidence with placebo releases, as `kubectl serin placebo` reports it. If
    /// set, it takes the place of the estimate of how errors cluster, and the bound on false rollbacks
    /// holds if the hour of a release is like the placebo hours. Requires series that distinguish pods.
    /// Excludes `endpointLabel` and `baseline`. If unset, the clusters are estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationSpec>,
}

/// When a request is too slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatencySpec {
    /// Maximum duration of a good request, for example `300ms`. Must be the upper bound of a
    /// histogram bucket, because the number of slower requests is counted and not interpolated.
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub threshold: String,
    /// Action if the canary is slower than stable anywhere in the latency distribution, whatever
    /// the threshold. `Hold` holds the release until the difference is gone or a user intervenes.
    /// `RollBack` also counts the evidence toward a rollback. If unset, only the threshold is
    /// analyzed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardAction>,
}

/// Action of a latency guard if the canary is slower than stable at any bucket bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GuardAction {
    /// Holds the release.
    #[default]
    Hold,
    /// Holds the release. The evidence also counts toward a rollback.
    RollBack,
}

/// A query or an HTTP request that runs periodically and a condition that its result must meet, a Job
/// that must succeed, or a reference to a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::check_is_complete())]
#[x_kube(validation = rules::one_source_of_a_check())]
#[x_kube(validation = rules::job_has_a_phase())]
#[x_kube(validation = rules::reference_fields_require_ref())]
pub struct CheckSpec {
    /// Name of the check, for example `queue-length`. Must be unique. Defaults to that of `ref`.
    /// Required without `ref`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Check of a RolloutPolicy that matches the Rollout, or of `analysisTemplate`. The other fields
    /// replace those of it. If unset, the check is written out here.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub reference: Option<String>,
    /// AnalysisTemplate in the Rollout's namespace that has the check of `ref`. If unset, it is a
    /// check of the RolloutPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub analysis_template: Option<String>,
    /// Values of the parameters of the check of `ref`. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PARAMETERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterValue>,
    /// PromQL query that returns a vector or a scalar. `{{args.NAME}}` is replaced by the value of
    /// an argument, as a string literal. Defaults to that of `ref`. Exactly one of `query`, `http`
    /// and `job` must be set. With `ref`, none is needed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// HTTP request. Excludes `query`, `job` and `ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheckSpec>,
    /// Job. Excludes `query`, `http`, `ref`, `condition` and `interval`, and requires another
    /// `phase` than release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobCheckSpec>,
    /// Arguments of the query, the request or the Job. Every check also has the arguments
    /// `namespace`, `rollout`, `canaryService`, `stableService`, `canaryReplicaSet` and
    /// `stableReplicaSet`. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub args: Vec<ArgSpec>,
    /// CEL expression that must be true, for example `result[0] < 0.05`. `result` is the list of
    /// the values of the vector, as doubles. A scalar is a list with one value. Text, maps and
    /// concatenated lists are not supported, so that the cost of an evaluation is bounded. With
    /// `http`, the expression is over the integer `status` and over `body`, the JSON or the text of
    /// the response, and defaults to `status >= 200 && status < 300`. Required with `query`. Defaults
    /// to that of `ref`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 512))]
    pub condition: String,
    /// Time between two queries, for example `1m`. Defaults to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub interval: Option<String>,
    /// Time before the first query, for example `2m`. For `phase: release` it starts with the
    /// canary's first traffic, otherwise with the phase. Except in the phases `step` and
    /// `beforeTraffic`, no check is queried before `warmUp` has passed for the canary's first pods.
    /// The release waits for it. Defaults to 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub initial_delay: Option<String>,
    /// Number of failures that are tolerated. One more failure rolls the release back. Defaults to
    /// 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub failure_limit: Option<i32>,
    /// When the check is queried. `release`: from the first canary traffic until promotion. `step`:
    /// only while a step `analysis` names it, which may come before the first traffic.
    /// `beforeTraffic`: between the first canary pods and the first traffic, if the evidence sets the
    /// pace. `beforePromotion`: once all steps are complete. `bake`: during the bake. Defaults to
    /// release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<CheckPhase>,
    /// If true, the result is reported but never affects the rollout. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// Argument of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArgSpec {
    /// Name of the argument: letters, digits, dashes and underscores, starting with a letter.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::argument_name())]
    pub name: String,
    /// Value of the argument. It is not secret: everyone who can read the Rollout can read it.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// When a check is queried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CheckPhase {
    /// From the first canary traffic until the release is promoted.
    #[default]
    Release,
    /// While a step waits for the check.
    Step,
    /// Between the first canary pods and the first traffic, if the evidence sets the pace.
    BeforeTraffic,
    /// Once all steps are complete, or the evidence is sufficient.
    BeforePromotion,
    /// During the bake of a release that has all of the traffic.
    Bake,
}

/// Built-in source of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Indicator {
    /// Traefik's request counters for the two Services of the Rollout.
    Traefik,
    /// Envoy's counters for the two Services of the Rollout, as Envoy Gateway names them. Requires
    /// `mergeBackends` in the EnvoyProxy: without it, Envoy counts both Services together.
    EnvoyGateway,
    /// Envoy's counters for the two Services of the Rollout, as Contour names them.
    Contour,
    /// Istio's standard metrics for the two Services, as reported by gateways and client sidecars.
    Istio,
    /// Linkerd's outbound metrics for the two Services as backends of an HTTPRoute.
    Linkerd,
    /// Metrics of ingress-nginx for the stable Service and the canary Ingress.
    Nginx,
    /// The pods' own `http_server_request_duration_seconds` metric, according to the OpenTelemetry
    /// semantic conventions. It needs no router.
    Pod,
}

/// Two counters as PromQL series selectors (not rates), and how to distinguish the series of canary
/// and stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::errors_differ_from_total())]
pub struct CountersSpec {
    /// Selects all requests, for example `http_requests_total{namespace="shop"}`. With `latency` it
    /// selects the `_count` series of a histogram, for example
    /// `http_request_duration_seconds_count{namespace="shop"}`.
    #[schemars(length(min = 1, max = 4096))]
    pub total: String,
    /// Selects the bad requests, for example `http_requests_total{namespace="shop",code=~"5.."}`.
    /// Required without `latency`, not allowed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub errors: Option<String>,
    /// How to distinguish the series of canary and stable. If unset, the `pod` label is the name of
    /// the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variants: Option<VariantsSpec>,
    /// What the counters count. Request: requests. Client: clients or their sessions, for example
    /// `sessions_total` and `sessions_with_error_total`. Connection: connections. If the router
    /// assigns clients or connections to a side as a whole, the bound on false rollbacks holds only
    /// for counts of these. Excludes `latency`, except for Request. Defaults to Request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<CountedUnit>,
}

/// How to distinguish the series of canary and stable: by the pod name, or by the value of another
/// label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.podLabel) ? !has(self.label) && !has(self.canary) && !has(self.stable) : has(self.label) && has(self.canary) && has(self.stable)")
    .message("variants needs either podLabel, or all of label, canary and stable: set one of the two"))]
#[x_kube(validation = rules::variant_values_differ())]
pub struct VariantsSpec {
    /// Label that contains the pod name, for example `pod`. Excludes the other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub pod_label: Option<String>,
    /// Label whose value differs between canary and stable. Requires `canary` and `stable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub label: Option<String>,
    /// Value of `label` for the canary, as a regular expression that must match the whole value.
    /// Required if `label` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub canary: Option<String>,
    /// Value of `label` for stable, as a regular expression that must match the whole value.
    /// Required if `label` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub stable: Option<String>,
}

/// What happens while metrics are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnNoDataSpec {
    /// Time without data after which the canary's weight is reduced to a quarter, for example `5m`.
    /// The reduction repeats each time this period passes again. Defaults to 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub step_down_after: Option<String>,
}

/// When evidence rolls a release back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackSpec {
    /// Upper bound on the probability that a good release is rolled back. Above 0 and at most 0.1.
    /// Defaults to 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    #[x_kube(validation = rules::false_rollback_probability())]
    pub false_rollback_probability: Option<f64>,
}

/// Share of the service's error budget that one release may spend. The smaller of the two limits
/// applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetSpec {
    /// Maximum share of the whole error budget, for example `2%`. Defaults to 2%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::percentage())]
    pub max_share_of_budget: Option<String>,
    /// Maximum share of the remaining error budget, for example `20%`. Defaults to 20%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::percentage())]
    pub max_share_of_remaining: Option<String>,
}
