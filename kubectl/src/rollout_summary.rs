//! The status fields that commands and one-line output need. They are read leniently from the
//! untyped object: a plugin that is older or newer than the controller must still be able to abort.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;
use serin_core::state::{Phase, Stage};

use crate::status_value::StatusValue;
use crate::traffic_share::{TrafficShare, same_weight};

/// Summary of a Rollout's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutSummary {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status.observedGeneration`.
    pub observed_generation: Option<i64>,
    /// The phase. `None` if the controller has not reconciled the Rollout yet.
    pub phase: Option<StatusValue<Phase>>,
    /// The stage of the release.
    pub stage: Option<StatusValue<Stage>>,
    /// Status message of the controller.
    pub message: Option<String>,
    /// The stable revision.
    pub stable_revision: Option<String>,
    /// The revision of the current spec.
    pub current_revision: Option<String>,
    /// Index of the current step, from 0.
    pub step_index: Option<i64>,
    /// Number of steps of the active plan. `None` if the evidence sets the pace.
    pub step_count: Option<usize>,
    /// Desired canary weight in percent.
    pub desired_weight: Option<f64>,
    /// Canary weight in percent that was verified to be in effect. `None` while a change is in
    /// progress.
    pub verified_weight: Option<f64>,
    /// The aborted revision, if the current revision is aborted.
    pub aborted_revision: Option<String>,
    /// Whether a router splits the traffic.
    pub has_router: bool,
    /// Whether all of the traffic moves at once.
    pub is_blue_green: bool,
    /// Short description of the evidence.
    pub evidence: Option<String>,
}

impl RolloutSummary {
    /// Reads the summary from an untyped Rollout.
    pub fn from_object(rollout: &DynamicObject) -> Self {
        let status = &rollout.data["status"];
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        Self {
            namespace: rollout.namespace().unwrap_or_default(),
            name: rollout.name_any(),
            generation: rollout.metadata.generation.unwrap_or_default(),
            observed_generation: status["observedGeneration"].as_i64(),
            phase: status["phase"].as_str().map(StatusValue::from),
            stage: status["stage"].as_str().map(StatusValue::from),
            message: text(&status["message"]).filter(|message| !message.is_empty()),
            stable_revision: text(&status["stableRevision"]),
            current_revision: text(&status["currentRevision"]),
            step_index: status["step"]["index"].as_i64(),
            step_count: ["canary", "blueGreen"]
                .iter()
                .find_map(|name| {
                    status
                        .pointer(&format!("/plan/spec/strategy/{name}/pace/steps"))?
                        .as_array()
                })
                .map(Vec::len),
            desired_weight: status["weights"]["desired"].as_f64(),
            verified_weight: status["weights"]["verified"].as_f64(),
            aborted_revision: text(&status["abort"]["revision"]),
            has_router: ["canary", "blueGreen"]
                .iter()
                .any(|name| !rollout.data["spec"]["strategy"][name]["trafficRouting"].is_null()),
            is_blue_green: !rollout.data["spec"]["strategy"]["blueGreen"].is_null(),
            evidence: text(&status["summary"]["evidence"]),
        }
    }

    /// Whether the controller has observed the latest spec.
    pub fn is_up_to_date(&self) -> bool {
        self.observed_generation
            .is_some_and(|observed| observed >= self.generation)
    }

    /// The phase, or that there is none yet.
    pub fn phase_label(&self) -> &str {
        self.phase
            .as_ref()
            .map_or("not yet reconciled", StatusValue::text)
    }

    /// The current step as `3/6`, counted from 1. `None` outside of steps.
    pub fn step_label(&self) -> Option<String> {
        let count = self.step_count.filter(|&count| count > 0)?;
        let index = usize::try_from(self.step_index?).ok()?;
        Some(format!("{}/{count}", index.saturating_add(1).min(count)))
    }

