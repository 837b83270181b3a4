//! The API server's rules, seen through a real client.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail loudly, as tests may"
)]

use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_fake_cluster::{Fault, World};

const SECOND: Duration = Duration::from_secs(1);

fn config_map(name: &str, data: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}}, "data": {"key": data}
    }))
    .unwrap()
}

fn rollouts(world: &World) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("serin.dev", "v1alpha1", "Rollout");
    Api::namespaced_with(
        world.client(),
        "shop",
        &ApiResource::from_gvk_with_plural(&kind, "rollouts"),
    )
}

fn rollout(name: &str, replicas: u32) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {"replicas": replicas}, "status": {"phase": "Healthy"},
    }))
    .unwrap()
}

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("not an answer of the API server: {other}"),
    }
}

fn config_maps(world: &World) -> Api<ConfigMap> {
    Api::namespaced(world.client(), "shop")
}

#[tokio::test(start_paused = true)]
async fn an_object_is_created_once_with_what_the_server_adds() {
    let world = World::new(1);
    let api = config_maps(&world);
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
async fn a_dry_run_answers_what_would_be_stored_and_stores_nothing() {
    let world = World::new(1);
    let api: Api<ReplicaSet> = Api::namespaced(world.client(), "shop");
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
    assert!(world.objects::<ReplicaSet>().is_empty());
    assert!(world.writes().is_empty());
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
async fn a_write_that_is_based_on_an_old_state_is_a_conflict() {
    let world = World::new(1);
    let api = config_maps(&world);
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
async fn a_custom_object_and_a_lease_must_say_what_their_update_is_based_on() {
    let world = World::new(1);
    let api = rollouts(&world);
    api.create(&PostParams::default(), &rollout("a", 1))
        .await
        .unwrap();
    let refused = api
        .replace("a", &PostParams::default(), &rollout("a", 2))
        .await
        .unwrap_err();
    assert_eq!(code(refused), (422, "Invalid".into()));
    let leases: Api<Lease> = Api::namespaced(world.client(), "shop");
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {}})).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let refused = leases
        .replace("l", &PostParams::default(), &lease)
        .await
        .unwrap_err();
    assert_eq!(code(refused), (422, "Invalid".into()));
    let maps = config_maps(&world);
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    maps.replace("a", &PostParams::default(), &config_map("a", "2"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn generation_counts_changes_of_the_spec_alone_and_status_has_its_own_path() {
    let world = World::new(1);
    let api = rollouts(&world);
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
    let told = api
        .patch_status("a", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(told.metadata.generation, Some(1));
    assert_eq!(
        told.data,
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
async fn a_json_patch_whose_test_fails_changes_nothing() {
    let world = World::new(1);
    let api = config_maps(&world);
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
    let world = World::new(1);
    let api = config_maps(&world);
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
async fn a_finalizer_holds_an_object_back_until_it_is_taken_off() {
    let world = World::new(1);
    let api = rollouts(&world);
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
async fn dependents_go_with_their_last_owner_unless_they_are_orphaned() {
    let world = World::new(1);
    let api = config_maps(&world);
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
        world
            .until(
                |world| world.get::<ConfigMap>("shop", "owner").is_none(),
                SECOND,
            )
            .await
            .unwrap();
        world.pass(SECOND).await;
        assert_eq!(
            world.objects::<ConfigMap>().len(),
            if survives { 2 } else { 0 },
            "{propagation:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn lists_are_chosen_by_labels_and_come_in_pages() {
    let world = World::new(1);
    let api = config_maps(&world);
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
    let elsewhere: Api<ConfigMap> = Api::namespaced(world.client(), "elsewhere");
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
        Api::<ConfigMap>::all(world.client())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        3
    );
}

async fn told(api: &Api<ConfigMap>, params: &WatchParams, from: &str, count: usize) -> Vec<String> {
    let events = pin!(api.watch(params, from).await.unwrap());
    let name = |map: &ConfigMap| map.name_any();
    let words = events.map_ok(move |event| match event {
        WatchEvent::Added(map) => format!("added {}", name(&map)),
        WatchEvent::Modified(map) => format!("modified {}", name(&map)),
        WatchEvent::Deleted(map) => format!("deleted {}", name(&map)),
        WatchEvent::Bookmark(_) => "bookmark".into(),
        WatchEvent::Error(status) => format!("error {}", status.code),
    });
    words.take(count).try_collect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_everything_since_its_version_through_its_selector() {
    let world = World::new(1);
    let api = config_maps(&world);
    let before = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    api.create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap();
    let relabel = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    for value in ["other", "a"] {
        api.patch("a", &PatchParams::default(), &relabel(value))
            .await
            .unwrap();
    }
    api.patch(
        "a",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"key": "2"}})),
    )
    .await
    .unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let all = told(&api, &WatchParams::default(), &before, 6).await;
    assert_eq!(
        all,
        [
            "added a",
            "added b",
            "modified a",
            "modified a",
            "modified a",
            "deleted a"
        ]
    );
    let chosen = told(&api, &WatchParams::default().labels("app=a"), &before, 5).await;
    assert_eq!(
        chosen,
        ["added a", "deleted a", "added a", "modified a", "deleted a"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_gets_bookmarks_and_ends_when_it_was_asked_to() {
    let world = World::new(1);
    let api = config_maps(&world);
    let params = WatchParams::default().timeout(150);
    assert_eq!(told(&api, &params, "100", 9).await, ["bookmark"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_before_the_compaction_is_told_to_start_over() {
    let world = World::new(1);
    let api = config_maps(&world);
    let created = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    api.create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap();
    world.compact();
    let version = created.resource_version().unwrap();
    assert_eq!(
        told(&api, &WatchParams::default(), &version, 9).await,
        ["error 410"]
    );
}

/// What a kube-runtime watcher makes of the world, with breaks of the network in between.
#[tokio::test(start_paused = true)]
async fn a_watcher_follows_through_breaks_outages_and_compactions() {
    let world = World::new(1);
    let api = config_maps(&world);
    for streaming in [false, true] {
        let config = watcher::Config::default();
        let config = if streaming {
            config.streaming_lists()
        } else {
            config
        };
        let mut seen = pin!(
            watcher::watcher(api.clone(), config)
                .default_backoff()
                .filter_map(|event| async {
                    match event {
                        Ok(Event::Apply(map) | Event::InitApply(map)) => {
                            Some(map.data.unwrap()["key"].clone())
                        }
                        _ => None,
                    }
                })
        );
        let mut expect = async |data: &str| {
            world
                .apply(&format!(
                    "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a, namespace: shop}}, data: {{key: {data}}}}}"
                ))
                .unwrap();
            let found = async { while seen.next().await.unwrap() != data {} };
            tokio::time::timeout(60 * SECOND, found)
                .await
                .unwrap_or_else(|_| panic!("{data} was not seen"));
        };
        expect("one").await;
        world.break_watches();
        expect("two").await;
        world.api_away_for(5 * SECOND);
        expect("three").await;
        world.break_watches();
        world.compact();
        expect("four").await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_go_wrong_as_planned_and_are_logged() {
    let world = World::new(1);
    let api = config_maps(&world);
    world.inject(Fault::on("create", "configmaps").after(1).status(503));
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let refused = api
        .create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap_err();
    assert_eq!(code(refused).0, 503);
    api.create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap();
    world.inject(Fault::on("*", "*").named("a").by("serin").refused());
    assert!(!matches!(
        api.get("a").await.unwrap_err(),
        kube::Error::Api(_)
    ));
    api.get("a").await.unwrap();
    world.inject(Fault::on("delete", "configmaps").loses_answer());
    let lost = tokio::time::timeout(SECOND, api.delete("a", &DeleteParams::default())).await;
    assert!(lost.is_err() && world.get::<ConfigMap>("shop", "a").is_none());
    world.inject(Fault::on("delete", "configmaps").hangs());
    let lost = tokio::time::timeout(SECOND, api.delete("b", &DeleteParams::default())).await;
    assert!(lost.is_err() && world.get::<ConfigMap>("shop", "b").is_some());
    let codes: Vec<(&str, u16)> = world
        .requests()
        .iter()
        .map(|request| (request.verb, request.code))
        .collect();
    assert_eq!(
        codes,
        [
            ("create", 201),
            ("create", 503),
            ("create", 201),
            ("get", 0),
            ("get", 200),
            ("delete", 200),
            ("delete", 0)
        ]
    );
    assert_eq!(world.writes().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dies_after_a_write_has_made_it_and_hears_no_more() {
    let world = World::new(1);
    let doomed: Api<ConfigMap> = Api::namespaced(world.client_of("one"), "shop");
    let other: Api<ConfigMap> = Api::namespaced(world.client_of("two"), "shop");
    world.dies_after_writes("one", 2);
    doomed
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    doomed.get("a").await.unwrap();
    let last = tokio::time::timeout(
        SECOND,
        doomed.create(&PostParams::default(), &config_map("b", "1")),
    )
    .await;
    assert!(last.is_err() && world.is_dead("one"));
    assert!(tokio::time::timeout(SECOND, doomed.get("a")).await.is_err());
    assert_eq!(
        other
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn kinds_are_discovered_and_come_and_go_with_their_definitions() {
    let world = World::new(1);
    let client = world.client();
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
    world.apply(definition).unwrap();
    api.create(&PostParams::default(), &DynamicObject::new("w", &widgets))
        .await
        .unwrap();
    world
        .delete::<CustomResourceDefinition>("", "widgets.example.com")
        .unwrap();
    assert_eq!(code(api.get("w").await.unwrap_err()).0, 404);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_names_its_field() {
    let world = World::new(1);
    let refused = |text: &str| world.apply(text).unwrap_err().to_string();
    let set = |selector: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: a, namespace: shop}}, spec: {{selector: {{matchLabels: \
             {{app: {selector}}}}}, template: {{metadata: {{labels: {{app: a}}}}, spec: {{containers: [{{name: a, image: i}}]}}}}}}}}"
        )
    };
    assert!(refused(&set("b")).contains("spec.template.metadata.labels: Invalid value"));
    world.apply(&set("a")).unwrap();
    let mut immutable: Value =
        serde_json::to_value(world.get::<ReplicaSet>("shop", "a").unwrap()).unwrap();
    immutable["spec"]["selector"]["matchLabels"]["b"] = "c".into();
    immutable["spec"]["template"]["metadata"]["labels"]["b"] = "c".into();
    immutable["apiVersion"] = "apps/v1".into();
    immutable["kind"] = "ReplicaSet".into();
    assert!(
        world
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
    assert_eq!(world.objects::<Pod>().len(), 0);
}
