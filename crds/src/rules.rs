//! The validation rules that the API server checks, where its schema alone cannot say what is
//! wrong.
//!
//! Each says what to write instead. They refuse early what [`crate::rollout::RolloutSpec::plan`]
//! refuses in any case, so that a mistake is seen by whoever makes it. Their cost is bounded by the
//! lengths in the schema.

use kube::core::{Message, Rule};

fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(Message::Message(message.into()))
}

/// A duration.
pub(crate) fn duration() -> Rule {
    rule(
        "self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h|d))+$')",
        "not a duration: write a number with a unit of ms, s, m, h or d, for example 30s, 10m or 1h30m",
    )
}

/// A count of pods or a percentage of `replicas`.
pub(crate) fn pods_or_percentage() -> Rule {
    rule(
        "string(self).matches('^([0-9]+|([0-9]|[1-9][0-9]|100)%)$')",
        "use a number of pods, for example 1, or a percentage of replicas in quotes, for example \"25%\"",
    )
}

/// A share of the error budget.
pub(crate) fn share() -> Rule {
    rule(
        "self.matches('^([0-9]|[1-9][0-9]|100)([.][0-9]+)?%$')",
        "not a percentage: write a number from 0 to 100 and a percent sign, for example 2%",
    )
}

/// The name of a Service.
pub(crate) fn service_name() -> Rule {
    rule(
        "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "not the name of a Service: use at most 63 lower-case letters, digits and dashes, beginning with a letter",
    )
}

/// The name of an object.
pub(crate) fn object_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "not the name of an object: use its metadata.name, which is lower-case letters, digits, dashes and dots",
    )
}

/// The name of a Prometheus label.
pub(crate) fn label_name() -> Rule {
    rule(
        "self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')",
        "not the name of a Prometheus label: use letters, digits and underscores, for example pod",
    )
}

/// The address of a Prometheus.
pub(crate) fn address() -> Rule {
    rule(
        "self.matches('^https?://[^/?#@[:space:]]+(/[^?#[:space:]]*)?$')",
        "not a base URL: write http or https, host and port, without name and password, for example http://prometheus.monitoring:9090",
    )
}

/// The key of a Secret or a ConfigMap.
pub(crate) fn data_key() -> Rule {
    rule(
        "self.matches('^[-._a-zA-Z0-9]+$')",
        "not a key of a Secret or a ConfigMap: use letters, digits, dashes, dots and underscores, for example ca.crt",
    )
}

/// What opens a Prometheus goes to that one only: the controller's default is asked in the
/// controller's own name.
pub(crate) fn access_goes_with_an_address() -> Rule {
    rule(
        "has(self.address) || (!has(self.headersFrom) && !has(self.tls))",
        "headersFrom and tls are for a Prometheus that this Rollout names: write its address beside them, for example https://prometheus.monitoring:9090",
    )
}

/// There is no TLS in plain http.
pub(crate) fn tls_goes_with_https() -> Rule {
    rule(
        "!has(self.tls) || !has(self.address) || self.address.startsWith('https://')",
        "tls is for an https address: write address as https://..., or remove tls",
    )
}

/// An empty `tls` is a mistake.
pub(crate) fn tls_says_something() -> Rule {
    rule(
        "has(self.caFrom) || has(self.clientCertificateFrom)",
        "tls says nothing: write caFrom, clientCertificateFrom or both, or remove tls",
    )
}

/// One place, not two.
pub(crate) fn one_source() -> Rule {
    rule(
        "has(self.configMapKeyRef) != has(self.secretKeyRef)",
        "say once where the authorities are: either configMapKeyRef or secretKeyRef",
    )
}

/// A Rollout's name is the value of a label.
pub(crate) fn rollout_name() -> Rule {
    rule(
        "size(self.metadata.name) <= 63",
        "metadata.name must fit into a label: use at most 63 characters",
    )
}

/// The selector of a Rollout stays.
pub(crate) fn selector_stays() -> Rule {
    rule(
        "self == oldSelf",
        "spec.selector cannot be changed: create a Rollout with another name, move the traffic to it, then delete this one",
    )
}

/// The selector picks something.
pub(crate) fn selector_is_not_empty() -> Rule {
    rule(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
        "an empty selector would pick every pod of the namespace: write matchLabels with a label of the template, for example {app: NAME}",
    )
}

