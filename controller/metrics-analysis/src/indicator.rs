//! The built-in indicators: the counters of a router, a service mesh or the pods themselves, and
//! how their series are assigned to canary and stable.
//!
//! Each indicator is tested on the exposition text of its exporter (`tests/fixtures`). If the two
//! sides cannot be distinguished, the indicator is rejected with instructions: a guess could
//! analyze the wrong pods.

use serin_core::plan::RouteKind;
use serin_crds::analysis::Indicator;

use crate::matcher::{
    alternation, any_of, pod_name_pattern, pod_name_pattern_of_all_revisions, quote,
};
use crate::request::AnalysisRequest;
use crate::routes::{RouteBackend, RouteRule};
use crate::traefik;

/// The counters of an indicator for one Rollout.
#[derive(Clone, Debug)]
pub(crate) struct IndicatorCounters {
    /// Name of the request counter.
    pub(crate) requests: &'static str,
    /// Label matchers of the service's series, across all versions.
    pub(crate) service: String,
    /// Label matchers of the canary and stable series.
    pub(crate) sides: String,
    /// Label matcher of bad requests.
    pub(crate) bad: &'static str,
    /// Histogram of durations, without the suffix of its series.
    pub(crate) durations: &'static str,
    /// Label that distinguishes the sides.
    pub(crate) label: &'static str,
    /// Label values of the canary, as an anchored regular expression.
    pub(crate) canary: String,
    /// Label values of stable, as an anchored regular expression.
    pub(crate) stable: String,
    /// Label values that may belong to the Rollout or to something else: a regular expression, and
    /// the reason for operators.
    pub(crate) ambiguous: Option<(String, String)>,
    /// Whether the label names pods.
    pub(crate) by_pod: bool,
    /// Labels with the namespace and the name of the exporter's pod, if the scrape adds them.
    pub(crate) exporter: Option<[&'static str; 2]>,
}

impl IndicatorCounters {
    /// The counters of this indicator, for each way in which Prometheus may have renamed their
    /// labels. If the scrape adds a label that the series already has, the original label becomes
    /// `exported_...`, unless the scrape sets `honor_labels`.
    ///
    /// # Errors
    /// What the Rollout lacks, and how to fix it.
    pub(crate) fn layouts(
        indicator: Indicator,
        request: &AnalysisRequest,
    ) -> Result<Vec<Self>, String> {
        if indicator == Indicator::Pod {
            return [["namespace", "pod"], ["exported_namespace", "exported_pod"]]
                .into_iter()
                .map(|labels| pod(request, labels))
                .collect();
        }
        let (canary, stable) = services(indicator, request)?;
        check_route_kinds(indicator, request)?;
        match indicator {
            Indicator::Traefik => traefik(request, canary, stable),
            Indicator::Istio => istio(request, canary, stable).map(|only| vec![only]),
            Indicator::Linkerd => linkerd(request, canary, stable).map(|only| vec![only]),
            Indicator::Nginx => Ok(NGINX_LABELS
                .map(|labels| nginx(request, canary, stable, labels))
                .into()),
            Indicator::EnvoyGateway => {
                let cluster = |service: &str| envoy_gateway_cluster(request, service);
                envoy(indicator, request, [canary, stable].map(cluster)).map(|only| vec![only])
            }
            Indicator::Contour => {
                let cluster = |service: &str| contour_cluster(request, service);
                envoy(indicator, request, [canary, stable].map(cluster)).map(|only| vec![only])
            }
            Indicator::Pod => Ok(Vec::new()),
        }
    }
}

/// Rejects an indicator whose counters name the route if a route of another kind is split as well:
/// its requests would be missing.
fn check_route_kinds(indicator: Indicator, request: &AnalysisRequest) -> Result<(), String> {
    if !matches!(indicator, Indicator::Traefik | Indicator::Linkerd) {
        return Ok(());
    }
    let mut split = request.rules.split.iter();
    let Some(other) = split.find(|rule| rule.kind != RouteKind::HttpRoute) else {
        return Ok(());
    };
    Err(format!(
        "the {} indicator counts requests of HTTPRoutes, and {} is split as well: use the indicator \
         pod, or counters of your own",
        indicator_name(indicator),
        other.title()
    ))
}

/// Names of the canary Service and the stable Service.
fn services(indicator: Indicator, request: &AnalysisRequest) -> Result<(&str, &str), String> {
    match (&request.canary_service, &request.stable_service) {
        (Some(canary), Some(stable)) => Ok((canary, stable)),
        _ => Err(format!(
            "the {} indicator needs strategy.canary.trafficRouting: it counts by the two Services",
            indicator_name(indicator)
        )),
    }
}

const fn indicator_name(indicator: Indicator) -> &'static str {
    match indicator {
        Indicator::Traefik => "traefik",
        Indicator::EnvoyGateway => "envoy-gateway",
        Indicator::Contour => "contour",
        Indicator::Istio => "istio",
        Indicator::Linkerd => "linkerd",
        Indicator::Nginx => "nginx",
        Indicator::Pod => "pod",
    }
}

