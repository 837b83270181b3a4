//! CEL validation rules, which the API server evaluates at admission.
//!
//! Each message says how to fix the problem. The rules reject early what
//! [`crate::rollout::RolloutSpec::plan`] rejects in any case, so that the author of a mistake sees
//! it at once. The size limits in the schema bound their cost.

use kube::core::{Message, Rule};

fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(Message::Message(message.into()))
}

pub(crate) fn duration() -> Rule {
    rule(
        "self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h|d))+$')",
        "not a duration: write a number with a unit of ms, s, m, h or d, for example 30s, 10m or 1h30m",
    )
}

pub(crate) fn pods_or_percentage() -> Rule {
    rule(
        "string(self).matches('^([0-9]+|([0-9]|[1-9][0-9]|100)%)$')",
        "use a number of pods, for example 1, or a percentage of replicas in quotes, for example \"25%\"",
    )
}

pub(crate) fn is_not_zero() -> Rule {
    rule(
        "!(string(self) in ['0', '0%'])",
        "must be more than 0: no pod would be waited for",
    )
}

pub(crate) fn percentage() -> Rule {
    rule(
        "self.matches('^([0-9]|[1-9][0-9]|100)([.][0-9]+)?%$')",
        "not a percentage: write a number from 0 to 100 and a percent sign, for example 2%",
    )
}

pub(crate) fn service_name() -> Rule {
    rule(
        "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "not a valid Service name: use at most 63 lowercase letters, digits and dashes, starting with a letter",
    )
}

pub(crate) fn object_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "not a valid object name: use the metadata.name of the object, which consists of lowercase letters, digits, dashes and dots",
    )
}

pub(crate) fn label_name() -> Rule {
    rule(
        "self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')",
        "not a valid Prometheus label name: use letters, digits and underscores, for example pod",
    )
}

pub(crate) fn prometheus_address() -> Rule {
    rule(
        "self.matches('^https?://[^/?#@[:space:]]+(/[^?#[:space:]]*)?$')",
        "not a base URL: use http or https with host and port and without user name and password, for example http://prometheus.monitoring:9090",
    )
}

pub(crate) fn data_key() -> Rule {
    rule(
        "self.matches('^[-._a-zA-Z0-9]+$')",
        "not a valid key of a Secret or ConfigMap: use letters, digits, dashes, dots and underscores, for example ca.crt",
    )
}

pub(crate) fn credentials_require_address() -> Rule {
    rule(
        "has(self.address) || (!has(self.headersFrom) && !has(self.tls))",
        "headersFrom and tls require an address: add address, for example https://prometheus.monitoring:9090",
    )
}

pub(crate) fn tls_requires_https() -> Rule {
    rule(
        "!has(self.tls) || !has(self.address) || self.address.startsWith('https://')",
        "tls requires an https address: change address to https://..., or remove tls",
    )
}

pub(crate) fn headers_require_https() -> Rule {
    rule(
        "!has(self.headersFrom) || !has(self.address) || self.address.startsWith('https://') || (has(self.allowInsecureHeaders) && self.allowInsecureHeaders)",
        "headersFrom would be sent unencrypted: change address to https://..., or set allowInsecureHeaders: true",
    )
}

pub(crate) fn tls_is_not_empty() -> Rule {
    rule(
        "has(self.caFrom) || has(self.clientCertificateFrom)",
        "tls is empty: set caFrom, clientCertificateFrom or both, or remove tls",
    )
}

pub(crate) fn exactly_one_ca_source() -> Rule {
    rule(
        "has(self.configMapKeyRef) != has(self.secretKeyRef)",
        "caFrom must have exactly one source: set either configMapKeyRef or secretKeyRef",
    )
}

pub(crate) fn rollout_name() -> Rule {
    rule(
        "size(self.metadata.name) <= 63",
        "metadata.name must fit into a label value: use at most 63 characters",
    )
}

pub(crate) fn selector_is_immutable() -> Rule {
    rule(
        "self == oldSelf",
        "spec.selector is immutable: create a Rollout with another name, move the traffic to it, then delete this one",
    )
}

pub(crate) fn selector_is_not_empty() -> Rule {
    rule(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
        "an empty selector selects every pod in the namespace: set matchLabels to a label of the template, for example {app: NAME}",
    )
}

