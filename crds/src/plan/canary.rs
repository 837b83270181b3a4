//! Validation of the canary strategy.

use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serin_core::plan::{Amount, Analysis, ArmBinding, Canary, Exposure, Routing};

use super::problem::{CANARY as PATH, Problems};
use super::values::{MILLISECOND, non_negative, parse_duration_in};
use super::{analysis, managed_routes, pace, routes};
use crate::rollout::RolloutSpec;
use crate::strategy::CanarySpec;
use crate::traffic_routing::TrafficRoutingSpec;

const MAX_SURGE_DEFAULT: Amount = Amount::Percent(25);
const DELAY_SECONDS_DEFAULT: i32 = 30;
const POD_RESTART_LIMIT_DEFAULT: i32 = 2;
const SETTLE_DEFAULT: Duration = Duration::from_secs(2);
const SETTLE_BOUNDS: RangeInclusive<Duration> =
    MILLISECOND.saturating_mul(0)..=Duration::from_mins(10);
/// Time after which a change counts as applied if the router does not report the generation of its
/// route. Longer than every router in the tests takes to report.
const UNVERIFIED_AFTER: Duration = Duration::from_secs(10);

/// How traffic is split between the two revisions.
pub(super) fn exposure(canary: &CanarySpec, name: &str, problems: &mut Problems) -> Exposure {
    if let Some(router) = &canary.traffic_routing {
        return Exposure::Weighted(routing(canary, router, name, problems));
    }
    check_router_only_fields(canary, problems);
    services_without_router(canary, problems)
        .map_or(Exposure::ReplicaRatio, Exposure::ReplicaRatioServices)
}

pub(super) fn canary(spec: &RolloutSpec, is_routed: bool, problems: &mut Problems) -> Canary {
    let settings = spec.strategy.as_canary();
    let canary = &*settings;
    let max_surge = amount("maxSurge", canary.max_surge.as_ref(), problems);
    let max_unavailable = amount("maxUnavailable", canary.max_unavailable.as_ref(), problems);
    check_replacement(canary, max_surge, max_unavailable, problems);
    let delay = |field: &str, seconds: Option<i32>, problems: &mut Problems| {
        Duration::from_secs(
            non_negative(
                &format!("{PATH}.{field}"),
                seconds,
                DELAY_SECONDS_DEFAULT,
                problems,
            )
            .into(),
        )
    };
    let scale_down_delay = delay(
        "scaleDownDelaySeconds",
        canary.scale_down_delay_seconds,
        problems,
    );
    let abort_scale_down_delay = delay(
        "abortScaleDownDelaySeconds",
        canary.abort_scale_down_delay_seconds,
        problems,
    );
    let pod_restart_limit = non_negative(
        &format!("{PATH}.podRestartLimit"),
        canary.pod_restart_limit,
        POD_RESTART_LIMIT_DEFAULT,
        problems,
    );
    if pod_restart_limit == 0 {
        let fix = "use 1 or more: a crash loop aborts regardless of the limit";
        problems.invalid(
            format!("{PATH}.podRestartLimit"),
            &0,
            "it would abort every release before the first restart",
            fix,
        );
    }
    check_anti_affinity(spec, problems);
    let min_pods_per_replica_set = min_pods(canary, problems);
    let replica_progress_threshold = progress_threshold(canary, problems);
    let pace = pace::pace(spec, is_routed, problems);
    let analysis: Option<Analysis> = analysis::analysis(spec, problems);
    Canary {
        max_surge,
        max_unavailable,
        scale_down_delay,
        abort_scale_down_delay,
        dynamic_stable_scale: canary.dynamic_stable_scale.unwrap_or(false),
        min_pods_per_replica_set,
        replica_progress_threshold,
        pace,
        analysis,
        pod_restart_limit,
    }
}

/// A number of pods or a percentage, as in a Deployment. Defaults to 25 %.
fn amount(field: &str, value: Option<&IntOrString>, problems: &mut Problems) -> Amount {
    let amount = value.and_then(|value| parse_amount(field, value, problems));
    amount.unwrap_or(MAX_SURGE_DEFAULT)
}

