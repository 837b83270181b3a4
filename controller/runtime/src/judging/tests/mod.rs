//! Judges against a scripted Prometheus.
//!
//! A test jumps in time as production does: by a restart from the checkpoint, with a clock that shows a later time.

mod access;
mod budgets;
mod checks;
mod learning;
mod script;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use serin_core::observed::Judgement;
use serin_core::plan::EvidencePace;
use serin_core::units::{Revision, Weight};
use serin_crds::status::AnalysisStatus;
use serin_judging::prometheus::{HttpClient, Limits, Series};
use serin_judging::{Phase, RolloutName};
use tokio::time::{sleep, timeout};

use self::script::{Mode, Script};
use super::*;

/// A release of `shop/checkout` from revision `aaa` to `bbb`, by Traefik's counters.
fn request() -> JudgeRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}],
    });
    JudgeRequest {
        rollout: RolloutName { namespace: "shop".into(), name: "checkout".into() },
        uid: "1".into(),
        revision: Revision::new("bbb"),
        analysis: serde_json::from_value(analysis).unwrap(),
        stable_service: Some("checkout".into()),
        canary_service: Some("checkout-canary".into()),
        stable_replica_set: Some("checkout-aaa".into()),
        canary_replica_set: "checkout-bbb".into(),
        pods_created_at: BTreeMap::new(),
        weight: Weight::percent(20),
        pace: None,
        proven_at: None,
        phase: Phase::Release,
        freeze_lifted: false,
        resume_from: None,
    }
}

fn install_tls() {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn poller(limits: Limits) -> Poller {
    install_tls();
    Poller::new(HttpClient::new().unwrap(), limits, Arc::new(|_, _| {}))
}

/// An API server that is never asked.
fn nobody() -> kube::Client {
    let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("it is not to be asked"))
    });
    kube::Client::new(refused, "default")
}

/// All Rollouts are judged by this Prometheus.
fn servers(url: &str) -> Servers {
    Servers::new(nobody(), Some(DefaultServer { address: url.into(), headers_dir: None }), Rereading::default())
}

/// When the story begins.
fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    start() + seconds.seconds()
}

/// Requests and errors a second of both sides, scraped once a second from a minute before the start on.
struct Story {
    until_seconds: i64,
    canary: (f64, f64),
    stable: (f64, f64),
    bad_from_seconds: i64,
}

impl Default for Story {
    fn default() -> Self {
        Self { until_seconds: 600, canary: (60.0, 0.0), stable: (240.0, 0.12), bad_from_seconds: 0 }
    }
}

impl Story {
    /// The counters of one gateway; the canary's begin at the start.
    fn series(&self) -> Vec<Series> {
        let mut series = self.counter("checkout-canary-1", 0, self.canary, self.bad_from_seconds);
        series.extend(self.counter("checkout-0", -60, self.stable, -60));
        series
    }