pub(crate) fn template_matches_selector() -> Rule {
    rule(
        "!has(self.selector) || !has(self.template) || !has(self.selector.matchLabels) || (has(self.template.metadata) && has(self.template.metadata.labels) \
         && self.selector.matchLabels.all(key, key in self.template.metadata.labels && self.template.metadata.labels[key] == self.selector.matchLabels[key]))",
        "spec.template.metadata.labels must contain every label of spec.selector.matchLabels with the same value: add the missing labels",
    )
}

pub(crate) fn template_or_workload_ref() -> Rule {
    rule(
        "has(self.workloadRef) ? (!has(self.template) && !has(self.selector)) : (has(self.selector) && (has(self.template) || (has(self.mode) && self.mode == 'Observe')))",
        "the pods must be described exactly once: set spec.selector and spec.template, or spec.workloadRef; with spec.mode Observe, spec.selector suffices",
    )
}

pub(crate) fn observe_mode_is_set_at_creation() -> Rule {
    rule(
        "!has(self.mode) || self.mode != 'Observe' || (has(oldSelf.mode) && oldSelf.mode == 'Observe')",
        "spec.mode cannot become Observe while the Rollout manages pods: create another Rollout with mode Observe",
    )
}

pub(crate) fn adopt_requires_template() -> Rule {
    rule(
        "!has(self.adopt) || !has(self.workloadRef)",
        "spec.workloadRef takes over its Deployment already: remove spec.adopt, or replace spec.workloadRef with spec.selector and spec.template",
    )
}

pub(crate) fn anti_affinity_excludes_adoption() -> Rule {
    rule(
        "!(has(self.workloadRef) || has(self.adopt)) || !((has(self.strategy.canary) && has(self.strategy.canary.antiAffinity)) || (has(self.strategy.blueGreen) && has(self.strategy.blueGreen.antiAffinity)))",
        "antiAffinity changes the pods, so that a Deployment would restart them when they are given back: remove it, or remove workloadRef and adopt",
    )
}

pub(crate) fn workload_api_version() -> Rule {
    rule(
        "self == 'apps/v1'",
        "use apps/v1, the API version of Deployments",
    )
}

pub(crate) fn workload_kind() -> Rule {
    rule(
        "self == 'Deployment'",
        "only a Deployment can be taken over: StatefulSets, DaemonSets and other kinds replace their pods in an order of their own. Use kind Deployment",
    )
}

pub(crate) fn scale_down_requires_second_fleet() -> Rule {
    rule(
        "!has(self.scaleDown) || (has(self.takeover) && self.takeover == 'SecondFleet')",
        "scaleDown is for a second fleet of pods, which a takeover in place does not create: remove scaleDown, or set takeover to SecondFleet",
    )
}

pub(crate) fn no_reserved_labels() -> Rule {
    rule(
        "self.all(key, !key.startsWith('serin.dev/'))",
        "labels with the prefix serin.dev/ are reserved for the controller: remove them",
    )
}

pub(crate) fn no_reserved_side_labels() -> Rule {
    rule(
        "self.all(key, !key.startsWith('serin.dev/') && key != 'pod-template-hash')",
        "labels with the prefix serin.dev/ and the label pod-template-hash are reserved for the controller: use other keys",
    )
}

pub(crate) fn no_reserved_side_annotations() -> Rule {
    rule(
        "self.all(key, !key.startsWith('serin.dev/'))",
        "annotations with the prefix serin.dev/ are reserved for the controller: use other keys",
    )
}

pub(crate) fn observe_mode_compares_two_sides() -> Rule {
    rule(
        "!has(self.mode) || self.mode != 'Observe' || !has(self.strategy.blueGreen)",
        "spec.mode Observe compares two sides that have traffic at the same time, which blueGreen does not have: use strategy.canary, or remove mode",
    )
}

pub(crate) fn restart_time() -> Rule {
    rule(
        "self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$')",
        "not a time: write date and time with their offset from UTC, for example 2027-01-31T12:00:00Z",
    )
}

pub(crate) fn deadline_exceeds_min_ready() -> Rule {
    rule(
        "(has(self.progressDeadlineSeconds) ? self.progressDeadlineSeconds : 600) > (has(self.minReadySeconds) ? self.minReadySeconds : 0)",
        "spec.progressDeadlineSeconds (default 600) must be greater than spec.minReadySeconds: otherwise no pod can become available in time",
    )
}

