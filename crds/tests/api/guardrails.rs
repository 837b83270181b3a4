//! What the API server refuses in the guardrails of a RolloutPolicy.

use serde_json::{Value, json};

use crate::admission;

fn refusals(signature: Value) -> Vec<String> {
    let policy = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
        "metadata": {"name": "platform"},
        "spec": {"guardrails": {"imageSignature": signature}},
    });
    admission::refusals(&policy, None)
}

#[test]
fn signatures_are_checked_with_keys_or_by_policy_engines() {
    let keys = || json!([{"name": "release", "publicKey": "-----BEGIN PUBLIC KEY-----"}]);
    for accepted in [
        json!({"mode": "Enforce"}),
        json!({"mode": "Enforce", "verifiers": ["Kyverno"]}),
        json!({"mode": "Enforce", "verifiers": ["Kyverno"], "keys": []}),
        json!({"mode": "Enforce", "keys": keys(), "exemptImages": ["docker.io/istio/**"]}),
    ] {
        assert_eq!(
            refusals(accepted.clone()),
            Vec::<String>::new(),
            "{accepted}"
        );
    }
    let both = json!({"mode": "Enforce", "verifiers": ["Kyverno"], "keys": keys()});
    let found = refusals(both);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("remove one of them"), "{found:?}");
    let name = json!({"mode": "Enforce", "keys": [{"name": "A b", "publicKey": "x"}]});
    assert_eq!(refusals(name).len(), 1);
}