    fn counter(&self, service: &str, from: i64, (requests, errors): (f64, f64), bad_from: i64) -> Vec<Series> {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred seconds")]
        let since = |second: i64, from: i64| (second - from).max(0) as f64;
        let samples = |value: &dyn Fn(i64) -> f64, from: i64| {
            (from..=self.until_seconds)
                .map(|second| (at(second).as_millisecond() + 10, value(second).floor()))
                .collect()
        };
        let labels = |code: &str| {
            let service = format!(
                "httproute-shop-checkout-gw-infra-public-ep-web-0-8bd93a10-svc-shop-{service}@kubernetesgateway"
            );
            [
                ("__name__", "traefik_service_requests_total"),
                ("job", "traefik"),
                ("instance", "gateway:8082"),
                ("code", code),
                ("service", &service),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
        };
        let bad = |second: i64| (since(second, bad_from) * errors).floor();
        let good = |second: i64| (since(second, from) * requests).floor() - bad(second);
        let first_bad = (from..=self.until_seconds).find(|second| bad(*second) >= 1.0);
        let mut series = vec![Series { labels: labels("200"), samples: samples(&good, from) }];
        series.extend(first_bad.map(|first| Series { labels: labels("500"), samples: samples(&bad, first) }));
        series
    }
}

/// One life of the controller.
#[derive(Debug)]
struct Life {
    judges: Judges,
    triggers: Triggers,
    poller: Poller,
    leads: Option<watch::Sender<bool>>,
}

async fn script(story: &Story) -> Script {
    let script = Script::start(Clock::tokio_from(start())).await;
    script.set_series(story.series());
    script
}

/// A life that begins at a time of the story.
fn live(script: &Script, now: Timestamp) -> Life {
    live_within(script, now, Limits { poll_timeout: Duration::from_secs(2), ..Limits::default() })
}

fn live_within(script: &Script, now: Timestamp, limits: Limits) -> Life {
    live_by(script, now, limits, servers(&script.url))
}

fn live_by(script: &Script, now: Timestamp, limits: Limits, servers: Servers) -> Life {
    let clock = Clock::tokio_from(now);
    script.set_clock(clock.clone());
    let poller = poller(limits);
    let bench = Bench { poller: poller.clone(), servers, metrics: Arc::new(Metrics::new()), clock };
    let (judges, triggers) = Judges::new(bench, Leadership::always());
    Life { judges, triggers, poller, leads: None }
}

impl Life {
    fn look(&self) -> Look {
        self.judges.look("1", &Revision::new("bbb"))
    }

