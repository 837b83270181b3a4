//! What holds a release, by its name.

use super::*;

#[tokio::test]
async fn every_trouble_holds_by_its_name_and_goes_away_by_itself() {
    let script = script(&Story::default()).await;
    let life = gone_on(&script, &request(), 60).await;
    let undecided = |look: &Look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. }) && look.checkpoint.is_some()
    };
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
    gone_on(&empty, &request(), 60)
        .await
        .held_for("NoData")
        .await;

    let stale = script(&Story {
        until_seconds: 30,
        ..Story::default()
    })
    .await;
    gone_on(&stale, &request(), 90)
        .await
        .held_for("Stale")
        .await;

    let idle = script(&Story {
        canary: (0.0, 0.0),
        ..Story::default()
    })
    .await;
    let message = gone_on(&idle, &request(), 90)
        .await
        .held_for("NoTraffic")
        .await;
    assert!(
        message.contains("No requests reached the canary"),
        "{message}"
    );
}

#[tokio::test]
async fn series_that_another_route_can_have_written_hold_and_name_it() {
    // traefik #10139: names that are joined by dashes.
    let script = script(&Story::default()).await;
    let mut ambiguous = request();
    let mut other = ambiguous.rules.split[0].clone();
    other.route = "checkout-gw-infra-public-ep-x".to_owned();
    ambiguous.rules.others.push(other);
    let life = gone_on(&script, &ambiguous, 60).await;
    let message = life.held_for("AmbiguousSeries").await;
    assert!(
        message.contains("HTTPRoute shop/checkout-gw-infra-public-ep-x"),
        "{message}"
    );
    assert!(
        life.look().evidence[0].stable.requests < 1.0,
        "nothing of it is counted"
    );
    life.judges.watch(request());
    life.until("evidence", |look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. })
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_two_jobs_scrape_counts_once() {
    let script = script(&Story::default()).await;
    let once = gone_on(&script, &request(), 60).await;
    once.judged_until(60).await;
    let twins = Story::default().series().into_iter().map(|mut series| {
        series
            .labels
            .insert("job".to_owned(), "kubernetes-pods".to_owned());
        series
    });
    script.set_series(Story::default().series().into_iter().chain(twins).collect());
    let twice = gone_on(&script, &request(), 60).await;
    let counts = |look: &Look| look.evidence[0].stable.requests;
    twice.judged_until(60).await;
    let (once, twice) = (counts(&once.look()), counts(&twice.look()));
    assert!(
        once > 0.0 && (once - twice).abs() < 0.1 * once,
        "{once} and {twice}"
    );
}

/// The same counters, written out with a label that tells the sides.
fn written(errors: &str) -> JudgeRequest {
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "counters": {
            "total": "traefik_service_requests_total", "errors": errors,
            "variants": {"label": "service", "canary": ".*canary-.*", "stable": ".*checkout-[0-9]+@.*"}}}],
    });
    JudgeRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

#[tokio::test]
async fn a_mistyped_error_selector_is_not_a_perfect_release() {
    let story = Story {
        canary: (60.0, 6.0),
        ..Story::default()
    };
    let script = script(&story).await;
    let mistyped = written("traefik_service_requests_total{code=~\"5xx\"}");
    let life = gone_on(&script, &mistyped, 90).await;
    life.held_for("UnverifiedSelector").await;
    // The person mends it; the evidence is gathered anew, by the right question.
    life.judges
        .watch(written("traefik_service_requests_total{code=~\"5..\"}"));
    life.until("no hold", |look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. })
    })
    .await;
}

#[tokio::test]
async fn a_selector_that_history_has_verified_need_not_match_now() {
    let script = script(&Story {
        canary: (60.0, 0.0),
        stable: (240.0, 0.0),
        ..Story::default()
    })
    .await;
    script.set_service(&[("total", 1e6), ("seen", 2.0), ("age0", 2.6e6)]);
    let life = gone_on(
        &script,
        &written("traefik_service_requests_total{code=~\"5..\"}"),
        90,
    )
    .await;
    life.until("evidence", |look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. }) && look.checkpoint.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_query_that_is_none_and_a_missing_address_hold_at_once() {
    let script = script(&Story::default()).await;
    let life = live(&script, start());
    life.judges.watch(written("rate(errors_total[5m])"));
    let message = life.held_for("InvalidQuery").await;
    assert!(
        message.contains("objectives[availability].counters.errors"),
        "{message}"
    );

    let mut bench = life.judges.inner.bench.clone();
    bench.servers = Servers::new(nobody(), None, Rereading::default());
    let (judges, _triggers) = Judges::new(bench, Leadership::always());
    let life = Life { judges, ..life };
    life.judges.watch(request());
    life.held_for("NotConfigured").await;
}
