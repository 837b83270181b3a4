//! The built-in indicators: which counters a router, a mesh or the pods themselves keep, and how a
//! series tells canary from stable.
//!
//! Each is tested on exposition text as its exporter writes it (`tests/fixtures`). One that cannot
//! tell the two sides apart is refused, with what to write instead: a guess would judge the wrong
//! pods.

use serin_crds::analysis::Indicator;

use crate::matcher::{any_of, either, pods_of, pods_of_all_revisions, quoted};
use crate::request::JudgeRequest;
use crate::routes::{RouteBackend, RouteRule};
use crate::traefik;

/// The counters of an indicator, for one Rollout.
#[derive(Clone, Debug)]
pub(crate) struct BuiltIn {
    /// The counter of requests.
    pub(crate) requests: &'static str,
    /// Matchers of the service's series, every version.
    pub(crate) service: String,
    /// The same, of the two sides only.
    pub(crate) sides: String,
    /// The matcher of bad requests among them.
    pub(crate) bad: &'static str,
    /// The histogram of durations, without its suffix.
    pub(crate) durations: &'static str,
    /// The label that tells the sides.
    pub(crate) label: &'static str,
    /// Its values on the canary side, as a regular expression that matches all of it.
    pub(crate) canary: String,
    /// Its values on the stable side.
    pub(crate) stable: String,
    /// Its values that can be of the Rollout or of somebody else: a regular expression, and what a
    /// person reads.
    pub(crate) unclear: Option<(String, String)>,
    /// Whether it names pods.
    pub(crate) by_pod: bool,
    /// The labels that name the pod of the process that counts, if the scrape adds them: its
    /// namespace and its name.
    pub(crate) exporter: Option<[&'static str; 2]>,
}

/// What Envoy Gateway's users can write instead.
const NO_ENVOY_GATEWAY: &str = "Envoy Gateway counts all backends of a rule as one cluster, so that canary and stable cannot be told apart: use the indicator pod, or \
     counters of your own (docs/indicators.md has those for Envoy)";

impl BuiltIn {
    /// The counters of this indicator, once for each way in which Prometheus can have renamed their
    /// labels: a label that the scrape adds as well becomes `exported_...`, unless the scrape
    /// honors the labels of its target.
    ///
    /// # Errors
    /// What the Rollout lacks for it, with the fix.
    pub(crate) fn layouts(
        indicator: Indicator,
        request: &JudgeRequest,
    ) -> Result<Vec<Self>, String> {
        if indicator == Indicator::EnvoyGateway {
            return Err(NO_ENVOY_GATEWAY.to_owned());
        }
        if indicator == Indicator::Pod {
            return [["namespace", "pod"], ["exported_namespace", "exported_pod"]]
                .into_iter()
                .map(|labels| pod(request, labels))
                .collect();
        }
        let (canary, stable) = services(indicator, request)?;
        match indicator {
            Indicator::Traefik => traefik(request, canary, stable),
            Indicator::Istio => istio(request, canary, stable).map(|only| vec![only]),
            Indicator::Linkerd => linkerd(request, canary, stable).map(|only| vec![only]),
            Indicator::Nginx => Ok(NGINX_LABELS
                .map(|labels| nginx(request, canary, stable, labels))
                .into()),
            Indicator::Pod | Indicator::EnvoyGateway => Ok(Vec::new()),
        }
    }
}

/// The names of the canary's and of the stable Service.
fn services(indicator: Indicator, request: &JudgeRequest) -> Result<(&str, &str), String> {
    match (&request.canary_service, &request.stable_service) {
        (Some(canary), Some(stable)) => Ok((canary, stable)),
        _ => Err(format!(
            "the {} indicator needs strategy.canary.trafficRouting: it counts by the two Services",
            name(indicator)
        )),
    }
}

const fn name(indicator: Indicator) -> &'static str {
    match indicator {
        Indicator::Traefik => "traefik",
        Indicator::EnvoyGateway => "envoy-gateway",
        Indicator::Istio => "istio",
        Indicator::Linkerd => "linkerd",
        Indicator::Nginx => "nginx",
        Indicator::Pod => "pod",
    }
}

/// The pod of the process that counts, as the usual service discovery names it.
const EXPORTER: Option<[&str; 2]> = Some(["namespace", "pod"]);

