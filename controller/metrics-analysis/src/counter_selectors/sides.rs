//! How the series of an objective are assigned to canary and stable.

use std::collections::BTreeMap;

use regex::Regex;
use serin_analysis::Arm;
use serin_crds::analysis::VariantsSpec;

use super::CounterSelectors;
use crate::matcher::{pod_name_base, pod_name_pattern};
use crate::prometheus::Labels;
use crate::request::AnalysisRequest;

/// Assigns a series to canary or stable.
#[derive(Clone, Debug)]
pub(super) struct SideMatcher {
    pub(super) label: String,
    pub(super) canary: Regex,
    pub(super) stable: Regex,
    pub(super) by_pod: bool,
    /// Pods by owner. Only set if the name of a ReplicaSet is too long to be part of its pod names.
    pub(super) pods: Option<BTreeMap<String, Arm>>,
    /// Values that may belong to the Rollout or to something else, and the reason.
    pub(super) unclear: Option<(Regex, String)>,
}

/// Maximum number of pods per release that are remembered by name.
const MAX_PODS: usize = 20_000;

impl CounterSelectors {
    /// The side that a series belongs to. `None` if it belongs to neither or to both.
    pub fn arm(&self, labels: &Labels) -> Option<Arm> {
        // As in PromQL, a missing label equals an empty one.
        let value = labels.get(&self.sides.label).map_or("", String::as_str);
        if let Some(pods) = &self.sides.pods {
            return pods.get(value).copied();
        }
        match (
            self.sides.canary.is_match(value),
            self.sides.stable.is_match(value),
        ) {
            (true, false) => Some(Arm::Canary),
            (false, true) => Some(Arm::Stable),
            _ => None,
        }
    }

    /// The pod of a series. `None` unless the sides are distinguished by pod.
    pub fn pod<'a>(&self, labels: &'a Labels) -> Option<&'a str> {
        let value = labels
            .get(&self.sides.label)
            .filter(|_| self.sides.by_pod)?;
        Some(value)
    }

    /// Explains why it is unknown whether a series belongs to the Rollout. `None` if it is known.
    pub fn ambiguity(&self, labels: &Labels) -> Option<&str> {
        let (pattern, why) = self.sides.unclear.as_ref()?;
        let value = labels.get(&self.sides.label).map_or("", String::as_str);
        (self.arm(labels).is_none() && pattern.is_match(value)).then_some(why.as_str())
    }

    pub(crate) fn record_pod_sides(&mut self, sides: &BTreeMap<String, Arm>) {
        let Some(pods) = &mut self.sides.pods else {
            return;
        };
        for (pod, arm) in sides {
            if pods.len() < MAX_PODS || pods.contains_key(pod) {
                pods.insert(pod.clone(), *arm);
            }
        }
    }

    /// Whether the sides are distinguished by pod, which is required to estimate the dispersion of
    /// errors.
    pub fn distinguishes_pods(&self) -> bool {
        self.sides.by_pod
    }
}

/// The pods by owner, if the ReplicaSet name is truncated in pod names. `None` otherwise.
pub(super) fn pods_by_owner(
    by_pod: bool,
    request: &AnalysisRequest,
) -> Option<BTreeMap<String, Arm>> {
    let sets = [
        Some(&request.canary_replica_set),
        request.stable_replica_set.as_ref(),
    ];
    let is_cut = sets.into_iter().flatten().any(|set| pod_name_base(set).1);
    (by_pod && is_cut).then(|| request.pod_sides.clone())
}

/// The label that distinguishes the sides, the patterns of canary and stable, and whether the label
/// names pods.
pub(super) fn side_labels(
    variants: Option<&VariantsSpec>,
    request: &AnalysisRequest,
) -> Result<(String, String, String, bool), String> {
    let pod_label = match variants {
        None => None,
        Some(VariantsSpec {
            pod_label,
            label: None,
            canary: None,
            stable: None,
        }) => pod_label.clone(),
        Some(VariantsSpec {
            pod_label: None,
            label: Some(label),
            canary: Some(canary),
            stable: Some(stable),
        }) => {
            return Ok((label.clone(), canary.clone(), stable.clone(), false));
        }
        Some(_) => return Err("write either podLabel, or label with canary and stable".to_owned()),
    };
    let Some(stable) = &request.stable_replica_set else {
        return Err("there is no stable revision to compare with".to_owned());
    };
    let label = pod_label.unwrap_or_else(|| "pod".to_owned());
    Ok((
        label,
        pod_name_pattern(&request.canary_replica_set),
        pod_name_pattern(stable),
        true,
    ))
}
