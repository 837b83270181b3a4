//! Objects: create, update, patch, delete, list, discovery and validation.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, Preconditions,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_fake_cluster::FakeCluster;

use crate::{SECOND, code, config_map, config_maps, rollout, rollouts};

#[tokio::test(start_paused = true)]
async fn a_created_object_has_server_set_metadata_and_a_unique_name() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let created = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(created.resource_version().is_some());
    assert_eq!(created.uid().unwrap().len(), 36);
    assert_eq!(
        created.creation_timestamp().unwrap().0.to_string(),
        "2026-01-01T00:00:00Z"
    );
    assert_eq!(created.namespace().as_deref(), Some("shop"));
    let again = api
        .create(&PostParams::default(), &config_map("a", "2"))
        .await
        .unwrap_err();
    assert_eq!(code(again), (409, "AlreadyExists".into()));
    assert_eq!(
        code(api.get("b").await.unwrap_err()),
        (404, "NotFound".into())
    );
    assert_eq!(api.get_opt("b").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_returns_the_object_and_stores_nothing() {
    let cluster = FakeCluster::new(1);
    let api: Api<ReplicaSet> = Api::namespaced(cluster.client(), "shop");
    let set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"generateName": "probe-"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
                {"name": "app", "image": "shop/x:1", "resources": {"requests": {"cpu": "1000m"}}}]}},
        },
    }))
    .unwrap();
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let answer = api.create(&dry_run, &set).await.unwrap();
    let pod = answer.spec.unwrap().template.unwrap().spec.unwrap();
    assert_eq!(pod.restart_policy.as_deref(), Some("Always"));
    assert_eq!(
        pod.containers[0]
            .resources
            .as_ref()
            .unwrap()
            .requests
            .as_ref()
            .unwrap()["cpu"]
            .0,
        "1"
    );
    assert!(cluster.objects::<ReplicaSet>().is_empty());
    assert!(cluster.writes().is_empty());
    let mut broken = set.clone();
    broken
        .spec
        .as_mut()
        .unwrap()
        .template
        .as_mut()
        .unwrap()
        .spec
        .as_mut()
        .unwrap()
        .containers[0]
        .image = None;
    let refused = api.create(&dry_run, &broken).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("spec.template.spec.containers[0].image: Required value"),
        "{refused}"
    );
    assert_eq!(code(refused), (422, "Invalid".into()));
}

#[tokio::test(start_paused = true)]
async fn a_write_with_an_old_resource_version_is_a_conflict() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let first = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let mut newer = first.clone();
    newer.data = Some([("key".to_owned(), "2".to_owned())].into());
    let second = api
        .replace("a", &PostParams::default(), &newer)
        .await
        .unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    let stale = api
        .replace("a", &PostParams::default(), &newer)
        .await
        .unwrap_err();
    assert_eq!(code(stale), (409, "Conflict".into()));
    let patch =
        json!({"metadata": {"resourceVersion": first.resource_version()}, "data": {"key": "3"}});
    let stale = api
        .patch("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap_err();
    assert_eq!(code(stale), (409, "Conflict".into()));
    let stale = DeleteParams {
        preconditions: Some(Preconditions {
            resource_version: first.resource_version(),
            uid: None,
        }),
        ..DeleteParams::default()
    };
    assert_eq!(
        code(api.delete("a", &stale).await.unwrap_err()),
        (409, "Conflict".into())
    );
    assert_eq!(api.get("a").await.unwrap().data, second.data);
}

