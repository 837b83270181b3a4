//! Placebo releases while a Rollout is idle.

use serin_crds::status::PlaceboStatus;

use super::*;

const HOUR: i64 = 3_600;
const DAY_MS: i64 = 24 * HOUR * 1_000;

/// The counters of four stable pods with 1000 requests per minute, from 25 hours before the start of
/// the scenario to 26 hours after it. `errors` returns those of a pod in a minute.
fn stable_pods(errors: impl Fn(i64, i64) -> i64) -> Vec<Series> {
    let series = |pod: i64, code: &str, count: &dyn Fn(i64) -> i64| {
        let name = format!("checkout-bbb-xk2v{pod}");
        let labels = [
            ("__name__", "http_requests_total"),
            ("job", "shop"),
            ("instance", &name),
            ("pod", &name),
            ("code", code),
        ];
        let mut sum = 0;
        #[expect(clippy::cast_precision_loss, reason = "a few million requests")]
        let samples = (-25 * 60..=26 * 60).map(|minute| {
            sum += count(minute);
            (at(minute * 60).as_millisecond() + 10, sum as f64)
        });
        Series {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: samples.collect(),
        }
    };
    let of_pod = |pod| {
        [
            series(pod, "200", &|minute| 1_000 - errors(pod, minute)),
            series(pod, "500", &|minute| errors(pod, minute)),
        ]
    };
    (0..4).flat_map(of_pod).collect()
}

/// One error every two minutes.
fn rare(pod: i64, minute: i64) -> i64 {
    (minute + pod).rem_euclid(2)
}

/// The same, and one of the pods fails a quarter of its requests for 20 minutes of each hour.
fn in_clusters(pod: i64, minute: i64) -> i64 {
    let fails = pod == 2 && minute.rem_euclid(60) < 20;
    if fails { 250 } else { rare(pod, minute) }
}

/// A Prometheus with a month of half the error budget, and these errors of the stable pods.
async fn prometheus_with(errors: impl Fn(i64, i64) -> i64) -> ScriptedPrometheus {
    let prometheus = ScriptedPrometheus::start(Clock::tokio_from(start())).await;
    prometheus.set_series(stable_pods(errors));
    prometheus.set_service(&[
        ("total", 1e8),
        ("errors", 5e4),
        ("age0", 2.6e6),
        ("total3600", 2.4e5),
        ("total300", 2e4),
    ]);
    prometheus
}

/// A Rollout without a release: both revisions are the same.
fn idle(uid: &str) -> AnalysisRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "60s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}],
    });
    let set = "checkout-bbb".to_owned();
    AnalysisRequest {
        uid: uid.to_owned(),
        analysis: serde_json::from_value(analysis).unwrap(),
        phase: ReleasePhase::Idle,
        weight: Weight::ZERO,
        stable_replica_set: Some(set.clone()),
        canary_replica_set: set,
        ..request()
    }
}

fn placebo(snapshot: &AnalysisSnapshot) -> Option<&PlaceboStatus> {
    snapshot.budgets.first()?.placebo.as_ref()
}

/// Waits until placebo releases are reported that ended at this second of the scenario or later.
async fn placebo_since(running: &RunningManager, seconds: i64) -> AnalysisSnapshot {
    let is_known = |snapshot: &AnalysisSnapshot| {
        placebo(snapshot).is_some_and(|placebo| placebo.at >= Some(at(seconds)))
    };
    running
        .wait_until("a day of placebo releases", is_known)
        .await
}

/// The message of the condition `Feasible`, if it is False.
fn infeasible(snapshot: &AnalysisSnapshot) -> Option<&str> {
    snapshot.budgets[0].infeasible.as_deref()
}

