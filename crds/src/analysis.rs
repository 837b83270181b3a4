//! How a release is judged, as users write it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// How a release is judged: from the first canary request to the end, against the stable side
/// beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::analysis_asks_something())]
pub struct AnalysisSpec {
    /// Where the counters are read; without it the controller's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSpec>,
    /// What the service promises; at least one, or a check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub objectives: Vec<ObjectiveSpec>,
    /// What else must be so, where it is not a promise of so many good requests: a query and a
    /// condition on its result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub checks: Vec<CheckSpec>,
    /// How long a release with all of the traffic is watched before it becomes stable, for example
    /// `10m`; not at all where it is not written. The old pods stay for that time, so that a breach
    /// takes the traffic back at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub bake_time: Option<String>,
    /// When evidence rolls back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackSpec>,
    /// How much of the service's error budget one release may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSpec>,
    /// What is done while there is no data to judge by. The release is held in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<OnNoDataSpec>,
    /// How long pods count as young, for example `60s`, which is what it is where it is not
    /// written. Until then a canary that fails up to five percent more than stable is tolerated, no
    /// check is queried, and no release is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub warm_up: Option<String>,
    /// How long it may stay undecided before a person is asked, for example `60m`, which is what it
    /// is where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub max_duration: Option<String>,
}

/// A Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::access_goes_with_an_address())]
#[x_kube(validation = rules::tls_goes_with_https())]
pub struct PrometheusSpec {
    /// Its base URL; without it the controller's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::address())]
    pub address: Option<String>,
    /// How often it scrapes the series, for example `15s`. Used until the interval is known from
    /// the samples themselves; it only has to be set if it is longer than 5 minutes. A value that
    /// differs from the samples is reported and does not hold a release. Defaults to `15s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub scrape_interval: Option<String>,
    /// The headers of each request, for example `Authorization` or `X-Scope-OrgID`: each key of the
    /// Secret is a header's name, and what it holds the value. The Secret is in the Rollout's
    /// namespace, and the controller must have been given the right to read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_from: Option<SecretSourceSpec>,
    /// How an https address is reached; without it the controller's own authorities count, and no
    /// client certificate is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// A whole Secret of the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSourceSpec {
    /// Which.
    pub secret_ref: NameRefSpec,
}

/// An object of the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameRefSpec {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
}

/// What a TLS connection to a Prometheus needs. Its certificate must be for the address' host, and
/// is always checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::tls_says_something())]
pub struct TlsSpec {
    /// The authorities that its certificate is checked against, as PEM; only these count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<CaSourceSpec>,
    /// The certificate that is shown to it: a Secret of type `kubernetes.io/tls`, with the keys
    /// `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_from: Option<SecretSourceSpec>,
}

/// One key of a ConfigMap or of a Secret of the Rollout's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_source())]
pub struct CaSourceSpec {
    /// A key of a ConfigMap, for example `{name: kube-root-ca.crt, key: ca.crt}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRefSpec>,
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRefSpec>,
}

/// A key of an object of the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRefSpec {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// The key, for example `ca.crt`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::data_key())]
    pub key: String,
}

/// A promise of the service and the two counters that tell whether it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.indicator) != has(self.counters)")
    .message("say where the counters are: either indicator (a built-in by name) or counters (written out)"))]
#[x_kube(validation = rules::counts_bad_requests_once())]
#[x_kube(validation = rules::counts_a_histogram())]
#[x_kube(validation = rules::tells_the_sides())]
pub struct ObjectiveSpec {
    /// Its name, for example `availability`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The percentage of requests that shall be good, for example 99.9; over 0 and under 100.
    #[x_kube(validation = rules::leaves_a_budget())]
    pub objective: f64,
    /// The period that the objective covers, for example `30d`, which is what it is where it is not
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub window: Option<String>,
    /// A built-in source of counters by name: `traefik`, `istio`, `linkerd`, `nginx` or `pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator: Option<Indicator>,
    /// The counters, written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<CountersSpec>,
    /// Bad are requests that took longer than a threshold, whatever their answer; without it those
    /// that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySpec>,
}

/// What counts as too slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatencySpec {
    /// A request that takes longer is bad, for example `300ms`. A bucket of the histogram must end
    /// there: a counter of what is slower is needed, and no estimate between two buckets will do.
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub threshold: String,
    /// What is done when the canary is slower than stable anywhere in the distribution, whatever
    /// the threshold: `Hold`, until that is over or a person decides, or `RollBack`. Without it
    /// only the threshold is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardAction>,
}

/// What a latency guard does when the canary is slower than stable at some edge of the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GuardAction {
    /// It holds the release.
    Hold,
    /// It holds the release, and its evidence takes part in rolling back.
    RollBack,
}