    /// Whether the Rollout is in this phase.
    pub fn has_phase(&self, phase: Phase) -> bool {
        self.phase.as_ref().is_some_and(|known| known.equals(phase))
    }

    /// Whether the release is in this stage.
    pub fn has_stage(&self, stage: Stage) -> bool {
        self.stage.as_ref().is_some_and(|known| known.equals(stage))
    }

    /// The canary's share of the traffic. The available pods are unknown here.
    pub fn canary_share(&self) -> Option<TrafficShare> {
        self.desired_weight
            .map(|desired| TrafficShare::for_canary(desired, self.verified_weight, None))
    }

    /// Whether the canary gets no traffic, confirmed by the router if there is one.
    pub fn canary_is_off(&self) -> bool {
        self.desired_weight
            .is_none_or(|desired| same_weight(desired, 0.0))
            && (!self.has_router
                || self
                    .verified_weight
                    .is_some_and(|verified| same_weight(verified, 0.0)))
    }

    /// `Some(true)` if the release ended healthy, `Some(false)` if it was aborted, `None` while it
    /// is in progress.
    pub fn release_succeeded(&self) -> Option<bool> {
        if !self.is_up_to_date() {
            return None;
        }
        if self.has_phase(Phase::Healthy) {
            return Some(true);
        }
        self.has_stage(Stage::Aborted).then_some(false)
    }

    /// The state on one line, without the time.
    pub fn one_line(&self) -> String {
        let mut parts = vec![self.phase_label().to_owned()];
        parts.extend(self.step_label().map(|step| format!("step {step}")));
        let share = self.canary_share();
        parts.extend(share.map(|share| format!("canary {}", share.describe())));
        parts.extend(self.evidence.clone());
        parts.extend(self.message.clone());
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(status: &Value, routed: bool) -> DynamicObject {
        let routing = if routed {
            serde_json::json!({"gatewayAPI": {"httpRoute": "r"}})
        } else {
            Value::Null
        };
        serde_json::from_value(serde_json::json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "checkout", "namespace": "shop", "generation": 2},
            "spec": {"strategy": {"canary": {"trafficRouting": routing}}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn an_object_without_status_is_not_yet_reconciled() {
        let summary = RolloutSummary::from_object(&rollout(&Value::Null, true));
        assert_eq!(summary.one_line(), "not yet reconciled");
        assert_eq!(summary.release_succeeded(), None);
    }

    #[test]
    fn the_health_of_an_older_generation_does_not_end_the_release() {
        let healthy = |observed: i64| {
            RolloutSummary::from_object(&rollout(
                &serde_json::json!({"phase": "Healthy", "observedGeneration": observed}),
                true,
            ))
            .release_succeeded()
        };
        assert_eq!(healthy(1), None);
        assert_eq!(healthy(2), Some(true));
    }

    #[test]
    fn the_canary_is_off_only_if_the_router_confirms_it() {
        let off = |weights: Value, routed: bool| {
            RolloutSummary::from_object(&rollout(&serde_json::json!({"weights": weights}), routed))
                .canary_is_off()
        };
        assert!(!off(serde_json::json!({"desired": 0.0}), true));
        assert!(!off(
            serde_json::json!({"desired": 20.0, "verified": 0.0}),
            true
        ));
        assert!(off(
            serde_json::json!({"desired": 0.0, "verified": 0.0}),
            true
        ));
        assert!(off(serde_json::json!({"desired": 0.0}), false));
    }

    #[test]
    fn the_step_label_counts_from_one_and_stops_at_the_last_step() {
        let at = |index: i64| {
            let plan = serde_json::json!({"spec": {"strategy": {"canary": {"pace": {"steps": [1, 2, 3]}}}}});
            RolloutSummary::from_object(&rollout(
                &serde_json::json!({"plan": plan, "step": {"index": index}}),
                true,
            ))
            .step_label()
        };
        assert_eq!(at(0).as_deref(), Some("1/3"));
        assert_eq!(at(3).as_deref(), Some("3/3"));
    }
}