pub(crate) fn analysis_step_requires_analysis() -> Rule {
    rule(
        "has(self.analysis) || !has(self.strategy.canary) || !has(self.strategy.canary.steps) || self.strategy.canary.steps.all(step, !has(step.analysis))",
        "an analysis step needs evidence, but spec.analysis is not set: add spec.analysis with objectives, or remove the step",
    )
}

pub(crate) fn pace_requires_analysis() -> Rule {
    rule(
        "has(self.analysis) || !has(self.strategy.canary) || !has(self.strategy.canary.pace)",
        "spec.strategy.canary.pace needs evidence, but spec.analysis is not set: add spec.analysis with objectives, or replace pace with steps",
    )
}

pub(crate) fn indicator_requires_router() -> Rule {
    rule(
        "!has(self.analysis) || ((has(self.strategy.canary) && has(self.strategy.canary.trafficRouting)) || (has(self.strategy.blueGreen) && has(self.strategy.blueGreen.trafficRouting))) || !has(self.analysis.objectives) || self.analysis.objectives.all(objective, !has(objective.indicator) || objective.indicator == 'pod')",
        "an indicator other than pod reads the router's metrics, but there is no router: add trafficRouting to the strategy, or use the indicator pod or custom counters",
    )
}

pub(crate) fn exactly_one_strategy() -> Rule {
    rule(
        "has(self.canary) != has(self.blueGreen)",
        "exactly one of canary and blueGreen is required: set one of them, and remove the other",
    )
}

pub(crate) fn blue_green_services_differ() -> Rule {
    rule(
        "!has(self.previewService) || self.activeService != self.previewService",
        "activeService and previewService are the same: use two different Services",
    )
}

pub(crate) fn steps_or_pace() -> Rule {
    rule(
        "!has(self.steps) || !has(self.pace)",
        "steps and pace are mutually exclusive: keep one of the two",
    )
}

pub(crate) fn fields_require_router() -> Rule {
    rule(
        "has(self.trafficRouting) || !(has(self.pace) || has(self.minPodsPerReplicaSet) || (has(self.dynamicStableScale) && self.dynamicStableScale))",
        "dynamicStableScale, minPodsPerReplicaSet and pace require a router: add trafficRouting, or remove them",
    )
}

pub(crate) fn both_services_without_router() -> Rule {
    rule(
        "has(self.trafficRouting) || has(self.stableService) == has(self.canaryService)",
        "without trafficRouting stableService and canaryService need each other: set both, or remove both",
    )
}

pub(crate) fn managed_route_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "not a valid name of a managed route: use at most 63 lowercase letters, digits and dashes",
    )
}

pub(crate) fn header_or_cookie() -> Rule {
    rule(
        "has(self.headerName) == has(self.headerValue) && has(self.headerName) != has(self.cookie)",
        "a match is one header or one cookie: set headerName and headerValue, or cookie",
    )
}

pub(crate) fn one_string_match() -> Rule {
    rule(
        "[has(self.exact), has(self.prefix), has(self.regex)].filter(x, x).size() == 1",
        "a condition on a text needs exactly one of exact, prefix and regex: set one of them",
    )
}

pub(crate) fn a_condition_is_set() -> Rule {
    rule(
        "has(self.method) || has(self.path) || has(self.headers)",
        "a match needs a condition: set method, path or headers, for example path: {prefix: /} for every request",
    )
}

pub(crate) fn steps_require_router() -> Rule {
    rule(
        "has(self.trafficRouting) || !has(self.steps) || self.steps.all(step, !has(step.setCanaryScale) && !has(step.setHeaderRoute) && !has(step.setMirrorRoute))",
        "setCanaryScale, setHeaderRoute and setMirrorRoute require a router, because without one the replica counts determine the weights: add trafficRouting, or use setWeight",
    )
}

pub(crate) fn services_differ() -> Rule {
    rule(
        "!has(self.stableService) || !has(self.canaryService) || self.stableService != self.canaryService",
        "stableService and canaryService are the same: use two different Services",
    )
}

