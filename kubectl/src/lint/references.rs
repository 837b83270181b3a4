//! Names of other objects. An object that is not in the files may exist in the cluster, so a name
//! that is not found is a warning, and only if the files contain objects of its kind.

use serde_json::Value;

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
    let canary = &spec["strategy"]["canary"];
    let gateway = &canary["trafficRouting"]["gatewayAPI"];
    let path = "spec.strategy.canary.trafficRouting.gatewayAPI";
    check(
        format!("{path}.httpRoute"),
        "HTTPRoute",
        &gateway["httpRoute"],
    );
    for (index, route) in gateway["httpRoutes"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        check(
            format!("{path}.httpRoutes[{index}].name"),
            "HTTPRoute",
            &route["name"],
        );
    }
    check(
        "spec.workloadRef.name".to_owned(),
        "Deployment",
        &spec["workloadRef"]["name"],
    );
    // The canary Service is created if it does not exist, so only the stable one is expected.
    check(
        "spec.strategy.canary.stableService".to_owned(),
        "Service",
        &canary["stableService"],
    );
    warnings.extend(unrouted_service(rollout, objects));
    warnings
}

/// A route in the files that has no rule with the stable Service as a backend.
fn unrouted_service(rollout: &Value, objects: &[&Value]) -> Option<String> {
    let canary = &rollout["spec"]["strategy"]["canary"];
    let name = canary["trafficRouting"]["gatewayAPI"]["httpRoute"].as_str()?;
    let stable = canary["stableService"]
        .as_str()
        .or(rollout["metadata"]["name"].as_str())?;
    let route = objects
        .iter()
        .find(|object| object["kind"] == "HTTPRoute" && object["metadata"]["name"] == name)?;
    let rules = route["spec"]["rules"].as_array().into_iter().flatten();
    let mut backends = rules
        .filter_map(|rule| rule["backendRefs"].as_array())
        .flatten();
    if backends.any(|backend| backend["name"] == stable) {
        return None;
    }
    Some(format!(
        "spec.strategy.canary.trafficRouting.gatewayAPI.httpRoute: no rule of HTTPRoute {name} has \
         the stable Service {stable} as a backend; add it, or set stableService"
    ))
}
