//! What can stop a release: codes with their meaning and fix.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Blocks, HoldEnd, HoldSource};
use crate::command::Verb;

/// Declares [`HoldCode`]: one row per code with its source, what it blocks, what ends it, its
/// meaning and its fix.
macro_rules! hold_codes {
    ($($code:ident, $source:ident, $blocks:ident, $ends:expr, $meaning:literal, $fix:literal;)+) => {
        /// What stops a release: a CamelCase word for conditions, metrics and scripts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum HoldCode {
            $(#[doc = $meaning] $code,)+
        }

        impl HoldCode {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// The code as it appears in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code)),+ }
            }

            /// Where holds with this code come from.
            pub const fn source(self) -> HoldSource {
                match self { $(Self::$code => HoldSource::$source),+ }
            }

            /// What holds with this code stop.
            pub const fn blocks(self) -> Blocks {
                match self { $(Self::$code => Blocks::$blocks),+ }
            }

            /// What usually ends a hold with this code.
            pub const fn ends(self) -> HoldEnd {
                match self { $(Self::$code => $ends),+ }
            }

            /// What the hold means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$code => $meaning),+ }
            }

            /// What to do about the hold.
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$code => $fix),+ }
            }
        }
    };
}

hold_codes! {
    SpecInvalid, Spec, Start, HoldEnd::SpecChange,
    "The spec has a field that Serin cannot use. The last valid spec stays in effect.",
    "Correct the field that the message names.";
    PolicyReferenceInvalid, Spec, Start, HoldEnd::Itself,
    "A reference to an objective, a check or an indicator of a RolloutPolicy or an AnalysisTemplate cannot be resolved. The active plan stays in effect.",
    "Correct the reference or the definition that the message names. `kubectl serin effective` shows what is resolved.";
    PolicyInvalid, Spec, Start, HoldEnd::Itself,
    "A RolloutPolicy that applies to the Rollout cannot be used, and its `failurePolicy` is Fail. The active plan stays in effect.",
    "Correct the policy that the message names, or set its `failurePolicy` to Ignore.";
    PolicyUnavailable, Spec, Start, HoldEnd::Itself,
    "The RolloutPolicies of the Rollout are not known: one was deleted, or the controller may not read them. The active plan stays in effect.",
    "Follow the message. To delete a policy for good, set its `failurePolicy` to Ignore before, or create it again with Ignore and delete it.";
    SpecPaused, Spec, Advance, HoldEnd::SpecChange,
    "`spec.paused` is true.",
    "Set `spec.paused` to false in the manifest.";
    PausedByCommand, Person, Advance, HoldEnd::Command { command: Verb::Resume },
    "Somebody paused the release with `pause`.",
    "Continue with `kubectl serin resume`, or stop the release with `kubectl abort`.";
    Inconclusive, Person, Advance, HoldEnd::Command { command: Verb::Promote },
    "The analysis reached its maximum duration without a verdict.",
    "Continue with `kubectl promote`, or stop the release with `kubectl abort`.";
    StepPause, Step, Advance, HoldEnd::Command { command: Verb::Promote },
    "The current step is a pause.",
    "Wait until it ends, or continue with `kubectl promote`.";
    ApprovalPending, Step, Advance, HoldEnd::Command { command: Verb::Promote },
    "The current step is a gate that waits for a person's approval.",
    "Approve with `kubectl promote`, or stop the release with `kubectl abort`.";
    GateClosed, Step, Advance, HoldEnd::Itself,
    "The current step is a gate, and its object does not meet the condition yet.",
    "Wait for the object that the message names. `kubectl serin skip-step` leaves the step.";
    GateUnreadable, Step, Advance, HoldEnd::Itself,
    "The object of a gate cannot be read, or the condition cannot be evaluated on it.",
    "Correct the field that the message names, or let the controller read the kind with the value `gates.readableKinds` of its chart.";
    GateExpired, Step, Advance, HoldEnd::Command { command: Verb::SkipStep },
    "A gate has expired. It opens neither by itself nor by a promotion any more.",
    "Leave the step with `kubectl serin skip-step`, or stop the release with `kubectl abort`.";
    AnalysisRunning, Step, Advance, HoldEnd::Itself,
    "The current step waits for fresh metrics without a breach.",
    "No action is needed. `kubectl serin skip-step` leaves the step.";
    EvidenceInsufficient, Step, Advance, HoldEnd::Itself,
    "The evidence does not yet suffice to continue.",
    "No action is needed. More traffic shortens the wait.";
    WarmUp, Step, Promote, HoldEnd::Itself,
    "The canary's pods are young. No release is promoted on the evidence of young pods alone.",
    "No action is needed. `spec.analysis.warmUp` sets the duration.";
    Baking, Step, Promote, HoldEnd::Itself,
    "The canary has all of the traffic and is observed before it becomes stable.",
    "No action is needed. `kubectl promote` ends the bake early.";
    ScaledToZero, Cluster, Advance, HoldEnd::SpecChange,
    "`spec.replicas` is 0. The release keeps its position.",
    "Raise `spec.replicas`.";
    PodsNotAvailable, Cluster, Advance, HoldEnd::Itself,
    "Pods that the current step needs are not available yet. The progress deadline applies.",
    "See the pods in `kubectl serin status` and their Events.";
    ImagePullFailed, Cluster, Advance, HoldEnd::Itself,
    "A container image cannot be pulled.",
    "Correct the image, or the pull secret of the pod.";
    ContainerConfigInvalid, Cluster, Advance, HoldEnd::Itself,
    "A container cannot be configured, usually because a ConfigMap, a Secret or a key of it is missing.",
    "Create what is missing, or correct the reference in the pod template.";
    VolumeMountFailed, Cluster, Advance, HoldEnd::Itself,
    "A volume of a pod cannot be mounted, usually because its ConfigMap or Secret is missing.",
    "Create what is missing, or correct the volume in the pod template.";
    PodSandboxFailed, Cluster, Advance, HoldEnd::Itself,
    "The node cannot create the sandbox of a pod: its network, or the image of the sandbox.",
    "Look at the network plugin (CNI) and the container runtime of the node, or move the pod to another node.";
    ContainerFailed, Cluster, Advance, HoldEnd::Itself,
    "A container cannot be started.",
    "See the Events of the pod.";
    CrashLoop, Cluster, Advance, HoldEnd::Itself,
    "A container keeps failing. In a canary this aborts the release.",
    "See the container's log (`kubectl logs --previous`).";
    PodUnschedulable, Cluster, Advance, HoldEnd::Itself,
    "No node fits the pod.",
    "Lower its requests, relax its constraints, or add nodes.";
    ProbeFailing, Cluster, Advance, HoldEnd::Itself,
    "A container runs but does not become ready.",
    "See the container's log, and its probe in the pod template.";
    QuotaExceeded, Cluster, Advance, HoldEnd::Itself,
    "A ResourceQuota of the namespace does not permit more pods.",
    "Raise the quota, or lower `spec.replicas` or the requests of the pods.";
    PodsRejected, Cluster, Advance, HoldEnd::Itself,
    "The API server refuses to create the pods: pod security, a policy or an admission webhook.",
    "Correct what the message names in the pod template, or change the policy.";
    OwnershipConflict, Cluster, Start, HoldEnd::Itself,
    "A Service or a route of the Rollout is held by another Rollout. Nothing of it is written.",
    "Name other Services or another route in one of the two Rollouts, or delete one of them.";
    ServiceRefused, Cluster, Start, HoldEnd::Itself,
    "A Service that the Rollout names must not be taken. Nothing of it is written.",
    "Name another Service, or correct the field that the message names.";
    ServiceInUse, Cluster, Advance, HoldEnd::Itself,
    "A Service still sends its requests to pods of somebody else. It selects the revision once enough pods are available.",
    "Wait for the pods of the revision. Then scale the other pods down.";
    WorkloadMissing, Cluster, Start, HoldEnd::Itself,
    "The Deployment of `spec.workloadRef` does not exist. The Rollout keeps its last template and its pods.",
    "Create the Deployment again, or replace `spec.workloadRef` with `spec.selector` and `spec.template`.";
    WorkloadTakeover, Cluster, Start, HoldEnd::Itself,
    "The pods of a Deployment are being taken over or given back. No pod is restarted.",
    "No action is needed.";
    WorkloadProgressing, Cluster, Start, HoldEnd::Itself,
    "The Deployment is in the middle of an update. It is taken over when the update is complete.",
    "Wait for `kubectl rollout status deployment`, or undo the update.";
    WorkloadUnsupported, Cluster, Start, HoldEnd::Itself,
    "The Deployment has a setting with which its pods cannot be taken over.",
    "Change the field that the message names.";
    WorkloadAutoscaled, Cluster, Start, HoldEnd::Itself,
    "A HorizontalPodAutoscaler scales the Deployment. It would have no effect on the pods of the Rollout.",
    "Point `spec.scaleTargetRef` of the HorizontalPodAutoscaler to the Rollout.";
    WorkloadClaimed, Cluster, Start, HoldEnd::Itself,
    "Another Rollout refers to the same Deployment. The oldest one takes it over.",
    "Name another Deployment in one of the two Rollouts, or delete one of them.";
    WorkloadForbidden, Cluster, Start, HoldEnd::Itself,
    "The controller may not read what it needs to know about the Deployment.",
    "Update the Role of the controller: `helm upgrade` with the chart of this version.";
    WorkloadResumed, Cluster, Advance, HoldEnd::Itself,
    "Somebody resumed the paused Deployment whose pods the Rollout has taken over, so it creates pods of its own. Serin pauses it again.",
    "Do not set `spec.paused` in its manifest. Remove its own pods with `kubectl scale deployment --replicas=0`.";
    WorkloadGivenBack, Person, Start, HoldEnd::Command { command: Verb::Resume },
    "The pods were given back to the Deployment. The Rollout manages nothing.",
    "Delete the Rollout, or take the pods over again with `kubectl serin resume`.";
    Contested, Cluster, Advance, HoldEnd::Itself,
    "Somebody else keeps changing a Service or a route. Serin puts it back less and less often. Traffic is still lowered at once.",
    "Stop the other writer, or exclude the fields that Serin writes from it.";
    RouteNotReady, Cluster, Advance, HoldEnd::Itself,
    "The router has not confirmed the traffic split yet. The progress deadline applies.",
    "See the route's status conditions and the controller of its Gateway.";
    NoData, Metrics, Advance, HoldEnd::Itself,
    "Prometheus has no series for one of the two variants. Missing data never counts as success.",
    "Check that Prometheus scrapes both variants and that the objective's counters select them.";
    Stale, Metrics, Advance, HoldEnd::Itself,
    "The newest sample is too old to describe the present.",
    "Check in Prometheus (Status, Targets) that it still scrapes the targets.";
    NoTraffic, Metrics, Advance, HoldEnd::Itself,
    "No requests reach the canary. A canary without requests cannot fail, which proves nothing.",
    "Check that requests reach the service and that its route sends the canary its share.";
    UnverifiedSelector, Metrics, Advance, HoldEnd::Itself,
    "The selector of errors has never matched a series. A mistyped selector looks like a release without errors.",
    "Compare `counters.errors` with the series in Prometheus. A single error of the stable version verifies it. To correct it during a release, edit it and run `kubectl serin override --adopt-analysis`.";
    AmbiguousSeries, Metrics, Advance, HoldEnd::Itself,
    "Some series may count other requests, or the same requests twice.",
    "Follow the message. docs/reference/indicators.md lists the requests that each indicator counts.";
    Unreachable, Metrics, Advance, HoldEnd::Itself,
    "Prometheus cannot be reached. Nothing is promoted meanwhile.",
    "Check that the controller can reach `spec.analysis.prometheus.address`. Missed samples are read later.";
    Timeout, Metrics, Advance, HoldEnd::Itself,
    "Prometheus did not answer in time. Nothing is promoted meanwhile.",
    "Check the load of Prometheus, or narrow the selector. Missed samples are read later.";
    Partial, Metrics, Advance, HoldEnd::Itself,
    "Prometheus reports that a part of the data is missing. Errors may be missing, too.",
    "See the warnings of the query in Prometheus, for example of a store that is down.";
    NotANumber, Metrics, Advance, HoldEnd::Itself,
    "A counter has a value that is not a count.",
    "Check the exporter. A recording rule of a rate is not a counter.";
    InvalidQuery, Metrics, Advance, HoldEnd::Itself,
    "A query of the analysis is invalid.",
    "Correct the field that the message names. During a release, `kubectl serin override --adopt-analysis` applies the correction.";
    InvalidSpec, Metrics, Advance, HoldEnd::Itself,
    "A field of the analysis cannot be used.",
    "Correct the field that the message names. During a release, `kubectl serin override --adopt-analysis` applies the correction.";
    TooLarge, Metrics, Advance, HoldEnd::Itself,
    "The answer of Prometheus is too large to be read.",
    "Narrow the selector, or count at the gateway or in the mesh.";
    Malformed, Metrics, Advance, HoldEnd::Itself,
    "The answer is not one of the Prometheus API.",
    "Check that `spec.analysis.prometheus.address` is a Prometheus and not a page in front of it.";
    NotConfigured, Metrics, Advance, HoldEnd::Itself,
    "No Prometheus is configured.",
    "Set `spec.analysis.prometheus.address`, or give the controller a default address.";
    NoSuchBucket, Metrics, Advance, HoldEnd::Itself,
    "The histogram has no bucket that ends at the latency threshold.",
    "Set `latency.threshold` to a bucket boundary that the message lists.";
    CheckEmpty, Metrics, Advance, HoldEnd::Itself,
    "The query of a check returned nothing. An empty result never counts as success.",
    "Correct the query, or use `or vector(0)` if nothing means zero.";
    CheckNotANumber, Metrics, Advance, HoldEnd::Itself,
    "The query of a check returned NaN or infinity, which never counts as success.",
    "Guard the query against a division by zero.";
    CheckUnreadable, Metrics, Advance, HoldEnd::Itself,
    "The condition of a check cannot be evaluated on the query's result.",
    "Compare the condition with the result that the message shows.";
    CheckUnavailable, Metrics, Advance, HoldEnd::Itself,
    "A check by HTTP got no response, or the Job of a check cannot run. That never counts as success.",
    "Follow the message. The check is tried again at its interval.";
    SecretForbidden, Metrics, Advance, HoldEnd::Itself,
    "The controller may not read the Secret with the Prometheus credentials.",
    "Run the two kubectl commands of the message, or ask an administrator of the namespace.";
    ConfigMapForbidden, Metrics, Advance, HoldEnd::Itself,
    "The controller may not read the ConfigMap with the certificate authority.",
    "Run the two kubectl commands of the message, or ask an administrator of the namespace.";
    DirectoryForbidden, Metrics, Advance, HoldEnd::Itself,
    "The controller may not read the directory with the default Prometheus credentials.",
    "Correct the permissions of the mounted volume.";
    SecretNotFound, Metrics, Advance, HoldEnd::Itself,
    "The Secret with the Prometheus credentials does not exist.",
    "Create it, or correct its name. It is read again within seconds.";
    ConfigMapNotFound, Metrics, Advance, HoldEnd::Itself,
    "The ConfigMap with the certificate authority does not exist.",
    "Create it, or correct its name. It is read again within seconds.";
    DirectoryNotFound, Metrics, Advance, HoldEnd::Itself,
    "The directory with the default Prometheus credentials does not exist.",
    "Mount it, or correct `--prometheus-headers-dir`.";
    InvalidSecret, Metrics, Advance, HoldEnd::Itself,
    "The Secret with the Prometheus credentials cannot be used.",
    "Correct the key that the message names. It is read again within seconds.";
    InvalidConfigMap, Metrics, Advance, HoldEnd::Itself,
    "The ConfigMap with the certificate authority cannot be used.",
    "Correct the key that the message names. It is read again within seconds.";
    InvalidDirectory, Metrics, Advance, HoldEnd::Itself,
    "The directory with the default Prometheus credentials cannot be used.",
    "Correct the file that the message names.";
    SecretUnavailable, Metrics, Advance, HoldEnd::Itself,
    "The Secret with the Prometheus credentials could not be read yet.",
    "No action is needed if the API server is up. Serin retries.";
    ConfigMapUnavailable, Metrics, Advance, HoldEnd::Itself,
    "The ConfigMap with the certificate authority could not be read yet.",
    "No action is needed if the API server is up. Serin retries.";
    DirectoryUnavailable, Metrics, Advance, HoldEnd::Itself,
    "The directory with the default Prometheus credentials could not be read yet.",
    "See the message. Serin retries.";
    Unauthorized, Metrics, Advance, HoldEnd::Itself,
    "Prometheus, or a proxy in front of it, rejected the credentials.",
    "Renew the token in the Secret of `spec.analysis.prometheus.headersFrom`. Serin reads it again within seconds.";
    UntrustedCertificate, Metrics, Advance, HoldEnd::Itself,
    "The TLS certificate of Prometheus is not trusted.",
    "Check that `spec.analysis.prometheus.tls.caFrom` names its certificate authority and that the address is a name in the certificate.";
    InternalError, Metrics, Advance, HoldEnd::Itself,
    "The analysis of this release failed with an internal error. Other releases are not affected.",
    "Report it with the controller's log. Serin retries.";
    LatencyGuard, Metrics, Advance, HoldEnd::Itself,
    "The canary meets the latency threshold but is slower than stable elsewhere in the distribution.",
    "Wait until the evidence for it is gone. If slower is intended, promote by hand or remove `latency.guard` and apply the edit with `kubectl serin override --adopt-analysis`.";
    NoCommonBuckets, Metrics, Advance, HoldEnd::Itself,
    "The latency guard compares histograms bucket by bucket, and the two versions share no bucket.",
    "Give both versions the same buckets, or remove `latency.guard` and apply the edit with `kubectl serin override --adopt-analysis`.";
    PodOutlier, Metrics, Advance, HoldEnd::Itself,
    "One of several canary pods has nearly all of the canary's excess errors. That points to the pod or its node, not to the release.",
    "Delete the pod that the message names; cordon its node first if the node is at fault. Otherwise the release is rolled back after 10 minutes, or earlier if the pod spends too much of the error budget.";
    BudgetLeft, Budget, Advance, HoldEnd::Itself,
    "The canary's current traffic could cost more errors than the release may still spend.",
    "No action is needed. The canary's share goes down until the evidence permits more.";
    BudgetSpent, Budget, Advance, HoldEnd::Override,
    "The service has spent its error budget. No release may cost errors until some of it is back.",
    "Wait, or lift the freeze with `kubectl serin override --reason`. A release that reduces the errors ends it as well.";
    ServiceBurning, Budget, Advance, HoldEnd::Override,
    "The service fails so often that its error budget would soon be spent. Nothing changes during an incident.",
    "Wait, or lift the freeze with `kubectl serin override --reason`. A release that reduces the errors ends it as well.";
    GuardrailUnknown, Guardrail, Start, HoldEnd::Itself,
    "What a guardrail depends on could not be read. What is unknown never passes.",
    "Follow the message: grant the access, install the kind, or change the guardrail in its RolloutPolicy.";
    GuardrailInvalid, Guardrail, Start, HoldEnd::Itself,
    "A guardrail or an exception cannot be used as it is written.",
    "Correct the field that the message names, in the RolloutPolicy or in `spec.guardrailExceptions`.";
    GuardrailExceptionEnding, Guardrail, Start, HoldEnd::Itself,
    "An exception from a guardrail ends soon. It is only reported.",
    "Correct the problem before the exception ends, or ask for a longer one.";
    ResourcesMissing, Guardrail, Start, HoldEnd::Itself,
    "A container has no resource request or limit. It can take what other pods on its node need.",
    "Set `resources` of the container in the pod template, or add a LimitRange with defaults to the namespace.";
    ImageNotPinned, Guardrail, Start, HoldEnd::Itself,
    "An image has no version: its tag can point to another image tomorrow.",
    "Use a version tag or a digest in the pod template.";
    ImageChanged, Guardrail, Raise, HoldEnd::Itself,
    "Pods of the same revision run different images: the tag moved during the release.",
    "Abort the release, and name the image by its digest.";
    ImageNotSigned, Guardrail, Raise, HoldEnd::Itself,
    "The policy engine of the cluster has not verified the signature of an image.",
    "Sign the image, or correct the policy that verifies it.";
    SignatureMissing, Guardrail, Start, HoldEnd::Itself,
    "The registry has no signature of an image with a key of the guardrail.",
    "Sign the image with `cosign sign --key`, or correct the key in the RolloutPolicy.";
    RegistryUnavailable, Guardrail, Start, HoldEnd::Itself,
    "The registry of an image did not answer what a guardrail needs: the digest of a tag, or signatures.",
    "Follow the message. The registry is asked again by itself, at most once a minute.";
    RegistryPending, Guardrail, Start, HoldEnd::Itself,
    "The registry of an image is being asked for a digest or for signatures.",
    "No action is needed.";
    ProbeMissing, Guardrail, Start, HoldEnd::Itself,
    "A serving container has no probe, so that requests reach it before it is ready.",
    "Add the probe to the container in the pod template.";
    NetworkPolicyMissing, Guardrail, Start, HoldEnd::Itself,
    "No network policy restricts the traffic of the pods.",
    "Add a NetworkPolicy to the namespace that selects the pods.";
    PodSecurityTooLow, Guardrail, Start, HoldEnd::Itself,
    "The namespace does not enforce the Pod Security Standard that the guardrail demands.",
    "Set the label `pod-security.kubernetes.io/enforce` of the namespace.";
    PodSecurityViolated, Guardrail, Start, HoldEnd::Itself,
    "The pod template violates the Pod Security Standard.",
    "Correct the fields that the message names in the pod template.";
    SecretNotManaged, Guardrail, Start, HoldEnd::Itself,
    "A Secret that the pod template uses does not come from a secrets manager.",
    "Create the Secret with an ExternalSecret, a SealedSecret or another manager, or mount it by a SecretProviderClass.";
    SecretInEnv, Guardrail, Start, HoldEnd::Itself,
    "An environment variable contains a Secret. Processes and crash reports can leak it.",
    "Mount the Secret as a volume instead.";
    Vulnerable, Guardrail, Raise, HoldEnd::Itself,
    "An image has more known vulnerabilities than the guardrail allows.",
    "Update the image or the package that the message names, or add an exception with a date.";
    VulnerabilityReportMissing, Guardrail, Raise, HoldEnd::Itself,
    "There is no current vulnerability report for an image of the revision.",
    "Wait for the scan. If it does not come, see the log of the Trivy operator.";
    PolicyViolated, Guardrail, Raise, HoldEnd::Itself,
    "A policy report or a constraint has a violation by an object of the revision.",
    "Correct what the policy demands in the pod template.";
    PolicyReportMissing, Guardrail, Raise, HoldEnd::Itself,
    "No policy report about the revision exists.",
    "Check that the policy engine runs and that its background scan includes the namespace.";
    NotObserved, Guardrail, Start, HoldEnd::Itself,
    "Nothing shows that the workload can be observed, so that nobody would notice its failure.",
    "Add a ServiceMonitor, a PodMonitor, or what the message names.";
    DisruptionBudgetMissing, Guardrail, Start, HoldEnd::Itself,
    "No PodDisruptionBudget selects the pods, so that a drain may stop all of them at once.",
    "Add a PodDisruptionBudget that selects the pods.";
    DisruptionBudgetBlocks, Guardrail, Start, HoldEnd::Itself,
    "A PodDisruptionBudget never lets a pod be evicted, so that no node can be drained.",
    "Lower its `minAvailable`, or raise its `maxUnavailable`.";
    NotSpread, Guardrail, Start, HoldEnd::Itself,
    "Nothing spreads the replicas, so that they may all run on one node.",
    "Add `topologySpreadConstraints` or `podAntiAffinity` to the pod template.";
    PriorityMissing, Guardrail, Start, HoldEnd::Itself,
    "The pods have no allowed priority class, so that the scheduler cannot tell what is important.",
    "Set `priorityClassName` in the pod template.";
    CustomGuardrail, Guardrail, Start, HoldEnd::Itself,
    "A guardrail of the platform is not met.",
    "Follow the message, which the platform has written.";
}