pub(crate) fn pods_can_be_replaced() -> Rule {
    rule(
        "!has(self.maxSurge) || !has(self.maxUnavailable) || !(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
        "maxSurge and maxUnavailable are both 0, so no pod can be replaced: set one of them to more than 0",
    )
}

pub(crate) fn first_weight_is_at_most_max_weight() -> Rule {
    rule(
        "(has(self.firstWeight) ? self.firstWeight : 5.0) <= (has(self.maxWeight) ? self.maxWeight : 50.0)",
        "firstWeight (default 5) must be at most maxWeight (default 50): lower firstWeight, or raise maxWeight",
    )
}

pub(crate) fn weight_splits_traffic() -> Rule {
    rule(
        "self > 0.0 && self < 100.0",
        "must be more than 0 and less than 100: canary and stable can only be compared while both receive traffic",
    )
}

pub(crate) fn objective_leaves_error_budget() -> Rule {
    rule(
        "self > 0.0 && self < 100.0",
        "objective must be a percentage above 0 and below 100, for example 99.9: at 100 there is no error budget",
    )
}

pub(crate) fn false_rollback_probability() -> Rule {
    rule(
        "self > 0.0 && self <= 0.1",
        "falseRollbackProbability must be above 0 and at most 0.1, for example 0.01",
    )
}

pub(crate) fn routes_are_distinct() -> Rule {
    rule(
        "self.all(route, self.exists_one(other, other.name == route.name && (!has(other.rule) || !has(route.rule) || other.rule == route.rule)))",
        "two entries select the same rule: list each rule once",
    )
}

pub(crate) fn a_router_is_set() -> Rule {
    rule(
        "has(self.gatewayAPI) || has(self.istio) || has(self.nginx) || has(self.traefik) || has(self.contour) || has(self.apisix)",
        "trafficRouting needs a router: set gatewayAPI, istio, nginx, traefik, contour or apisix",
    )
}

pub(crate) fn a_route_is_set() -> Rule {
    rule(
        "has(self.httpRoute) || has(self.httpRoutes) || has(self.grpcRoutes) || has(self.tlsRoutes) || has(self.tcpRoutes)",
        "at least one route is required: set httpRoute, httpRoutes, grpcRoutes, tlsRoutes or tcpRoutes",
    )
}

pub(crate) fn one_way_to_name_http_routes() -> Rule {
    rule(
        "!has(self.httpRoute) || !has(self.httpRoutes)",
        "httpRoute and httpRoutes exclude each other: set httpRoute for one route, or httpRoutes for several",
    )
}

pub(crate) fn routes_are_few() -> Rule {
    rule(
        "(has(self.httpRoute) ? 1 : 0) + (has(self.httpRoutes) ? self.httpRoutes.size() : 0) + (has(self.grpcRoutes) ? self.grpcRoutes.size() : 0) + (has(self.tlsRoutes) ? self.tlsRoutes.size() : 0) + (has(self.tcpRoutes) ? self.tcpRoutes.size() : 0) <= 16",
        "at most 16 routes and rules are possible: name whole routes instead of their rules, or fewer routes",
    )
}

pub(crate) fn virtual_services_are_distinct() -> Rule {
    rule(
        "self.all(service, self.exists_one(other, other.name == service.name))",
        "two entries have the same name: list all routes of a VirtualService in one entry",
    )
}

pub(crate) fn names_are_distinct() -> Rule {
    rule(
        "self.all(item, self.exists_one(other, other.name == item.name))",
        "two entries have the same name: list each object once",
    )
}

pub(crate) fn a_traefik_object_is_set() -> Rule {
    rule(
        "has(self.traefikServices) || has(self.ingressRoutes)",
        "the router is missing: set traefikServices or ingressRoutes",
    )
}

pub(crate) fn a_match_is_set() -> Rule {
    rule(
        "has(self.port) || has(self.sniHosts)",
        "set port, sniHosts or both to what the route matches",
    )
}

pub(crate) fn only_true() -> Rule {
    rule(
        "self",
        "only true is allowed: to set another size, use replicas or weight",
    )
}

pub(crate) fn errors_differ_from_total() -> Rule {
    rule(
        "!has(self.errors) || self.total != self.errors",
        "errors equals total, so every request would count as bad: select only the bad requests, for example with code=~\"5..\"",
    )
}