/// Labels of the exporter's pod in the usual service discovery.
const EXPORTER: Option<[&str; 2]> = Some(["namespace", "pod"]);

/// Traefik counts by service. A service is one backend of a route rule.
fn traefik(
    request: &AnalysisRequest,
    canary: &str,
    stable: &str,
) -> Result<Vec<IndicatorCounters>, String> {
    let [canary, stable] = [canary, stable].map(|service| traefik::backend_names(request, service));
    if canary.service == stable.service {
        return Err(format!(
            "Traefik uses the name {} for both Services in its metrics, so canary and stable \
             cannot be distinguished: rename one of them, or use the indicator pod",
            canary.service
        ));
    }
    let unclear: Vec<String> = [canary.ambiguous, stable.ambiguous].concat();
    let unclear = canary.why.or(stable.why).map(|why| (any_of(&unclear), why));
    let [canary, stable] = [canary.certain, stable.certain].map(|patterns| any_of(&patterns));
    let of_layout = |label: &'static str| {
        let both = alternation(&canary, &stable);
        let service = label_matcher(label, &both);
        let sides = unclear.as_ref().map_or_else(
            || service.clone(),
            |(unclear, _)| label_matcher(label, &alternation(&both, unclear)),
        );
        IndicatorCounters {
            requests: "traefik_service_requests_total",
            service,
            sides,
            bad: "code=~\"5..\"",
            durations: "traefik_service_request_duration_seconds",
            label,
            canary: canary.clone(),
            stable: stable.clone(),
            ambiguous: unclear.clone(),
            by_pod: false,
            exporter: EXPORTER,
        }
    };
    Ok(["service", "exported_service"].map(of_layout).into())
}

/// Matches a label of the exporter itself. If it was renamed, the label without the prefix belongs
/// to the target.
fn label_matcher(label: &str, pattern: &str) -> String {
    let not_renamed = if label.starts_with("exported_") {
        String::new()
    } else {
        format!(",exported_{label}=\"\"")
    };
    format!("{label}=~{}{not_renamed}", quote(pattern))
}

/// Rejects an indicator that only counts by Service if another rule sends requests to one of the
/// two Services. Those of a rule that the Rollout has added are counted, and the claim says so.
fn check_not_shared(
    indicator: Indicator,
    request: &AnalysisRequest,
    is_distinguished: impl Fn(&RouteRule) -> bool,
) -> Result<(), String> {
    let namespace = &request.rollout.namespace;
    let reaches = |rule: &&RouteRule| {
        let of_sides = |backend: &RouteBackend| {
            let service = Some(&backend.service);
            backend.namespace == *namespace
                && (service == request.canary_service.as_ref()
                    || service == request.stable_service.as_ref())
        };
        let is_own = request
            .rules
            .split
            .iter()
            .any(|split| split.has_added(rule));
        rule.backends.iter().any(of_sides) && !is_own && !is_distinguished(rule)
    };
    let Some(other) = request.rules.others.iter().find(reaches) else {
        return Ok(());
    };
    Err(format!(
        "{} sends requests to the same Service without being split, and the {} indicator cannot \
         distinguish them: add that rule to strategy.canary.trafficRouting, give it its own \
         Service, or write counters that distinguish the two rules",
        other.title(),
        indicator_name(indicator)
    ))
}

