use serde_json::json;
use serin_core::hold::HoldCode;
use serin_core::state::AbortCause;

use super::*;
use crate::fixtures::request;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::Series;
use crate::request::AnalysisSnapshot;
use crate::service_slo::ServiceSlo;

const BEGAN_MS: i64 = 1_700_000_000_000;

/// A release that is analyzed with the counters of its pods. `scrape_interval` is the configured
/// one.
fn pod_request(scrape_interval: Option<&str>) -> AnalysisRequest {
    let mut analysis = json!({
        "warmUp": "0s",
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}],
    });
    if let Some(interval) = scrape_interval {
        analysis["prometheus"] = json!({"scrapeInterval": interval});
    }
    AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

fn begin(
    request: &AnalysisRequest,
    checkpoint: Option<Checkpoint>,
    now_ms: i64,
) -> ReleaseAnalysis {
    let settings = settings_for(request, Server::with_url("http://prometheus")).unwrap();
    ReleaseAnalysis::begin(
        settings,
        ObjectivePlan::from_request(request).unwrap(),
        request,
        checkpoint,
        now_ms,
    )
    .unwrap()
}

/// A pod that is scraped at an interval and receives ten requests per second.
#[derive(Clone, Copy)]
struct Pod {
    name: &'static str,
    /// Times of the first and the last scrape, in seconds after the start.
    scraped: (i64, i64),
    every: i64,
}

const STABLE: Pod = Pod {
    name: "checkout-aaa-11111",
    scraped: (-600, 10_000),
    every: 60,
};
const CANARY: Pod = Pod {
    name: "checkout-bbb-22222",
    scraped: (17, 10_000),
    every: 60,
};

impl Pod {
    /// The result of a query at this time with a range of ten minutes.
    fn series(self, now_ms: i64) -> Vec<Series> {
        let times = (self.scraped.0..=self.scraped.1).step_by(usize::try_from(self.every).unwrap());
        let series = |code: &str, per_second: f64| {
            let labels = [
                ("__name__", "http_requests_total"),
                ("job", "pods"),
                ("instance", self.name),
                ("pod", self.name),
                ("code", code),
            ];
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let samples = times
                .clone()
                .map(|second| {
                    (
                        BEGAN_MS + second * 1_000,
                        ((second + 600) as f64 * per_second).floor(),
                    )
                })
                .filter(|(at_ms, _)| *at_ms <= now_ms && *at_ms > now_ms - 600_000);
            Series {
                labels: labels
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                samples: samples.collect(),
            }
        };
        vec![series("200", 10.0), series("500", 0.005)]
    }
}

/// The answers to queries at this time.
fn answers(pods: &[Pod], at_ms: i64) -> [Answer; 2] {
    let all: Vec<Series> = pods.iter().flat_map(|pod| pod.series(at_ms)).collect();
    let total: Answer = all
        .into_iter()
        .filter(|series| !series.samples.is_empty())
        .collect();
    let errors: Answer = total
        .iter()
        .filter(|series| series.labels["code"] == "500")
        .cloned()
        .collect();
    [total, errors]
}

fn observe(release: &mut ReleaseAnalysis, pods: &[Pod], now_ms: i64) -> AnalysisSnapshot {
    let answers = answers(pods, now_ms);
    let samples = ObjectiveAnswers::from_answers(&answers).unwrap();
    let settled_ms = release.settled_ms(0, samples.total, now_ms);
    release.observe(0, samples, settled_ms, now_ms);
    release.snapshot(now_ms)
}

/// Takes a snapshot every five seconds, between two times in seconds after the start.
fn follow(
    release: &mut ReleaseAnalysis,
    pods: &[Pod],
    seconds: std::ops::RangeInclusive<i64>,
) -> Vec<(i64, AnalysisSnapshot)> {
    let snapshot = |second: i64| (second, observe(release, pods, BEGAN_MS + second * 1_000));
    seconds.step_by(5).map(snapshot).collect()
}

fn holds_in(snapshots: &[(i64, AnalysisSnapshot)]) -> Vec<(i64, &str)> {
    let code = |(second, snapshot): &(i64, AnalysisSnapshot)| {
        let code = snapshot.report.hold_code()?;
        Some((*second, code.as_str()))
    };
    snapshots.iter().filter_map(code).collect()
}

fn fresh_since(snapshot: &AnalysisSnapshot) -> Option<i64> {
    let report = Some(&snapshot.report).filter(|report| report.is_fresh())?;
    Some((report.fresh_since?.as_millisecond() - BEGAN_MS) / 1_000)
}

