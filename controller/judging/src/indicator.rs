//! The built-in indicators: which counters a router, a mesh or the pods themselves keep, and how a series tells canary from stable.
//!
//! Each is tested on exposition text as its exporter writes it (`tests/fixtures`). One that cannot tell the two sides apart is refused, with
//! what to write instead: a guess would judge the wrong pods.

use serin_crds::analysis::Indicator;

use crate::request::JudgeRequest;
use crate::selector::{either, pods_of, quoted};

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
    /// Whether it names pods.
    pub(crate) by_pod: bool,
}

/// What Envoy Gateway's users can write instead.
const NO_ENVOY_GATEWAY: &str = "Envoy Gateway counts all backends of a rule as one cluster, so that canary and stable cannot be told apart: use the indicator pod, or \
     counters of your own (docs/indicators.md has those for Envoy)";

impl BuiltIn {
    /// The counters of this indicator.
    ///
    /// # Errors
    /// What the Rollout lacks for it, with the fix.
    pub(crate) fn new(indicator: Indicator, request: &JudgeRequest) -> Result<Self, String> {
        match indicator {
            Indicator::EnvoyGateway => Err(NO_ENVOY_GATEWAY.to_owned()),
            Indicator::Pod => pod(request),
            Indicator::Traefik => services(indicator, request).map(|(canary, stable)| traefik(request, canary, stable)),
            Indicator::Istio => services(indicator, request).map(|(canary, stable)| istio(request, canary, stable)),
            Indicator::Linkerd => services(indicator, request).map(|(canary, stable)| linkerd(request, canary, stable)),
            Indicator::Nginx => services(indicator, request).map(|(canary, stable)| nginx(request, canary, stable)),
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

/// Traefik counts by service; a service is one backend of a route's rule.
fn traefik(request: &JudgeRequest, canary: &str, stable: &str) -> BuiltIn {
    let namespace = &request.rollout.namespace;
    let [canary, stable] = [canary, stable].map(|service| traefik_service(namespace, service));
    let both = format!("service=~{}", quoted(&either(&canary, &stable)));
    BuiltIn {
        requests: "traefik_service_requests_total",
        service: both.clone(),
        sides: both,
        bad: "code=~\"5..\"",
        durations: "traefik_service_request_duration_seconds",
        label: "service",
        canary,
        stable,
        by_pod: false,
    }
}

/// The names that Traefik gives a Service behind the Gateway API.
///
/// 3.7 writes `httproute-<ns>-<route>-gw-<ns>-<gateway>-ep-<entry point>-<rule>-<hash>-svc-<ns>-<service>-<backend>@kubernetesgateway`
/// (seen with 3.7.15); before, it was `<ns>-<service>-<port>@kubernetesgateway`.
fn traefik_service(namespace: &str, service: &str) -> String {
    let name = normalized(&format!("{namespace}-{service}"));
    format!("(?:.*-svc-)?{}-[0-9]+@kubernetesgateway", regex::escape(&name))
}

/// What Traefik makes of a name: letters and numbers, joined by single dashes.
fn normalized(name: &str) -> String {
    let parts: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

/// Istio's standard metrics as the calling side's proxies tell them: gateways and sidecars alike name the Service that they chose, and
/// count the requests that never reached a pod. What the pods' own proxies tell names no Service that is sure.
fn istio(request: &JudgeRequest, canary: &str, stable: &str) -> BuiltIn {
    let [canary, stable] = [canary, stable].map(regex::escape);
    let namespace = quoted(&request.rollout.namespace);
    let both = format!(
        "reporter=\"source\",destination_service_namespace={namespace},destination_service_name=~{}",
        quoted(&either(&canary, &stable))
    );
    BuiltIn {
        requests: "istio_requests_total",
        service: both.clone(),
        sides: both,
        bad: "response_code=~\"5..\"",
        durations: "istio_request_duration_milliseconds",
        label: "destination_service_name",
        canary,
        stable,
        by_pod: false,
    }
}

/// Linkerd's outbound metrics, by the backend of an HTTPRoute that the calling side's proxies chose. A request without an answer
/// has no status, and is a bad one.
fn linkerd(request: &JudgeRequest, canary: &str, stable: &str) -> BuiltIn {
    let [canary, stable] = [canary, stable].map(regex::escape);
    let namespace = quoted(&request.rollout.namespace);
    let both = format!("backend_namespace={namespace},backend_name=~{}", quoted(&either(&canary, &stable)));
    BuiltIn {
        requests: "outbound_http_route_backend_response_statuses_total",
        service: both.clone(),
        sides: both,
        bad: "http_status!~\"[1-4]..\"",
        durations: "outbound_http_route_backend_response_duration_seconds",
        label: "backend_name",
        canary,
        stable,
        by_pod: false,
    }
}

/// ingress-nginx counts by the Service of the main Ingress, and names the canary's upstream, `<ns>-<service>-<port>`, where it served. The labels
/// `namespace` and `service` are its own only where they are scraped with `honor_labels: true`; otherwise nothing matches, and that holds.
fn nginx(request: &JudgeRequest, canary: &str, stable: &str) -> BuiltIn {
    let namespace = &request.rollout.namespace;
    let canary = format!("{}-[-a-z0-9]+", regex::escape(&format!("{namespace}-{canary}")));
    let both = format!(
        "namespace={},service={},canary=~{}",
        quoted(namespace),
        quoted(stable),
        quoted(&format!("(?:{canary})?"))
    );
    BuiltIn {
        requests: "nginx_ingress_controller_requests",
        service: both.clone(),
        sides: both,
        bad: "status=~\"5..\"",
        durations: "nginx_ingress_controller_request_duration_seconds",
        label: "canary",
        canary,
        // A label without a value.
        stable: String::new(),
        by_pod: false,
    }
}

/// The pods' own histogram by OpenTelemetry's semantic conventions for HTTP servers, with the labels `namespace` and `pod` of the usual scrape
/// configuration. Series without a status are left out: with them, a service that names its statuses otherwise would seem never to fail.
fn pod(request: &JudgeRequest) -> Result<BuiltIn, String> {
    let Some(stable) = &request.stable_replica_set else {
        return Err("there is no stable revision to compare with".to_owned());
    };
    let (canary, stable) = (pods_of(&request.canary_replica_set), pods_of(stable));
    let all = format!("{}-[a-z0-9]+-[a-z0-9]+", regex::escape(&request.rollout.name));
    let matchers = |pods: &str| {
        let namespace = quoted(&request.rollout.namespace);
        format!("namespace={namespace},pod=~{},http_response_status_code!=\"\"", quoted(pods))
    };
    Ok(BuiltIn {
        requests: "http_server_request_duration_seconds_count",
        service: matchers(&all),
        sides: matchers(&either(&canary, &stable)),
        bad: "http_response_status_code=~\"5..\"",
        durations: "http_server_request_duration_seconds",
        label: "pod",
        canary,
        stable,
        by_pod: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traefik_joins_names_by_single_dashes() {
        assert_eq!(normalized("shop-check.out--v2"), "shop-check-out-v2");
    }
}
