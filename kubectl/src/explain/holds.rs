//! Explanations of hold reasons, with possible fixes.

/// Explanation of a hold reason.
pub struct HoldExplanation {
    /// The meaning.
    pub meaning: &'static str,
    /// The fix, if there is one.
    pub fix: Option<&'static str>,
}

/// Explains the hold reason `cause`.
pub fn explain_hold(cause: &str) -> HoldExplanation {
    let (meaning, fix) = match data_hold(cause)
        .or_else(|| credentials_hold(cause))
        .or_else(|| evidence_hold(cause))
    {
        Some((meaning, fix)) => (meaning, Some(fix)),
        None => ("The release is not promoted until this is resolved.", None),
    };
    HoldExplanation { meaning, fix }
}

type MeaningAndFix = (&'static str, &'static str);

/// Reasons of missing or unusable data.
fn data_hold(cause: &str) -> Option<MeaningAndFix> {
    Some(match cause {
        "NoData" => (
            "Prometheus has no series for one of the two sides. Missing data never counts as success.",
            "Check that Prometheus scrapes both sides and that the objective's counters select them.",
        ),
        "Stale" => (
            "The latest sample is too old.",
            "Check that Prometheus still scrapes the targets (Status > Targets).",
        ),
        "NoTraffic" => (
            "The canary gets no requests, so there is no evidence.",
            "Check that requests reach the service and that its route sends the canary its weight.",
        ),
        "UnverifiedSelector" => (
            "The error selector has never matched a series. A mistyped selector would display like a release without errors.",
            "Compare counters.errors with the series in Prometheus. One error of stable is enough to verify the selector.",
        ),
        "AmbiguousSeries" => (
            "Some series may also count other requests, or the same requests twice.",
            "Apply the fix above. docs/reference/indicators.md lists the requests that each indicator counts.",
        ),
        "Unreachable" | "Timeout" => (
            "Prometheus does not answer. The release is not promoted in the meantime.",
            "Check that the controller can reach Prometheus at spec.analysis.prometheus.address. Missed samples are read later.",
        ),
        "Partial" => (
            "Prometheus reports that a part of the data is missing, possibly including errors.",
            "Check the warnings of the query in Prometheus, for example for an unavailable store.",
        ),
        "NotANumber" => (
            "A counter has a value that is not a count.",
            "Check the exporter. A recording rule of a rate is not a counter.",
        ),
        "InvalidQuery" | "InvalidSpec" | "TooLarge" | "Malformed" | "SpecUnusable" => (
            "The query is invalid or its result cannot be used.",
            "Correct the field that is named above.",
        ),
        "NotConfigured" => (
            "No Prometheus is configured.",
            "Set spec.analysis.prometheus.address, or configure a default for the controller.",
        ),
        _ => return None,
    })
}

/// Reasons of missing or rejected Prometheus credentials.
fn credentials_hold(cause: &str) -> Option<MeaningAndFix> {
    Some(match cause {
        "SecretForbidden" | "ConfigMapForbidden" => (
            "The controller may read only the Secrets and ConfigMaps that it was granted by name.",
            "Run the two commands above as a user who may grant permissions in that namespace.",
        ),
        "SecretNotFound" | "ConfigMapNotFound" | "DirectoryNotFound" | "InvalidSecret"
        | "InvalidConfigMap" | "InvalidDirectory" | "DirectoryForbidden" => (
            "The Prometheus credentials are missing or invalid.",
            "Correct the object named above. It is read again within seconds.",
        ),
        "SecretUnavailable" | "ConfigMapUnavailable" | "DirectoryUnavailable" => (
            "The Prometheus credentials could not be read yet.",
            "The controller retries. Check that it can reach the API server.",
        ),
        "Unauthorized" => (
            "Prometheus, or a proxy in front of it, rejected the credentials.",
            "Check that the token in the Secret of spec.analysis.prometheus.headersFrom is valid. A new token is used within seconds.",
        ),
        "UntrustedCertificate" => (
            "The TLS certificate of Prometheus is not trusted.",
            "Check that spec.analysis.prometheus.tls.caFrom has the certificate's authority and that the certificate covers the address.",
        ),
        _ => return None,
    })
}

/// Reasons from the evidence or the error budget.
fn evidence_hold(cause: &str) -> Option<MeaningAndFix> {
    Some(match cause {
        "LatencyGuard" => (
            "The canary meets the objective's threshold but is slower than stable elsewhere in the distribution.",
            "It continues when the evidence disappears. If the change is intended, promote manually or remove latency.guard.",
        ),
        "NoCommonBuckets" => (
            "The latency guard compares canary and stable per bucket, but they have no bucket in common.",
            "Use the same buckets in both versions, or remove latency.guard for this release.",
        ),
        "BudgetSpent" => (
            "The service has exhausted its error budget for the window of the objective. No release may cause errors until it recovers.",
            "It continues when the budget has recovered, or as soon as this release is proven to be the fix.",
        ),
        "ServiceBurning" => (
            "The service burns its error budget too fast. Releases wait during an incident.",
            "It continues when the service has recovered, or as soon as this release is proven to be the fix.",
        ),
        _ => return None,
    })
}