// A slow server, or a controller without CPU time: samples that are newer than the answers are not
// missing.
#[test]
fn answers_that_are_evaluated_late_close_the_same_rounds() {
    let pods = [
        Pod {
            every: 10,
            ..STABLE
        },
        Pod {
            every: 10,
            ..CANARY
        },
    ];
    let totals = |late_ms: i64| {
        let mut release = begin(&pod_request(Some("10s")), None, BEGAN_MS);
        for sent_ms in (BEGAN_MS..BEGAN_MS + 300_000).step_by(3_000) {
            let poll = release.poll(0).unwrap();
            let times = (sent_ms, sent_ms + late_ms);
            release.observe_poll(0, &poll, &answers(&pods, sent_ms), times);
        }
        let status = release
            .checkpoint()
            .into_status(&pod_request(None).revision);
        status.unwrap().checkpoint["objectives"]["availability"]["state"].clone()
    };
    let in_time = totals(0);
    let ticks = in_time["evidence"]["ticks"].as_u64().unwrap();
    assert!(ticks > 20, "{in_time}");
    assert_eq!(totals(40_000), in_time);
}

// flagger #1123, prometheus #8001: Prometheus scrapes once a minute by default; the interval is not
// configured.
#[test]
fn a_release_whose_pods_are_scraped_once_a_minute_stays_fresh() {
    for configured in [None, Some("15s"), Some("1s")] {
        let mut release = begin(&pod_request(configured), None, BEGAN_MS);
        let snapshots = follow(&mut release, &[STABLE, CANARY], 0..=900);
        assert_eq!(holds_in(&snapshots), [], "{configured:?}");
        let settled: Vec<_> = snapshots
            .iter()
            .filter(|(second, _)| *second >= 200)
            .map(|(_, snapshot)| fresh_since(snapshot))
            .collect();
        assert!(settled[0].is_some_and(|second| second < 200), "{settled:?}");
        assert!(
            settled.windows(2).all(|pair| pair[0] == pair[1]),
            "the clock never starts again: {settled:?}"
        );
        let reading = snapshots.last().unwrap().1.evidence[0]
            .note
            .clone()
            .unwrap();
        assert!(
            reading
                .starts_with("Samples arrive every 60 s; spec.analysis.prometheus.scrapeInterval "),
            "{reading}"
        );
    }
}

#[test]
fn an_overlong_configured_interval_is_corrected() {
    let (stable, canary) = (
        Pod { every: 5, ..STABLE },
        Pod {
            every: 5,
            scraped: (7, 200),
            ..CANARY
        },
    );
    let mut release = begin(&pod_request(Some("60s")), None, BEGAN_MS);
    let snapshots = follow(&mut release, &[stable, canary], 0..=300);
    let holds = holds_in(&snapshots);
    assert_eq!(
        holds.first(),
        Some(&(220, "Stale")),
        "three scrapes of 5 s and a margin, not of 60 s"
    );
    assert_eq!(
        release.poll(0).unwrap().period,
        std::time::Duration::from_millis(1_250)
    );
}

#[test]
fn a_removed_exporter_becomes_stale_after_the_learned_interval() {
    let canary = Pod {
        scraped: (17, 500),
        ..CANARY
    };
    let mut release = begin(&pod_request(None), None, BEGAN_MS);
    let snapshots = follow(&mut release, &[STABLE, canary], 0..=1_500);
    let stale = holds_in(&snapshots);
    // The last scrape is at 497 s.
    assert_eq!(stale.first(), Some(&(685, "Stale")));
    assert_eq!(stale.last(), Some(&(1_500, "Stale")), "and stays so");
    assert!(stale.iter().all(|(_, cause)| *cause == "Stale"));
}

#[test]
fn targets_with_different_intervals_are_read_together() {
    let fast = Pod {
        name: "checkout-aaa-33333",
        every: 1,
        ..STABLE
    };
    let mut release = begin(&pod_request(Some("1s")), None, BEGAN_MS);
    let snapshots = follow(&mut release, &[fast, STABLE, CANARY], 0..=900);
    assert_eq!(holds_in(&snapshots), []);
    let counts = &snapshots.last().unwrap().1.evidence[0];
    assert!(
        counts.canary.requests > 7_000.0 && counts.stable.requests > 14_000.0,
        "{counts:?}"
    );
}