/// Traefik counts by service; a service is one backend of a route's rule.
fn traefik(request: &JudgeRequest, canary: &str, stable: &str) -> Result<Vec<BuiltIn>, String> {
    let [canary, stable] = [canary, stable].map(|service| traefik::names_of(request, service));
    if canary.service == stable.service {
        return Err(format!(
            "Traefik writes both Services as {}, so that canary and stable cannot be told apart: rename one of them, or use the \
             indicator pod",
            canary.service
        ));
    }
    let unclear: Vec<String> = [canary.unclear, stable.unclear].concat();
    let unclear = canary.why.or(stable.why).map(|why| (any_of(&unclear), why));
    let [canary, stable] = [canary.certain, stable.certain].map(|patterns| any_of(&patterns));
    let of_layout = |label: &'static str| {
        let both = either(&canary, &stable);
        let service = matcher(label, &both);
        let sides = unclear.as_ref().map_or_else(
            || service.clone(),
            |(unclear, _)| matcher(label, &either(&both, unclear)),
        );
        BuiltIn {
            requests: "traefik_service_requests_total",
            service,
            sides,
            bad: "code=~\"5..\"",
            durations: "traefik_service_request_duration_seconds",
            label,
            canary: canary.clone(),
            stable: stable.clone(),
            unclear: unclear.clone(),
            by_pod: false,
            exporter: EXPORTER,
        }
    };
    Ok(["service", "exported_service"].map(of_layout).into())
}

/// Matches a label of the exporter's own: where it was renamed, the label without the prefix is the
/// target's.
fn matcher(label: &str, pattern: &str) -> String {
    let not_renamed = if label.starts_with("exported_") {
        String::new()
    } else {
        format!(",exported_{label}=\"\"")
    };
    format!("{label}=~{}{not_renamed}", quoted(pattern))
}

/// Refuses an indicator that counts by Service alone, if another rule sends requests to one of the
/// two Services.
fn alone(
    indicator: Indicator,
    request: &JudgeRequest,
    is_told: impl Fn(&RouteRule) -> bool,
) -> Result<(), String> {
    let namespace = &request.rollout.namespace;
    let reaches = |rule: &&RouteRule| {
        let of_sides = |backend: &RouteBackend| {
            let service = Some(&backend.service);
            backend.namespace == *namespace
                && (service == request.canary_service.as_ref()
                    || service == request.stable_service.as_ref())
        };
        rule.backends.iter().any(of_sides) && !is_told(rule)
    };
    let Some(other) = request.rules.others.iter().find(reaches) else {
        return Ok(());
    };
    Err(format!(
        "{} sends requests to the same Service without being split, and the {} indicator counts them alike: name that rule in \
         strategy.canary.trafficRouting, give it a Service of its own, or write counters that tell the two apart",
        other.title(),
        name(indicator)
    ))
}

/// Istio's standard metrics as the calling side's proxies tell them: gateways and sidecars alike
/// name the Service that they chose, and count the requests that never reached a pod. What the
/// pods' own proxies tell names no Service that is sure.
fn istio(request: &JudgeRequest, canary: &str, stable: &str) -> Result<BuiltIn, String> {
    alone(Indicator::Istio, request, |_| false)?;
    let [canary, stable] = [canary, stable].map(regex::escape);
    let namespace = quoted(&request.rollout.namespace);
    let both = format!(
        "reporter=\"source\",destination_service_namespace={namespace},destination_service_name=~{}",
        quoted(&either(&canary, &stable))
    );
    Ok(BuiltIn {
        requests: "istio_requests_total",
        service: both.clone(),
        sides: both,
        bad: "response_code=~\"5..\"",
        durations: "istio_request_duration_milliseconds",
        label: "destination_service_name",
        canary,
        stable,
        unclear: None,
        by_pod: false,
        exporter: EXPORTER,
    })
}

