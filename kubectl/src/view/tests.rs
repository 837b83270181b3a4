//! Snapshots of the text output for each state of a Rollout, created with the controller's types.

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use serin_core::hold::{Hold, HoldCode};
use serin_core::plan::RouteKind;
use serin_crds::rollout::RolloutSpec;
use serin_traffic::router_of;

use super::*;
use crate::report::report;
use crate::resources::{RolloutResources, RouteResource};

const NOW: &str = "2026-03-01T12:00:00Z";

fn spec() -> Value {
    json!({
        "replicas": 4,
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]}},
        "analysis": {"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]},
        "strategy": {"canary": {
            "trafficRouting": {"gatewayAPI": {"httpRoute": "checkout"}},
            "steps": [
                {"setWeight": 5}, {"pause": {"duration": "5m"}}, {"setWeight": 20}, {"pause": {"duration": "10m"}},
                {"setCanaryScale": {"replicas": 2}}, {"setWeight": 50}, {"analysis": {}}, {"pause": {}}
            ]
        }}
    })
}

/// The plan of the spec, as stored by the controller.
fn plan() -> Value {
    let spec: RolloutSpec = serde_json::from_value(spec()).unwrap();
    serde_json::to_value(spec.plan("checkout").unwrap()).unwrap()
}

fn pod(revision: &str, index: usize, ready: bool) -> Value {
    json!({
        "metadata": {
            "name": format!("checkout-{revision}-{index}"), "creationTimestamp": "2026-03-01T11:56:00Z",
            "labels": {"serin.dev/rollout": "checkout", "serin.dev/revision": revision}
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
    })
}

fn crashing(mut pod: Value) -> Value {
    pod["status"]["containerStatuses"] = json!([{
        "name": "c", "image": "i:2", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}
    }]);
    pod
}

fn replica_set(revision: &str, desired: i32, available: i32) -> Value {
    json!({
        "metadata": {
            "name": format!("checkout-{revision}"), "creationTimestamp": "2026-03-01T11:55:00Z",
            "labels": {"serin.dev/rollout": "checkout", "serin.dev/revision": revision}
        },
        "spec": {"replicas": desired, "selector": {}},
        "status": {"replicas": desired, "availableReplicas": available}
    })
}

fn route(stable: u32, canary: u32, observed: i64) -> Value {
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "Ok", "message": "", "observedGeneration": observed,
            "lastTransitionTime": NOW
        })
    };
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 7},
        "spec": {
            "parentRefs": [{"name": "public"}],
            "rules": [{"backendRefs": [{"name": "checkout", "weight": stable}, {"name": "checkout-canary", "weight": canary}]}]
        },
        "status": {"parents": [
            {"parentRef": {"name": "public"}, "controllerName": "x", "conditions": [condition("Accepted"), condition("ResolvedRefs")]}
        ]}
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-03-01T11:57:00Z"})
}

/// A hold as the controller reports it.
fn hold(code: HoldCode, message: &str, since: &str) -> Value {
    let mut hold = Hold::new(code, message);
    hold.since = Some(since.parse().unwrap());
    serde_json::to_value(hold).unwrap()
}

fn evidence() -> Value {
    json!([{
        "objective": "availability",
        "canary": {"requests": 3000, "errors": 3}, "stable": {"requests": 27000, "errors": 14},
        "excess": 0.00048, "lower": -0.0002, "upper": 0.0021, "eValue": 3.1, "threshold": 100,
        "budgetAllotment": 5184, "budgetSpent": 37,
        "message": "Undecided: worst case still +1.5x budget burn, limit 0.5x. About 38,000 more requests (6 min at 100 rps). This rollout has used 37 of its 5,184 allotted errors (0.7 %)."
    }])
}

struct Scene {
    status: Value,
    replica_sets: Vec<Value>,
    pods: Vec<Value>,
    route: Value,
}

impl Scene {
    fn resources(self) -> RolloutResources {
        let rollout = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "checkout", "namespace": "shop", "generation": 3},
            "spec": spec(), "status": self.status
        });
        let parsed = |values: Vec<Value>| Value::Array(values);
        RolloutResources {
            rollout: serde_json::from_value(rollout).unwrap(),
            replica_sets: Ok(serde_json::from_value(parsed(self.replica_sets)).unwrap()),
            pods: Ok(serde_json::from_value(parsed(self.pods)).unwrap()),
            routes: vec![RouteResource {
                router: router_of(RouteKind::HttpRoute),
                name: "checkout".into(),
                object: Ok(serde_json::from_value(self.route).unwrap()),
            }],
        }
    }

    fn show(self) -> String {
        show(&self.resources(), 80)
    }
}

