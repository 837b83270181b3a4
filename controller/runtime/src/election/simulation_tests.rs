//! Elections over networks with arbitrary delays, by processes that are suspended and whose clocks
//! run at different rates.
//!
//! Each candidate is a process with the elector and a worker. The worker writes as often as it may,
//! as reconciles do. Whatever happens, a write must arrive while the Lease still names its writer.

use std::pin::pin;
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;
use serin_core::lease::writes_end_after;

use super::test_store::{LeaseStore, Network};
use super::*;
use crate::cluster_cache::Key;
use crate::timed_write::timed_write;

/// Duration of the disturbances.
const DISTURBED: Duration = Duration::from_secs(30);

/// A candidate of a simulation.
#[derive(Clone, Debug)]
struct Process {
    timing: Timing,
    /// Delays of its requests, responses and events.
    delays: Vec<Duration>,
    /// When it is suspended, after how much time, and for how long.
    suspensions: Vec<(Duration, Duration)>,
    /// Durations of its writes.
    writes: Vec<Duration>,
}

/// The writes of the workers: when, and whose.
type Writes = Arc<Mutex<Vec<(Instant, String)>>>;

impl Process {
    /// Runs until it is dropped. While it is suspended, nothing of it is polled.
    async fn run(self, store: LeaseStore, identity: String, writes: Writes) {
        let candidate = Candidate {
            namespace: "serin".into(),
            lease: "serin".into(),
            identity: identity.clone(),
            timing: self.timing,
        };
        let client = store.client_over(Network::with_delays(self.delays));
        let (elector, announcer, leadership) =
            Elector::new(client, candidate, Arc::new(Metrics::new()));
        let (_stop, stopped) = oneshot::channel();
        let elector = elector.run(announcer, stopped);
        let work = work(store, identity, leadership, self.writes, writes);
        let mut process = pin!(async { tokio::join!(elector, work) });
        for (after, duration) in self.suspensions {
            tokio::select! {
                biased;
                () = sleep(after) => {}
                _ = &mut process => return,
            }
            sleep(duration).await;
        }
        process.await;
    }
}

