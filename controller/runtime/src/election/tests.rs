//! Elections with an in-memory Lease and paused time.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// An in-memory Lease with the rules of the API server: 404, 409 for an outdated resourceVersion,
/// and a counter as resourceVersion.
#[derive(Clone, Default)]
struct Store {
    lease: Arc<Mutex<Option<Value>>>,
    version: Arc<Mutex<u64>>,
    writes: Arc<Mutex<Vec<(Instant, String)>>>,
    hangs: Arc<AtomicBool>,
}

impl Store {
    fn client(&self) -> Client {
        self.client_that_hangs(Arc::new(AtomicBool::new(false)))
    }

    /// A client whose requests hang while `hangs` is set, in addition to the switch of the store.
    fn client_that_hangs(&self, hangs: Arc<AtomicBool>) -> Client {
        let store = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (store, hangs) = (store.clone(), hangs.clone());
            async move {
                if hangs.load(Ordering::SeqCst) || store.hangs.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let (status, answer) = store.answer(&parts.method, &body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(status).body(body).unwrap(),
                )
            }
        });
        Client::new(service, "serin")
    }

    fn answer(&self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let mut stored = self.lease.lock().unwrap();
        if *method == Method::GET {
            return stored
                .clone()
                .map_or_else(|| error(404, "NotFound"), |lease| (StatusCode::OK, lease));
        }
        let mut sent: Value = serde_json::from_slice(body).unwrap();
        if *method == Method::POST && stored.is_some() {
            return error(409, "AlreadyExists");
        }
        if *method == Method::PUT
            && stored.as_ref().is_none_or(|lease| {
                lease["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"]
            })
        {
            return error(409, "Conflict");
        }
        let mut version = self.version.lock().unwrap();
        *version += 1;
        sent["metadata"]["resourceVersion"] = json!(version.to_string());
        *stored = Some(sent.clone());
        let holder = sent["spec"]["holderIdentity"].as_str().unwrap().to_owned();
        self.writes.lock().unwrap().push((Instant::now(), holder));
        (StatusCode::OK, sent)
    }

    fn holder(&self) -> String {
        self.lease.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn error(code: u16, reason: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), status)
}

fn start(client: Client, identity: &str) -> Election {
    let candidate = Candidate {
        namespace: "serin".into(),
        lease: "serin".into(),
        identity: identity.into(),
        timing: Timing::default(),
    };
    Election::start(client, candidate, Arc::new(Metrics::new()))
}

/// Ends a candidate like `kill -9`: nothing is written any more.
fn kill(election: &Election) {
    election.task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_and_the_second_is_a_standby() {
    let store = Store::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let second = start(store.client(), "b");
    sleep(Duration::from_secs(60)).await;
    assert!(first.leadership().is_leader());
    assert!(!second.leadership().is_leader());
    assert_eq!(store.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_within_five_seconds_of_a_kill_at_any_moment() {
    for moment in (0..1_000).step_by(37) {
        let store = Store::default();
        let first = start(store.client(), "a");
        let second = start(store.client(), "b");
        first.leadership().wait_until_leading().await;
        sleep(Duration::from_millis(3_000 + moment)).await;
        let killed_at = Instant::now();
        kill(&first);
        second.leadership().wait_until_leading().await;
        assert!(
            killed_at.elapsed() < Duration::from_secs(5),
            "{:?} after a kill at {moment} ms",
            killed_at.elapsed()
        );
        assert_eq!(store.holder(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_hands_over_immediately() {
    let store = Store::default();
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
async fn the_holder_writes_once_per_second_and_a_standby_never_writes() {
    let store = Store::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    let _second = start(store.client(), "b");
    let before = store.writes.lock().unwrap().len();
    sleep(Duration::from_secs(100)).await;
    let writes = store.writes.lock().unwrap()[before..].to_vec();
    assert!(
        (98..=101).contains(&writes.len()),
        "{} writes in 100 s",
        writes.len()
    );
    assert!(writes.iter().all(|(_, holder)| holder == "a"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_acting_before_anyone_takes_over() {
    let store = Store::default();
    let cut_off = Arc::new(AtomicBool::new(false));
    let first = start(store.client_that_hangs(cut_off.clone()), "a");
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
    let store = Store::default();
    let only = start(store.client(), "a");
    only.leadership().wait_until_leading().await;
    store.hangs.store(true, Ordering::SeqCst);
    only.leadership().wait_until_lost().await;
    sleep(Duration::from_secs(60)).await;
    assert!(!only.leadership().is_leader());
    store.hangs.store(false, Ordering::SeqCst);
    only.leadership().wait_until_leading().await;
    assert!(only.leadership().is_leader());
}

#[tokio::test(start_paused = true)]
async fn exactly_one_of_many_candidates_wins() {
    let store = Store::default();
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
    let store = Store::default();
    let first = start(store.client(), "a");
    first.leadership().wait_until_leading().await;
    {
        let mut lease = store.lease.lock().unwrap();
        let lease = lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = json!("edited");
        lease["metadata"]["annotations"] = json!({"note": "hello"});
    }
    sleep(Duration::from_secs(5)).await;
    assert!(first.leadership().is_leader());
    assert_eq!(
        store.lease.lock().unwrap().as_ref().unwrap()["metadata"]["annotations"]["note"],
        "hello"
    );
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
