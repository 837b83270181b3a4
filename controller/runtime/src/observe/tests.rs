use serde_json::json;
use serin_core::units::Weight;
use serin_crds::RolloutSpec;

use super::*;
use crate::cluster_cache::{Identity, ReadyEndpoint, Restarts};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + second).unwrap()
}

fn identity(name: &str) -> Identity {
    Identity {
        key: Key::new("shop", name),
        uid: format!("uid-{name}"),
        resource_version: "1".into(),
    }
}

fn plan() -> Plan {
    let spec: RolloutSpec = serde_json::from_value(json!({
        "replicas": 4,
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": [{"name": "app", "image": "a"}]}},
        "strategy": {"canary": {"trafficRouting": {"gatewayAPI": {"httpRoute": "checkout"}}, "steps": [{"setWeight": 20}]}},
    }))
    .unwrap();
    spec.plan("checkout").unwrap()
}

fn set(revision: &str, available: u32) -> (Revision, Arc<CachedReplicaSet>) {
    let cached = CachedReplicaSet {
        identity: identity(&format!("checkout-{revision}")),
        rollout: "checkout".into(),
        revision: Some(Revision::new(revision)),
        desired: 2,
        available,
        ..CachedReplicaSet::default()
    };
    (Revision::new(revision), Arc::new(cached))
}

fn pod(revision: &str, suffix: &str) -> CachedPod {
    CachedPod {
        identity: identity(&format!("checkout-{revision}-{suffix}")),
        rollout: "checkout".into(),
        revision: Some(Revision::new(revision)),
        owner_uid: Some(format!("uid-checkout-{revision}")),
        active: true,
        ready: true,
        ..CachedPod::default()
    }
}

fn slice(service: &str, pods: &[&str]) -> Arc<CachedEndpointSlice> {
    let ready = pods
        .iter()
        .map(|pod| ReadyEndpoint {
            pod: Some((*pod).to_owned()),
        })
        .collect();
    Arc::new(CachedEndpointSlice {
        identity: identity(service),
        rollout: "checkout".into(),
        service: Some(service.into()),
        service_uid: Some(format!("uid-{service}")),
        ready,
    })
}

fn service(name: &str, selects: &str) -> (String, Arc<CachedService>) {
    let cached = CachedService {
        identity: identity(name),
        rollout: Some("checkout".into()),
        selects: Some(Revision::new(selects)),
        ..CachedService::default()
    };
    (name.to_owned(), Arc::new(cached))
}

fn route(
    weight: Option<u32>,
    generation: i64,
    observed: i64,
) -> ((RouteKind, String), Arc<CachedRoute>) {
    let mut backends =
        vec![json!({"name": "checkout", "port": 80, "weight": 100 - weight.unwrap_or(0)})];
    backends.extend(
        weight.map(|weight| json!({"name": "checkout-canary", "port": 80, "weight": weight})),
    );
    let condition = |type_: &str| json!({"type": type_, "status": "True", "observedGeneration": observed, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": generation, "resourceVersion": "1"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": backends}]},
        "status": {"parents": [{"parentRef": {"name": "gateway"}, "controllerName": "c", "conditions": [condition("Accepted"), condition("ResolvedRefs")]}]},
    });
    (
        (RouteKind::HttpRoute, "checkout".into()),
        Arc::new(CachedRoute {
            identity: identity("checkout"),
            generation,
            object,
            backends: Vec::new(),
            other_writer: None,
        }),
    )
}

fn snapshot() -> Snapshot {
    Snapshot {
        rollout: Key::new("shop", "checkout"),
        replica_sets: [set("one", 2), set("two", 2)].into(),
        pods: vec![
            Arc::new(pod("one", "a")),
            Arc::new(pod("one", "b")),
            Arc::new(pod("two", "a")),
            Arc::new(pod("two", "b")),
        ],
        slices: vec![
            slice("checkout", &["checkout-one-a", "checkout-one-b"]),
            slice("checkout-canary", &["checkout-two-a", "checkout-two-b"]),
        ],
        services: [
            service("checkout", "one"),
            service("checkout-canary", "two"),
        ]
        .into(),
        routes: [route(Some(20), 3, 3)].into(),
        commands: Vec::new(),
        ..Snapshot::default()
    }
}

fn inputs() -> ObserveInputs {
    let state = State {
        release_started_at: Some(at(0)),
        ..State::default()
    };
    ObserveInputs {
        state,
        spec_replicas: 4,
        replicas_source: ReplicasSource::Declared,
        generation: 1,
        spec_problem: None,
        plan_hash: None,
        spec_analysis: None,
        target: Some(Revision::new("two")),
        analysis: None,
        guardrails: GuardrailReport::default(),
        incompatible_state: None,
        is_quarantined: false,
    }
}