#[test]
fn the_learned_interval_survives_restarts_and_spec_changes() {
    let mut release = begin(&pod_request(Some("15s")), None, BEGAN_MS);
    follow(&mut release, &[STABLE, CANARY], 0..=600);
    let checkpoint = release.checkpoint();
    let ticks = |release: &ReleaseAnalysis| release.objectives[0].state.evidence.ticks;
    for configured in ["15s", "60s"] {
        let now_ms = BEGAN_MS + 640_000;
        let mut again = begin(
            &pod_request(Some(configured)),
            Some(checkpoint.clone()),
            now_ms,
        );
        assert_eq!(again.objectives[0].scrape_interval_ms(), 60_000);
        assert_eq!(ticks(&again), ticks(&release), "the evidence continues");
        let snapshots = follow(&mut again, &[STABLE, CANARY], 640..=900);
        assert_eq!(holds_in(&snapshots), []);
        assert_eq!(
            snapshots.last().unwrap().1.evidence[0].note.is_some(),
            configured == "15s"
        );
    }
}

#[test]
fn freshness_starts_with_samples_at_the_current_weight() {
    let mut request = pod_request(None);
    let mut release = begin(&request, None, BEGAN_MS);
    let snapshots = follow(&mut release, &[STABLE, CANARY], 0..=300);
    let before = fresh_since(&snapshots.last().unwrap().1);
    request.weight = Weight::percent(50);
    release.apply_request(&request, BEGAN_MS + 301_000);
    let snapshot = observe(&mut release, &[STABLE, CANARY], BEGAN_MS + 302_000);
    assert_eq!(
        fresh_since(&snapshot),
        Some(302),
        "a step of 10 s must not end on samples of the weight before"
    );
    assert!(!snapshot.has_samples_at_weight);
    let snapshots = follow(&mut release, &[STABLE, CANARY], 305..=400);
    assert_eq!(
        fresh_since(&snapshots.last().unwrap().1),
        before,
        "then it continues"
    );
}

fn created(pod: &str, second: i64) -> (String, Timestamp) {
    (
        pod.to_owned(),
        Timestamp::from_millisecond(BEGAN_MS + second * 1_000).unwrap(),
    )
}

// argo-rollouts #2939: events before the release are held against it.
#[test]
fn requests_of_an_earlier_attempt_do_not_count_against_a_retry() {
    let previous_ended_at = Timestamp::from_millisecond(BEGAN_MS - 60_000).ok();
    // The counters of both pods appear only now. If the pod belongs to this attempt, all of its
    // requests count.
    let canary = Pod {
        scraped: (5, 10_000),
        every: 5,
        ..CANARY
    };
    let stable = Pod { every: 5, ..STABLE };
    let requests = |created_second: i64| {
        let mut request = pod_request(Some("5s"));
        request.previous_ended_at = previous_ended_at;
        request
            .pods_created_at
            .extend([created(CANARY.name, created_second)]);
        let mut release = begin(&request, None, BEGAN_MS);
        let snapshots = follow(&mut release, &[stable, canary], 0..=20);
        snapshots.last().unwrap().1.evidence[0].canary.requests
    };
    assert!(requests(-30) > 6_000.0, "a pod of this attempt");
    assert!(requests(-3_600) < 200.0, "a pod of an earlier one");
}

#[test]
fn evidence_of_an_aborted_attempt_does_not_count_against_a_retry() {
    let request = pod_request(None);
    let mut release = begin(&request, None, BEGAN_MS);
    follow(&mut release, &[STABLE, CANARY], 0..=300);
    release.rollback_decision = Some(RollbackDecision {
        cause: AbortCause::Evidence,
        message: "worse".into(),
    });
    let status = release.checkpoint().into_status(&request.revision);
    assert!(
        Checkpoint::from_status(status.as_ref(), &request)
            .unwrap()
            .decided
            .is_some(),
        "the same attempt continues"
    );
    let retry = AnalysisRequest {
        previous_ended_at: Timestamp::from_millisecond(BEGAN_MS + 1).ok(),
        ..request.clone()
    };
    assert!(Checkpoint::from_status(status.as_ref(), &retry).is_none());
    let mut unmarked = status.clone().unwrap();
    unmarked
        .checkpoint
        .as_object_mut()
        .unwrap()
        .remove("previousEndedSecond");
    assert!(
        Checkpoint::from_status(Some(&unmarked), &retry).is_some(),
        "earlier versions did not distinguish attempts"
    );
}

