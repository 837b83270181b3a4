//! The requests of one check.

use std::time::Duration;

use serin_metrics_analysis::checks::{HeaderSource, HttpRequest, ProbeOutcome};
use serin_metrics_analysis::counter_selectors::AnalysisError;
use serin_metrics_analysis::http_probe::Sender as HttpSender;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{ProbeOwner, ProbeResult, Probes, report};

/// Time for which the values of Secrets are used. A replaced token is used for at most this time.
const SECRETS_FOR: Duration = Duration::from_secs(15);

/// Repeats a request until nobody waits for its results.
pub(super) async fn repeat(
    probes: &Probes,
    request: &HttpRequest,
    interval: Duration,
    check: &str,
    owner: &ProbeOwner,
    sender: &mpsc::Sender<ProbeResult>,
) {
    let http_sender = HttpSender {
        namespace: &owner.rollout.namespace,
        check,
    };
    let mut headers: Option<(Vec<(String, String)>, Instant)> = None;
    loop {
        let (began, began_ms) = (Instant::now(), probes.now_ms());
        let known = headers
            .take()
            .filter(|(_, read_at)| read_at.elapsed() < SECRETS_FOR);
        let read = match known {
            Some(known) => Ok(known),
            None => read_headers(probes, request, owner)
                .await
                .map(|read| (read, began)),
        };
        let outcome = match read {
            Ok(read) => {
                let outcome = probes.http.send(request, &read.0, &http_sender).await;
                headers = Some(read);
                outcome
            }
            Err(error) => ProbeOutcome::Refused(error),
        };
        if !report(sender, began_ms, outcome).await {
            return;
        }
        sleep_until(began + interval).await;
    }
}

async fn read_headers(
    probes: &Probes,
    request: &HttpRequest,
    owner: &ProbeOwner,
) -> Result<Vec<(String, String)>, AnalysisError> {
    let mut headers = Vec::with_capacity(request.headers.len());
    for (name, source) in &request.headers {
        let value = match source {
            HeaderSource::Text(text) => text.clone(),
            HeaderSource::Secret { name, key } => {
                let namespace = &owner.rollout.namespace;
                probes.secrets.header_value(namespace, name, key).await?
            }
        };
        headers.push((name.clone(), value));
    }
    Ok(headers)
}