fn observe_at(
    snapshot: &Snapshot,
    observation_times: &mut ObservationTimes,
    now: Timestamp,
) -> Observed {
    observe(snapshot, &plan(), inputs(), observation_times, now)
}

#[test]
fn available_pods_are_ready_and_counted_by_the_replica_set() {
    let mut snapshot = snapshot();
    let mut unready = pod("two", "b");
    unready.ready = false;
    snapshot.pods[3] = Arc::new(unready);
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0));
    assert_eq!(
        observed.replica_sets[&Revision::new("two")].available,
        1,
        "the pod is known to be unready before the status is"
    );
    snapshot
        .replica_sets
        .insert(Revision::new("one"), set("one", 0).1);
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0));
    assert_eq!(
        observed.replica_sets[&Revision::new("one")].available,
        0,
        "minReadySeconds have not passed"
    );
}

#[test]
fn restarts_and_crashes_belong_to_the_revision() {
    let mut snapshot = snapshot();
    let mut crashing = pod("two", "b");
    crashing.created_at = at(1);
    crashing.restarts = vec![Restarts {
        count: 3,
        last_at: Some(at(9)),
    }];
    crashing.waiting = Some("CrashLoopBackOff".into());
    snapshot.pods[3] = Arc::new(crashing);
    let mut pulling = pod("two", "a");
    pulling.waiting = Some("ErrImagePull".into());
    snapshot.pods[2] = Arc::new(pulling);
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0));
    let two = &observed.replica_sets[&Revision::new("two")];
    assert_eq!(
        (two.restarts, two.crash.as_deref()),
        (3, Some("CrashLoopBackOff"))
    );
    assert_eq!(observed.replica_sets[&Revision::new("one")].crash, None);
}

#[test]
fn a_service_serves_once_all_its_endpoints_belong_to_its_revision() {
    let mut snapshot = snapshot();
    let mut observation_times = ObservationTimes::default();
    let stable = |observed: Observed| observed.stable_service.unwrap();
    assert_eq!(
        stable(observe_at(&snapshot, &mut observation_times, at(0))).serving_since,
        Some(at(0))
    );
    assert_eq!(
        stable(observe_at(&snapshot, &mut observation_times, at(5))).serving_since,
        Some(at(0))
    );

    // The selector is switched; the endpoints are not updated yet.
    snapshot.services.extend([service("checkout", "two")]);
    let switched = stable(observe_at(&snapshot, &mut observation_times, at(6)));
    assert_eq!((switched.ready, switched.serving_since), (0, None));

    snapshot.slices[0] = slice("checkout", &["checkout-one-a", "checkout-two-a"]);
    let mixed = stable(observe_at(&snapshot, &mut observation_times, at(7)));
    assert_eq!((mixed.ready, mixed.serving_since), (1, None));

    snapshot.slices[0] = slice("checkout", &["checkout-two-a", "checkout-two-b"]);
    let done = stable(observe_at(&snapshot, &mut observation_times, at(8)));
    assert_eq!((done.ready, done.serving_since), (2, Some(at(8))));
}

#[test]
fn an_endpoint_of_a_deleted_pod_still_counts_for_its_revision() {
    let mut snapshot = snapshot();
    let mut observation_times = ObservationTimes::default();
    observe_at(&snapshot, &mut observation_times, at(0));
    snapshot.pods.remove(1);
    let stable = observe_at(&snapshot, &mut observation_times, at(1))
        .stable_service
        .unwrap();
    assert_eq!(
        stable.serving_since,
        Some(at(0)),
        "the pod watch is ahead of the EndpointSlice watch"
    );
}

#[test]
fn a_service_without_our_label_is_not_bound() {
    let mut snapshot = snapshot();
    let mut unlabelled = (*snapshot.services["checkout"]).clone();
    unlabelled.rollout = None;
    snapshot
        .services
        .insert("checkout".into(), Arc::new(unlabelled));
    let stable = observe_at(&snapshot, &mut ObservationTimes::default(), at(0))
        .stable_service
        .unwrap();
    assert!(stable.exists);
    assert_eq!(stable.selects, None);
}