async fn wait_until_hanging(prometheus: &ScriptedPrometheus, count: usize) {
    let reached = timeout(Duration::from_secs(30), async {
        while prometheus.hanging() != count {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(
        reached.await.is_ok(),
        "{} requests hang",
        prometheus.hanging()
    );
}

#[tokio::test]
async fn pods_that_fail_in_clusters_are_reported_without_a_release() {
    let prometheus = prometheus_with(in_clusters).await;
    let running = start_manager(&prometheus, at(0));
    running.manager.start_or_update(idle("1"));
    let snapshot = placebo_since(&running, 0).await;
    let placebo = placebo(&snapshot).unwrap();
    assert!(
        placebo.refutes_bound && placebo.hours >= 20 && placebo.hours_with_rollback >= 10,
        "{placebo:?}"
    );
    let message = infeasible(&snapshot).unwrap();
    let expected = format!(
        "Objective availability: Your own stable pods would have been rolled back in {} of the {} \
         hours before",
        placebo.hours_with_rollback, placebo.hours
    );
    assert!(message.starts_with(&expected), "{message}");
}

#[tokio::test]
async fn quiet_pods_are_not_reported_without_a_release() {
    let prometheus = prometheus_with(rare).await;
    let running = start_manager(&prometheus, at(0));
    running.manager.start_or_update(idle("1"));
    let snapshot = placebo_since(&running, 0).await;
    let placebo = placebo(&snapshot).unwrap();
    assert!(placebo.hours >= 20, "{placebo:?}");
    assert_eq!(
        (placebo.hours_with_rollback, placebo.refutes_bound),
        (0, false)
    );
    assert_eq!(infeasible(&snapshot), None);
}

#[tokio::test]
async fn clusters_that_all_pods_have_in_turn_are_within_the_temper() {
    let in_turn = |pod: i64, minute: i64| {
        let fails = minute.div_euclid(20).rem_euclid(4) == pod;
        if fails { 20 } else { rare(pod, minute) }
    };
    let prometheus = prometheus_with(in_turn).await;
    let running = start_manager(&prometheus, at(0));
    running.manager.start_or_update(idle("1"));
    let snapshot = placebo_since(&running, 0).await;
    let placebo = placebo(&snapshot).unwrap();
    assert!(placebo.hours >= 20 && !placebo.refutes_bound, "{placebo:?}");
}

#[tokio::test]
async fn a_day_is_read_once_also_after_a_restart_and_a_release() {
    let prometheus = prometheus_with(in_clusters).await;
    let running = start_manager(&prometheus, at(0));
    running.manager.start_or_update(idle("1"));
    let first = placebo_since(&running, 0).await;
    assert_eq!(prometheus.aggregated_ms(), [DAY_MS; 3]);
    let stored = AnalysisRequest {
        placebos: [("availability".to_owned(), placebo(&first).unwrap().clone())].into(),
        ..idle("1")
    };
    let is_known = |snapshot: &AnalysisSnapshot| !snapshot.budgets.is_empty();
    for hours in [1, 20] {
        let restarted = start_manager(&prometheus, at(hours * HOUR));
        restarted.manager.start_or_update(stored.clone());
        let snapshot = restarted.wait_until("a budget", is_known).await;
        assert_eq!(
            (placebo(&snapshot), infeasible(&snapshot)),
            (placebo(&first), infeasible(&first)),
            "from the first report on"
        );
        // A release begins: what is known stays reported.
        restarted.manager.start_or_update(AnalysisRequest {
            phase: ReleasePhase::Release,
            stable_replica_set: Some("checkout-aaa".to_owned()),
            ..stored.clone()
        });
        let snapshot = restarted.wait_until("a budget", is_known).await;
        assert_eq!(placebo(&snapshot), placebo(&first));
    }
    let restarted = start_manager(&prometheus, at(25 * HOUR));
    restarted.manager.start_or_update(stored.clone());
    let next_day = placebo_since(&restarted, 25 * HOUR).await;
    assert!(infeasible(&next_day).is_some());
    assert_eq!(prometheus.aggregated_ms(), [DAY_MS; 6]);
    // Other settings are another rule.
    let mut edited = stored;
    edited.analysis.objectives[0].objective = 99.8;
    let running = start_manager(&prometheus, at(2 * HOUR));
    running.manager.start_or_update(edited);
    placebo_since(&running, 2 * HOUR).await;
    assert_eq!(prometheus.aggregated_ms(), [DAY_MS; 9]);
}

#[tokio::test]
async fn answers_that_are_too_large_are_read_for_a_part_of_the_day() {
    let prometheus = prometheus_with(in_clusters).await;
    let limits = Limits {
        answer_bytes: 12_000,
        ..Limits::default()
    };
    let running = start_with_limits(&prometheus, at(0), limits);
    running.manager.start_or_update(idle("1"));
    let snapshot = placebo_since(&running, 0).await;
    let placebo = placebo(&snapshot).unwrap();
    assert!((1..12).contains(&placebo.hours), "{placebo:?}");
    let ranges = prometheus.aggregated_ms();
    assert!(
        ranges.len() <= 12 && ranges.is_sorted_by(|one, other| one >= other),
        "{ranges:?}"
    );
    assert!(ranges.last() < Some(&DAY_MS), "{ranges:?}");
}

#[tokio::test]
async fn a_day_that_is_not_answered_delays_nothing_and_ends_with_its_rollout() {
    let prometheus = prometheus_with(in_clusters).await;
    prometheus.set_mode(Mode::HangsOnHistory);
    let limits = Limits {
        single_timeout: Duration::from_secs(3_600),
        ..Limits::default()
    };
    let running = start_with_limits(&prometheus, at(0), limits);
    running.manager.start_or_update(idle("1"));
    wait_until_hanging(&prometheus, 1).await;
    for uid in ["2", "3"] {
        running.manager.start_or_update(idle(uid));
        let has_budget = timeout(Duration::from_secs(30), async {
            let snapshot = || running.manager.snapshot(uid, &Revision::new("bbb"));
            while snapshot().budgets.is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(has_budget.await.is_ok(), "the budget of {uid} is unknown");
    }
    assert_eq!(prometheus.hanging(), 1, "one day at a time");
    for uid in ["2", "3", "1"] {
        running.manager.stop(uid);
    }
    wait_until_hanging(&prometheus, 0).await;
}