/// Linkerd's outbound metrics, by the backend of an HTTPRoute that the calling side's proxies
/// chose. A request without an answer has no status, and is a bad one. They name the route, and not
/// its rule.
fn linkerd(request: &JudgeRequest, canary: &str, stable: &str) -> Result<BuiltIn, String> {
    let namespace = &request.rollout.namespace;
    let split = &request.rules.split;
    let is_other_route = |rule: &RouteRule| {
        rule.namespace != *namespace || split.iter().all(|split| split.route != rule.route)
    };
    alone(Indicator::Linkerd, request, is_other_route)?;
    let [canary, stable] = [canary, stable].map(regex::escape);
    let mut routes: Vec<String> = split
        .iter()
        .map(|rule| regex::escape(&rule.route))
        .collect();
    routes.sort();
    routes.dedup();
    let both = format!(
        "route_kind=\"HTTPRoute\",route_namespace={namespace},route_name=~{},backend_namespace={namespace},backend_name=~{}",
        quoted(&any_of(&routes)),
        quoted(&either(&canary, &stable)),
        namespace = quoted(namespace),
    );
    Ok(BuiltIn {
        requests: "outbound_http_route_backend_response_statuses_total",
        service: both.clone(),
        sides: both,
        bad: "http_status!~\"[1-4]..\"",
        durations: "outbound_http_route_backend_response_duration_seconds",
        label: "backend_name",
        canary,
        stable,
        unclear: None,
        by_pod: false,
        exporter: EXPORTER,
    })
}

/// The labels of ingress-nginx for the namespace and the Service, as scrapes can have renamed them.
const NGINX_LABELS: [[&str; 2]; 4] = [
    ["namespace", "service"],
    ["exported_namespace", "exported_service"],
    ["exported_namespace", "service"],
    ["namespace", "exported_service"],
];

/// ingress-nginx counts by the Service of the main Ingress, and names the canary's upstream,
/// `<ns>-<service>-<port>`, where it served.
fn nginx(request: &JudgeRequest, canary: &str, stable: &str, labels: [&'static str; 2]) -> BuiltIn {
    let namespace = &request.rollout.namespace;
    let upstream = regex::escape(&format!("{namespace}-{canary}"));
    // A dash more can be in the Service's name or in the port's.
    let (canary, unclear) = (
        format!("{upstream}-[a-z0-9]+"),
        format!("{upstream}-[a-z0-9]+-[-a-z0-9]+"),
    );
    let matchers = |pattern: &str| {
        let of = |label, value| matcher(label, &regex::escape(value));
        let pattern = quoted(&format!("(?:{pattern})?"));
        format!(
            "{},{},canary=~{pattern}",
            of(labels[0], namespace),
            of(labels[1], stable)
        )
    };
    let why = format!(
        "ingress-nginx joins a Service and its port by a dash, so that {namespace}-{} with another dash can be another Service: write \
         the port of the canary's Ingress as a number",
        request.canary_service.as_deref().unwrap_or_default()
    );
    BuiltIn {
        requests: "nginx_ingress_controller_requests",
        service: matchers(&canary),
        sides: matchers(&format!("{canary}|{unclear}")),
        bad: "status=~\"5..\"",
        durations: "nginx_ingress_controller_request_duration_seconds",
        label: "canary",
        canary,
        // A label without a value.
        stable: String::new(),
        unclear: Some((unclear, why)),
        by_pod: false,
        exporter: Some(["controller_namespace", "controller_pod"]),
    }
}

/// The pods' own histogram by OpenTelemetry's semantic conventions for HTTP servers, with the
/// labels `namespace` and `pod` of the usual scrape configuration. Series without a status are left
/// out: with them, a service that names its statuses otherwise would seem never to fail.
fn pod(
    request: &JudgeRequest,
    [namespace_label, label]: [&'static str; 2],
) -> Result<BuiltIn, String> {
    let Some(stable) = &request.stable_replica_set else {
        return Err("there is no stable revision to compare with".to_owned());
    };
    let (canary, stable) = (pods_of(&request.canary_replica_set), pods_of(stable));
    let all = pods_of_all_revisions(&request.rollout.name);
    let matchers = |pods: &str| {
        let namespace = quoted(&request.rollout.namespace);
        format!(
            "{namespace_label}={namespace},{label}=~{},http_response_status_code!=\"\"",
            quoted(pods)
        )
    };
    Ok(BuiltIn {
        requests: "http_server_request_duration_seconds_count",
        service: matchers(&all),
        sides: matchers(&either(&canary, &stable)),
        bad: "http_response_status_code=~\"5..\"",
        durations: "http_server_request_duration_seconds",
        label,
        canary,
        stable,
        unclear: None,
        by_pod: true,
        exporter: None,
    })
}
