use std::collections::BTreeMap;

use serde_json::json;
use serin_core::units::Weight;

use super::*;
use crate::fixtures::request;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Series, Server};
use crate::release_analysis::settings_for;
use crate::request::{AnalysisRequest, AnalysisSnapshot};
use crate::sample_reader::ObjectiveAnswers;

const BEGAN_MS: i64 = 1_700_000_000_000;

/// A pod that is scraped every 15 s and receives ten requests per second.
#[derive(Clone, Copy)]
struct Pod {
    name: &'static str,
    /// First and last scrape, in seconds after the start.
    scraped: (i64, i64),
    /// Errors per second.
    errors: f64,
}

const STABLE: [Pod; 2] = [
    Pod {
        name: "checkout-aaa-11111",
        scraped: (-600, 10_000),
        errors: 0.005,
    },
    Pod {
        name: "checkout-aaa-22222",
        scraped: (-600, 10_000),
        errors: 0.005,
    },
];
const GOOD: Pod = Pod {
    name: "checkout-bbb-11111",
    scraped: (15, 10_000),
    errors: 0.005,
};
const BAD: Pod = Pod {
    name: "checkout-bbb-22222",
    scraped: (15, 10_000),
    errors: 0.5,
};

fn pod_request(nodes: &[(&str, &str)]) -> AnalysisRequest {
    let analysis = json!({
        "warmUp": "0s",
        "prometheus": {"scrapeInterval": "15s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}],
    });
    let owned = |(pod, node): &(&str, &str)| ((*pod).to_owned(), (*node).to_owned());
    AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        weight: Weight::percent(50),
        pod_nodes: nodes.iter().map(owned).collect::<BTreeMap<_, _>>(),
        ..request()
    }
}

const NODES: [(&str, &str); 4] = [
    ("checkout-aaa-11111", "n1"),
    ("checkout-aaa-22222", "n2"),
    ("checkout-bbb-11111", "n1"),
    ("checkout-bbb-22222", "n3"),
];

fn begin(request: &AnalysisRequest) -> ReleaseAnalysis {
    let settings = settings_for(request, Server::with_url("http://prometheus")).unwrap();
    let plans = ObjectivePlan::from_request(request).unwrap();
    ReleaseAnalysis::begin(settings, plans, request, None, BEGAN_MS).unwrap()
}

fn observe(release: &mut ReleaseAnalysis, pods: &[Pod], second: i64) -> AnalysisSnapshot {
    let now_ms = BEGAN_MS + second * 1_000;
    let series = |pod: &Pod, code: &str, per_second: f64| {
        let labels = [
            ("__name__", "http_requests_total"),
            ("job", "pods"),
            ("instance", pod.name),
            ("pod", pod.name),
            ("code", code),
        ];
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let samples = (pod.scraped.0..=pod.scraped.1.min(second))
            .step_by(15)
            .filter(|at| *at > second - 300)
            .map(|at| {
                (
                    BEGAN_MS + at * 1_000,
                    ((at + 600) as f64 * per_second).floor(),
                )
            });
        Series {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: samples.collect(),
        }
    };
    let alive: Vec<&Pod> = pods
        .iter()
        .filter(|pod| pod.scraped.1 > second - 300)
        .collect();
    let errors: Answer = alive
        .iter()
        .map(|pod| series(pod, "500", pod.errors))
        .collect();
    let mut total: Answer = alive.iter().map(|pod| series(pod, "200", 10.0)).collect();
    total.extend(errors.iter().cloned());
    let answers = [total, errors];
    let samples = ObjectiveAnswers::from_answers(&answers).unwrap();
    let settled_ms = release.settled_ms(0, samples.total, now_ms);
    release.observe(0, samples, settled_ms, now_ms);
    release.snapshot(now_ms)
}