#[tokio::test(start_paused = true)]
async fn updates_of_custom_objects_and_leases_require_a_resource_version() {
    let cluster = FakeCluster::new(1);
    let api = rollouts(&cluster);
    api.create(&PostParams::default(), &rollout("a", 1))
        .await
        .unwrap();
    let refused = api
        .replace("a", &PostParams::default(), &rollout("a", 2))
        .await
        .unwrap_err();
    assert_eq!(code(refused), (422, "Invalid".into()));
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "shop");
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {}})).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let refused = leases
        .replace("l", &PostParams::default(), &lease)
        .await
        .unwrap_err();
    assert_eq!(code(refused), (422, "Invalid".into()));
    let maps = config_maps(&cluster);
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    maps.replace("a", &PostParams::default(), &config_map("a", "2"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_spec_changes_increment_the_generation_and_status_is_a_subresource() {
    let cluster = FakeCluster::new(1);
    let api = rollouts(&cluster);
    let created = api
        .create(&PostParams::default(), &rollout("a", 1))
        .await
        .unwrap();
    assert_eq!(
        (created.metadata.generation, created.data.get("status")),
        (Some(1), None)
    );
    let patch = |value: Value| Patch::Merge(value);
    let labelled =
        patch(json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Paused"}}));
    let labelled = api
        .patch("a", &PatchParams::default(), &labelled)
        .await
        .unwrap();
    assert_eq!(
        (labelled.metadata.generation, labelled.data.get("status")),
        (Some(1), None)
    );
    let status = patch(json!({"status": {"phase": "Paused"}, "spec": {"replicas": 9}}));
    let updated = api
        .patch_status("a", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(updated.metadata.generation, Some(1));
    assert_eq!(
        updated.data,
        json!({"spec": {"replicas": 1}, "status": {"phase": "Paused"}})
    );
    let spec = patch(json!({"spec": {"replicas": 2}}));
    let grown = api
        .patch("a", &PatchParams::default(), &spec)
        .await
        .unwrap();
    assert_eq!(grown.metadata.generation, Some(2));
    let unchanged = api
        .patch("a", &PatchParams::default(), &spec)
        .await
        .unwrap();
    assert_eq!(unchanged.resource_version(), grown.resource_version());
    let scaled = api
        .patch_scale("a", &PatchParams::default(), &spec_replicas(5))
        .await
        .unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(5));
    assert_eq!(api.get("a").await.unwrap().metadata.generation, Some(3));
}

fn spec_replicas(replicas: u32) -> Patch<Value> {
    Patch::Merge(json!({"spec": {"replicas": replicas}}))
}

#[tokio::test(start_paused = true)]
async fn a_json_patch_with_a_failed_test_changes_nothing() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let created = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let patch = |version: &str| {
        let operations = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "replace", "path": "/data/key", "value": "2"},
        ]);
        Patch::<()>::Json(serde_json::from_value(operations).unwrap())
    };
    let refused = api
        .patch("a", &PatchParams::default(), &patch("1"))
        .await
        .unwrap_err();
    assert_eq!(code(refused), (422, "Invalid".into()));
    let version = created.resource_version().unwrap();
    let patched = api
        .patch("a", &PatchParams::default(), &patch(&version))
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap()["key"], "2");
}