/// The template's pods are those that the selector picks.
pub(crate) fn template_matches_selector() -> Rule {
    rule(
        "!has(self.selector.matchLabels) || (has(self.template.metadata) && has(self.template.metadata.labels) \
         && self.selector.matchLabels.all(key, key in self.template.metadata.labels && self.template.metadata.labels[key] == self.selector.matchLabels[key]))",
        "spec.template.metadata.labels must have every label of spec.selector.matchLabels with the same value: add what is missing there",
    )
}

/// Some label keys are the controller's.
pub(crate) fn no_reserved_label() -> Rule {
    rule(
        "self.all(key, !key.startsWith('serin.dev/'))",
        "labels under serin.dev/ are the controller's own: remove them",
    )
}

/// The progress deadline leaves time for pods to become available.
pub(crate) fn deadline_exceeds_min_ready() -> Rule {
    rule(
        "(has(self.progressDeadlineSeconds) ? self.progressDeadlineSeconds : 600) > (has(self.minReadySeconds) ? self.minReadySeconds : 0)",
        "spec.progressDeadlineSeconds (600 where it is not written) must be over spec.minReadySeconds: no pod could become available in time",
    )
}

/// An analysis step needs an analysis.
pub(crate) fn analysis_step_has_analysis() -> Rule {
    rule(
        "has(self.analysis) || !has(self.strategy.canary.steps) || self.strategy.canary.steps.all(step, !has(step.analysis))",
        "an analysis step waits for evidence, and nothing gathers any: add spec.analysis with objectives, or remove the step",
    )
}

/// A pace that is set by evidence needs an analysis.
pub(crate) fn pace_has_analysis() -> Rule {
    rule(
        "has(self.analysis) || !has(self.strategy.canary.pace)",
        "spec.strategy.canary.pace lets evidence set the pace, and nothing gathers any: add spec.analysis with objectives, or write steps",
    )
}

/// A built-in indicator other than the pods' own reads the router's counters.
pub(crate) fn indicator_has_router() -> Rule {
    rule(
        "!has(self.analysis) || has(self.strategy.canary.trafficRouting) || !has(self.analysis.objectives) || self.analysis.objectives.all(objective, !has(objective.indicator) || objective.indicator == 'pod')",
        "an indicator reads the router's counters of the two Services: add spec.strategy.canary.trafficRouting, or write counters that tell the pods apart",
    )
}

/// Steps and evidence do not both set the pace.
pub(crate) fn steps_or_pace() -> Rule {
    rule(
        "!has(self.steps) || !has(self.pace)",
        "either steps or evidence set the pace: keep steps or pace",
    )
}

/// Some fields mean nothing without a router.
pub(crate) fn router_only_fields() -> Rule {
    rule(
        "has(self.trafficRouting) || !(has(self.stableService) || has(self.canaryService) || has(self.pace) || (has(self.dynamicStableScale) && self.dynamicStableScale))",
        "stableService, canaryService, dynamicStableScale and pace need a router: add trafficRouting, or remove them",
    )
}

/// A canary's size of its own needs a router.
pub(crate) fn router_only_steps() -> Rule {
    rule(
        "has(self.trafficRouting) || !has(self.steps) || self.steps.all(step, !has(step.setCanaryScale))",
        "without trafficRouting the replica counts are the weights already: add trafficRouting, or use setWeight instead of setCanaryScale",
    )
}

/// Each side has a Service of its own.
pub(crate) fn two_services() -> Rule {
    rule(
        "!has(self.stableService) || !has(self.canaryService) || self.stableService != self.canaryService",
        "stableService and canaryService are the same: give each side a Service of its own",
    )
}

/// There is room to replace pods.
pub(crate) fn room_to_replace() -> Rule {
    rule(
        "!has(self.maxSurge) || !has(self.maxUnavailable) || !(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
        "maxSurge and maxUnavailable are both 0, so no pod can ever be replaced: let one of the two be over 0",
    )
}

/// The evidence begins at or under where it ends, with traffic on both sides.
pub(crate) fn pace_rises() -> Rule {
    rule(
        "(has(self.firstWeight) ? self.firstWeight : 5.0) <= (has(self.maxWeight) ? self.maxWeight : 50.0)",
        "firstWeight (5 where it is not written) must be at most maxWeight (50 where it is not written)",
    )
}

