//! Watches, injected faults and killed clients.

use std::pin::pin;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use serde_json::json;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::{SECOND, code, config_map, config_maps};

async fn watch_events(
    api: &Api<ConfigMap>,
    params: &WatchParams,
    from: &str,
    count: usize,
) -> Vec<String> {
    let events = pin!(api.watch(params, from).await.unwrap());
    let name = |map: &ConfigMap| map.name_any();
    let descriptions = events.map_ok(move |event| match event {
        WatchEvent::Added(map) => format!("added {}", name(&map)),
        WatchEvent::Modified(map) => format!("modified {}", name(&map)),
        WatchEvent::Deleted(map) => format!("deleted {}", name(&map)),
        WatchEvent::Bookmark(_) => "bookmark".into(),
        WatchEvent::Error(status) => format!("error {}", status.code),
    });
    descriptions.take(count).try_collect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_watch_sends_all_matching_changes_since_its_version() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
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
    let all = watch_events(&api, &WatchParams::default(), &before, 6).await;
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
    let chosen = watch_events(&api, &WatchParams::default().labels("app=a"), &before, 5).await;
    assert_eq!(
        chosen,
        ["added a", "deleted a", "added a", "modified a", "deleted a"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_gets_bookmarks_and_ends_after_its_timeout() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let params = WatchParams::default().timeout(150);
    assert_eq!(watch_events(&api, &params, "100", 9).await, ["bookmark"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_compacted_version_gets_410() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    let created = api
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    api.create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap();
    cluster.compact();
    let version = created.resource_version().unwrap();
    assert_eq!(
        watch_events(&api, &WatchParams::default(), &version, 9).await,
        ["error 410"]
    );
}

/// A kube-runtime watcher sees every change in spite of broken watches and outages.
#[tokio::test(start_paused = true)]
async fn a_watcher_survives_broken_watches_outages_and_compactions() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
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
            cluster
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
        cluster.break_watches();
        expect("two").await;
        cluster.take_api_down_for(5 * SECOND);
        expect("three").await;
        cluster.break_watches();
        cluster.compact();
        expect("four").await;
    }
}

#[tokio::test(start_paused = true)]
async fn injected_faults_affect_requests_and_all_requests_are_logged() {
    let cluster = FakeCluster::new(1);
    let api = config_maps(&cluster);
    cluster.inject(Fault::on("create", "configmaps").skip_first(1).status(503));
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
    cluster.inject(
        Fault::on("*", "*")
            .named("a")
            .from_client("serin")
            .refuse_connection(),
    );
    assert!(!matches!(
        api.get("a").await.unwrap_err(),
        kube::Error::Api(_)
    ));
    api.get("a").await.unwrap();
    cluster.inject(Fault::on("delete", "configmaps").loses_response());
    let lost = tokio::time::timeout(SECOND, api.delete("a", &DeleteParams::default())).await;
    assert!(lost.is_err() && cluster.get::<ConfigMap>("shop", "a").is_none());
    cluster.inject(Fault::on("delete", "configmaps").hangs());
    let lost = tokio::time::timeout(SECOND, api.delete("b", &DeleteParams::default())).await;
    assert!(lost.is_err() && cluster.get::<ConfigMap>("shop", "b").is_some());
    let codes: Vec<(&str, u16)> = cluster
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
    assert_eq!(cluster.writes().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_killed_at_a_write_has_stored_it_and_gets_no_more_responses() {
    let cluster = FakeCluster::new(1);
    let killed: Api<ConfigMap> = Api::namespaced(cluster.client_for("one"), "shop");
    let other: Api<ConfigMap> = Api::namespaced(cluster.client_for("two"), "shop");
    cluster.kill_after_writes("one", 2);
    killed
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    killed.get("a").await.unwrap();
    let last = tokio::time::timeout(
        SECOND,
        killed.create(&PostParams::default(), &config_map("b", "1")),
    )
    .await;
    assert!(last.is_err() && cluster.is_dead("one"));
    assert!(tokio::time::timeout(SECOND, killed.get("a")).await.is_err());
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