/// A number of pods or a percentage. Records a problem and returns `None` if it is neither.
fn parse_amount(field: &str, value: &IntOrString, problems: &mut Problems) -> Option<Amount> {
    let amount = match value {
        IntOrString::Int(pods) => u32::try_from(*pods).ok().map(Amount::Pods),
        IntOrString::String(text) => whole_percentage(text).map(Amount::Percent),
    };
    if amount.is_none() {
        let problem = "it is neither a number of pods nor a whole percentage from 0% to 100%";
        let fix = "use for example 1, or in quotes \"25%\"";
        problems.invalid(format!("{PATH}.{field}"), value, problem, fix);
    }
    amount
}

/// Checks the anti-affinity between revisions. It is not part of the plan: only new pods have it.
fn check_anti_affinity(spec: &RolloutSpec, problems: &mut Problems) {
    let settings = spec.strategy.as_canary();
    let Some(anti_affinity) = &settings.anti_affinity else {
        return;
    };
    let path = format!("{PATH}.antiAffinity");
    let preferred = anti_affinity.preferred_during_scheduling_ignored_during_execution;
    let required = anti_affinity.required_during_scheduling_ignored_during_execution;
    if preferred.is_some() == required.is_some() {
        problems.invalid(
            path.clone(),
            anti_affinity,
            "it is either required or preferred",
            "set exactly one of requiredDuringSchedulingIgnoredDuringExecution and \
             preferredDuringSchedulingIgnoredDuringExecution",
        );
    }
    if let Some(preferred) = preferred.filter(|preferred| !(1..=100).contains(&preferred.weight)) {
        problems.invalid(
            format!("{path}.preferredDuringSchedulingIgnoredDuringExecution.weight"),
            &preferred.weight,
            "it is not a weight of a preference",
            "use 1 to 100",
        );
    }
    if spec.workload_ref.is_some() || spec.adopt.is_some() {
        let problem = "a Deployment would restart the pods when they are given back";
        let fix = "remove it, or remove spec.workloadRef and spec.adopt";
        problems.invalid(path, anti_affinity, problem, fix);
    }
}

/// The fewest pods of a side with requests; 0 if the spec sets none.
fn min_pods(canary: &CanarySpec, problems: &mut Problems) -> u32 {
    let Some(pods) = canary.min_pods_per_replica_set else {
        return 0;
    };
    let pods = u32::try_from(pods).unwrap_or(0);
    if pods == 0 {
        problems.invalid(
            format!("{PATH}.minPodsPerReplicaSet"),
            &canary.min_pods_per_replica_set,
            "a side that receives requests needs a pod",
            "use 1 or more",
        );
    }
    // One pod is what every side has: the plan is that of a spec without the field.
    if pods == 1 { 0 } else { pods }
}

/// The available pods that suffice. `None` if all of them are needed.
fn progress_threshold(canary: &CanarySpec, problems: &mut Problems) -> Option<Amount> {
    let field = "replicaProgressThreshold";
    let value = canary.replica_progress_threshold.as_ref()?;
    match parse_amount(field, value, problems)? {
        Amount::Pods(0) | Amount::Percent(0) => {
            let problem = "no pod would be waited for";
            let fix = "use for example \"95%\"";
            problems.invalid(format!("{PATH}.{field}"), value, problem, fix);
            None
        }
        Amount::Percent(100) => None,
        amount => Some(amount),
    }
}

fn whole_percentage(text: &str) -> Option<u32> {
    let digits = text
        .strip_suffix('%')
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|percent| *percent <= 100)
}

/// Pods can only be replaced if surge or unavailability is allowed.
fn check_replacement(
    canary: &CanarySpec,
    max_surge: Amount,
    max_unavailable: Amount,
    problems: &mut Problems,
) {
    let none = |amount| matches!(amount, Amount::Pods(0) | Amount::Percent(0));
    if none(max_surge) && none(max_unavailable) {
        let fix = "set one of the two to more than 0";
        problems.invalid(
            format!("{PATH}.maxUnavailable"),
            &canary.max_unavailable,
            "it is 0 and maxSurge is 0, so no pod can be replaced",
            fix,
        );
    }
}