    /// Waits until the look is as expected.
    async fn until(&self, what: &str, is_so: impl Fn(&Look) -> bool) -> Look {
        let seen = timeout(Duration::from_secs(30), async {
            while !is_so(&self.look()) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(seen.await.is_ok(), "{what} is not reached; last seen: {:#?}", self.look().judgement);
        self.look()
    }

    async fn held_for(&self, cause: &str) -> String {
        let look = self
            .until(cause, |look| matches!(&look.judgement, Judgement::Hold { cause: held, .. } if held == cause))
            .await;
        match look.judgement {
            Judgement::Hold { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the evidence reaches to this second of the story; the checkpoint then.
    async fn judged_until(&self, seconds: i64) -> AnalysisStatus {
        let reached = |look: &Look| round_at(look.checkpoint.as_ref()) >= at(seconds).as_millisecond();
        self.until("the round", reached).await.checkpoint.unwrap()
    }
}

fn objective(checkpoint: &AnalysisStatus) -> &Value {
    &checkpoint.checkpoint["objectives"]["availability"]["state"]
}

fn round_at(checkpoint: Option<&AnalysisStatus>) -> i64 {
    checkpoint.and_then(|checkpoint| objective(checkpoint)["roundAtMs"].as_i64()).unwrap_or(0)
}

/// The checkpoint of a release whose canary has just got its traffic.
async fn begun(script: &Script, request: &JudgeRequest) -> AnalysisStatus {
    let life = live(script, start());
    life.judges.watch(request.clone());
    life.until("a checkpoint", |look| look.checkpoint.is_some()).await.checkpoint.unwrap()
}

/// A life that goes on at `seconds` with a release that has begun at the start.
async fn gone_on(script: &Script, request: &JudgeRequest, seconds: i64) -> Life {
    let resume_from = Some(begun(script, request).await);
    let life = live(script, at(seconds));
    life.judges.watch(JudgeRequest { resume_from, ..request.clone() });
    life
}

#[tokio::test]
async fn a_bad_canary_is_rolled_back_and_the_message_says_why_in_counts() {
    let script = script(&Story { canary: (60.0, 1.8), ..Story::default() }).await;
    let life = gone_on(&script, &request(), 120).await;
    let look = life.until("a rollback", |look| matches!(look.judgement, Judgement::RollBack { .. })).await;
    let Judgement::RollBack { cause, message } = &look.judgement else { panic!() };
    assert_eq!(cause, "Evidence");
    assert!(message.starts_with("Rolled back at 20 %: the canary failed "), "{message}");
    assert!(message.contains("at most 1 time in 100"), "{message}");
    let evidence = &look.evidence[0];
    assert!(evidence.canary.errors > 100.0 && evidence.e_value.unwrap() >= 100.0, "{evidence:?}");
    assert!(look.summary.unwrap().starts_with("E "));
}

#[tokio::test]
async fn a_rollback_stands_even_when_the_canary_recovers() {
    let script = script(&Story { canary: (60.0, 1.8), ..Story::default() }).await;
    let life = gone_on(&script, &request(), 120).await;
    let look = life.until("a rollback", |look| matches!(look.judgement, Judgement::RollBack { .. })).await;
    script.set_mode(Mode::Warns);
    let again = live(&script, at(300));
    again.judges.watch(JudgeRequest { resume_from: look.checkpoint, ..request() });
    again.until("the same rollback", |again| again.judgement == look.judgement).await;
}

#[tokio::test]
async fn a_good_canary_is_sound_once_the_evidence_suffices() {
    let script =
        script(&Story { until_seconds: 5_000, canary: (600.0, 0.0), stable: (600.0, 0.3), ..Story::default() }).await;
    script.set_service(&[("total", 1e9), ("errors", 2e5), ("age0", 2.6e6), ("total3600", 4e6), ("total300", 4e5)]);
    let request = JudgeRequest { weight: Weight::percent(50), ..request() };
    let life = gone_on(&script, &request, 600).await;
    let look = life.until("sound", |look| matches!(look.judgement, Judgement::Sound { .. })).await;
    let evidence = &look.evidence[0];
    assert!(evidence.upper.unwrap() < 0.000_5, "{evidence:?}");
    assert!((evidence.budget_allotment.unwrap() - 2e4).abs() < 1e-6, "{evidence:?}");
    assert!(look.summary.unwrap().starts_with("budget 0 % · E 0"));
}

#[tokio::test]
async fn a_spent_budget_freezes_until_that_is_lifted_and_a_spent_allotment_takes_the_traffic_off() {
    let script = script(&Story { canary: (60.0, 0.01), stable: (240.0, 0.0), ..Story::default() }).await;
    script.set_service(&[("total", 1e6), ("errors", 2e3), ("age0", 2.6e6)]);
    let life = gone_on(&script, &request(), 200).await;
    let frozen = |look: &Look| matches!(&look.judgement, Judgement::Frozen { cause, .. } if cause == "BudgetSpent");
    let checkpoint = life.until("a freeze", frozen).await.checkpoint;
    // A person's word lets it go on, at once and after a restart.
    let lifted = JudgeRequest { freeze_lifted: true, resume_from: checkpoint, ..request() };
    life.judges.watch(lifted.clone());
    let goes_on = |look: &Look| matches!(look.judgement, Judgement::Undecided { .. }) && look.checkpoint.is_some();
    life.until("going on", goes_on).await;
    let again = live(&script, at(210));
    again.judges.watch(lifted);
    again.until("going on after a restart", goes_on).await;
    // 2 % of what 100,000 requests allow is an allotment of two errors, which the canary has had.
    script.set_service(&[("total", 1e5), ("errors", 10.0), ("age0", 2.6e6)]);
    let life = gone_on(&script, &request(), 200).await;
    let message = life.held_for("BudgetLeft").await;
    assert!(message.contains("Stepping down from 20 % to 0 %"), "{message}");
    // Off the traffic it stays there: back on it, it would only be taken off again.
    let lowered = |look: &Look| matches!(&look.judgement, Judgement::Hold { lower_to: Some(Weight::ZERO), .. });
    let Look { judgement: at_20, checkpoint, .. } = life.until("a step down", lowered).await;
    life.judges.watch(JudgeRequest { weight: Weight::ZERO, ..request() });
    life.until("held", |look| lowered(look) && look.judgement != at_20).await;
    let again = live(&script, at(210));
    again.judges.watch(JudgeRequest { weight: Weight::ZERO, resume_from: checkpoint, ..request() });
    again.until("held after a restart", lowered).await;
}

#[tokio::test]
async fn the_pace_of_evidence_names_the_next_weight() {
    let script =
        script(&Story { until_seconds: 5_000, canary: (60.0, 0.0), stable: (1_140.0, 0.3), ..Story::default() }).await;
    let pace = EvidencePace { first_weight: Weight::percent(5), max_weight: Weight::percent(50) };
    let request = JudgeRequest { weight: Weight::percent(5), pace: Some(pace), ..request() };
    let life = gone_on(&script, &request, 200).await;
    let stepped = |look: &Look| matches!(&look.judgement, Judgement::Undecided { next_weight: Some(next), .. } if *next == Weight::percent(20));
    life.until("a step", stepped).await;
}

#[tokio::test]
async fn a_restart_in_mid_evidence_gives_the_same_answer() {
    let script = script(&Story { canary: (60.0, 0.5), until_seconds: 120, ..Story::default() }).await;
    let begun = begun(&script, &request()).await;
    let resumed = async |from: &AnalysisStatus, seconds: i64| {
        let life = live(&script, at(seconds));
        life.judges.watch(JudgeRequest { resume_from: Some(from.clone()), ..request() });
        life.judged_until(seconds - 1).await
    };
    let straight = resumed(&begun, 120).await;
    let mut restarted = begun.clone();
    for seconds in [17, 18, 44, 71, 119, 120] {
        restarted = resumed(&restarted, seconds).await;
    }
    // Both have seen the last sample.
    assert_eq!(round_at(Some(&straight)), round_at(Some(&restarted)));
    assert_eq!(objective(&straight), objective(&restarted));
    assert!(objective(&straight)["evidence"]["ticks"].as_u64().unwrap() >= 119);
}

#[tokio::test]
async fn every_trouble_holds_by_its_name_and_goes_away_by_itself() {
    let script = script(&Story::default()).await;
    let life = gone_on(&script, &request(), 60).await;
    let undecided = |look: &Look| matches!(look.judgement, Judgement::Undecided { .. }) && look.checkpoint.is_some();
    life.until("evidence", undecided).await;
    for (mode, cause, words) in [
        (Mode::Warns, "Partial", "a store is away"),
        (Mode::Refuses, "InvalidQuery", "parse error"),
        (Mode::Truncated, "Malformed", "cannot be read"),
        (Mode::Hangs, "Timeout", "no answer within"),
        (Mode::NotANumber, "NotANumber", "not a count"),
    ] {
        script.set_mode(mode);
        let message = life.held_for(cause).await;
        assert!(message.contains(words), "{cause}: {message}");
        script.set_mode(Mode::Truth);
        life.until("undecided again", undecided).await;
    }
}

#[tokio::test]
async fn no_data_stale_data_and_no_traffic_are_told_apart() {
    let empty = script(&Story::default()).await;
    empty.set_series(Vec::new());
    gone_on(&empty, &request(), 60).await.held_for("NoData").await;

    let stale = script(&Story { until_seconds: 30, ..Story::default() }).await;
    gone_on(&stale, &request(), 90).await.held_for("Stale").await;

    let idle = script(&Story { canary: (0.0, 0.0), ..Story::default() }).await;
    let message = gone_on(&idle, &request(), 90).await.held_for("NoTraffic").await;
    assert!(message.contains("No requests reached the canary"), "{message}");
}

/// The same counters, written out with a label that tells the sides.
fn written(errors: &str) -> JudgeRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "traefik_service_requests_total", "errors": errors,
            "arms": {"label": "service", "canary": ".*canary-.*", "stable": ".*checkout-[0-9]+@.*"}}}],
    });
    JudgeRequest { analysis: serde_json::from_value(analysis).unwrap(), ..request() }
}

