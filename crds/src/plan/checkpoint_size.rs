//! Validation of the size of what the status of a release contains of its objectives.

use super::problem::Problems;
use crate::analysis::AnalysisSpec;
use crate::status::{CHECKPOINT_BYTES, ENDPOINTS_BYTES, LATENCY_GUARD_BYTES, OBJECTIVE_BYTES};

const PATH: &str = "spec.analysis.objectives";

/// The status of a release contains the state of its objectives. Bucket bounds and endpoints are
/// only known from the metrics, so their maximum counts.
pub(super) fn check(analysis: &AnalysisSpec, problems: &mut Problems) {
    let objectives = &analysis.objectives;
    let guards = objectives.iter().filter(|objective| {
        let latency = objective.latency.as_ref();
        latency.is_some_and(|latency| latency.guard.is_some())
    });
    let with_endpoints = objectives
        .iter()
        .filter(|objective| objective.endpoint_label.is_some());
    let (guards, with_endpoints) = (guards.count(), with_endpoints.count());
    let bytes = objectives.len() * OBJECTIVE_BYTES
        + guards * LATENCY_GUARD_BYTES
        + with_endpoints * ENDPOINTS_BYTES;
    if bytes > CHECKPOINT_BYTES {
        let value = format!(
            "{} objectives, {guards} with latency.guard, {with_endpoints} with endpointLabel",
            objectives.len()
        );
        let problem = format!(
            "their state can have {} KiB, more than the {} KiB that fit into the status",
            bytes >> 10,
            CHECKPOINT_BYTES >> 10
        );
        let fix =
            "use fewer objectives, or remove endpointLabel or latency.guard from some of them";
        problems.invalid(PATH, &value, problem, fix);
    }
}