fn routing(
    canary: &CanarySpec,
    spec: &TrafficRoutingSpec,
    name: &str,
    problems: &mut Problems,
) -> Routing {
    let stable_service = canary
        .stable_service
        .clone()
        .unwrap_or_else(|| name.to_owned());
    let canary_service = canary
        .canary_service
        .clone()
        .unwrap_or_else(|| format!("{name}-canary"));
    check_services(canary, &stable_service, &canary_service, problems);
    let settle_path = format!("{PATH}.trafficRouting.settle");
    let settle = spec
        .settle
        .as_ref()
        .and_then(|text| parse_duration_in(&settle_path, text, &SETTLE_BOUNDS, problems));
    let routes = routes::routes(&format!("{PATH}.trafficRouting"), spec, problems);
    let managed_path = format!("{PATH}.trafficRouting.managedRoutes");
    managed_routes::check_names(&managed_path, &spec.managed_routes, problems);
    let settle = settle.unwrap_or(SETTLE_DEFAULT);
    Routing {
        binding: ArmBinding::services(stable_service, canary_service),
        routes,
        settle,
        unverified_after: UNVERIFIED_AFTER,
    }
}

/// The Services of the two sides without a router. Both must be named: a default could be a Service
/// that selects all pods and must keep doing so.
fn services_without_router(canary: &CanarySpec, problems: &mut Problems) -> Option<Routing> {
    let (stable, canary_service) = match (&canary.stable_service, &canary.canary_service) {
        (None, None) => return None,
        (Some(stable), Some(canary_service)) => (stable, canary_service),
        (stable, _) => {
            let (set, missing) = match stable {
                Some(_) => ("stableService", "canaryService"),
                None => ("canaryService", "stableService"),
            };
            problems.required(
                format!("{PATH}.{missing}"),
                format!("without trafficRouting {set} needs it"),
                format!("set both Services, or remove {set}"),
            );
            return None;
        }
    };
    check_services(canary, stable, canary_service, problems);
    Some(Routing {
        binding: ArmBinding::services(stable.clone(), canary_service.clone()),
        routes: Vec::new(),
        settle: SETTLE_DEFAULT,
        unverified_after: UNVERIFIED_AFTER,
    })
}

/// Checks the names of the two Services, set or derived from the name of the Rollout.
fn check_services(
    spec: &CanarySpec,
    stable_service: &str,
    canary_service: &str,
    problems: &mut Problems,
) {
    check_service(
        "stableService",
        spec.stable_service.as_ref(),
        stable_service,
        problems,
    );
    check_service(
        "canaryService",
        spec.canary_service.as_ref(),
        canary_service,
        problems,
    );
    if stable_service == canary_service {
        let fix = "use two different Services";
        problems.invalid(
            format!("{PATH}.canaryService"),
            &canary_service,
            "it is also the stable Service",
            fix,
        );
    }
}

/// Rejects fields that have no effect without a router, so that nobody relies on them.
fn check_router_only_fields(canary: &CanarySpec, problems: &mut Problems) {
    let fix = "add trafficRouting, or remove it";
    if canary.dynamic_stable_scale == Some(true) {
        let problem = "without trafficRouting the replica counts determine the weights";
        problems.invalid(format!("{PATH}.dynamicStableScale"), &true, problem, fix);
    }
    if let Some(pods) = canary.min_pods_per_replica_set {
        let problem = "without trafficRouting the replica counts determine the weights";
        problems.invalid(format!("{PATH}.minPodsPerReplicaSet"), &pods, problem, fix);
    }
}

/// Checks that a Service name, set or derived from the name of the Rollout, is a DNS label (RFC
/// 1035).
fn check_service(field: &str, written: Option<&String>, name: &str, problems: &mut Problems) {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
    if letters && ends && name.len() <= 63 {
        return;
    }
    let path = format!("{PATH}.{field}");
    let fix = "use at most 63 lowercase letters, digits and dashes, starting with a letter";
    if written.is_some() {
        problems.invalid(path, &name, "it is not a valid Service name", fix);
    } else {
        problems.required(
            path,
            format!("its default, {name}, is not a valid Service name"),
            format!("set a name: {fix}"),
        );
    }
}
