//! What a route says now, and whether its gateways have taken it over: for people, beside what the
//! controller has seen.

use serde::Serialize;
use serde_json::Value;
use serin_core::plan::Plan;

use crate::picture::RoutePicture;

/// One route.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What each of its rules with a backend of ours says.
    pub splits: Vec<Split>,
    /// How many gateways it names.
    pub parents: usize,
    /// How many of them report that they have taken over what it says now.
    pub accepted: usize,
    /// Why it is not as it should be.
    pub problem: Option<String>,
}

/// What one rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// The rule's name, or its number from 1.
    pub rule: String,
    /// The stable Service's weight as written; none: not a backend.
    pub stable: Option<i64>,
    /// The canary Service's weight as written; none: not a backend.
    pub canary: Option<i64>,
}

/// The report on a route.
pub fn route(picture: &RoutePicture, plan: Option<&Plan>) -> RouteReport {
    let mut report = RouteReport {
        kind: picture.kind.to_owned(),
        name: picture.name.clone(),
        splits: Vec::new(),
        parents: 0,
        accepted: 0,
        problem: None,
    };
    let object = match &picture.object {
        Ok(object) => object,
        Err(why) => {
            report.problem = Some(why.clone());
            return report;
        }
    };
    if let Some(routing) = plan.and_then(Plan::routing) {
        let rules = object.data["spec"]["rules"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let sides = (
            routing.stable_service.as_str(),
            routing.canary_service.as_str(),
        );
        report.splits = rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| split(index, rule, sides))
            .collect();
        if report.splits.is_empty() {
            report.problem = Some(format!(
                "no rule of it has the Service {} as a backend",
                sides.0
            ));
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
        .filter(|parent| refusal(parent, generation).is_none())
        .count();
    report.problem = report.problem.or_else(|| {
        statuses
            .iter()
            .find_map(|parent| refusal(parent, generation))
    });
    report
}

fn split(index: usize, rule: &Value, (stable, canary): (&str, &str)) -> Option<Split> {
    let backends = rule["backendRefs"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    // A backend without a weight has weight 1 (Gateway API).
    let weight = |service: &str| {
        backends
            .iter()
            .find(|backend| backend["name"] == service)
            .map(|backend| backend["weight"].as_i64().unwrap_or(1))
    };
    let (stable, canary) = (weight(stable), weight(canary));
    (stable.is_some() || canary.is_some()).then(|| Split {
        rule: rule["name"]
            .as_str()
            .map_or_else(|| (index + 1).to_string(), ToOwned::to_owned),
        stable,
        canary,
    })
}

/// Why a parent has not taken over what the route says now; none where it has, or where it reports
/// no generation.
fn refusal(parent: &Value, generation: Option<i64>) -> Option<String> {
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
            let words = condition["message"]
                .as_str()
                .or(condition["reason"].as_str())
                .unwrap_or("no reason given");
            return Some(format!(
                "gateway {gateway}: {kind} is {}: {words}",
                condition["status"].as_str().unwrap_or("?")
            ));
        }
        let outdated = condition["observedGeneration"]
            .as_i64()
            .is_some_and(|seen| Some(seen) != generation);
        outdated.then(|| format!("gateway {gateway} has not yet taken over the last change"))
    })
}