/// Writes whenever the process may. Never returns.
async fn work(
    store: LeaseStore,
    identity: String,
    leadership: Leadership,
    durations: Vec<Duration>,
    writes: Writes,
) {
    let rollout = Key::new("shop", "web");
    for duration in durations.iter().cycle() {
        leadership.wait_until_leading().await;
        if !leadership.is_leader() {
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let arrives = async {
            sleep(*duration).await;
            assert_eq!(
                store.holder(),
                identity,
                "a write has arrived after the next leader has acquired the Lease"
            );
            writes
                .lock()
                .unwrap()
                .push((Instant::now(), identity.clone()));
        };
        // A write that is given up arrives until then, not later.
        let limit = Duration::from_secs(5);
        let _ = timed_write(&leadership, &rollout, limit, arrives).await;
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs the processes. Checks the writes, and that the election recovers from the disturbances.
fn simulate(store: &LeaseStore, processes: Vec<Process>) -> Vec<(Instant, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let writes = Writes::default();
        let mut tasks = tokio::task::JoinSet::new();
        for (number, process) in processes.into_iter().enumerate() {
            let identity = format!("candidate-{number}");
            tasks.spawn(process.run(store.clone(), identity, writes.clone()));
        }
        let ended = timeout(DISTURBED, tasks.join_next()).await;
        assert!(ended.is_err(), "a process has failed: {ended:?}");
        writes.lock().unwrap().clone()
    })
}

fn millis(millis: impl Strategy<Value = u64>) -> impl Strategy<Value = Duration> {
    millis.prop_map(Duration::from_millis)
}

/// Delays of a network: short, long, and longer than the Lease.
fn delay() -> impl Strategy<Value = Duration> {
    millis(prop_oneof![8 => 0_u64..30, 2 => 0_u64..800, 1 => 0_u64..4_000])
}

fn process(timing: impl Strategy<Value = Timing>) -> impl Strategy<Value = Process> {
    let suspension = (millis(0_u64..5_000), millis(0_u64..4_000));
    let write = millis(prop_oneof![4 => 0_u64..50, 1 => 0_u64..3_000]);
    (
        timing,
        vec(delay(), 1..60),
        vec(suspension, 0..6),
        vec(write, 1..20),
    )
        .prop_map(|(timing, delays, suspensions, writes)| Process {
            timing,
            delays,
            suspensions,
            writes,
        })
}

/// The timing in real time of a process whose clock runs at this rate.
fn at_rate(timing: Timing, rate: f64) -> Timing {
    let real = |duration: Duration| duration.div_f64(rate);
    Timing {
        lease: real(timing.lease),
        renew_every: real(timing.renew_every),
        fence_after: real(timing.fence_after),
    }
}

/// Values at the edge of what is valid.
fn tightest() -> Timing {
    let timing = Timing {
        fence_after: Duration::from_millis(1_339),
        ..Timing::default()
    };
    timing.validate().unwrap();
    timing
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_write_arrives_after_a_takeover_with_delays_suspensions_and_clocks_of_any_rate(
        processes in vec(process((0.99_f64..=1.01).prop_map(|rate| at_rate(tightest(), rate))), 2..4),
    ) {
        // Declared durations would be longer than in reality by the rate of the holder's clock.
        let store = LeaseStore::new(true);
        simulate(&store, processes);
    }

    #[test]
    fn no_write_arrives_after_a_takeover_between_processes_with_different_lease_durations(
        processes in vec(process(millis(1_000_u64..6_000).prop_map(Timing::from_lease)), 2..4),
    ) {
        simulate(&LeaseStore::default(), processes);
    }

    #[test]
    fn a_takeover_leaves_time_for_cancelled_writes_to_end(
        processes in vec(process((0.99_f64..=1.01).prop_map(|rate| at_rate(Timing::default(), rate))), 2..4),
    ) {
        let store = LeaseStore::new(true);
        let writes = simulate(&store, processes);
        let mut holder = String::new();
        for (acquired_at, new_holder) in store.writes() {
            if new_holder == holder {
                continue;
            }
            let before = writes.iter().rev().find(|(at, by)| *at < acquired_at && *by == holder);
            if let Some((written_at, _)) = before {
                let margin = acquired_at.duration_since(*written_at);
                prop_assert!(margin >= Duration::from_millis(250), "{margin:?}");
            }
            holder = new_holder;
        }
    }
}

#[test]
fn a_process_writes_until_shortly_before_its_lease_ends() {
    // Otherwise the properties above would check nothing.
    let quiet = Process {
        timing: Timing::default(),
        delays: vec![Duration::from_millis(1)],
        suspensions: Vec::new(),
        writes: vec![Duration::from_millis(10)],
    };
    let cut_off = Process {
        delays: [vec![Duration::from_millis(1); 20], vec![DISTURBED; 100]].concat(),
        ..quiet.clone()
    };
    let store = LeaseStore::default();
    let writes = simulate(&store, vec![cut_off, quiet]);
    let holders = store.writes();
    let last = holders
        .iter()
        .rev()
        .find(|(_, holder)| holder == "candidate-0");
    let (renewed_at, _) = last.expect("candidate-0 never held the Lease");
    let last = writes.iter().rev().find(|(_, by)| by == "candidate-0");
    let (written_at, _) = last.expect("candidate-0 never wrote");
    let until = written_at.duration_since(*renewed_at);
    let timing = Timing::default();
    assert!(
        until + Duration::from_millis(50) > timing.fence_after,
        "{until:?}"
    );
    assert!(until < writes_end_after(&timing), "{until:?}");
    assert_eq!(store.holder(), "candidate-1");
}