impl HoldCode {
    /// Whether it is a guardrail that only waits, so that nobody has to act yet.
    pub fn is_waiting_guardrail(self) -> bool {
        matches!(
            self,
            Self::VulnerabilityReportMissing | Self::RegistryPending
        )
    }

    /// Whether pods cannot be created or cannot run, for a known reason.
    pub fn is_pod_problem(self) -> bool {
        matches!(
            self,
            Self::ImagePullFailed
                | Self::ContainerConfigInvalid
                | Self::VolumeMountFailed
                | Self::PodSandboxFailed
                | Self::ContainerFailed
                | Self::CrashLoop
                | Self::PodUnschedulable
                | Self::ProbeFailing
                | Self::QuotaExceeded
                | Self::PodsRejected
        )
    }

    /// Whether a Service or a route cannot be written, or somebody else keeps changing it.
    pub fn is_object_problem(self) -> bool {
        matches!(
            self,
            Self::OwnershipConflict | Self::ServiceRefused | Self::Contested
        )
    }

    /// Whether a Deployment is not taken over yet, or needs attention.
    pub fn is_workload_problem(self) -> bool {
        matches!(
            self,
            Self::WorkloadMissing
                | Self::WorkloadTakeover
                | Self::WorkloadProgressing
                | Self::WorkloadUnsupported
                | Self::WorkloadAutoscaled
                | Self::WorkloadClaimed
                | Self::WorkloadForbidden
                | Self::WorkloadResumed
                | Self::WorkloadGivenBack
        )
    }

    /// Whether metrics are missing or unusable, so that the MetricsReady condition is false.
    pub fn is_missing_data(self) -> bool {
        self.source() == HoldSource::Metrics
            && !matches!(self, Self::LatencyGuard | Self::PodOutlier)
    }
}

impl<'de> Deserialize<'de> for HoldCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for HoldCode {
    type Err = UnknownHoldCode;

    fn from_str(text: &str) -> Result<Self, UnknownHoldCode> {
        let known = Self::ALL.iter().find(|code| code.as_str() == text);
        known
            .copied()
            .ok_or_else(|| UnknownHoldCode(text.to_owned()))
    }
}

/// A hold code of another version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a hold code of this version")]
pub struct UnknownHoldCode(String);

impl fmt::Display for HoldCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_back_from_its_name() {
        for code in HoldCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(
                code.meaning().ends_with('.') && code.fix().ends_with('.'),
                "{code}"
            );
        }
        assert!("OfTheFuture".parse::<HoldCode>().is_err());
    }
}
