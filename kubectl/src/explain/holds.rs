//! What each cause of holding means, in plain words, and what helps.

/// What a cause of holding means, and what helps.
pub struct Hold {
    /// What it means.
    pub meaning: &'static str,
    /// What helps, where something does.
    pub fix: Option<&'static str>,
}

/// Of a cause, one CamelCase word.
pub fn hold(cause: &str) -> Hold {
    let (meaning, fix) = match of_data(cause)
        .or_else(|| of_access(cause))
        .or_else(|| of_evidence(cause))
    {
        Some((meaning, fix)) => (meaning, Some(fix)),
        None => ("Until this is over nothing is promoted.", None),
    };
    Hold { meaning, fix }
}

type Words = (&'static str, &'static str);

/// The data is missing, or cannot be used.
fn of_data(cause: &str) -> Option<Words> {
    Some(match cause {
        "NoData" => (
            "Prometheus has no series for one of the two sides. Without data nothing is known, and nothing unknown is a success.",
            "See whether Prometheus scrapes both sides, and whether the objective's counters select them.",
        ),
        "Stale" => (
            "The newest sample is too old to say anything about now.",
            "See whether Prometheus still scrapes the targets (its page Status, Targets).",
        ),
        "NoTraffic" => (
            "A canary without requests cannot fail, which is no sign that it is good.",
            "See whether requests reach the service at all, and whether its route sends the canary its share.",
        ),
        "UnverifiedSelector" => (
            "The selector of errors has never matched anything. A mistyped selector would look exactly like a release without a fault.",
            "Compare counters.errors with the series in Prometheus. One error of stable's is enough to verify it.",
        ),
        "AmbiguousSeries" => (
            "Some series can be of other requests as well, or of the same ones twice. Counting them would be a guess.",
            "Do what is named above. docs/indicators.md says which requests each indicator counts.",
        ),
        "Unreachable" | "Timeout" => (
            "What cannot be read cannot be judged; nothing is promoted in the meantime.",
            "See whether the controller reaches Prometheus at spec.analysis.prometheus.address. What was missed is read later.",
        ),
        "Partial" => (
            "Prometheus itself says that a part of the data is missing, so that errors may be, too.",
            "See the warnings of the query in Prometheus, for example of a store that is away.",
        ),
        "NotANumber" => (
            "A counter had a value that cannot be a count.",
            "See what exports it; a recording rule with a rate in it is no counter.",
        ),
        "InvalidQuery" | "InvalidSpec" | "TooLarge" | "Malformed" | "SpecUnusable" => (
            "The question cannot be answered as it is asked.",
            "Correct the field that is named above.",
        ),
        "NotConfigured" => (
            "There is nobody to ask for data.",
            "Write spec.analysis.prometheus.address, or give the controller a default.",
        ),
        _ => return None,
    })
}

/// What Prometheus is asked with is missing, or is not accepted.
fn of_access(cause: &str) -> Option<Words> {
    Some(match cause {
        "SecretForbidden" | "ConfigMapForbidden" => (
            "The controller reads no Secret and no ConfigMap that it was not given by name.",
            "Run the two commands above, or have somebody run them who may give rights in that namespace.",
        ),
        "SecretNotFound" | "ConfigMapNotFound" | "DirectoryNotFound" | "InvalidSecret"
        | "InvalidConfigMap" | "InvalidDirectory" | "DirectoryForbidden" => (
            "What its Prometheus is to be asked with is missing or cannot be used.",
            "Correct what is named above; it is read again within seconds.",
        ),
        "SecretUnavailable" | "ConfigMapUnavailable" | "DirectoryUnavailable" => (
            "What its Prometheus is to be asked with could not be read yet.",
            "It is tried again. See whether the API server answers the controller.",
        ),
        "Unauthorized" => (
            "Prometheus, or a proxy before it, does not accept who asks.",
            "See whether the token in the Secret of spec.analysis.prometheus.headersFrom is still good; a new one is taken up within seconds.",
        ),
        "UntrustedCertificate" => (
            "Whoever answers at that address cannot show that it is this Prometheus.",
            "See whether spec.analysis.prometheus.tls.caFrom is the authority of its certificate, and the address a name in it.",
        ),
        _ => return None,
    })
}

/// The data speaks against going on.
fn of_evidence(cause: &str) -> Option<Words> {
    Some(match cause {
        "LatencyGuard" => (
            "The canary keeps the objective's threshold, and is slower than stable elsewhere in the distribution.",
            "It goes on when the evidence for that is gone. Where slower is meant, promote it by hand, or leave out latency.guard.",
        ),
        "NoCommonBuckets" => (
            "The latency guard compares canary and stable bucket by bucket, and has found no bucket that both have.",
            "Give both versions the same buckets, or leave out latency.guard for this release.",
        ),
        "BudgetSpent" => (
            "The service has used up its error budget for the period of the objective: until some of it is back, no release may cost errors.",
            "It goes on when the budget has recovered, or at once if this release is shown to be the cure.",
        ),
        "ServiceBurning" => (
            "The service as a whole fails so often that its error budget would soon be gone. Nothing is changed in the middle of an incident.",
            "It goes on when the service is well again, or at once if this release is shown to be the cure.",
        ),
        _ => return None,
    })
}