pub(crate) fn variant_values_differ() -> Rule {
    rule(
        "!has(self.canary) || !has(self.stable) || self.canary != self.stable",
        "canary and stable have the same value, so they cannot be distinguished: use two different values",
    )
}

pub(crate) fn override_requires_reason() -> Rule {
    rule(
        "self.verb != 'override' || (has(self.reason) && self.reason.matches('[^[:space:]]'))",
        "spec.reason is required for override: state why the release must continue although the error budget is exhausted, or why its analysis must change",
    )
}

pub(crate) fn only_override_adopts_analysis() -> Rule {
    rule(
        "self.verb == 'override' || !has(self.adoptAnalysis) || !self.adoptAnalysis",
        "spec.adoptAnalysis is permitted for override only: remove it, or set spec.verb to override",
    )
}

pub(crate) fn analysis_is_not_empty() -> Rule {
    rule(
        "(has(self.objectives) && size(self.objectives) > 0) || (has(self.checks) && size(self.checks) > 0)",
        "an analysis needs at least one objective or check: add one, for example objectives: [{name: availability, objective: 99.9, indicator: traefik}]",
    )
}

pub(crate) fn argument_name() -> Rule {
    rule(
        "self.matches('^[a-zA-Z][-_a-zA-Z0-9]*$')",
        "not a valid argument name: use letters, digits, dashes and underscores, starting with a letter",
    )
}

pub(crate) fn duration_or_names() -> Rule {
    rule(
        "!has(self.duration) || (!has(self.objectives) && !has(self.checks))",
        "an analysis step waits either for a duration or for the named objectives and checks: keep duration, or objectives and checks",
    )
}

pub(crate) fn bake_requires_router() -> Rule {
    rule(
        "!has(self.analysis) || !has(self.analysis.bakeTime) || has(self.strategy.blueGreen) || (has(self.strategy.canary) && has(self.strategy.canary.trafficRouting))",
        "spec.analysis.bakeTime requires a router, which moves the traffic back after a breach: add spec.strategy.canary.trafficRouting, or remove bakeTime",
    )
}

pub(crate) fn bad_requests_are_defined_once() -> Rule {
    rule(
        "!has(self.counters) || has(self.latency) != has(self.counters.errors)",
        "bad requests must be defined exactly once: set either counters.errors or latency",
    )
}

pub(crate) fn latency_requires_histogram() -> Rule {
    rule(
        "!has(self.counters) || !has(self.latency) || self.counters.total.matches('^[a-zA-Z_:][a-zA-Z0-9_:]*_(seconds|milliseconds)_count([{].*)?$')",
        "with latency, counters.total must be the count series of a histogram with its unit in the name, for example http_request_duration_seconds_count{namespace=\"shop\"}",
    )
}

pub(crate) fn latency_counts_requests() -> Rule {
    rule(
        "!has(self.latency) || !has(self.counters) || !has(self.counters.unit) || self.counters.unit == 'Request'",
        "a latency objective counts requests, because its histogram does: remove counters.unit, or replace latency with counters of slow sessions",
    )
}

pub(crate) fn calibration_distinguishes_pods() -> Rule {
    rule(
        "!has(self.calibration) || (!has(self.endpointLabel) && (has(self.indicator) ? self.indicator == 'pod' : (!has(self.counters) || !has(self.counters.variants) || !has(self.counters.variants.label))))",
        "calibration needs placebo releases, which compare pods and add up all endpoints: use the indicator pod or counters with variants.podLabel, and remove endpointLabel, or remove calibration",
    )
}

pub(crate) fn baseline_distinguishes_pods() -> Rule {
    rule(
        "!has(self.baseline) || !has(self.objectives) || self.objectives.all(objective, has(objective.indicator) ? objective.indicator == 'pod' : (!has(objective.counters) || !has(objective.counters.variants) || !has(objective.counters.variants.label)))",
        "baseline needs objectives that distinguish pods, because its pods are behind the same Service as all other stable pods: use the indicator pod or counters with variants.podLabel in each objective, or remove baseline",
    )
}