/// Observes until there is a hold for a pod or a breach. Returns when, in seconds after the start.
fn follow(
    release: &mut ReleaseAnalysis,
    pods: &[Pod],
    (from, to): (i64, i64),
) -> (i64, AnalysisSnapshot) {
    for second in (from..to).step_by(15) {
        let snapshot = observe(release, pods, second);
        let report = &snapshot.report;
        if report.breach.is_some() || report.hold_code() == Some(HoldCode::PodOutlier) {
            return (second, snapshot);
        }
    }
    panic!("neither a hold for a pod nor a breach within {to} s");
}

fn with(pods: &[Pod]) -> Vec<Pod> {
    STABLE.iter().chain(pods).copied().collect()
}

#[test]
fn one_bad_pod_holds_the_release_by_name_and_node() {
    let mut release = begin(&pod_request(&NODES));
    let (_, snapshot) = follow(&mut release, &with(&[GOOD, BAD]), (30, 600));
    let report = snapshot.report;
    assert_eq!(report.hold_code(), Some(HoldCode::PodOutlier), "{report:?}");
    let message = report.message.as_str();
    assert!(
        message.starts_with("Pod checkout-bbb-22222 on node n3 has ")
            && message.contains("of the canary's excess errors: ")
            && message.contains("Delete the pod"),
        "{message}"
    );
}

#[test]
fn a_bad_pod_that_stays_rolls_the_release_back() {
    let mut release = begin(&pod_request(&NODES));
    let pods = with(&[GOOD, BAD]);
    let (held, _) = follow(&mut release, &pods, (30, 600));
    let mut second = held;
    let breach = loop {
        second += 15;
        let report = observe(&mut release, &pods, second).report;
        if let Some(breach) = report.breach {
            break breach;
        }
        assert_eq!(report.hold_code(), Some(HoldCode::PodOutlier));
        assert!(!report.ready_to_promote && report.next_weight.is_none());
    };
    assert_eq!(breach.cause, AbortCause::Evidence);
    assert!((600..=615).contains(&(second - held)), "{second} {held}");
    assert!(
        breach.message.contains("checkout-bbb-22222 on node n3"),
        "{}",
        breach.message
    );
}

#[test]
fn a_replaced_pod_ends_the_hold_and_the_release_continues() {
    let mut release = begin(&pod_request(&NODES));
    let (held, _) = follow(&mut release, &with(&[GOOD, BAD]), (30, 600));
    let mut nodes: Vec<_> = NODES[..3].to_vec();
    nodes.push(("checkout-bbb-33333", "n4"));
    release.apply_request(&pod_request(&nodes), BEGAN_MS + held * 1_000);
    let gone = Pod {
        scraped: (15, held),
        ..BAD
    };
    let replacement = Pod {
        name: "checkout-bbb-33333",
        scraped: (held + 15, 10_000),
        errors: 0.005,
    };
    let pods = with(&[GOOD, gone, replacement]);
    for second in (held + 15..held + 1_200).step_by(15) {
        let report = observe(&mut release, &pods, second).report;
        assert!(
            report.breach.is_none() && report.hold_code() != Some(HoldCode::PodOutlier),
            "{report:?}"
        );
    }
}

#[test]
fn a_release_that_is_bad_on_all_pods_is_rolled_back_without_a_hold() {
    let mut release = begin(&pod_request(&NODES));
    let both = [
        Pod {
            errors: 0.5,
            ..GOOD
        },
        BAD,
    ];
    let (_, snapshot) = follow(&mut release, &with(&both), (30, 600));
    assert_eq!(snapshot.report.breach_cause(), Some(AbortCause::Evidence));
}

#[test]
fn the_other_pods_roll_the_release_back_during_a_hold() {
    let mut release = begin(&pod_request(&NODES));
    let pods = with(&[GOOD, BAD]);
    let (held, _) = follow(&mut release, &pods, (30, 600));
    // From now on the other pod fails as well.
    let worse = Pod {
        errors: 2.0,
        ..GOOD
    };
    let (broken, snapshot) = (held + 15..held + 300)
        .step_by(15)
        .find_map(|second| {
            let snapshot = observe(&mut release, &with(&[worse, BAD]), second);
            snapshot
                .report
                .breach
                .is_some()
                .then_some((second, snapshot))
        })
        .unwrap();
    assert!(broken - held < 120, "{broken} {held}");
    let breach = snapshot.report.breach.unwrap();
    assert!(
        breach.message.contains("checkout-bbb-22222"),
        "{}",
        breach.message
    );
}