/// A query, asked again and again, and a condition that its result must meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckSpec {
    /// Its name, for example `queue-length`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// PromQL that gives a vector or a scalar. `{{args.NAME}}` stands for an argument's value,
    /// which is put in as a string.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// Arguments of the query. Every query has `namespace`, `rollout`, `canaryService`,
    /// `stableService`, `canaryReplicaSet` and `stableReplicaSet` as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub args: Vec<ArgSpec>,
    /// CEL over `result`, a list of doubles: the values of the vector; a scalar is a list of one.
    /// For example `result[0] < 0.05`.
    #[schemars(length(min = 1, max = 512))]
    pub condition: String,
    /// How often it is asked, for example `1m`, which is what it is where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub interval: Option<String>,
    /// Time to wait before the first query, for example `2m`. For `phase: release` it starts with
    /// the canary's first traffic, otherwise with the phase. No check is queried before `warmUp`
    /// has passed for the canary's first pods. The release waits for it. Defaults to `0s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub initial_delay: Option<String>,
    /// How often it may fail; once more rolls the release back. 0 where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub failure_limit: Option<i32>,
    /// When it is asked: `release`, which is what it is where it is not written, from the first
    /// canary traffic on; `beforePromotion`, once all steps are complete; `bake`, in the
    /// watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<CheckPhase>,
    /// true: it is told, and decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// An argument of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArgSpec {
    /// Its name: letters, digits, dashes and underscores, beginning with a letter.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::arg_name())]
    pub name: String,
    /// Its value, for everyone to read.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// When a check is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CheckPhase {
    /// From the first canary traffic until the release is promoted.
    #[default]
    Release,
    /// Once all steps are complete, or the evidence suffices.
    BeforePromotion,
    /// In the watch over a release that has all of the traffic.
    Bake,
}

/// A built-in source of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Indicator {
    /// Traefik's request counters for the two Services of the Rollout.
    Traefik,
    /// Envoy Gateway, which counts both Services as one: always refused, with what to write
    /// instead.
    EnvoyGateway,
    /// Istio's standard metrics for the two Services, as gateways and sidecars of the callers tell
    /// them.
    Istio,
    /// Linkerd's outbound metrics for the two Services as backends of an HTTPRoute.
    Linkerd,
    /// The metrics of ingress-nginx for the stable Service and the canary Ingress beside it.
    Nginx,
    /// The pods' own `http_server_request_duration_seconds`, as OpenTelemetry's conventions have
    /// it. It needs no router.
    Pod,
}

/// Two counters as PromQL series selectors (not rates), and how a series tells canary from stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::errors_are_fewer())]
pub struct CountersSpec {
    /// All requests, for example `http_requests_total{namespace="shop"}`.
    #[schemars(length(min = 1, max = 4096))]
    pub total: String,
    /// The bad ones among them, for example `http_requests_total{namespace="shop",code=~"5.."}`.
    /// With `latency` it is left out, and `total` is the count of a histogram, for example
    /// `http_request_duration_seconds_count{namespace="shop"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub errors: Option<String>,
    /// How a series tells canary from stable; without it by the `pod` label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variants: Option<VariantsSpec>,
}

/// How a series tells canary from stable: by pod, or by a label's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.podLabel) ? !has(self.label) && !has(self.canary) && !has(self.stable) : has(self.label) && has(self.canary) && has(self.stable)")
    .message("arms is either podLabel, or label with the canary's and the stable side's value"))]
#[x_kube(validation = rules::sides_differ())]
pub struct VariantsSpec {
    /// The label that holds the pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub pod_label: Option<String>,
    /// A label whose value differs between the two sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub label: Option<String>,
    /// The label's value on the canary side, as a regular expression that matches all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub canary: Option<String>,
    /// The label's value on the stable side, as a regular expression that matches all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub stable: Option<String>,
}

/// What is done while there is no data to judge by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnNoDataSpec {
    /// After so long without data the canary's weight goes down to a quarter, and again after as
    /// long, for example `5m`, which is what it is where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub step_down_after: Option<String>,
}

/// When evidence rolls back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackSpec {
    /// The bound on rolling back a good release, over 0 and at most 0.1; 0.01 where it is not
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::bounds_false_rollbacks())]
    pub false_rollback_probability: Option<f64>,
}

/// How much of the service's error budget one release may spend: the smaller of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetSpec {
    /// A share of the whole budget, for example `2%`, which is what it is where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::share())]
    pub max_share_of_budget: Option<String>,
    /// A share of what remains of it, for example `20%`, which is what it is where it is not
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::share())]
    pub max_share_of_remaining: Option<String>,
}
