//! Hostile Rollouts: whatever their authors may write, at the limits of its size and frequency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use serin_core::text::MESSAGE_BYTES;
use serin_crds::status::{CheckOutcome, CheckStatus};
use serin_crds::{Rollout, RolloutCommand};
use serin_fake_cluster::FakeCluster;
use serin_metrics_analysis::AnalysisSnapshot;

use super::releases;
use crate::fixtures::*;
use crate::harness::*;

/// The attacks. Each has a Rollout of this name, or several whose names begin with it.
pub const ATTACKS: [&str; 10] = [
    "hostile-limits",
    "hostile-template",
    "hostile-invalid",
    "hostile-commands",
    "hostile-status",
    "hostile-thief",
    "hostile-births",
    "hostile-crash",
    "hostile-revisions",
    "hostile-fight",
];
/// Maximum number of checks of a Rollout.
const CHECKS: usize = 16;
/// Maximum length of a query.
const QUERY_CHARS: usize = 4_096;
/// Number of steps of a large Rollout.
const STEPS: usize = 100;
/// Size of a template just below the limit of 256 KiB.
const TEMPLATE_BYTES: usize = 250 << 10;

/// The author of hostile objects.
#[derive(Clone)]
pub struct Attacker {
    pub cluster: FakeCluster,
    pub analyzer: Arc<ScriptedAnalyzer>,
    /// The attack.
    pub name: &'static str,
    /// Number of changes of a cluster object that the attacker made, with a release counting as one
    /// change per step.
    pub changes: Arc<AtomicUsize>,
}

impl Attacker {
    /// Runs the attack without an end.
    pub async fn run(self) {
        match self.name {
            "hostile-limits" => self.release_at_the_limits().await,
            "hostile-template" => self.release_large_templates().await,
            "hostile-invalid" => self.write_invalid_specs().await,
            "hostile-commands" => self.flood_with_commands().await,
            "hostile-status" => self.report_long_texts().await,
            "hostile-thief" => self.claim_what_others_have().await,
            "hostile-births" => self.create_and_delete().await,
            "hostile-crash" => self.release_crashing_pods().await,
            "hostile-revisions" => self.change_the_template_all_the_time().await,
            _ => self.reset_the_route().await,
        }
    }

    fn count(&self, changes: usize) {
        self.changes.fetch_add(changes, Ordering::Relaxed);
    }

    fn apply(&self, object: Value) {
        let steps = object["spec"]["strategy"]["canary"]["steps"].as_array();
        self.count(1 + steps.map_or(0, Vec::len));
        apply(&self.cluster, object);
    }