#[test]
fn one_canary_pod_cannot_be_distinguished_from_the_release() {
    let mut release = begin(&pod_request(&NODES));
    let (_, snapshot) = follow(&mut release, &with(&[BAD]), (30, 600));
    let breach = snapshot.report.breach.unwrap();
    assert!(
        breach.message.ends_with(
            "The canary has one pod, checkout-bbb-22222 on node n3, so a bad pod or node cannot \
             be distinguished from a bad release."
        ),
        "{}",
        breach.message
    );
}

#[test]
fn a_fourth_bad_pod_rolls_the_release_back_and_is_named() {
    let mut release = begin(&pod_request(&NODES));
    for (pod, name) in [(1, "first"), (2, "second"), (3, "third")] {
        let outlier = OutlierPod {
            pod,
            share: 1.0,
            counts: Counts::default(),
        };
        release.objectives[0]
            .state
            .pods
            .exclude(&outlier, name, BEGAN_MS);
    }
    let (_, snapshot) = follow(&mut release, &with(&[GOOD, BAD]), (30, 600));
    let breach = snapshot.report.breach.unwrap();
    assert!(
        breach
            .message
            .contains("Pod checkout-bbb-22222 on node n3 has "),
        "{}",
        breach.message
    );
}

#[test]
fn a_pod_that_was_excluded_stays_so_after_a_restart() {
    let request = pod_request(&NODES);
    let mut release = begin(&request);
    let pods = with(&[GOOD, BAD]);
    let (held, _) = follow(&mut release, &pods, (30, 600));
    let stored = serde_json::to_value(release.checkpoint()).unwrap();
    let settings = settings_for(&request, Server::with_url("http://prometheus")).unwrap();
    let plans = ObjectivePlan::from_request(&request).unwrap();
    let now_ms = BEGAN_MS + (held + 15) * 1_000;
    let checkpoint = Some(serde_json::from_value(stored).unwrap());
    let mut again = ReleaseAnalysis::begin(settings, plans, &request, checkpoint, now_ms).unwrap();
    let report = observe(&mut again, &pods, held + 30).report;
    assert_eq!(report.hold_code(), Some(HoldCode::PodOutlier), "{report:?}");
}

#[test]
fn the_budget_ends_a_hold_early() {
    let evidence = |allotment, spent| ObjectiveEvidence {
        allotment,
        spent,
        ..release_evidence()
    };
    let pod = {
        let mut release = begin(&pod_request(&NODES));
        follow(&mut release, &with(&[GOOD, BAD]), (30, 600));
        release.objectives[0].state.pods.excluded[0].clone()
    };
    let cause = |evidence: &ObjectiveEvidence, spent| {
        let outlier = ServingOutlier {
            pod: &pod,
            evidence,
            spent,
        };
        end_of_hold(&outlier, pod.since_ms + 1_000).map(|(cause, _)| cause)
    };
    assert_eq!(cause(&evidence(Some(100.0), 30.0), 24.0), None);
    assert_eq!(
        cause(&evidence(Some(100.0), 30.0), 25.0),
        Some(AbortCause::ErrorBudget)
    );
    assert_eq!(
        cause(&evidence(Some(100.0), 100.0), 1.0),
        Some(AbortCause::ErrorBudget)
    );
    assert_eq!(cause(&evidence(None, 1_000.0), 1_000.0), None);
}

/// Evidence of an objective without samples.
fn release_evidence() -> ObjectiveEvidence {
    let release = begin(&pod_request(&NODES));
    let objective = &release.objectives[0];
    ObjectiveEvidence::from_evidence(
        "availability",
        objective.objective.bets(),
        &objective.state.evidence,
        &release.settings.analysis,
        0.5,
    )
}