fn show(resources: &RolloutResources, width: usize) -> String {
    let display = DisplayContext {
        now: NOW.parse().unwrap(),
        zone: TimeZone::UTC,
        width,
    };
    let text = render(&report(resources, display.now), &display);
    anstream::adapter::strip_str(&text).to_string()
}

/// A release in progress at 20 %.
fn progressing() -> Scene {
    Scene {
        status: json!({
            "observedGeneration": 3, "phase": "Progressing", "stage": "Progressing",
            "message": "step 3 of 8 (setWeight 20 %): waiting for the router",
            "stableRevision": "5d8b2a", "currentRevision": "7c9f4d", "plan": {"hash": "h", "spec": plan()},
            "stageSince": "2026-03-01T11:59:52Z", "step": {"index": 2, "startedAt": "2026-03-01T11:59:52Z"},
            "weights": {"desired": 20.0, "since": "2026-03-01T11:59:52Z"},
            "holds": [hold(HoldCode::RouteNotReady, "waiting for the router", "2026-03-01T11:59:52Z")],
            "evidence": evidence(),
            "conditions": [condition("Available", "True", "Ok", ""), condition("Ready", "False", "Releasing", "")],
            "history": [
                {"revision": "19e0aa", "result": "Superseded", "at": "2026-02-20T08:00:00Z", "message": "replaced by 88aa01"},
                {"revision": "88aa01", "result": "Aborted", "at": "2026-02-20T09:00:00Z", "message":
                    "Rolled back at 10 %: the canary failed 24 of 3,000 requests; stable failed 14 of 27,000 (about 1.6 expected)."},
                {"revision": "a1b2c3", "result": "Promoted", "at": "2026-02-21T09:00:00Z", "message": "went through its steps"},
                {"revision": "5d8b2a", "result": "Promoted", "at": "2026-02-26T12:00:00Z", "message": "went through its steps"}
            ]
        }),
        replica_sets: vec![
            replica_set("7c9f4d", 2, 1),
            replica_set("5d8b2a", 8, 8),
            replica_set("a1b2c3", 0, 0),
            replica_set("88aa01", 0, 0),
        ],
        pods: (0..8)
            .map(|index| pod("5d8b2a", index, true))
            .chain([pod("7c9f4d", 0, true), crashing(pod("7c9f4d", 1, false))])
            .collect(),
        route: route(80, 20, 6),
    }
}

fn changed(changes: &Value) -> Scene {
    let mut scene = progressing();
    let status = scene.status.as_object_mut().unwrap();
    for (field, value) in changes.as_object().unwrap() {
        status.insert(field.clone(), value.clone());
    }
    scene
}

#[test]
fn progressing_at_20_percent() {
    insta::assert_snapshot!(progressing().show());
}