/// A weight at which both sides have traffic.
pub(crate) fn compares_two_sides() -> Rule {
    rule(
        "self > 0.0 && self < 100.0",
        "use more than 0 and less than 100: canary and stable can only be compared while both have traffic",
    )
}

/// An objective leaves an error budget.
pub(crate) fn leaves_a_budget() -> Rule {
    rule(
        "self > 0.0 && self < 100.0",
        "an objective is a percentage over 0 and under 100, for example 99.9: at 100 there is no error budget to spend",
    )
}

/// A probability that bounds something.
pub(crate) fn bounds_false_rollbacks() -> Rule {
    rule(
        "self > 0.0 && self <= 0.1",
        "falseRollbackProbability is over 0 and at most 0.1, for example 0.01",
    )
}

/// No rule of a route is named twice.
pub(crate) fn routes_are_distinct() -> Rule {
    rule(
        "self.all(route, self.exists_one(other, other.name == route.name && (!has(other.rule) || !has(route.rule) || other.rule == route.rule)))",
        "two entries cover the same rule: name each rule once",
    )
}

/// `matchTrafficWeight` is a choice, not a switch.
pub(crate) fn only_true() -> Rule {
    rule(
        "self",
        "only true has a meaning: use replicas or weight to set another size",
    )
}

/// Not all requests are bad ones.
pub(crate) fn errors_are_fewer() -> Rule {
    rule(
        "!has(self.errors) || self.total != self.errors",
        "errors equals total, so that every request would count as bad: select the bad ones, for example by code=~\"5..\"",
    )
}

/// The two sides can be told apart.
pub(crate) fn sides_differ() -> Rule {
    rule(
        "!has(self.canary) || !has(self.stable) || self.canary != self.stable",
        "canary and stable are the same value: give each side its own",
    )
}

/// Whoever lifts a freeze says why.
pub(crate) fn override_has_a_reason() -> Rule {
    rule(
        "self.verb != 'override' || (has(self.reason) && self.reason.matches('[^[:space:]]'))",
        "spec.reason must say why the freeze is lifted: the release will spend errors that the service does not have",
    )
}

/// An analysis asks something.
pub(crate) fn analysis_asks_something() -> Rule {
    rule(
        "(has(self.objectives) && size(self.objectives) > 0) || (has(self.checks) && size(self.checks) > 0)",
        "an analysis needs an objective or a check: add one, for example objectives: [{name: availability, objective: 99.9, indicator: traefik}]",
    )
}

/// The name of an argument.
pub(crate) fn arg_name() -> Rule {
    rule(
        "self.matches('^[a-zA-Z][-_a-zA-Z0-9]*$')",
        "not the name of an argument: use letters, digits, dashes and underscores, beginning with a letter",
    )
}

/// A step waits for a time or for answers.
pub(crate) fn duration_or_names() -> Rule {
    rule(
        "!has(self.duration) || (!has(self.objectives) && !has(self.checks))",
        "an analysis step waits either for a duration or for what it names: keep duration, or objectives and checks",
    )
}

/// A watch needs a router.
pub(crate) fn bake_has_router() -> Rule {
    rule(
        "!has(self.analysis) || !has(self.analysis.bakeTime) || has(self.strategy.canary.trafficRouting)",
        "spec.analysis.bakeTime keeps the old pods to take the traffic back: add spec.strategy.canary.trafficRouting, or remove it",
    )
}

/// Bad requests are counted by one selector, or by one threshold.
pub(crate) fn counts_bad_requests_once() -> Rule {
    rule(
        "!has(self.counters) || has(self.latency) != has(self.counters.errors)",
        "say once which requests are bad: counters.errors selects them, or latency says what is too slow",
    )
}

/// Slow requests are counted by a histogram.
pub(crate) fn counts_a_histogram() -> Rule {
    rule(
        "!has(self.counters) || !has(self.latency) || self.counters.total.matches('^[a-zA-Z_:][a-zA-Z0-9_:]*_(seconds|milliseconds)_count([{].*)?$')",
        "with latency, counters.total is the count of a histogram whose name says its unit, for example http_request_duration_seconds_count{namespace=\"shop\"}",
    )
}

/// The counters tell canary from stable.
pub(crate) fn tells_the_sides() -> Rule {
    rule(
        "!has(self.indicator) || self.indicator != 'envoy-gateway'",
        "Envoy Gateway counts all backends of a rule as one, so that canary and stable cannot be told apart: use the indicator pod, or counters of your own",
    )
}
