//! The state of an objective fits into what the validation of a spec allows for it.

use serde_json::{Value, json};
use serin_crds::status::{ENDPOINTS_BYTES, LATENCY_GUARD_BYTES, OBJECTIVE_BYTES, serialized_bytes};

use super::*;
use crate::fixtures::request;
use crate::objective_analysis::ObjectivePlan;
use crate::prometheus::{Series, Server};

const BEGAN_MS: i64 = 1_700_000_000_000;
const SCRAPES: i64 = 240;
/// More pods, buckets and endpoints than the state distinguishes.
const PODS: usize = 20;
const EDGES: usize = 36;
const ENDPOINTS: usize = 24;

/// A counter of a pod with an irregular rate.
fn series(pod: &str, number: usize, labels: &[(&str, &str)], per_scrape: f64) -> Series {
    let own = [("job", "pods"), ("instance", pod), ("pod", pod)];
    let mut value = 0.0;
    let samples = (0..=SCRAPES).map(|scrape| {
        let wave = usize::try_from(scrape).unwrap() * (number + 7) % 11;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let factor = wave as f64 / 5.0;
        value += (per_scrape * factor).round();
        (BEGAN_MS + scrape * 1_000, value)
    });
    let samples = samples.collect();
    Series {
        labels: own
            .iter()
            .chain(labels)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        samples,
    }
}

fn pods() -> Vec<String> {
    let of_set = |set: &str| {
        let set = set.to_owned();
        (0..PODS).map(move |pod| format!("checkout-{set}-{pod:0>5}"))
    };
    of_set("aaa").chain(of_set("bbb")).collect()
}

/// Bytes of the checkpoint of a release with this objective after the answers.
fn checkpoint_bytes(objective: &Value, answers: &[Answer]) -> usize {
    let analysis = json!({
        "warmUp": "0s", "prometheus": {"scrapeInterval": "1s"}, "objectives": [objective],
    });
    let request = AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    };
    let settings = settings_for(&request, Server::with_url("http://prometheus")).unwrap();
    let plans = ObjectivePlan::from_request(&request).unwrap();
    let mut release = ReleaseAnalysis::begin(settings, plans, &request, None, BEGAN_MS).unwrap();
    // The endpoints are set by the first answer.
    for scrapes in [SCRAPES / 2, SCRAPES] {
        let now_ms = BEGAN_MS + scrapes * 1_000;
        let until = |series: &Series| Series {
            labels: series.labels.clone(),
            samples: series
                .samples
                .iter()
                .filter(|(at_ms, _)| *at_ms <= now_ms)
                .copied()
                .collect(),
        };
        let answers: Vec<Answer> = answers
            .iter()
            .map(|answer| answer.iter().map(until).collect())
            .collect();
        let samples = ObjectiveAnswers::from_answers(&answers).unwrap();
        release.observe(0, samples, now_ms, now_ms);
    }
    release.snapshot(BEGAN_MS + SCRAPES * 1_000);
    serialized_bytes(&release.checkpoint())
}

fn requests_and_errors(endpoints: &[String]) -> [Answer; 2] {
    let (mut total, mut errors) = (Answer::new(), Answer::new());
    for (index, pod) in pods().iter().enumerate() {
        for (number, endpoint) in endpoints.iter().enumerate() {
            for (code, per_scrape) in [("200", 30.0), ("500", 0.4)] {
                let labels = [("code", code), ("route", endpoint.as_str())];
                let series = series(pod, index * 31 + number, &labels, per_scrape);
                if code == "500" {
                    errors.push(series.clone());
                }
                total.push(series);
            }
        }
    }
    [total, errors]
}

#[test]
fn the_state_of_an_objective_fits_into_its_share_of_the_status() {
    let objective = json!({"name": "availability", "objective": 99.9, "counters": {
        "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}",
    }});
    let bytes = checkpoint_bytes(&objective, &requests_and_errors(&["/".to_owned()]));
    assert!((4_000..=OBJECTIVE_BYTES).contains(&bytes), "{bytes} bytes");
}

#[test]
fn the_evidence_by_endpoint_fits_into_its_share_of_the_status() {
    let objective = json!({"name": "availability", "objective": 99.9, "endpointLabel": "route",
        "counters": {
            "total": "http_requests_total", "errors": "http_requests_total{code=~\"5..\"}",
        },
    });
    // Each quotation mark takes two bytes in JSON.
    let endpoints: Vec<String> = (0..ENDPOINTS)
        .map(|number| format!("{number:0>3}{}", "\"".repeat(200)))
        .collect();
    let bytes = checkpoint_bytes(&objective, &requests_and_errors(&endpoints));
    let limit = OBJECTIVE_BYTES + ENDPOINTS_BYTES;
    assert!((10_000..=limit).contains(&bytes), "{bytes} bytes");
}

#[test]
fn the_state_of_a_latency_guard_fits_into_its_share_of_the_status() {
    let objective = json!({
        "name": "latency", "objective": 99, "latency": {"threshold": "1s", "guard": "Hold"},
        "counters": {"total": "duration_seconds_count"},
    });
    let mut answers = [Answer::new(), Answer::new(), Answer::new()];
    for (index, pod) in pods().iter().enumerate() {
        let name = ("__name__", "duration_seconds_count");
        answers[0].push(series(pod, index, &[name], 100.0));
        for edge in 1..=EDGES {
            let le = format!("{}.25", edge * 3);
            let le = if edge == EDGES / 2 { "1" } else { &le };
            let labels = [("__name__", "duration_seconds_bucket"), ("le", le)];
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let per_scrape = 50.0 + edge as f64;
            let bucket = series(pod, index, &labels, per_scrape);
            if le == "1" {
                answers[1].push(bucket.clone());
            }
            answers[2].push(bucket);
        }
    }
    let bytes = checkpoint_bytes(&objective, &answers);
    let limit = OBJECTIVE_BYTES + LATENCY_GUARD_BYTES;
    assert!((15_000..=limit).contains(&bytes), "{bytes} bytes");
}