pub(crate) fn baseline_requires_router() -> Rule {
    rule(
        "!has(self.analysis) || !has(self.analysis.baseline) || (has(self.strategy.canary) && has(self.strategy.canary.trafficRouting) && !(has(self.strategy.canary.dynamicStableScale) && self.strategy.canary.dynamicStableScale) && !(has(self.mode) && self.mode == 'Observe'))",
        "spec.analysis.baseline requires spec.strategy.canary.trafficRouting, and excludes dynamicStableScale, which would remove its pods, and mode Observe: change them, or remove baseline",
    )
}

/// The sizes are those of [`crate::plan`], in KiB.
pub(crate) fn checkpoint_fits_into_status() -> Rule {
    rule(
        "!has(self.objectives) || 12 * size(self.objectives) + 16 * size(self.objectives.filter(objective, has(objective.latency) && has(objective.latency.guard))) + 14 * size(self.objectives.filter(objective, has(objective.endpointLabel))) <= 256",
        "the state of these objectives can exceed the 256 KiB that fit into the status: with 8 objectives that have latency.guard, at most 2 may have endpointLabel; use fewer objectives, or remove endpointLabel or latency.guard from some of them",
    )
}

pub(crate) fn date_or_time() -> Rule {
    rule(
        "self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2}))?$')",
        "neither a date nor a time: write a date, for example 2027-01-31, or a time, for example 2027-01-31T12:00:00Z",
    )
}

pub(crate) fn guardrail_name() -> Rule {
    rule(
        "self in ['resources', 'imagePinned', 'imageSignature', 'probes', 'networkPolicy', 'podSecurity', 'secretsManager', 'vulnerabilities', 'policyReports', 'observability', 'disruptionBudget', 'spread', 'priority'] || self.matches('^custom/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "not a guardrail: use the name of a guardrail in a RolloutPolicy, for example networkPolicy, or custom/NAME",
    )
}

pub(crate) fn signature_source() -> Rule {
    rule(
        "!has(self.keys) || size(self.keys) == 0 || !has(self.verifiers)",
        "keys are checked in the registry, and verifiers are policy engines of the cluster: remove one of them",
    )
}

pub(crate) fn exception_reason() -> Rule {
    rule(
        "self.matches('[^[:space:]]')",
        "an exception needs a reason: state why the release may violate the guardrail until its end",
    )
}

/// Characters that end a string literal of PromQL or CEL, or begin a placeholder, are excluded, so
/// that a value stays a part of the literal in which it is used.
pub(crate) fn parameter_value() -> Rule {
    rule(
        r"self.matches('^[^\\x22\\x27\\x60\\x5c{}[:cntrl:]]*$')",
        "the value of a parameter must not contain quotes, backquotes, backslashes, braces or control characters: remove them",
    )
}

pub(crate) fn forwarded_parameter_value() -> Rule {
    rule(
        r"self.matches('^([^\\x22\\x27\\x60\\x5c{}[:cntrl:]]|[{][{](parameters[.][-_a-zA-Z0-9]+|rollout[.]name|rollout[.]namespace)[}][}])*$')",
        "the value of a parameter must not contain quotes, backquotes, backslashes, braces or control characters, except {{parameters.NAME}} in a definition: remove them",
    )
}

pub(crate) fn one_source_of_an_indicator() -> Rule {
    rule(
        "!has(self.indicator) || !has(self.counters)",
        "an indicator has at most one source of counters: keep one of indicator and counters",
    )
}

pub(crate) fn one_source_of_a_definition() -> Rule {
    rule(
        "[has(self.indicator), has(self.counters), has(self.indicatorRef)].filter(x, x).size() <= 1",
        "a definition has at most one source of counters: keep one of indicator, counters and indicatorRef",
    )
}

pub(crate) fn one_source_of_an_objective() -> Rule {
    rule(
        "[has(self.indicator), has(self.counters), has(self.indicatorRef)].filter(x, x).size() == 1 || (has(self.ref) && !has(self.indicator) && !has(self.counters) && !has(self.indicatorRef))",
        "an objective needs exactly one source of counters: set either indicator or counters, or indicatorRef, or refer to a whole objective with ref",
    )
}

pub(crate) fn objective_is_complete() -> Rule {
    rule(
        "has(self.ref) || (has(self.name) && has(self.objective))",
        "an objective needs name and objective: add them, or refer to the objective of a policy or template with ref",
    )
}