#[tokio::test(start_paused = true)]
async fn server_side_apply_creates_and_then_merges() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let apply = |data: &str| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {data: "x"}}),
        )
    };
    let manager = PatchParams::apply("test");
    api.patch("a", &manager, &apply("one")).await.unwrap();
    let both = api.patch("a", &manager, &apply("two")).await.unwrap();
    assert_eq!(both.data.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_object_with_a_finalizer_is_removed_after_the_finalizer() {
    let cluster = FakeCluster::new(1);
    let api = rollouts(&cluster);
    let mut held = rollout("a", 1);
    held.metadata.finalizers = Some(vec!["serin.dev/routes".into()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    let answer = api.delete("a", &DeleteParams::default()).await.unwrap();
    let marked = answer.left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(marked.metadata.generation, Some(2));
    let again = api
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(again.resource_version(), marked.resource_version());
    let another = json!({"metadata": {"finalizers": ["serin.dev/routes", "other/one"]}});
    let refused = api
        .patch("a", &PatchParams::default(), &Patch::Merge(&another))
        .await
        .unwrap_err();
    assert_eq!(code(refused), (422, "Invalid".into()));
    let released = json!({"metadata": {"finalizers": null}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(&released))
        .await
        .unwrap();
    assert_eq!(api.get_opt("a").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn dependents_are_deleted_with_their_last_owner_unless_they_are_orphaned() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let owned_by = |name: &str, owner: &ConfigMap| {
        let mut map = config_map(name, "1");
        map.metadata.owner_references = Some(vec![
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
            }))
            .unwrap(),
        ]);
        map
    };
    for (propagation, survives) in [
        (DeleteParams::background(), false),
        (DeleteParams::foreground(), false),
        (DeleteParams::orphan(), true),
    ] {
        let owner = api
            .create(&PostParams::default(), &config_map("owner", "1"))
            .await
            .unwrap();
        let dependent = api
            .create(&PostParams::default(), &owned_by("dependent", &owner))
            .await
            .unwrap();
        let below = api
            .create(&PostParams::default(), &owned_by("below", &dependent))
            .await
            .unwrap();
        assert!(below.uid().is_some());
        api.delete("owner", &propagation).await.unwrap();
        cluster
            .wait_until(
                |cluster| cluster.get::<ConfigMap>("shop", "owner").is_none(),
                SECOND,
            )
            .await
            .unwrap();
        cluster.sleep(SECOND).await;
        assert_eq!(
            cluster.objects::<ConfigMap>().len(),
            if survives { 2 } else { 0 },
            "{propagation:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn lists_support_selectors_and_pages() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    for name in ["c", "a", "b"] {
        api.create(&PostParams::default(), &config_map(name, "1"))
            .await
            .unwrap();
    }
    let names = |params: ListParams| {
        let api = api.clone();
        async move {
            api.list(&params)
                .await
                .unwrap()
                .iter()
                .map(ResourceExt::name_any)
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(names(ListParams::default()).await, ["a", "b", "c"]);
    assert_eq!(
        names(ListParams::default().labels("app in (a,c)")).await,
        ["a", "c"]
    );
    assert_eq!(
        names(ListParams::default().fields("metadata.name=b")).await,
        ["b"]
    );
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(
        (first.items.len(), first.metadata.remaining_item_count),
        (2, Some(1))
    );
    let token = first.metadata.continue_.unwrap();
    assert_eq!(
        names(ListParams::default().limit(2).continue_token(&token)).await,
        ["c"]
    );
    let metadata = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 3);
    let elsewhere: Api<ConfigMap> = Api::namespaced(cluster.client(), "elsewhere");
    assert_eq!(
        elsewhere
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    assert_eq!(
        Api::<ConfigMap>::all(cluster.client())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        3
    );
}

#[tokio::test(start_paused = true)]
async fn kinds_are_discovered_and_follow_their_definitions() {
    let cluster = FakeCluster::new(1);
    let client = cluster.client();
    let kind = GroupVersionKind::gvk("serin.dev", "v1alpha1", "Rollout");
    let (resource, _) = kube::discovery::pinned_kind(&client, &kind).await.unwrap();
    assert_eq!(resource.plural, "rollouts");
    let discovery = kube::Discovery::new(client.clone())
        .run_aggregated()
        .await
        .unwrap();
    assert!(
        discovery
            .resolve_gvk(&GroupVersionKind::gvk(
                "gateway.networking.k8s.io",
                "v1",
                "HTTPRoute"
            ))
            .is_some()
    );

    let widgets = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("example.com", "v1", "Widget"),
        "widgets",
    );
    let api: Api<DynamicObject> = Api::namespaced_with(client, "shop", &widgets);
    assert_eq!(
        code(api.list(&ListParams::default()).await.unwrap_err()).0,
        404
    );
    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions: [{name: v1, served: true, storage: true, subresources: {status: {}}}]
";
    cluster.apply(definition).unwrap();
    api.create(&PostParams::default(), &DynamicObject::new("w", &widgets))
        .await
        .unwrap();
    cluster
        .delete::<CustomResourceDefinition>("", "widgets.example.com")
        .unwrap();
    assert_eq!(code(api.get("w").await.unwrap_err()).0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_validation_error_names_the_field() {
    let cluster = FakeCluster::new(1);
    let refused = |text: &str| cluster.apply(text).unwrap_err().to_string();
    let set = |selector: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: a, namespace: shop}}, spec: {{selector: {{matchLabels: \
             {{app: {selector}}}}}, template: {{metadata: {{labels: {{app: a}}}}, spec: {{containers: [{{name: a, image: i}}]}}}}}}}}"
        )
    };
    assert!(refused(&set("b")).contains("spec.template.metadata.labels: Invalid value"));
    cluster.apply(&set("a")).unwrap();
    let mut immutable: Value =
        serde_json::to_value(cluster.get::<ReplicaSet>("shop", "a").unwrap()).unwrap();
    immutable["spec"]["selector"]["matchLabels"]["b"] = "c".into();
    immutable["spec"]["template"]["metadata"]["labels"]["b"] = "c".into();
    immutable["apiVersion"] = "apps/v1".into();
    immutable["kind"] = "ReplicaSet".into();
    assert!(
        cluster
            .apply_object(immutable)
            .unwrap_err()
            .to_string()
            .contains("field is immutable")
    );
    assert!(
        refused("{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}")
            .contains("metadata.name")
    );
    assert!(
        refused("{apiVersion: v1, kind: Nothing, metadata: {name: a}}").contains("no kind Nothing")
    );
    assert_eq!(cluster.objects::<Pod>().len(), 0);
}