#[test]
fn a_route_is_programmed_since_its_split_was_first_confirmed() {
    let mut snapshot = snapshot();
    let mut observation_times = ObservationTimes::default();
    let first = observe_at(&snapshot, &mut observation_times, at(0))
        .routes
        .remove(0);
    assert_eq!(first.canary_weight, Ok(Weight::percent(20)));
    assert_eq!(
        (first.written_since, first.programmed),
        (at(0), Programmed::Since(at(0)))
    );

    snapshot.routes = [route(Some(50), 4, 3)].into();
    let written = observe_at(&snapshot, &mut observation_times, at(5))
        .routes
        .remove(0);
    assert_eq!(written.canary_weight, Ok(Weight::percent(50)));
    assert_eq!(written.written_since, at(5));
    assert!(matches!(written.programmed, Programmed::Pending(_)));

    snapshot.routes = [route(Some(50), 4, 4)].into();
    let taken_over = observe_at(&snapshot, &mut observation_times, at(6))
        .routes
        .remove(0);
    assert_eq!(
        (taken_over.written_since, taken_over.programmed),
        (at(5), Programmed::Since(at(6)))
    );

    // Another rule of the route is edited. The split is the same in both generations, so the
    // confirmation stays valid.
    snapshot.routes = [route(Some(50), 5, 5)].into();
    let edited = observe_at(&snapshot, &mut observation_times, at(9))
        .routes
        .remove(0);
    assert_eq!(
        (edited.written_since, edited.programmed),
        (at(5), Programmed::Since(at(6)))
    );
}

#[test]
fn a_restarted_controller_restarts_all_observation_times() {
    let snapshot = snapshot();
    observe_at(&snapshot, &mut ObservationTimes::default(), at(0));
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(100));
    assert_eq!(observed.routes[0].written_since, at(100));
    assert_eq!(
        observed.stable_service.unwrap().serving_since,
        Some(at(100))
    );
}

#[test]
fn a_missing_route_is_reported() {
    let mut snapshot = snapshot();
    snapshot.routes.clear();
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0))
        .routes
        .remove(0);
    assert_eq!(
        observed.canary_weight,
        Err("HTTPRoute checkout does not exist".into())
    );
    assert_eq!(observed.route.kind, RouteKind::HttpRoute);
}

#[test]
fn a_route_of_an_absent_kind_is_reported_with_what_to_install() {
    let mut snapshot = snapshot();
    snapshot.routes.clear();
    snapshot.unreadable_kinds = [(
        RouteKind::HttpRoute,
        "this cluster does not serve HTTPRoute: install it".into(),
    )]
    .into();
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0))
        .routes
        .remove(0);
    let message =
        "HTTPRoute checkout cannot be read: this cluster does not serve HTTPRoute: install it";
    assert_eq!(observed.canary_weight, Err(message.into()));
    assert_eq!(observed.programmed, Programmed::Pending(message.into()));
}

#[test]
fn terminating_pods_are_not_counted() {
    let mut snapshot = snapshot();
    let mut terminating = pod("two", "b");
    terminating.active = false;
    snapshot.pods[3] = Arc::new(terminating);
    let counts = snapshot.counts(Some(&Revision::new("two")), 2);
    assert_eq!(
        counts,
        PodCounts {
            replicas: 2,
            updated: 1,
            ready: 3,
            available: 3
        }
    );
}

// argo-rollouts #2939: a fast return to a revision whose pods still exist.
#[test]
fn restarts_before_the_release_do_not_count() {
    let mut snapshot = snapshot();
    let mut old = pod("two", "a");
    old.created_at = at(-5_000);
    old.restarts = vec![Restarts {
        count: 7,
        last_at: Some(at(-100)),
    }];
    old.waiting = Some(CRASH_LOOP.into());
    snapshot.pods[2] = Arc::new(old.clone());
    let two = |snapshot: &Snapshot| {
        observe_at(snapshot, &mut ObservationTimes::default(), at(10)).replica_sets
            [&Revision::new("two")]
            .clone()
    };
    assert_eq!((two(&snapshot).restarts, two(&snapshot).crash), (0, None));
    old.restarts = vec![Restarts {
        count: 8,
        last_at: Some(at(5)),
    }];
    snapshot.pods[2] = Arc::new(old);
    assert_eq!(
        (two(&snapshot).restarts, two(&snapshot).crash.as_deref()),
        (1, Some(CRASH_LOOP))
    );
}

#[test]
fn a_terminating_pod_does_not_count_against_the_release() {
    let mut snapshot = snapshot();
    let mut leaving = pod("two", "a");
    leaving.created_at = at(1);
    (leaving.active, leaving.ready) = (false, false);
    leaving.restarts = vec![Restarts {
        count: 5,
        last_at: Some(at(5)),
    }];
    leaving.waiting = Some(CRASH_LOOP.into());
    snapshot.pods[2] = Arc::new(leaving);
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(10));
    let two = &observed.replica_sets[&Revision::new("two")];
    assert_eq!((two.restarts, two.crash.as_deref()), (0, None));
}