#[tokio::test]
async fn a_mistyped_error_selector_is_not_a_perfect_release() {
    let story = Story { canary: (60.0, 6.0), ..Story::default() };
    let script = script(&story).await;
    let mistyped = written("traefik_service_requests_total{code=~\"5xx\"}");
    let life = gone_on(&script, &mistyped, 90).await;
    life.held_for("UnverifiedSelector").await;
    // The person mends it; the evidence is gathered anew, by the right question.
    life.judges.watch(written("traefik_service_requests_total{code=~\"5..\"}"));
    life.until("no hold", |look| matches!(look.judgement, Judgement::Undecided { .. })).await;
}

#[tokio::test]
async fn a_selector_that_history_has_verified_need_not_match_now() {
    let script = script(&Story { canary: (60.0, 0.0), stable: (240.0, 0.0), ..Story::default() }).await;
    script.set_service(&[("total", 1e6), ("seen", 2.0), ("age0", 2.6e6)]);
    let life = gone_on(&script, &written("traefik_service_requests_total{code=~\"5..\"}"), 90).await;
    life.until("evidence", |look| matches!(look.judgement, Judgement::Undecided { .. }) && look.checkpoint.is_some())
        .await;
}

#[tokio::test]
async fn a_query_that_is_none_and_a_missing_address_hold_at_once() {
    let script = script(&Story::default()).await;
    let life = live(&script, start());
    life.judges.watch(written("rate(errors_total[5m])"));
    let message = life.held_for("InvalidQuery").await;
    assert!(message.contains("objectives[availability].counters.errors"), "{message}");

    let mut bench = life.judges.inner.bench.clone();
    bench.servers = Servers::new(nobody(), None, Rereading::default());
    let (judges, _triggers) = Judges::new(bench, Leadership::always());
    let life = Life { judges, ..life };
    life.judges.watch(request());
    life.held_for("NotConfigured").await;
}

