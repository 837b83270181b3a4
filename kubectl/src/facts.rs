//! The few facts that commands and one-line displays need, read leniently from the object as it is:
//! a plugin that is older or newer than the controller must still be able to abort.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

/// Where a Rollout stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The newest generation that the controller has taken in.
    pub observed_generation: Option<i64>,
    /// Progressing, Paused, Degraded or Healthy.
    pub phase: Option<String>,
    /// FirstDeploy, Progressing, Promoting, Aborted or Stable.
    pub stage: Option<String>,
    /// What it does or waits for.
    pub message: Option<String>,
    /// The revision that production stands on.
    pub stable: Option<String>,
    /// The revision that the spec asks for.
    pub current: Option<String>,
    /// The index of the step at hand, from 0.
    pub step_index: Option<i64>,
    /// How many steps the plan in force has; none where evidence sets the pace.
    pub step_count: Option<usize>,
    /// The canary's share in percent that is asked for.
    pub asked: Option<f64>,
    /// The canary's share in percent that was last seen in effect.
    pub verified: Option<f64>,
    /// The revision that was given up, while it is the current one.
    pub aborted: Option<String>,
    /// Whether a router splits the traffic.
    pub routed: bool,
    /// The evidence in a few words.
    pub evidence: Option<String>,
}

impl Facts {
    /// The facts of an object.
    pub fn of(rollout: &DynamicObject) -> Self {
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
            stable: text(&status["stableRevision"]),
            current: text(&status["currentRevision"]),
            step_index: status["step"]["index"].as_i64(),
            step_count: status
                .pointer("/plan/spec/strategy/canary/pace/steps")
                .and_then(Value::as_array)
                .map(Vec::len),
            asked: status["weights"]["desired"].as_f64(),
            verified: status["weights"]["verified"].as_f64(),
            aborted: text(&status["abort"]["revision"]),
            routed: !rollout.data["spec"]["strategy"]["canary"]["trafficRouting"].is_null(),
            evidence: text(&status["summary"]["evidence"]),
        }
    }

    /// Whether the controller has taken in the newest spec.
    pub fn is_up_to_date(&self) -> bool {
        self.observed_generation
            .is_some_and(|observed| observed >= self.generation)
    }

    /// The step at hand as people count, for example `3/6`; nothing outside of steps.
    pub fn step(&self) -> Option<String> {
        let count = self.step_count.filter(|&count| count > 0)?;
        let index = usize::try_from(self.step_index?).ok()?;
        Some(format!("{}/{count}", index.saturating_add(1).min(count)))
    }

    /// The canary's share as it is known, for example `20 %`, or `20 % (not yet confirmed)`.
    pub fn weight(&self) -> Option<String> {
        let asked = self.asked?;
        let confirmed = !self.routed || self.verified.is_some_and(|verified| same(verified, asked));
        Some(format!(
            "{asked} %{}",
            if confirmed {
                ""
            } else {
                " (not yet confirmed)"
            }
        ))
    }

    /// Whether no traffic reaches the canary any more, as far as anybody can tell.
    pub fn canary_is_off(&self) -> bool {
        self.asked.is_none_or(|asked| same(asked, 0.0))
            && (!self.routed || self.verified.is_some_and(|verified| same(verified, 0.0)))
    }

    /// How the release ended: `Some(true)` healthy, `Some(false)` aborted, `None` while it goes on.
    pub fn ended(&self) -> Option<bool> {
        if !self.is_up_to_date() {
            return None;
        }
        match (self.phase.as_deref(), self.stage.as_deref()) {
            (Some("Healthy"), _) => Some(true),
            (_, Some("Aborted")) => Some(false),
            _ => None,
        }
    }

    /// Where it stands on one line, without the time.
    pub fn line(&self) -> String {
        let mut parts = vec![
            self.phase
                .clone()
                .unwrap_or_else(|| "not yet seen by the controller".into()),
        ];
        parts.extend(self.step().map(|step| format!("step {step}")));
        parts.extend(self.weight().map(|weight| format!("canary {weight}")));
        parts.extend(self.evidence.clone());
        parts.extend(self.message.clone());
        parts.join(" · ")
    }
}

/// Weights are thousandths of a percent: two that differ by less are one.
pub fn same(left: f64, right: f64) -> bool {
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
    fn an_object_without_status_is_not_yet_seen() {
        let facts = Facts::of(&rollout(&Value::Null, true));
        assert_eq!(facts.line(), "not yet seen by the controller");
        assert_eq!(facts.ended(), None);
    }

    #[test]
    fn the_end_of_an_older_generation_is_not_the_end() {
        let healthy = |observed: i64| {
            Facts::of(&rollout(
                &serde_json::json!({"phase": "Healthy", "observedGeneration": observed}),
                true,
            ))
            .ended()
        };
        assert_eq!(healthy(1), None);
        assert_eq!(healthy(2), Some(true));
    }

    #[test]
    fn the_canary_is_off_only_when_the_router_was_seen_to_say_so() {
        let off = |weights: Value, routed: bool| {
            Facts::of(&rollout(&serde_json::json!({"weights": weights}), routed)).canary_is_off()
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
    fn steps_are_counted_from_one_and_end_at_the_last() {
        let at = |index: i64| {
            let plan = serde_json::json!({"spec": {"strategy": {"canary": {"pace": {"steps": [1, 2, 3]}}}}});
            Facts::of(&rollout(
                &serde_json::json!({"plan": plan, "step": {"index": index}}),
                true,
            ))
            .step()
        };
        assert_eq!(at(0).as_deref(), Some("1/3"));
        assert_eq!(at(3).as_deref(), Some("3/3"));
    }
}