/// Istio's standard metrics, as reported by the proxies of the callers. Gateways and sidecars name
/// the Service that they chose, and also count requests that never reached a pod. The proxies of
/// the pods themselves do not name the Service reliably.
fn istio(
    request: &AnalysisRequest,
    canary: &str,
    stable: &str,
) -> Result<IndicatorCounters, String> {
    check_not_shared(Indicator::Istio, request, |_| false)?;
    let [canary, stable] = [canary, stable].map(regex::escape);
    let namespace = quote(&request.rollout.namespace);
    let both = format!(
        "reporter=\"source\",destination_service_namespace={namespace},destination_service_name=~{}",
        quote(&alternation(&canary, &stable))
    );
    Ok(IndicatorCounters {
        requests: "istio_requests_total",
        service: both.clone(),
        sides: both,
        bad: "response_code=~\"5..\"",
        durations: "istio_request_duration_milliseconds",
        label: "destination_service_name",
        canary,
        stable,
        ambiguous: None,
        by_pod: false,
        exporter: EXPORTER,
    })
}

/// Linkerd's outbound metrics, by the HTTPRoute backend that the proxies of the callers chose. A
/// request without a response has no status and counts as bad. The metrics name the route, but not
/// its rule.
fn linkerd(
    request: &AnalysisRequest,
    canary: &str,
    stable: &str,
) -> Result<IndicatorCounters, String> {
    let namespace = &request.rollout.namespace;
    let split = &request.rules.split;
    let is_other_route = |rule: &RouteRule| {
        let is_same = |split: &RouteRule| (split.kind, &split.route) == (rule.kind, &rule.route);
        rule.namespace != *namespace || !split.iter().any(is_same)
    };
    check_not_shared(Indicator::Linkerd, request, is_other_route)?;
    let [canary, stable] = [canary, stable].map(regex::escape);
    let mut routes: Vec<String> = split
        .iter()
        .map(|rule| regex::escape(&rule.route))
        .collect();
    routes.sort();
    routes.dedup();
    let both = format!(
        "route_kind=\"HTTPRoute\",route_namespace={namespace},route_name=~{},backend_namespace={namespace},backend_name=~{}",
        quote(&any_of(&routes)),
        quote(&alternation(&canary, &stable)),
        namespace = quote(namespace),
    );
    Ok(IndicatorCounters {
        requests: "outbound_http_route_backend_response_statuses_total",
        service: both.clone(),
        sides: both,
        bad: "http_status!~\"[1-4]..\"",
        durations: "outbound_http_route_backend_response_duration_seconds",
        label: "backend_name",
        canary,
        stable,
        ambiguous: None,
        by_pod: false,
        exporter: EXPORTER,
    })
}

/// The cluster that Envoy Gateway makes of a Service that it shares between routes
/// (`mergeBackends`): its kind, namespace, name, port and, if it has one, protocol.
fn envoy_gateway_cluster(request: &AnalysisRequest, service: &str) -> String {
    let [namespace, service] = [request.rollout.namespace.as_str(), service].map(regex::escape);
    format!("service/{namespace}/{service}/[0-9]+(?:/[a-z0-9.]+)?")
}

/// The name in statistics that Contour gives the cluster of a Service: its namespace, name and port.
/// No name of Kubernetes contains an underscore.
fn contour_cluster(request: &AnalysisRequest, service: &str) -> String {
    let [namespace, service] = [request.rollout.namespace.as_str(), service].map(regex::escape);
    format!("{namespace}_{service}_[0-9]+")
}