#[test]
fn the_age_of_an_earlier_attempts_pods_does_not_count_against_a_retry() {
    let mut request = pod_request(None);
    request.analysis.warm_up = Some("60s".into());
    request.pods_created_at.extend([
        created("checkout-bbb-99999", -3_600),
        created(CANARY.name, -10),
    ]);
    let release = begin(&request, None, BEGAN_MS);
    assert_eq!(
        release.warm_up_ends_ms,
        BEGAN_MS + 50_000,
        "from the newest pod on"
    );
    let replaced = (0..8).map(|index| created(&format!("checkout-bbb-9999{index}"), -3_600));
    request.pods_created_at.extend(replaced);
    let release = begin(&request, None, BEGAN_MS);
    assert!(
        !release.pods_are_young(BEGAN_MS),
        "one young pod among many"
    );
}

/// A service that has been burning its budget for an hour.
fn burning(request: &AnalysisRequest) -> Vec<ObjectivePlan> {
    let mut prepared = ObjectivePlan::from_request(request).unwrap();
    prepared[0].service = ServiceSlo::burning_service();
    prepared
}

#[test]
fn an_earlier_burn_freezes_but_does_not_count_against_a_retry() {
    let request = pod_request(None);
    let settings = || settings_for(&request, Server::with_url("http://prometheus")).unwrap();
    let mut release =
        ReleaseAnalysis::begin(settings(), burning(&request), &request, None, BEGAN_MS).unwrap();
    assert_eq!(release.burned_before, Some(true));
    // The threshold is lowered so that any evidence is suspicious. None is sufficient for a
    // rollback by itself.
    let bad = |release: &mut ReleaseAnalysis| {
        follow(release, &[STABLE, CANARY], 0..=100);
        release.settings.analysis.suspect_from_e = 1e-9;
        release.snapshot(BEGAN_MS + 101_000).report
    };
    let report = bad(&mut release);
    assert!(
        report.hold_code() == Some(HoldCode::ServiceBurning),
        "{report:?}"
    );
    let again = release.checkpoint();
    assert_eq!(
        again.burned_before,
        Some(true),
        "a restart does not forget it"
    );
    // A service that starts to burn its budget during the release counts against it.
    let mut release = begin(&request, None, BEGAN_MS);
    release.set_service(0, ServiceSlo::with_month_of_traffic(10.0, 0.0));
    assert_eq!(release.burned_before, Some(false));
    release.set_service(0, ServiceSlo::burning_service());
    let report = bad(&mut release);
    assert!(
        report.breach_cause() == Some(AbortCause::ServiceBurning),
        "{report:?}"
    );
}

#[test]
fn a_continued_burn_counts_once_the_short_window_has_passed() {
    let request = pod_request(None);
    let settings = settings_for(&request, Server::with_url("http://prometheus")).unwrap();
    let mut release =
        ReleaseAnalysis::begin(settings, burning(&request), &request, None, BEGAN_MS).unwrap();
    let short_ms = i64::from(release.burning().unwrap().pair.short_seconds) * 1_000;
    release.snapshot(BEGAN_MS + short_ms / 2);
    assert_eq!(release.burned_before, Some(true));
    release.snapshot(BEGAN_MS + short_ms + 60_000);
    assert_eq!(release.burned_before, Some(false));
}

#[test]
fn the_day_before_a_release_is_tried_as_placebo_releases() {
    const STEP_MS: i64 = 480_000;
    let request = pod_request(Some("15s"));
    let mut release = begin(&request, None, BEGAN_MS);
    let history = release.coarse_history(0).unwrap();
    let series = |pod: i64, value: &dyn Fn(i64) -> f64| Series {
        labels: [
            ("pod", format!("checkout-aaa-pod{pod}z")),
            ("job", "pods".to_owned()),
            ("instance", format!("10.0.0.{pod}:8080")),
            ("serin", "known".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        samples: (-172..=0)
            .map(|step| ((BEGAN_MS / STEP_MS + step) * STEP_MS, value(step)))
            .collect(),
    };
    // A quarter of the requests of one pod fail in one hour of the day.
    let errors = |pod: i64, step: i64| {
        if pod == 2 && (-30..-20).contains(&step) {
            4_000.0
        } else {
            16.0
        }
    };
    let total: Answer = (0..4).map(|pod| series(pod, &|_| 16_000.0)).collect();
    let second: Answer = (0..4)
        .map(|pod| series(pod, &|step| errors(pod, step)))
        .collect();
    release.estimate_coarse_dispersion(0, &history, &[total, second, Answer::new()]);
    let evidence = &release.objectives[0].state.evidence;
    let placebo = evidence.placebo().unwrap();
    assert!(placebo.hours >= 20, "{placebo:?}");
    assert!(
        (1..=2).contains(&placebo.hours_with_rollback) && !placebo.refutes_bound,
        "{placebo:?}"
    );
    assert!(evidence.errors_before() > 10_000.0);
}
