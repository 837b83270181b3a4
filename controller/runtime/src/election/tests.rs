//! Elections with an in-memory Lease and paused time.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::test_store::{LeaseStore, Network};
use super::*;

fn start(client: Client, identity: &str) -> Election {
    start_with(client, identity, Timing::default())
}

fn start_with(client: Client, identity: &str, timing: Timing) -> Election {
    let candidate = Candidate {
        namespace: "serin".into(),
        lease: "serin".into(),
        identity: identity.into(),
        timing,
    };
    Election::start(client, candidate, Arc::new(Metrics::new()))
}

/// Ends a candidate like `kill -9`: nothing is written any more.
fn kill(election: &Election) {
    election.task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_and_the_second_is_a_standby() {
    let store = LeaseStore::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let second = start(store.client(), "b");
    sleep(Duration::from_secs(60)).await;
    assert!(first.leadership().is_leader());
    assert!(!second.leadership().is_leader());
    assert_eq!(store.holder(), "a");
}

/// The time from a kill of the holder, `moment` ms after a second of quiet, to the takeover.
async fn takeover(moment: u64, standby: Network) -> Duration {
    let store = LeaseStore::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let second = start(store.client_over(standby), "b");
    sleep(Duration::from_millis(3_000 + moment)).await;
    let killed_at = Instant::now();
    kill(&first);
    second.leadership().wait_until_leading().await;
    assert_eq!(store.holder(), "b");
    killed_at.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_within_two_seconds_of_a_kill_at_any_moment() {
    for moment in (0..1_000).step_by(37) {
        // Its requests, their responses and the events of its watch are slow.
        for delay in [1, 20, 150] {
            let network = Network::with_delays(vec![Duration::from_millis(delay)]);
            let took = takeover(moment, network).await;
            assert!(
                took < Duration::from_secs(2),
                "{took:?} after a kill at {moment} ms with delays of {delay} ms"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_may_not_watch_reads_the_lease_and_takes_over() {
    let mut network = Network::default();
    network.refuses_watches = true;
    for moment in (0..1_000).step_by(101) {
        let took = takeover(moment, network.clone()).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

/// Whether the holder keeps the Lease if the delays of its requests and responses repeat these, in
/// milliseconds.
async fn keeps_leading(delays: &[u64]) -> bool {
    let store = LeaseStore::default();
    let delays = delays.iter().copied().map(Duration::from_millis).collect();
    let holder = start(store.client_over(Network::with_delays(delays)), "a");
    holder.leadership().wait_until_leading().await;
    let until = Instant::now() + Duration::from_secs(60);
    timeout_at(until, holder.leadership().wait_until_lost())
        .await
        .is_err()
}

#[tokio::test(start_paused = true)]
async fn a_holder_keeps_the_lease_despite_slow_responses() {
    // One of ten responses takes 0.85 s.
    let mut rare = vec![10; 20];
    rare[7] = 840;
    assert!(keeps_leading(&rare).await);
    // All responses take 0.54 s.
    assert!(keeps_leading(&[270]).await);
    // The latencies under load: 0.74 s at most, followed by one at the 95th percentile.
    assert!(keeps_leading(&[20, 20, 370, 370, 150, 150, 20, 20]).await);
    assert!(!keeps_leading(&[300]).await, "the limit is 0.56 s");
}

#[tokio::test(start_paused = true)]
async fn a_holder_with_a_longer_lease_duration_is_waited_for() {
    let store = LeaseStore::default();
    let timing = Timing::from_lease(Duration::from_secs(4));
    let first = start_with(store.client(), "a", timing);
    first.leadership().wait_until_leading().await;
    assert_eq!(store.lease()["spec"]["leaseDurationSeconds"], 4);
    // As an older version that does not write the annotation and keeps that of another holder.
    let mut lease = store.lease();
    lease["metadata"]["annotations"] = json!({DURATION_ANNOTATION: "1500 b"});
    kill(&first);
    let killed_at = Instant::now();
    store.put(lease);
    let second = start(store.client(), "b");
    second.leadership().wait_until_leading().await;
    let took = killed_at.elapsed();
    assert!((4.0..4.5).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(store.lease()["spec"]["leaseDurationSeconds"], 2);
    assert_eq!(
        store.lease()["metadata"]["annotations"][DURATION_ANNOTATION],
        "1500 b"
    );
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_hands_over_immediately() {
    let store = LeaseStore::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let second = start(store.client(), "b");
    sleep(Duration::from_secs(5)).await;
    let stopped_at = Instant::now();
    first.release().await;
    second.leadership().wait_until_leading().await;
    assert!(
        stopped_at.elapsed() < Duration::from_millis(500),
        "{:?}",
        stopped_at.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_holder_writes_four_times_per_second_and_a_standby_only_watches() {
    let store = LeaseStore::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let _second = start(store.client(), "b");
    sleep(Duration::from_secs(1)).await;
    let (before, requests) = (store.writes().len(), store.requests());
    sleep(Duration::from_secs(100)).await;
    let writes = store.writes()[before..].to_vec();
    assert!(
        (398..=401).contains(&writes.len()),
        "{} writes in 100 s",
        writes.len()
    );
    assert!(writes.iter().all(|(_, holder)| holder == "a"));
    let others = store.requests() - requests - writes.len() as u64;
    assert!(others <= 2, "{others} requests of the standby in 100 s");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_acting_before_anyone_takes_over() {
    let store = LeaseStore::default();
    let network = Network::default();
    let cut_off = Arc::clone(&network.hangs);
    let first = start(store.client_over(network), "a");
    first.leadership().wait_until_leading().await;
    let second = start(store.client(), "b");
    sleep(Duration::from_secs(10)).await;
    cut_off.store(true, Ordering::SeqCst);
    let mut overlap = 0;
    while !second.leadership().is_leader() {
        sleep(Duration::from_millis(1)).await;
        overlap += u32::from(first.leadership().is_leader() && second.leadership().is_leader());
    }
    assert_eq!(overlap, 0);
    assert!(!first.leadership().is_leader());
    assert!(!*first.leadership().changes().borrow());
    cut_off.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(20)).await;
    assert!(
        !first.leadership().is_leader(),
        "the old holder must not take the Lease back"
    );
    assert!(second.leadership().is_leader());
}

#[tokio::test(start_paused = true)]
async fn the_leader_stays_the_same_after_an_api_server_outage() {
    let store = LeaseStore::default();
    let only = start(store.client(), "a");
    only.leadership().wait_until_leading().await;
    store.set_hangs(true);
    only.leadership().wait_until_lost().await;
    sleep(Duration::from_secs(60)).await;
    assert!(!only.leadership().is_leader());
    store.set_hangs(false);
    only.leadership().wait_until_leading().await;
    assert!(only.leadership().is_leader());
}

#[tokio::test(start_paused = true)]
async fn exactly_one_of_many_candidates_wins() {
    let store = LeaseStore::default();
    let elections: Vec<_> = (0..8)
        .map(|n| start(store.client(), &format!("c{n}")))
        .collect();
    sleep(Duration::from_secs(3)).await;
    let leaders = elections
        .iter()
        .filter(|election| election.leadership().is_leader())
        .count();
    assert_eq!(leaders, 1);
}

#[tokio::test(start_paused = true)]
async fn a_manually_edited_lease_keeps_its_holder() {
    let store = LeaseStore::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let mut lease = store.lease();
    lease["metadata"]["annotations"] = json!({"note": "hello"});
    store.put(lease);
    sleep(Duration::from_secs(5)).await;
    assert!(first.leadership().is_leader());
    assert_eq!(store.lease()["metadata"]["annotations"]["note"], "hello");
}

#[test]
fn a_restarted_pod_gets_a_new_identity() {
    assert_ne!(unique_identity("serin-0"), unique_identity("serin-0"));
    assert!(unique_identity("serin-0").starts_with("serin-0_"));
}

#[tokio::test]
async fn a_process_without_election_always_leads() {
    let alone = Leadership::without_election();
    alone.wait_until_leading().await;
    assert!(alone.is_leader());
}