/// Envoy's statistics of a cluster, for control planes that make one cluster of each Service. They do
/// not name the route. Responses that Envoy makes itself count as well, for example if no pod of the
/// Service can be reached.
fn envoy(
    indicator: Indicator,
    request: &AnalysisRequest,
    [canary, stable]: [String; 2],
) -> Result<IndicatorCounters, String> {
    check_not_shared(indicator, request, |_| false)?;
    let both = format!(
        "envoy_cluster_name=~{}",
        quote(&alternation(&canary, &stable))
    );
    Ok(IndicatorCounters {
        requests: "envoy_cluster_upstream_rq_xx",
        service: both.clone(),
        sides: both,
        bad: "envoy_response_code_class=\"5\"",
        durations: "envoy_cluster_upstream_rq_time",
        label: "envoy_cluster_name",
        canary,
        stable,
        ambiguous: None,
        by_pod: false,
        exporter: EXPORTER,
    })
}

/// Labels of ingress-nginx for the namespace and the Service, including the names that they may
/// have after renaming.
const NGINX_LABELS: [[&str; 2]; 4] = [
    ["namespace", "service"],
    ["exported_namespace", "exported_service"],
    ["exported_namespace", "service"],
    ["namespace", "exported_service"],
];

/// ingress-nginx counts by the namespace and the Service of the main Ingress. Requests that the
/// canary served also name its upstream, `<ns>-<service>-<port>`. Upstreams of one name are one
/// upstream to ingress-nginx, so a request to this Ingress that names the canary's was served by it.
fn nginx(
    request: &AnalysisRequest,
    canary: &str,
    stable: &str,
    labels: [&'static str; 2],
) -> IndicatorCounters {
    let namespace = &request.rollout.namespace;
    let upstream = regex::escape(&format!("{namespace}-{canary}"));
    // An additional dash may belong to the name of the Service or of the port.
    let (canary, unclear) = (
        format!("{upstream}-[a-z0-9]+"),
        format!("{upstream}-[a-z0-9]+-[-a-z0-9]+"),
    );
    let matchers = |pattern: &str| {
        let matcher = |label, value| label_matcher(label, &regex::escape(value));
        let pattern = quote(&format!("(?:{pattern})?"));
        format!(
            "{},{},canary=~{pattern}",
            matcher(labels[0], namespace),
            matcher(labels[1], stable)
        )
    };
    let why = format!(
        "ingress-nginx joins a Service and its port with a dash, so {namespace}-{} with another \
         dash can be another Service: write the port of the canary's Ingress as a number",
        request.canary_service.as_deref().unwrap_or_default()
    );
    IndicatorCounters {
        requests: "nginx_ingress_controller_requests",
        service: matchers(&canary),
        sides: matchers(&format!("{canary}|{unclear}")),
        bad: "status=~\"5..\"",
        durations: "nginx_ingress_controller_request_duration_seconds",
        label: "canary",
        canary,
        // Empty label value.
        stable: String::new(),
        ambiguous: Some((unclear, why)),
        by_pod: false,
        exporter: Some(["controller_namespace", "controller_pod"]),
    }
}

/// The histogram of the pods themselves, according to OpenTelemetry's semantic conventions for HTTP
/// servers, with the labels `namespace` and `pod` of the usual scrape configuration. Series without
/// a status code are excluded. Otherwise a service that uses another status label would seem never
/// to fail.
fn pod(
    request: &AnalysisRequest,
    [namespace_label, label]: [&'static str; 2],
) -> Result<IndicatorCounters, String> {
    let Some(stable) = &request.stable_replica_set else {
        return Err("there is no stable revision to compare with".to_owned());
    };
    let replica_sets = [request.canary_replica_set.as_str(), stable];
    let [canary, stable] = replica_sets.map(pod_name_pattern);
    let all = pod_name_pattern_of_all_revisions(&request.rollout.name, &replica_sets);
    let matchers = |pods: &str| {
        let namespace = quote(&request.rollout.namespace);
        format!(
            "{namespace_label}={namespace},{label}=~{},http_response_status_code!=\"\"",
            quote(pods)
        )
    };
    Ok(IndicatorCounters {
        requests: "http_server_request_duration_seconds_count",
        service: matchers(&all),
        sides: matchers(&alternation(&canary, &stable)),
        bad: "http_response_status_code=~\"5..\"",
        durations: "http_server_request_duration_seconds",
        label,
        canary,
        stable,
        ambiguous: None,
        by_pod: true,
        exporter: None,
    })
}