pub(crate) fn check_is_complete() -> Rule {
    rule(
        "has(self.ref) || (has(self.name) && (!has(self.query) || has(self.condition)))",
        "a check needs a name, and a query needs a condition: add them, or refer to the check of a policy or template with ref",
    )
}

pub(crate) fn one_source_of_a_check() -> Rule {
    rule(
        "has(self.ref) ? !has(self.http) && !has(self.job) : [has(self.query), has(self.http), has(self.job)].filter(x, x).size() == 1",
        "a check needs exactly one of query, http and job, and with ref neither http nor job: keep one of them",
    )
}

pub(crate) fn job_has_a_phase() -> Rule {
    rule(
        "!has(self.job) || (has(self.phase) && self.phase != 'release' && !has(self.condition) && !has(self.interval))",
        "a Job runs once and its success decides: set phase to step, beforeTraffic, beforePromotion or bake, and remove condition and interval",
    )
}

pub(crate) fn http_check_url() -> Rule {
    rule(
        "self.matches('^https?://[^/?#@[:space:]]+(/[^#[:space:]]*)?$')",
        "not a URL for a check: use http or https with host and port, without user name, password and fragment, for example http://checkout-canary.shop.svc:8080/healthz",
    )
}

pub(crate) fn header_name() -> Rule {
    rule(
        "self.matches('^[-A-Za-z0-9_]+$') && !(self.lowerAscii() in ['connection', 'content-length', 'host', 'te', 'transfer-encoding', 'upgrade'])",
        "not an allowed header name: use letters, digits, dashes and underscores, for example Authorization, and no header of the connection",
    )
}

pub(crate) fn header_value() -> Rule {
    rule(
        "self.matches('^[ -~]*$')",
        "not a valid header value: use printable ASCII characters",
    )
}

pub(crate) fn exactly_one_header_value() -> Rule {
    rule(
        "has(self.value) != has(self.valueFrom)",
        "a header needs exactly one of value and valueFrom: keep one of them",
    )
}

pub(crate) fn secret_headers_require_https() -> Rule {
    rule(
        "!has(self.headers) || self.headers.all(header, !has(header.valueFrom)) || self.url.startsWith('https://') || (has(self.allowInsecureHeaders) && self.allowInsecureHeaders)",
        "a header from a Secret would be sent unencrypted: change url to https://..., or set allowInsecureHeaders: true",
    )
}

pub(crate) fn one_kind_of_gate() -> Rule {
    rule(
        "has(self.approval) != has(self.object)",
        "a gate waits for exactly one thing: set approval or object",
    )
}

pub(crate) fn on_expiry_requires_expire_after() -> Rule {
    rule(
        "!has(self.onExpiry) || has(self.expireAfter)",
        "onExpiry requires expireAfter: add expireAfter, for example 24h, or remove onExpiry",
    )
}

pub(crate) fn a_cluster_object_has_no_namespace() -> Rule {
    rule(
        "!has(self.namespace) || !has(self.clusterScoped) || !self.clusterScoped",
        "an object of the cluster has no namespace: remove namespace or clusterScoped",
    )
}

pub(crate) fn secrets_are_no_gates() -> Rule {
    rule(
        "self.resource != 'secrets' || self.apiVersion.contains('/')",
        "a gate must not read Secrets: use another object, for example a ConfigMap",
    )
}

pub(crate) fn api_version() -> Rule {
    rule(
        "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[0-9][a-z0-9]*$')",
        "not a group and version: write for example v1, batch/v1 or cert-manager.io/v1",
    )
}

pub(crate) fn resource_name() -> Rule {
    rule(
        "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "not a resource: use the plural name in lowercase as in an RBAC rule, for example jobs",
    )
}

pub(crate) fn reference_fields_require_ref() -> Rule {
    rule(
        "has(self.ref) || (!has(self.analysisTemplate) && !has(self.parameters))",
        "analysisTemplate and parameters belong to a reference: add ref, or remove them",
    )
}

pub(crate) fn names_or_refs_are_unique() -> Rule {
    rule(
        "self.all(one, self.exists_one(other, (has(other.name) ? other.name : (has(other.ref) ? other.ref : '')) == (has(one.name) ? one.name : (has(one.ref) ? one.ref : ''))))",
        "two entries have the same name: names must be unique, and the name of a reference is that of ref unless name is set",
    )
}
