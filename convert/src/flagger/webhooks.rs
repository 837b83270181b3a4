//! Webhooks of a Canary: they become checks by HTTP.

use serde_json::{Map, Value, json};

use super::Names;
use crate::checks::seconds;
use crate::fields::Fields;
use crate::http_checks::{record_address_note, timeout_seconds};
use crate::rollout::RolloutDraft;

/// Number of failures that no release reaches: it waits for a webhook that confirms.
const WAITS: i64 = 1_000_000;

/// Converts all webhooks. `interval` is that of the analysis, `threshold` its number of failures.
pub(super) fn convert(
    analysis: &mut Fields,
    interval: &str,
    threshold: Option<f64>,
    names: &Names,
    draft: &mut RolloutDraft,
) {
    // Webhooks that confirm the release are called before the others.
    let mut confirming_steps = 0;
    for mut webhook in analysis.objects("webhooks") {
        let kind = webhook.text("type").unwrap_or_else(|| "rollout".to_owned());
        let name = webhook.text("name").unwrap_or_default();
        let path = webhook.path("type");
        match kind.as_str() {
            "confirm-rollout" | "pre-rollout" => {
                let mut check = check(&mut webhook, &name, interval, names, draft);
                limit(&mut check, &kind, threshold);
                let at = confirming_steps;
                confirming_steps += usize::from(kind == "confirm-rollout");
                before_traffic(check, &path, &kind, at, draft);
            }
            "rollout" => {
                let mut check = check(&mut webhook, &name, interval, names, draft);
                limit(&mut check, &kind, threshold);
                add(check, &path, draft);
            }
            "confirm-promotion" => {
                let mut check = check(&mut webhook, &name, interval, names, draft);
                check.insert("phase".to_owned(), json!("beforePromotion"));
                limit(&mut check, &kind, threshold);
                add(check, &path, draft);
            }
            "rollback" => {
                let mut check = check(&mut webhook, &name, interval, names, draft);
                let condition = "!(status >= 200 && status < 300)";
                check.insert("condition".to_owned(), json!(condition));
                add(check, &path, draft);
            }
            "event" => draft.notes.lost(
                path,
                format!("webhook {name} is not called"),
                "watch the Kubernetes Events of the Rollout",
            ),
            kind => draft.notes.not_yet(
                path,
                format!("webhook {name} ({kind}) is not called"),
                "call it from a pipeline that watches the Rollout",
            ),
        }
    }
}

/// The check that calls a webhook with the payload of Flagger.
fn check(
    webhook: &mut Fields,
    name: &str,
    interval: &str,
    names: &Names,
    draft: &mut RolloutDraft,
) -> Map<String, Value> {
    let path = webhook.path("url");
    let url = webhook.text("url").unwrap_or_default();
    record_address_note(&url, path, &mut draft.notes);
    let path = webhook.path("timeout");
    let timeout = webhook.text("timeout");
    let timeout = timeout.as_deref().and_then(seconds).unwrap_or(10.0);
    let timeout = timeout_seconds(timeout, path, &mut draft.notes);
    let payload = json!({
        "name": names.canary,
        "namespace": "{{args.namespace}}",
        "phase": "Progressing",
        "metadata": webhook.take("metadata").unwrap_or_else(|| json!({})),
    });
    webhook.ignore(&["muteAlert", "retries"]);
    let http = json!({
        "url": url,
        "method": "POST",
        "body": payload.to_string(),
        "timeoutSeconds": timeout,
        "failIfUnreachable": true,
    });
    let mut check = Map::new();
    check.insert("name".to_owned(), json!(name));
    check.insert("http".to_owned(), http);
    check.insert("interval".to_owned(), json!(interval));
    check
}

/// Flagger rolls back at `threshold` failures, Serin at one more than `failureLimit`. A webhook that
/// confirms never fails.
fn limit(check: &mut Map<String, Value>, kind: &str, threshold: Option<f64>) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a small number of failures"
    )]
    let failures = threshold.map_or(0, |threshold| threshold as i64 - 1);
    let limit = if kind.starts_with("confirm") {
        WAITS
    } else {
        failures
    };
    if limit > 0 {
        check.insert("failureLimit".to_owned(), json!(limit));
    }
}

/// Adds a check before the first traffic, as a step at this index.
fn before_traffic(
    mut check: Map<String, Value>,
    path: &str,
    kind: &str,
    at: usize,
    draft: &mut RolloutDraft,
) {
    let is_paced = draft.canary.contains_key("pace");
    let phase = if is_paced { "beforeTraffic" } else { "step" };
    check.insert("phase".to_owned(), json!(phase));
    let Some(name) = add(check, path, draft) else {
        return;
    };
    if is_paced {
        return;
    }
    let waits = json!({"analysis": {"checks": [name]}});
    if kind == "pre-rollout" && draft.has_router() {
        // The pods are tested before they get traffic.
        let steps = [
            json!({"setCanaryScale": {"replicas": 1}}),
            waits,
            json!({"setCanaryScale": {"matchTrafficWeight": true}}),
        ];
        draft.steps.splice(at..at, steps);
    } else {
        draft.steps.insert(at, waits);
    }
}

fn add(check: Map<String, Value>, path: &str, draft: &mut RolloutDraft) -> Option<String> {
    match draft.analysis.add(check) {
        Ok(name) => Some(name),
        Err(why) => {
            draft
                .notes
                .lost(path, why, "combine several webhooks into one");
            None
        }
    }
}
