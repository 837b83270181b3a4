//! Weights of a route, and whether its gateways have accepted them.

use serde::Serialize;
use serde_json::Value;
use serin_core::plan::Plan;
use serin_traffic::{RouteBackend, RouteRule};

use crate::resources::RouteResource;

/// One route.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The weights of each rule that has the stable or canary Service as a backend.
    pub splits: Vec<RouteSplit>,
    /// Number of parent gateways.
    pub parents: usize,
    /// Number of gateways that have accepted the current generation.
    pub accepted: usize,
    /// The problem, if any.
    pub problem: Option<String>,
}

/// The weights of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSplit {
    /// The rule's name, or its number from 1.
    pub rule: String,
    /// Weight of the stable Service. `None` if it is not a backend.
    pub stable: Option<i64>,
    /// Weight of the canary Service. `None` if it is not a backend.
    pub canary: Option<i64>,
}

/// Creates the report on a route.
pub fn route(route_resource: &RouteResource, plan: Option<&Plan>) -> RouteReport {
    let mut report = RouteReport {
        kind: route_resource.router.kind().to_owned(),
        name: route_resource.name.clone(),
        splits: Vec::new(),
        parents: 0,
        accepted: 0,
        problem: None,
    };
    let object = match &route_resource.object {
        Ok(object) => object,
        Err(why) => {
            report.problem = Some(why.clone());
            return report;
        }
    };
    if let Some(routing) = plan.and_then(Plan::routing) {
        let rules = serde_json::to_value(object)
            .ok()
            .and_then(|object| route_resource.router.rules(&object).ok());
        let sides = (
            routing.stable_service().as_str(),
            routing.canary_service().as_str(),
        );
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        report.splits = rules
            .iter()
            .flatten()
            .filter_map(|rule| split(rule, namespace, sides))
            .collect();
        if report.splits.is_empty() {
            report.problem = Some(format!("no rule has the Service {} as a backend", sides.0));
        }
    }
    let generation = object.metadata.generation;
    report.parents = object.data["spec"]["parentRefs"]
        .as_array()
        .map_or(0, Vec::len);
    let statuses = object.data["status"]["parents"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    report.accepted = statuses
        .iter()
        .filter(|parent| parent_problem(parent, generation).is_none())
        .count();
    report.problem = report.problem.or_else(|| {
        statuses
            .iter()
            .find_map(|parent| parent_problem(parent, generation))
    });
    report
}

fn split(rule: &RouteRule, namespace: &str, (stable, canary): (&str, &str)) -> Option<RouteSplit> {
    let weight = |service: &str| {
        let mut backends = rule.backends.iter();
        let is_service =
            |backend: &&RouteBackend| backend.service == service && backend.namespace == namespace;
        let weight = backends.find(is_service).map(|backend| backend.weight)?;
        i64::try_from(weight).ok()
    };
    let (stable, canary) = (weight(stable), weight(canary));
    (stable.is_some() || canary.is_some()).then(|| RouteSplit {
        rule: rule
            .name
            .clone()
            .unwrap_or_else(|| (rule.index + 1).to_string()),
        stable,
        canary,
    })
}

/// Why a gateway has not accepted the current generation. `None` if it has, or if it reports no
/// generation.
fn parent_problem(parent: &Value, generation: Option<i64>) -> Option<String> {
    let gateway = parent["parentRef"]["name"].as_str().unwrap_or("?");
    let conditions = parent["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    ["Accepted", "ResolvedRefs"].iter().find_map(|kind| {
        let Some(condition) = conditions
            .iter()
            .find(|condition| condition["type"] == *kind)
        else {
            return Some(format!("gateway {gateway} does not report {kind}"));
        };
        if condition["status"] != "True" {
            let message = condition["message"]
                .as_str()
                .or(condition["reason"].as_str())
                .unwrap_or("no reason given");
            return Some(format!(
                "gateway {gateway}: {kind} is {}: {message}",
                condition["status"].as_str().unwrap_or("?")
            ));
        }
        let outdated = condition["observedGeneration"]
            .as_i64()
            .is_some_and(|observed| Some(observed) != generation);
        outdated.then(|| format!("gateway {gateway} has not yet accepted the latest generation"))
    })
}