#[test]
fn budgets_and_checks_are_shown() {
    let infeasible = "Objective availability: At 2 requests/s this objective needs 9.2 days; choose 99 % or a longer duration.";
    let text = changed(&json!({
        "budgets": [{
            "objective": "availability", "state": "Tight", "total": 259_200, "remaining": 200, "allotment": 40,
            "at": "2026-03-01T11:59:00Z",
            "message": "0.077 % of the error budget remain, 200 of 259,200 errors in 30 days. A release may spend 40, less than usual."
        }],
        "checks": [
            {"name": "queue", "result": "Failed", "failures": 1, "failureLimit": 2, "at": "2026-03-01T11:59:30Z",
             "message": "Found 120; it must be result[0] < 100."},
            {"name": "memory", "result": "Pending", "failures": 0, "failureLimit": 0, "dryRun": true, "message": "Not yet queried."}
        ],
        "conditions": [condition("Feasible", "False", "NotFeasible", infeasible)]
    }))
    .show();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Error budget availability Tight (1m ago)",
        "A release may spend 40, less than usual.",
        "queue Failed (30s ago) Found 120; it must be result[0] < 100. Failures: 1 (limit 2).",
        "memory Pending Not yet queried. Dry run: does not affect the release.",
        "At 2 requests/s this objective needs 9.2 days; choose 99 % or a longer duration.",
    ] {
        assert!(flat.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn first_deploy() {
    let scene = Scene {
        status: json!({
            "observedGeneration": 3, "phase": "Progressing", "stage": "FirstDeploy",
            "message": "first deploy: waiting for 4 available pods of the new revision", "currentRevision": "7c9f4d",
            "stageSince": "2026-03-01T11:58:00Z", "weights": {"desired": 0.0}, "plan": {"hash": "h", "spec": plan()},
            "holds": [hold(
                HoldCode::PodsNotAvailable,
                "waiting for 4 available pods of the new revision",
                "2026-03-01T11:58:00Z"
            )],
            "conditions": [condition("Available", "False", "NoPods", "no pod is available yet")]
        }),
        replica_sets: vec![replica_set("7c9f4d", 4, 0)],
        pods: vec![pod("7c9f4d", 0, false), pod("7c9f4d", 1, false)],
        route: route(1, 0, 7),
    };
    insta::assert_snapshot!(scene.show());
}

#[test]
fn paused_for_a_time() {
    let mut pause = hold(
        HoldCode::StepPause,
        "until 2026-03-01T12:07:50Z",
        "2026-03-01T11:57:50Z",
    );
    pause["ends"] = json!({"by": "Time", "at": "2026-03-01T12:07:50Z"});
    let scene = changed(&json!({
        "phase": "Paused", "message": "step 4 of 8 (pause 10m): until 2026-03-01T12:07:50Z",
        "step": {"index": 3, "startedAt": "2026-03-01T11:57:50Z"}, "stageSince": "2026-03-01T11:57:50Z",
        "weights": {"desired": 20.0, "verified": 20.0, "since": "2026-03-01T11:57:50Z"},
        "pause": {"reason": "Step", "since": "2026-03-01T11:57:50Z", "until": "2026-03-01T12:07:50Z"},
        "holds": [pause]
    }));
    insta::assert_snapshot!(
        Scene {
            route: route(80, 20, 7),
            ..scene
        }
        .show()
    );
}

#[test]
fn paused_until_promoted() {
    let scene = changed(&json!({
        "phase": "Paused", "message": "step 8 of 8 (pause): until promoted",
        "step": {"index": 7, "startedAt": "2026-03-01T10:00:00Z"}, "stageSince": "2026-03-01T10:00:00Z",
        "weights": {"desired": 50.0, "verified": 50.0, "since": "2026-03-01T09:30:00Z"},
        "pause": {"reason": "Step", "since": "2026-03-01T10:00:00Z"}, "evidence": [],
        "holds": [hold(HoldCode::StepPause, "until promoted", "2026-03-01T10:00:00Z")]
    }));
    insta::assert_snapshot!(
        Scene {
            route: route(50, 50, 7),
            ..scene
        }
        .show()
    );
}

#[test]
fn aborted() {
    let message = "Rolled back at 20 %: the canary failed 24 of 3,000 requests; stable failed 14 of 27,000 (about 1.6 \
                   expected). The canary adds at least 0.31 points of errors";
    let scene = changed(&json!({
        "phase": "Degraded", "stage": "Aborted", "step": null, "holds": [],
        "message": format!("{message}. Stable 5d8b2a serves; the spec still asks for 7c9f4d, which was given up: declare another revision, or retry"),
        "weights": {"desired": 0.0, "verified": 0.0, "since": "2026-03-01T11:59:00Z"},
        "abort": {"revision": "7c9f4d", "at": "2026-03-01T11:58:59Z", "cause": "Evidence", "message": message},
        "draining": [{"revision": "7c9f4d", "until": "2026-03-01T12:00:25Z"}],
        "evidence": [{
            "objective": "availability",
            "canary": {"requests": 3000, "errors": 24}, "stable": {"requests": 27000, "errors": 14},
            "excess": 0.0075, "lower": 0.0031, "upper": 0.012, "eValue": 311.2, "threshold": 100,
            "budgetAllotment": 5184, "budgetSpent": 22.4
        }]
    }));
    insta::assert_snapshot!(
        Scene {
            route: route(100, 0, 7),
            ..scene
        }
        .show()
    );
}

#[test]
fn promoting() {
    let scene = changed(&json!({
        "stage": "Promoting", "message": "going to 100 %: waiting for pods", "step": null, "holds": [],
        "stageSince": "2026-03-01T11:59:30Z",
        "weights": {"desired": 100.0, "verified": 100.0, "since": "2026-03-01T11:59:31Z"}, "evidence": []
    }));
    insta::assert_snapshot!(
        Scene {
            route: route(0, 100, 7),
            ..scene
        }
        .show()
    );
}

#[test]
fn healthy() {
    let scene = changed(&json!({
        "phase": "Healthy", "stage": "Stable", "message": "the revision is stable", "currentRevision": "5d8b2a",
        "step": null, "weights": {"desired": 0.0, "verified": 0.0, "since": "2026-02-26T12:00:00Z"}, "evidence": [],
        "holds": []
    }));
    let scene = Scene {
        replica_sets: vec![replica_set("5d8b2a", 8, 8)],
        route: route(1, 0, 7),
        ..scene
    };
    let pods = (0..8).map(|index| pod("5d8b2a", index, true)).collect();
    insta::assert_snapshot!(Scene { pods, ..scene }.show());
}

#[test]
fn invalid_spec() {
    let problem = "spec.strategy.canary.steps[1].pause.duration: not a duration: write whole or decimal numbers with a unit";
    let scene = changed(&json!({
        "phase": "Degraded",
        "message": format!("the spec cannot be used: {problem}; meanwhile: step 3 of 8 (setWeight 20 %)"),
        "weights": {"desired": 20.0, "verified": 20.0, "since": "2026-03-01T11:59:55Z"},
        "conditions": [condition("InvalidSpec", "True", "InvalidField", problem)], "evidence": [], "history": [],
        "holds": [hold(HoldCode::SpecInvalid, problem, "2026-03-01T11:57:00Z")]
    }));
    insta::assert_snapshot!(
        Scene {
            route: route(80, 20, 7),
            ..scene
        }
        .show()
    );
}

#[test]
fn a_canary_without_pods_has_no_traffic_in_effect() {
    let message = "waiting for 2 available pods of the new revision: pod checkout-7c9f4d-0 cannot \
                   pull its image i:2. Correct the image, or the pull secret of the pod";
    let mut scene = changed(&json!({
        "weights": {"desired": 50.0, "since": "2026-03-01T11:59:52Z"},
        "holds": [
            hold(HoldCode::ImagePullFailed, message, "2026-03-01T11:57:00Z"),
            hold(HoldCode::NoData, "availability: no series of the canary", "2026-03-01T11:57:00Z"),
        ]
    }));
    scene.replica_sets[0] = replica_set("7c9f4d", 2, 0);
    let text = scene.show();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "in namespace shop Held waiting for 2 available pods of the new revision: pod",
        "the pull secret of the pod, for 3m ImagePullFailed: A container image cannot be pulled.",
        "The hold ends when its cause is gone. Also held availability: no series",
        "Canary 0 % in effect, 50 % desired",
        "canary 7c9f4d · 0 % in effect, 50 % desired",
        "stable 5d8b2a · 100 % in effect, 50 % desired",
    ] {
        assert!(flat.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("50 % of traffic"), "{text}");
}

#[test]
fn a_hold_of_another_version_shows_its_code_and_message() {
    let text = changed(&json!({"holds": [{
        "source": "Weather", "code": "OfTheFuture", "message": "it rains", "blocks": "Advance",
        "ends": {"by": "Sunshine"}, "since": "2026-03-01T11:57:00Z"
    }]}))
    .show();
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Held it rains, for 3m OfTheFuture: This version of the kubectl plugin does not know",
        "A newer kubectl plugin may know more.",
    ] {
        assert!(flat.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn not_yet_reconciled() {
    let scene = Scene {
        status: Value::Null,
        replica_sets: Vec::new(),
        pods: Vec::new(),
        route: route(1, 0, 7),
    };
    insta::assert_snapshot!(scene.show());
}

#[test]
fn unreadable_objects_do_not_hide_the_rest() {
    let mut resources = progressing().resources();
    resources.pods = Err("pods is forbidden: User \"ann\" cannot list resource \"pods\"".into());
    resources.routes[0].object =
        Err("httproutes.gateway.networking.k8s.io \"checkout\" not found".into());
    let text = show(&resources, 80);
    assert!(text.contains("pods is forbidden"), "{text}");
    assert!(text.contains("\"checkout\" not found"), "{text}");
    assert!(
        text.contains("ReplicaSet checkout-7c9f4d · 1 of 2 available"),
        "{text}"
    );
}

#[test]
fn an_incompatible_status_is_reported_and_the_summary_is_still_shown() {
    let text = changed(&json!({"weights": {"desired": "a lot"}})).show();
    assert!(
        text.contains("plugin and controller versions may differ"),
        "{text}"
    );
    assert!(
        text.contains("step 3/8") && text.contains("Progressing"),
        "{text}"
    );
}

#[test]
fn lines_fit_the_terminal() {
    for width in [60, 80, 120] {
        for line in show(&progressing().resources(), width).lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn json_report() {
    let report = report(&progressing().resources(), NOW.parse().unwrap());
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
}
