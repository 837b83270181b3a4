//! Guardrails that read the reports of scanners and policy engines.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GuardrailMode, GuardrailOptions};
use crate::rules;

/// What happens when no report about vulnerabilities exists at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnMissingReport {
    /// The release is held until there is one.
    #[default]
    Hold,
    /// The release goes on, and the missing report is reported.
    Continue,
}

guardrail_options! {
    /// The images have no more known vulnerabilities than allowed, by the VulnerabilityReports of
    /// the Trivy operator.
    VulnerabilitiesGuardrail {
        /// Maximum number of critical vulnerabilities of the revision. Defaults to 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 100_000))]
        pub max_critical: Option<i32>,
        /// Maximum number of high vulnerabilities. If unset, they are not limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 100_000))]
        pub max_high: Option<i32>,
        /// Maximum number of medium vulnerabilities. If unset, they are not limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 100_000))]
        pub max_medium: Option<i32>,
        /// If true, vulnerabilities without a fixed version do not count. Defaults to false.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ignore_unfixed: Option<bool>,
        /// Vulnerabilities that do not count until a date. Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 64))]
        #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
        pub exceptions: Vec<VulnerabilityException>,
        /// Maximum age of a report, for example 7d. An older report counts as missing. Defaults to
        /// 7d.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 32))]
        #[x_kube(validation = rules::duration())]
        pub max_age: Option<String>,
        /// Time to wait for a report after the first pod of the revision runs, for example 10m.
        /// Defaults to 10m.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 32))]
        #[x_kube(validation = rules::duration())]
        pub report_deadline: Option<String>,
        /// What happens when there is no report at the deadline: Hold or Continue. Defaults to Hold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub on_missing_report: Option<OnMissingReport>,
    }
}

/// A vulnerability that does not count until a date.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VulnerabilityException {
    /// Identifier of the vulnerability, for example CVE-2024-3094.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// Why it does not count.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// Last day on which it does not count (2027-01-31, in UTC), or the time at which it counts
    /// again (2027-01-31T12:00:00Z).
    #[schemars(length(min = 10, max = 32))]
    #[x_kube(validation = rules::date_or_time())]
    pub expires: String,
}

/// Result of a policy for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PolicyResult {
    /// The object violates the policy.
    Fail,
    /// The policy could not be evaluated.
    Error,
    /// The object violates a policy that only warns.
    Warn,
}

/// Severity of the result of a policy.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum PolicySeverity {
    /// Informational.
    #[default]
    Info,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

guardrail_options! {
    /// The policy reports of the cluster have no violation by the objects of the revision: the
    /// PolicyReports of wgpolicyk8s.io and openreports.io, and the constraints of Gatekeeper.
    PolicyReportsGuardrail {
        /// Results that count: Fail, Error, Warn. Defaults to Fail and Error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 3))]
        pub results: Option<Vec<PolicyResult>>,
        /// Lowest severity that counts: Info, Low, Medium, High or Critical. A result without a
        /// severity always counts. Defaults to Info.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub min_severity: Option<PolicySeverity>,
        /// Names of policies or constraints that do not count. Defaults to none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
        pub ignored_policies: Vec<String>,
        /// If true, at least one report about the revision must exist, or Gatekeeper must have audited
        /// all of its constraints since the first pod of the revision exists. Defaults to false: a
        /// cluster without a policy engine has no report.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub require_report: Option<bool>,
    }
}
