use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use ReplicasSource::{Declared, Default, Scaled, Unowned};

/// Objects stored by kube-apiserver 1.34.4 (without times) after these commands, for a CRD with
/// `default: 1`: `kubectl apply`, `kubectl apply --server-side --field-manager=argocd-controller`
/// (Flux: `kustomize-controller`), `kubectl scale`, and, for an autoscaler, PUT of `/scale` as sent
/// by the HorizontalPodAutoscaler controller.
const RECORDED: &str = include_str!("recorded.json");

fn recorded() -> BTreeMap<String, Value> {
    serde_json::from_str(RECORDED).unwrap()
}

fn source_of(object: &Value) -> ReplicasSource {
    let metadata: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap();
    replicas_source(&metadata, &object["spec"])
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of data")]
fn the_source_of_replicas_is_derived_from_managed_fields() {
    let cases = [
        ("client-side apply without replicas", Default),
        ("client-side apply of 5", Declared),
        // argo-rollouts #3689: with a default, removing the field sets it to 1.
        ("client-side apply of 5, then without replicas", Default),
        ("client-side apply of 1", Declared),
        ("server-side apply without replicas", Unowned),
        ("server-side apply of 5, then without replicas", Unowned),
        ("server-side apply of 1", Declared),
        (
            "client-side apply without replicas, then kubectl scale to 3",
            Scaled,
        ),
        (
            "client-side apply without replicas, then kubectl scale to 3 and to 1",
            Scaled,
        ),
        (
            "client-side apply without replicas, kubectl scale to 3 and to 1, applied again",
            Scaled,
        ),
        // Scaling a value without an owner is not tracked.
        (
            "server-side apply without replicas, then an autoscaler to 4",
            Scaled,
        ),
        (
            "server-side apply without replicas, then an autoscaler to 4 and to 1",
            Unowned,
        ),
        (
            "server-side apply without replicas, an autoscaler to 4 and to 1, applied again",
            Unowned,
        ),
        (
            "client-side apply of 5, autoscaler to 8, then without replicas",
            Default,
        ),
        (
            "server-side apply of 5, autoscaler to 8, then without replicas",
            Scaled,
        ),
        (
            "server-side apply of 5, autoscaler to 8, then forced to 5",
            Declared,
        ),
        (
            "server-side apply of 5, autoscaler to 8, forced to 5, then without replicas",
            Unowned,
        ),
        ("client-side apply of 5, then kubectl patch to 1", Declared),
        (
            "client-side apply of 5, then kubectl patch that removes the field",
            Declared,
        ),
        (
            "kubectl create of 5, then kubectl replace without replicas",
            Declared,
        ),
        ("kubectl create without replicas", Declared),
        ("kubectl create --save-config without replicas", Default),
        (
            "Helm 3: create of 5, then a patch that removes the field",
            Declared,
        ),
        (
            "client-side apply without replicas, then server-side by kubectl",
            Unowned,
        ),
        (
            "client-side apply of 5, then server-side by kubectl without replicas",
            Unowned,
        ),
        (
            "server-side apply of 1, an autoscaler to 4 and to 1",
            Scaled,
        ),
        (
            "server-side apply of 1, an autoscaler to 4 and to 1, applied again as 1",
            Declared,
        ),
        (
            "client-side apply without replicas, annotated by somebody else",
            Default,
        ),
        ("Flux without replicas", Unowned),
        (
            "client-side apply without replicas, autoscaler to 3, applied again",
            Scaled,
        ),
        (
            "client-side apply without replicas, then kubectl scale to 0",
            Scaled,
        ),
    ];
    let recorded = recorded();
    assert_eq!(recorded.len(), cases.len());
    for (case, expected) in cases {
        assert_eq!(source_of(&recorded[case]), expected, "{case}");
    }
}

#[test]
fn a_missing_field_counts_as_default() {
    assert_eq!(
        source_of(&json!({"metadata": {"name": "a"}, "spec": {}})),
        Default
    );
    assert_eq!(
        source_of(&json!({"metadata": {"name": "a"}, "spec": {"replicas": null}})),
        Default
    );
}

#[test]
fn unreadable_metadata_counts_as_declared() {
    let mut object = recorded()["client-side apply without replicas"].clone();
    object["metadata"]["annotations"][LAST_APPLIED] = "{".into();
    assert_eq!(source_of(&object), Declared);
    let mut object = recorded()["client-side apply without replicas"].clone();
    object["spec"]["replicas"] = "many".into();
    assert_eq!(source_of(&object), Declared);
}