// gatewayapi plugin PR #164: two Rollouts share a route, and each write by the other one creates a
// new generation.
#[test]
fn an_edit_of_another_rule_keeps_the_confirmed_split() {
    let mut snapshot = snapshot();
    let mut observation_times = ObservationTimes::default();
    let confirmed = observe_at(&snapshot, &mut observation_times, at(0)).routes[0]
        .programmed
        .clone();
    assert_eq!(confirmed, Programmed::Since(at(0)));
    snapshot.routes = [route(Some(20), 4, 3)].into();
    assert_eq!(
        observe_at(&snapshot, &mut observation_times, at(5)).routes[0].programmed,
        confirmed
    );
    snapshot.routes = [route(Some(20), 4, 4)].into();
    assert_eq!(
        observe_at(&snapshot, &mut observation_times, at(6)).routes[0].programmed,
        confirmed
    );
    snapshot.routes = [route(Some(30), 5, 4)].into();
    let pending = observe_at(&snapshot, &mut observation_times, at(7)).routes[0]
        .programmed
        .clone();
    assert!(
        matches!(pending, Programmed::Pending(_)),
        "another split has to be confirmed: {pending:?}"
    );
}

/// Dual stack: one slice per address family, with the same pods.
#[test]
fn a_pod_with_two_addresses_is_one_endpoint() {
    let mut snapshot = snapshot();
    snapshot
        .slices
        .push(slice("checkout", &["checkout-one-a", "checkout-one-b"]));
    let stable = observe_at(&snapshot, &mut ObservationTimes::default(), at(0))
        .stable_service
        .unwrap();
    assert_eq!((stable.ready, stable.serving_since), (2, Some(at(0))));
}

#[test]
fn a_replica_set_counts_only_with_the_name_and_the_owner_of_its_revision() {
    let (cache, _) = ClusterCache::new();
    let put = |name: &str, owner: &str, revision: &str| {
        cache.replica_sets.put(CachedReplicaSet {
            identity: identity(name),
            rollout: "checkout".into(),
            revision: Some(Revision::new(revision)),
            owner_uid: Some(owner.into()),
            ..CachedReplicaSet::default()
        });
    };
    put("checkout-one", "uid-1", "one");
    // Labels and owner references can be written by anybody who may create ReplicaSets.
    put("zzz-forged", "uid-1", "one");
    put("checkout-two", "uid-other", "two");
    let rollout = Key::new("shop", "checkout");
    let snapshot = Snapshot::from_cache(&cache, &rollout, "uid-1", None);
    let names: Vec<_> = snapshot
        .replica_sets
        .values()
        .map(|set| set.identity.key.name.as_str())
        .collect();
    assert_eq!(names, ["checkout-one"]);
}

#[test]
fn an_endpoint_slice_counts_only_if_its_service_controls_it() {
    let mut snapshot = snapshot();
    let mut forged = CachedEndpointSlice::clone(&slice("checkout", &["mallory"]));
    forged.service_uid = Some("uid-another".into());
    snapshot.slices.push(Arc::new(forged.clone()));
    forged.service_uid = None;
    snapshot.slices.push(Arc::new(forged));
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0));
    let service = observed.stable_service.unwrap();
    assert_eq!((service.ready, service.serving_since), (2, Some(at(0))));
}

#[test]
fn a_service_of_another_rollout_is_not_bound_and_its_other_pods_are_counted() {
    let mut snapshot = snapshot();
    let (name, cached) = service("checkout", "one");
    let mut other = CachedService::clone(&cached);
    other.rollout = Some("tracking".into());
    snapshot.services.insert(name, Arc::new(other));
    snapshot
        .slices
        .push(slice("checkout", &["payments-a", "payments-b"]));
    let observed = observe_at(&snapshot, &mut ObservationTimes::default(), at(0));
    let service = observed.stable_service.unwrap();
    assert_eq!(service.selects, None);
    assert_eq!((service.ready, service.other_ready), (4, 2));
    assert!(snapshot.has_other_endpoints());
}

#[test]
fn the_times_of_services_and_routes_that_the_plan_no_longer_names_are_dropped() {
    let mut times = ObservationTimes::default();
    let snapshot = snapshot();
    observe_at(&snapshot, &mut times, at(0));
    assert_eq!((times.services.len(), times.routes.len()), (2, 1));
    let mut unrouted = plan();
    unrouted.exposure = serin_core::plan::Exposure::ReplicaRatio;
    observe(&snapshot, &unrouted, inputs(), &mut times, at(1));
    assert_eq!((times.services.len(), times.routes.len()), (0, 0));
}
