//! The status fields that commands and one-line output need. They are read leniently from the
//! untyped object: a plugin that is older or newer than the controller must still be able to abort.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

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
    /// Progressing, Paused, Degraded or Healthy.
    pub phase: Option<String>,
    /// FirstDeploy, Progressing, Promoting, Aborted or Stable.
    pub stage: Option<String>,
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
    /// Last canary weight in percent that the router confirmed.
    pub verified_weight: Option<f64>,
    /// The aborted revision, if the current revision is aborted.
    pub aborted_revision: Option<String>,
    /// Whether a router splits the traffic.
    pub has_router: bool,
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
            phase: text(&status["phase"]),
            stage: text(&status["stage"]),
            message: text(&status["message"]).filter(|message| !message.is_empty()),
            stable_revision: text(&status["stableRevision"]),
            current_revision: text(&status["currentRevision"]),
            step_index: status["step"]["index"].as_i64(),
            step_count: status
                .pointer("/plan/spec/strategy/canary/pace/steps")
                .and_then(Value::as_array)
                .map(Vec::len),
            desired_weight: status["weights"]["desired"].as_f64(),
            verified_weight: status["weights"]["verified"].as_f64(),
            aborted_revision: text(&status["abort"]["revision"]),
            has_router: !rollout.data["spec"]["strategy"]["canary"]["trafficRouting"].is_null(),
            evidence: text(&status["summary"]["evidence"]),
        }
    }

    /// Whether the controller has observed the latest spec.
    pub fn is_up_to_date(&self) -> bool {
        self.observed_generation
            .is_some_and(|observed| observed >= self.generation)
    }

    /// The current step as `3/6`, counted from 1. `None` outside of steps.
    pub fn step_label(&self) -> Option<String> {
        let count = self.step_count.filter(|&count| count > 0)?;
        let index = usize::try_from(self.step_index?).ok()?;
        Some(format!("{}/{count}", index.saturating_add(1).min(count)))
    }

    /// The canary weight, for example `20 %` or `20 % (not yet confirmed)`.
    pub fn weight_label(&self) -> Option<String> {
        let desired = self.desired_weight?;
        let confirmed = !self.has_router
            || self
                .verified_weight
                .is_some_and(|verified| same_weight(verified, desired));
        Some(format!(
            "{desired} %{}",
            if confirmed {
                ""
            } else {
                " (not yet confirmed)"
            }
        ))
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
        match (self.phase.as_deref(), self.stage.as_deref()) {
            (Some("Healthy"), _) => Some(true),
            (_, Some("Aborted")) => Some(false),
            _ => None,
        }
    }

    /// The state on one line, without the time.
    pub fn one_line(&self) -> String {
        let mut parts = vec![
            self.phase
                .clone()
                .unwrap_or_else(|| "not yet reconciled".into()),
        ];
        parts.extend(self.step_label().map(|step| format!("step {step}")));
        parts.extend(self.weight_label().map(|weight| format!("canary {weight}")));
        parts.extend(self.evidence.clone());
        parts.extend(self.message.clone());
        parts.join(" · ")
    }
}

/// Compares two weights in percent at their resolution of 0.001 %.
pub fn same_weight(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-4
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