#[tokio::test]
async fn without_traffic_nothing_is_read_and_forgetting_stops_everything() {
    let script = script(&Story::default()).await;
    let life = live(&script, start());
    life.judges.watch(JudgeRequest { weight: Weight::ZERO, ..request() });
    life.until(
        "waiting",
        |look| matches!(&look.judgement, Judgement::Undecided { message, .. } if message.contains("No traffic")),
    )
    .await;
    assert_eq!((script.asked().len(), life.poller.polls()), (0, 0));
    life.judges.watch(request());
    life.until("evidence", |look| look.checkpoint.is_some()).await;
    assert_eq!((life.judges.len(), life.poller.polls()), (1, 1));
    life.judges.forget("1");
    timeout(Duration::from_secs(30), async {
        while life.poller.polls() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(life.judges.is_empty());
}

#[tokio::test]
async fn a_standby_judges_nothing_and_a_leader_that_loses_forgets() {
    let script = script(&Story::default()).await;
    let mut life = live(&script, start());
    let (leads, leadership) = Leadership::scripted(false);
    life.judges = Judges::new(life.judges.inner.bench.clone(), leadership).0;
    life.judges.watch(request());
    assert!(life.judges.is_empty());
    leads.send(true).unwrap();
    life.judges.watch(request());
    life.until("evidence", |look| look.checkpoint.is_some()).await;
    leads.send(false).unwrap();
    timeout(Duration::from_secs(30), async {
        while !life.judges.is_empty() || life.poller.polls() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    life.leads = Some(leads);
}

#[tokio::test]
async fn triggers_come_with_changes_and_not_with_every_answer() {
    let script = script(&Story::default()).await;
    let life = gone_on(&script, &request(), 100).await;
    life.judged_until(99).await;
    let mut triggers = life.triggers;
    sleep(Duration::from_millis(100)).await;
    while timeout(Duration::from_millis(10), triggers.next()).await.is_ok() {}
    assert!(timeout(Duration::from_secs(2), triggers.next()).await.is_err(), "nothing has changed");
    script.set_mode(Mode::Refuses);
    let named = timeout(Duration::from_secs(30), triggers.next()).await.unwrap();
    assert_eq!(named, Some(request().rollout));
}

#[tokio::test]
async fn the_first_polls_that_see_the_completing_sample_decide() {
    let story = Story { canary: (60.0, 12.0), bad_from_seconds: 103, ..Story::default() };
    let script = script(&story).await;
    let resume_from = Some(begun(&script, &request()).await);
    let life = live(&script, at(102));
    life.judges.watch(JudgeRequest { resume_from, ..request() });
    let look = life.until("a rollback", |look| matches!(look.judgement, Judgement::RollBack { .. })).await;
    let decided_ms = life.judges.inner.bench.clock.now().as_millisecond();
    let completed_ms = round_at(look.checkpoint.as_ref());
    // Polls are four a second here: two of them, of two queries each, are half a second of an idle machine.
    let polled = script.asked().into_iter().filter(|at_ms| (completed_ms..decided_ms).contains(at_ms)).count();
    assert!(polled <= 4, "{polled} queries after the sample that completed the evidence");
    let seconds = (completed_ms - start().as_millisecond()) / 1_000;
    assert!((104..=107).contains(&seconds), "decided by the scrape of second {seconds}");
}

#[tokio::test]
async fn a_long_release_keeps_its_size_and_is_read_again_in_portions_that_fit() {
    let script = script(&Story { until_seconds: 2_000, ..Story::default() }).await;
    let resume_from = Some(begun(&script, &request()).await);
    let limits = Limits { answer_bytes: 40_000, ..Limits::default() };
    let life = live_within(&script, at(1_900), limits);
    life.judges.watch(JudgeRequest { resume_from, ..request() });
    let large = life.judged_until(1_899).await;
    assert!(objective(&large)["evidence"]["ticks"].as_u64().unwrap() >= 1_890);
    let size = large.checkpoint.to_string().len();
    assert!(size < 4_000, "{size} bytes");
}

/// Five pods, each scraped at its own moment of the second; the canary's counts by `pod`.
fn pods_series() -> Vec<Series> {
    let of = |index: i64, pod: &str, code: &str, counted: &dyn Fn(i64) -> i64| {
        let instance = format!("10.0.0.{index}:8080");
        let labels = [
            ("__name__", "http_requests_total"),
            ("job", "pods"),
            ("instance", &instance),
            ("pod", pod),
            ("code", code),
        ];
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let samples =
            (-60..=600).map(|second| (at(second).as_millisecond() + 170 * index, counted(second + 60) as f64));
        Series {
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            samples: samples.collect(),
        }
    };
    let pods =
        ["checkout-aaa-11111", "checkout-aaa-22222", "checkout-aaa-33333", "checkout-bbb-44444", "checkout-bbb-55555"];
    let series = pods.iter().zip(1..).flat_map(|(pod, index)| {
        [of(index, pod, "200", &|second| second * (60 + index)), of(index, pod, "500", &|second| second * index / 40)]
    });
    series.collect()
}

#[tokio::test]
async fn many_sources_give_the_same_answer_after_restarts_too() {
    let script = script(&Story::default()).await;
    script.set_series(pods_series());
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}"}}],
    });
    let request = JudgeRequest { analysis: serde_json::from_value(analysis).unwrap(), ..request() };
    let begun = begun(&script, &request).await;
    let resumed = |from: &AnalysisStatus, seconds: i64| {
        let life = live(&script, at(seconds));
        life.judges.watch(JudgeRequest { resume_from: Some(from.clone()), ..request.clone() });
        life
    };
    let mut checkpoint = begun.clone();
    for seconds in [13, 40, 41, 90, 118] {
        checkpoint = resumed(&checkpoint, seconds).judged_until(seconds - 2).await;
    }
    let (straight, restarted) = (resumed(&begun, 125), resumed(&checkpoint, 125));
    // Both are compared after the same scrapes, whichever those are.
    let same_round = async {
        loop {
            let (straight, restarted) = (straight.look().checkpoint, restarted.look().checkpoint);
            let round = round_at(straight.as_ref());
            if round >= at(120).as_millisecond() && round == round_at(restarted.as_ref()) {
                return (straight.unwrap(), restarted.unwrap());
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let (straight, restarted) = timeout(Duration::from_secs(30), same_round).await.unwrap();
    assert_eq!(objective(&straight), objective(&restarted));
    // From second -2, the last before the traffic was seen, to each canary pod's last scrape of the round.
    let errors = |index: i64| {
        let last = (round_at(Some(&straight)) - start().as_millisecond() - 170 * index) / 1_000;
        (last + 60) * index / 40 - 58 * index / 40
    };
    let errors = f64::from(i32::try_from(errors(4) + errors(5)).unwrap());
    assert_eq!(objective(&straight)["evidence"]["totals"]["canaryErrors"], json!(errors));
}
