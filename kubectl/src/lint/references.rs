//! Names of other objects. An object that is not in the files may exist in the cluster, so a name
//! that is not found is a warning, and only if the files contain objects of its kind.

use serde::Deserialize as _;
use serde_json::Value;
use serin_crds::traffic_routing::{NamedRoute, TrafficRoutingSpec};
use serin_traffic::router_of;

/// The references of a Rollout that no object in the files has.
pub(super) fn missing(rollout: &Value, objects: &[&Value]) -> Vec<String> {
    if rollout["kind"] != "Rollout" {
        return Vec::new();
    }
    let namespace = rollout["metadata"]["namespace"].as_str();
    let mut warnings = Vec::new();
    let mut check = |path: String, kind: &str, name: &Value| {
        let Some(name) = name.as_str() else { return };
        let of_kind: Vec<&&Value> = objects
            .iter()
            .filter(|object| object["kind"] == kind)
            .collect();
        let is_same = |object: &&&Value| {
            let other = object["metadata"]["namespace"].as_str();
            object["metadata"]["name"] == name
                && (other.is_none() || namespace.is_none() || other == namespace)
        };
        if of_kind.is_empty() || of_kind.iter().any(is_same) {
            return;
        }
        let names = of_kind
            .iter()
            .filter_map(|object| object["metadata"]["name"].as_str());
        let names: Vec<&str> = names.take(8).collect();
        warnings.push(format!(
            "{path}: {kind} {name} is not in these files, which have {}; correct the name, or \
             ignore this if it exists in the cluster",
            names.join(", ")
        ));
    };
    let spec = &rollout["spec"];
    let strategy = strategy_of(rollout);
    for NamedRoute {
        name_path, route, ..
    } in named_routes(rollout)
    {
        let kind = router_of(route.kind).kind();
        let path = format!("spec.strategy.{strategy}.trafficRouting.{name_path}");
        check(path, kind, &route.name.into());
    }
    check(
        "spec.workloadRef.name".to_owned(),
        "Deployment",
        &spec["workloadRef"]["name"],
    );
    // The canary Service is created if it does not exist, so only the stable one is expected.
    let stable = stable_field(strategy);
    check(
        format!("spec.strategy.{strategy}.{stable}"),
        "Service",
        &spec["strategy"][strategy][stable],
    );
    warnings.extend(unrouted_service(rollout, objects));
    warnings
}

/// The field of the strategy that a Rollout has.
fn strategy_of(rollout: &Value) -> &'static str {
    if rollout["spec"]["strategy"]["blueGreen"].is_null() {
        "canary"
    } else {
        "blueGreen"
    }
}

/// The field of a strategy with the name of the stable Service.
fn stable_field(strategy: &str) -> &'static str {
    if strategy == "blueGreen" {
        "activeService"
    } else {
        "stableService"
    }
}

/// The routes that a Rollout names. None if the spec is malformed, which is reported elsewhere.
fn named_routes(rollout: &Value) -> Vec<NamedRoute> {
    let spec = &rollout["spec"]["strategy"][strategy_of(rollout)]["trafficRouting"];
    let spec = TrafficRoutingSpec::deserialize(spec).unwrap_or_default();
    spec.named_routes()
}

/// The routes in the files without a rule that can be split.
fn unrouted_service(rollout: &Value, objects: &[&Value]) -> Vec<String> {
    let metadata = &rollout["metadata"];
    let strategy = strategy_of(rollout);
    let stable = &rollout["spec"]["strategy"][strategy][stable_field(strategy)];
    let Some(stable) = stable.as_str().or(metadata["name"].as_str()) else {
        return Vec::new();
    };
    let problem = |named: NamedRoute| {
        let router = router_of(named.route.kind);
        let is_route = |object: &&&Value| {
            let namespaces =
                [rollout, **object].map(|object| object["metadata"]["namespace"].as_str());
            object["kind"] == router.kind()
                && object["metadata"]["name"] == named.route.name
                && (namespaces.contains(&None) || namespaces[0] == namespaces[1])
        };
        let object = objects.iter().find(is_route)?;
        let rules = router.managed_rules(object, named.route.rule.as_deref(), stable);
        let error = rules.err()?;
        let path = format!("spec.strategy.{strategy}.trafficRouting");
        Some(format!("{path}.{}: {error}", named.rule_path))
    };
    named_routes(rollout)
        .into_iter()
        .filter_map(problem)
        .collect()
}