    fn command(&self, name: &str, rollout: &str, verb: &str, revision: Option<&str>) {
        self.count(1);
        let preconditions = revision.map(|revision| json!({"revision": revision}));
        let mut command = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {"rolloutRef": {"name": rollout}, "verb": verb,
                "reason": "x".repeat(MESSAGE_BYTES), "requestedBy": "mallory"},
        });
        if let Some(preconditions) = preconditions {
            command["spec"]["preconditions"] = preconditions;
        }
        apply(&self.cluster, command);
    }

    /// All parts of the spec with their maximum size.
    async fn release_at_the_limits(self) {
        let text = "result.all(a, result.all(b, a - b < 0.1))";
        let frame = "max(queue_length{job=\"\"})".len();
        let query = format!(
            "max(queue_length{{job=\"{}\"}})",
            "x".repeat(QUERY_CHARS - frame)
        );
        let check = |number| json!({"name": format!("check-{number}"), "query": query, "condition": text, "interval": "1s"});
        let step = |index: usize| match index % 2 {
            0 => json!({"setWeight": 1 + index / 2}),
            _ => json!({"pause": {"duration": "1s"}}),
        };
        create_route(&self.cluster, self.name);
        for version in 0.. {
            let steps: Vec<_> = (0..STEPS).map(step).collect();
            let version = format!("v{version}");
            let mut rollout = analyzed_rollout(self.name, &version, 1, json!(steps));
            let checks: Vec<_> = (0..CHECKS).map(check).collect();
            rollout["spec"]["analysis"]["checks"] = checks.into();
            self.apply(rollout);
            self.cluster.sleep(5 * MINUTE).await;
            let invalid = condition(&self.cluster, self.name, "InvalidSpec");
            let is_invalid = invalid
                .as_ref()
                .is_some_and(|(status, ..)| status == "True");
            assert!(!is_invalid, "the spec is within the limits: {invalid:?}");
        }
    }

    async fn release_large_templates(self) {
        for version in 0.. {
            let mut rollout = unrouted_rollout(
                self.name,
                &format!("v{version}"),
                1,
                json!([{"setWeight": 50}]),
            );
            rollout["spec"]["template"]["metadata"]["annotations"] =
                json!({"large": "x".repeat(TEMPLATE_BYTES)});
            self.apply(rollout);
            self.cluster.sleep(5 * MINUTE).await;
        }
    }

    async fn write_invalid_specs(self) {
        let valid = || routed_rollout(self.name, "v1", 1, json!([{"setWeight": 20}]));
        for number in 0_usize.. {
            let mut rollout = valid();
            let spec = &mut rollout["spec"];
            match number % 6 {
                0 => spec["replicas"] = json!("many"),
                1 => {
                    spec["strategy"]["canary"]["steps"] =
                        json!(vec![json!({"setWeight": 900}); STEPS]);
                }
                2 => {
                    spec["analysis"] = json!({"checks": vec![
                    json!({"name": "a", "query": "(".repeat(QUERY_CHARS), "condition": "-".repeat(512)}); CHECKS]});
                }
                3 => {
                    spec["template"]["metadata"]["annotations"] =
                        json!({"large": "x".repeat(2 * TEMPLATE_BYTES)});
                }
                4 => spec["selector"] = json!({"matchLabels": {"app": "another"}}),
                _ => *spec = json!([number]),
            }
            self.apply(rollout);
            self.cluster.sleep(20 * SECOND).await;
        }
    }

    /// Commands for its own Rollout, and commands that must be refused for those of others.
    async fn flood_with_commands(self) {
        let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
        self.apply(unrouted_rollout(self.name, "v0", 1, steps.clone()));
        self.cluster.sleep(MINUTE).await;
        self.apply(unrouted_rollout(self.name, "v1", 1, steps));
        let verbs = ["pause", "resume", "abort", "retry", "promote", "override"];
        for burst in 0_usize.. {
            for number in 0..20 {
                let verb = verbs[(burst + number) % verbs.len()];
                let name = format!("{}-{burst}-{number}", self.name);
                self.command(&name, self.name, verb, None);
            }
            for index in 0..releases::ROLLOUTS {
                let verb = verbs[(burst + index) % verbs.len()];
                let name = format!("{}-{burst}-other-{index}", self.name);
                self.command(&name, &releases::name(index), verb, Some("zzz"));
            }
            self.cluster.sleep(5 * MINUTE).await;
        }
    }

    /// A release whose analysis reports other texts of the maximum length all the time.
    async fn report_long_texts(self) {
        create_route(&self.cluster, self.name);
        let steps = json!([{"setWeight": 20}, {"pause": {}}]);
        for version in ["v0", "v1"] {
            self.apply(analyzed_rollout(self.name, version, 1, steps.clone()));
            self.cluster.sleep(MINUTE).await;
        }
        for round in 0_usize.. {
            let checks = (0..CHECKS).map(|number| CheckStatus {
                name: format!("check-{number:057}"),
                result: CheckOutcome::Failed,
                at: Some(self.cluster.now()),
                message: Some(format!("{round} {}", "\"".repeat(2 * MESSAGE_BYTES)).into()),
                ..CheckStatus::default()
            });
            let undecided = format!("{round} {}", "\\".repeat(2 * MESSAGE_BYTES));
            let snapshot = AnalysisSnapshot {
                checks: checks.collect(),
                summary: Some("x".repeat(100)),
                ..AnalysisSnapshot::undecided(&undecided, self.cluster.now())
            };
            self.analyzer.set_snapshot(self.name, snapshot);
            self.cluster.sleep(2 * SECOND).await;
        }
    }

    /// Names the Services and the route of one well-behaved Rollout after the other.
    async fn claim_what_others_have(self) {
        for victim in (0..releases::ROLLOUTS).cycle() {
            let victim = releases::name(victim);
            let mut rollout = routed_rollout(&victim, "v1", 1, json!([{"setWeight": 90}]));
            rollout["metadata"]["name"] = json!(self.name);
            let canary = &mut rollout["spec"]["strategy"]["canary"];
            canary["stableService"] = json!(victim);
            canary["canaryService"] = json!(format!("{victim}-canary"));
            self.apply(rollout);
            self.cluster.sleep(20 * SECOND).await;
            self.count(1);
            self.cluster.delete::<Rollout>(SHOP, self.name).unwrap();
            let is_gone =
                |cluster: &FakeCluster| cluster.get_json("rollouts", SHOP, self.name).is_none();
            while !is_gone(&self.cluster) {
                self.cluster.sleep(SECOND).await;
            }
        }
    }

    /// Rollouts with a new name each time, which live for a few seconds.
    async fn create_and_delete(self) {
        for number in 0_usize.. {
            let name = format!("{}-{number}", self.name);
            create_route(&self.cluster, &name);
            self.apply(routed_rollout(&name, "v1", 1, json!([{"setWeight": 50}])));
            self.command(&name, &name, "pause", None);
            let lifetime = [SECOND / 20, SECOND / 2, 2 * SECOND, 4 * SECOND][number % 4];
            self.cluster.sleep(lifetime).await;
            self.count(3);
            self.cluster.delete::<Rollout>(SHOP, &name).unwrap();
            self.cluster.sleep(SECOND).await;
            // The controller may have deleted it already.
            let _ = self.cluster.delete::<RolloutCommand>(SHOP, &name);
            self.cluster.delete_json("httproutes", SHOP, &name).unwrap();
            self.cluster.sleep(SECOND).await;
        }
    }

    async fn release_crashing_pods(self) {
        create_route(&self.cluster, self.name);
        let steps = json!([{"setWeight": 50}, {"pause": {"duration": "30s"}}]);
        for version in 0_usize.. {
            let image = ["v", "crash-", "never-ready-"][version.min(1 + version % 2)];
            let version = format!("{image}{version}");
            self.apply(routed_rollout(self.name, &version, 2, steps.clone()));
            self.cluster.sleep(2 * MINUTE).await;
        }
    }

    async fn change_the_template_all_the_time(self) {
        create_route(&self.cluster, self.name);
        let steps = json!([{"setWeight": 50}, {"pause": {}}]);
        for version in 0_usize.. {
            self.apply(routed_rollout(
                self.name,
                &format!("v{version}"),
                1,
                steps.clone(),
            ));
            self.cluster.sleep(10 * SECOND).await;
        }
    }

    /// Puts its own route and Services back whenever the controller has changed them.
    async fn reset_the_route(self) {
        create_route(&self.cluster, self.name);
        let steps = json!([{"setWeight": 50}, {"pause": {}}]);
        for version in ["v0", "v1"] {
            self.apply(routed_rollout(self.name, version, 1, steps.clone()));
            self.cluster.sleep(MINUTE).await;
        }
        loop {
            self.count(2);
            apply(&self.cluster, http_route(self.name));
            apply(&self.cluster, stable_service(self.name));
            self.cluster.sleep(2 * SECOND).await;
        }
    }
}
