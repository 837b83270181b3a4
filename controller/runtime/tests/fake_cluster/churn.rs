//! A day of releases beside hostile Rollouts, under paused time.
//!
//! Ten well-behaved Rollouts release regularly, first alone and then beside the attacks of
//! [`hostile`]. The hostile ones must cost nobody else time, and must not make the process grow.
//! Every test run simulates a slice of the day. `SERIN_CHURN_HOURS=24` simulates the whole day.

mod hostile;
mod releases;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use serde_json::Value;
use serin_core::state::DRAINS_LIMIT;
use serin_crds::RolloutCommand;
use serin_crds::status::{CHECKPOINT_BYTES, RELEASE_ANALYSIS_BYTES, STATUS_BYTES};
use serin_fake_cluster::FakeCluster;
use serin_runtime::journal::Journal;
use serin_runtime::reconcile::Safeguards;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::*;
use hostile::{ATTACKS, Attacker};
use releases::{Outcome, ROLLOUTS, Release, ReleaseLog};

/// Simulated time of a normal test run, and of the world without hostile Rollouts.
const SLICE: Duration = Duration::from_secs(3 * 60);
/// Interval of the releases of one Rollout in a slice and in a day.
const SLICE_INTERVAL: Duration = Duration::from_secs(2 * 60);
const DAY_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// Interval of the checks of the statuses.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Interval of the checks of the process-local state.
const COUNT_EVERY: Duration = Duration::from_secs(2 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Number of changes that the API server keeps.
const HISTORY: usize = 2_000;
/// Maximum number of Rollouts that exist at the same time.
const LIVE_ROLLOUTS: usize = ROLLOUTS + ATTACKS.len() + 4;
/// Objects that the caches may not have seen created or deleted yet.
const IN_FLIGHT: usize = 20;
/// ReplicaSets that a Rollout may have at the same time: ten old ones, stable, the canary, and those
/// that drain.
const REPLICA_SETS: usize = 10 + 2 + DRAINS_LIMIT;
/// Writes per minute that the controller may make for one attack besides
/// [`WRITES_PER_CHANGE`].
const WRITES_PER_MINUTE: usize = 15;
/// Writes that the controller may make for one change by an attacker, or for one step.
const WRITES_PER_CHANGE: usize = 3;
/// Permitted growth of the resident memory between the first and the last third of a run.
const GROWTH_KIB: usize = 20 << 10;
/// Shortest run whose memory is compared: before, not even the commands have reached their time to
/// live.
const COMPARED_HOURS: usize = 6;

/// What was measured in one world.
#[derive(Default)]
struct Measurements {
    releases: Vec<Release>,
    /// Resident memory in KiB, once per hour.
    resident_kib: Vec<usize>,
    /// Writes of the controller for each attack.
    writes: BTreeMap<&'static str, usize>,
    /// Changes by each attacker.
    changes: BTreeMap<&'static str, usize>,
    largest_status_bytes: usize,
    largest_counts: BTreeMap<&'static str, usize>,
}

impl Measurements {
    /// The longest release with this outcome.
    fn longest(&self, outcome: Outcome) -> &Release {
        let releases = self.releases.iter();
        let of_outcome = releases.filter(|release| release.outcome == outcome);
        of_outcome.max_by_key(|release| release.took).unwrap()
    }
}

/// One cluster with a controller.
struct World {
    cluster: FakeCluster,
    running: RunningController,
    tasks: JoinSet<()>,
    log: ReleaseLog,
    attackers: Vec<Attacker>,
    measurements: Measurements,
}

impl World {
    fn start(seed: u64, attacks: &[&'static str], interval: Duration, journal: Journal) -> Self {
        let cluster = FakeCluster::new(seed);
        let safeguards = Safeguards {
            journal,
            ..Safeguards::default()
        };
        let running = start_controller_with_safeguards(&cluster, "serin", safeguards);
        let analyzer = &running.analyzer;
        let (log, mut tasks) = (ReleaseLog::default(), JoinSet::new());
        for index in 0..ROLLOUTS {
            let (cluster, analyzer, log) = (cluster.clone(), Arc::clone(analyzer), log.clone());
            tasks.spawn(releases::release_forever(
                cluster, analyzer, index, interval, log,
            ));
        }
        let attacker = |name: &&'static str| Attacker {
            cluster: cluster.clone(),
            analyzer: Arc::clone(analyzer),
            name,
            changes: Arc::new(AtomicUsize::new(0)),
        };
        let attackers: Vec<_> = attacks.iter().map(attacker).collect();
        for attacker in &attackers {
            tasks.spawn(Box::pin(attacker.clone().run()));
        }
        Self {
            cluster,
            running,
            tasks,
            log,
            attackers,
            measurements: Measurements::default(),
        }
    }

    /// Runs the world and checks it all the time.
    async fn run(mut self, length: Duration) -> Measurements {
        let began = Instant::now();
        let (mut next_count, mut next_hour) = (COUNT_EVERY, HOUR);
        while began.elapsed() < length {
            tokio::select! {
                () = self.cluster.sleep(CHECK_EVERY) => {}
                // Nothing ends by itself, so this is a panic.
                Some(ended) = self.tasks.join_next() => ended.unwrap(),
            }
            self.cluster.trim_history(HISTORY);
            self.count_writes();
            self.check_status_sizes();
            if began.elapsed() >= next_count {
                next_count += COUNT_EVERY;
                self.expire_events();
                self.check_replica_sets();
                self.check_state_sizes();
                let releases = self.log.lock().unwrap().len();
                println!(
                    "{:?}: {releases} releases, {} KiB",
                    began.elapsed(),
                    resident_kib()
                );
            }
            if began.elapsed() >= next_hour {
                next_hour += HOUR;
                self.measurements.resident_kib.push(resident_kib());
            }
        }
        self.tasks.shutdown().await;
        self.running.stop().await;
        for attacker in &self.attackers {
            let changes = attacker.changes.load(Ordering::Relaxed);
            self.measurements.changes.insert(attacker.name, changes);
        }
        self.measurements.releases = std::mem::take(&mut *self.log.lock().unwrap());
        self.measurements
    }

    /// Adds the writes of the controller since the last call.
    fn count_writes(&mut self) {
        for write in self.cluster.writes() {
            let object = write
                .object
                .trim_start_matches(SHOP)
                .trim_start_matches('/');
            let attack = ATTACKS.iter().find(|attack| object.starts_with(**attack));
            if let Some(attack) = attack {
                *self.measurements.writes.entry(attack).or_default() += 1;
            }
        }
        self.cluster.clear_requests();
    }

    fn check_status_sizes(&mut self) {
        let names = ATTACKS.iter().map(|attack| (*attack).to_owned());
        for name in names.chain((0..ROLLOUTS).map(releases::name)) {
            let rollout = self.cluster.get_json("rollouts", SHOP, &name);
            let mut status = rollout.unwrap_or_default()["status"].take();
            let mut take = |field: &str| status.get_mut(field).map(Value::take);
            let bytes = |value: &Value| value.to_string().len();
            // What has a bound of its own, and the rest.
            for (field, limit) in [
                ("plan", STATUS_BYTES),
                ("analysis", CHECKPOINT_BYTES + 1_024),
                ("releaseAnalysis", RELEASE_ANALYSIS_BYTES + 1_024),
            ] {
                let size = take(field).as_ref().map_or(0, bytes);
                assert!(size <= limit, "{name}: {field} has {size} bytes");
            }
            let fields: BTreeMap<_, _> = status
                .as_object()
                .into_iter()
                .flatten()
                .map(|(field, value)| (field, bytes(value)))
                .collect();
            let bytes = bytes(&status);
            assert!(
                bytes <= STATUS_BYTES,
                "{name} has a status of {bytes} bytes: {fields:?}"
            );
            let largest = &mut self.measurements.largest_status_bytes;
            *largest = bytes.max(*largest);
        }
    }

    /// Deletes Events after an hour, as the API server does.
    fn expire_events(&self) {
        let now = self.cluster.now();
        for event in self.cluster.objects::<Event>() {
            let created = event.creation_timestamp().unwrap().0;
            if now.duration_since(created).as_secs() >= 3_600 {
                let namespace = event.namespace().unwrap();
                self.cluster
                    .delete::<Event>(&namespace, &event.name_any())
                    .unwrap();
            }
        }
    }

    fn check_replica_sets(&self) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for set in self.cluster.objects::<ReplicaSet>() {
            let owner = set.owner_references().first();
            let owner = owner.map(|owner| owner.name.clone()).unwrap_or_default();
            *counts.entry(owner).or_default() += 1;
        }
        for (owner, count) in counts {
            assert!(count <= REPLICA_SETS, "{owner} has {count} ReplicaSets");
        }
    }

    /// The process remembers what exists, and nothing of what was deleted.
    fn check_state_sizes(&mut self) {
        let cluster = &self.cluster;
        let live = BTreeMap::from([
            ("rollouts", LIVE_ROLLOUTS),
            ("local states", LIVE_ROLLOUTS),
            ("journal", LIVE_ROLLOUTS),
            // A Rollout, its timer, and a ticket in a lane.
            ("queue", 3 * LIVE_ROLLOUTS),
            // A Rollout, its two Services and its route.
            ("claims", 4 * LIVE_ROLLOUTS),
            // Index keys by backend.
            ("httproutes", 4 * LIVE_ROLLOUTS),
            (
                "replicasets",
                IN_FLIGHT + cluster.objects::<ReplicaSet>().len(),
            ),
            ("pods", IN_FLIGHT + cluster.objects::<Pod>().len()),
            ("services", IN_FLIGHT + cluster.objects::<Service>().len()),
            (
                "endpointslices",
                IN_FLIGHT + cluster.objects::<EndpointSlice>().len(),
            ),
            (
                "rolloutcommands",
                IN_FLIGHT + cluster.objects::<RolloutCommand>().len(),
            ),
        ]);
        for (name, count) in self.running.state_sizes.counts() {
            let live = live.get(name).copied().unwrap_or(0);
            assert!(count <= live, "{count} {name}, and at most {live} exist");
            let largest = self.measurements.largest_counts.entry(name).or_default();
            *largest = count.max(*largest);
        }
    }
}

/// Resident memory of this process in KiB.
fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

fn mean(numbers: &[usize]) -> usize {
    numbers.iter().sum::<usize>() / numbers.len().max(1)
}

/// (a) Nobody waits for the hostile Rollouts.
fn assert_releases_take_at_most_twice_their_time_alone(
    alone: &Measurements,
    beside: &Measurements,
) {
    for outcome in Outcome::ALL {
        let (alone, beside) = (alone.longest(outcome), beside.longest(outcome));
        println!(
            "{outcome:?}: {:?} alone, {:?} beside ({})",
            alone.took, beside.took, beside.rollout
        );
        assert!(
            beside.took <= 2 * alone.took,
            "{beside:?}, and alone {alone:?}"
        );
    }
}

/// (b) The memory does not grow with time.
fn assert_memory_is_flat(resident_kib: &[usize]) {
    println!("resident memory by hour in KiB: {resident_kib:?}");
    if resident_kib.len() < COMPARED_HOURS {
        return;
    }
    let third = resident_kib.len() / 3;
    let first = mean(&resident_kib[..third]);
    let last = mean(&resident_kib[resident_kib.len() - third..]);
    assert!(
        last <= first + GROWTH_KIB.max(first / 10),
        "{first} KiB in the first third, {last} KiB in the last one"
    );
}

/// (d) The cost of an attacker for the API server is bounded.
fn assert_writes_are_bounded(beside: &Measurements, length: Duration) {
    let minutes = usize::try_from(length.as_secs() / 60).unwrap();
    for (attack, changes) in &beside.changes {
        let writes = beside.writes.get(attack).copied().unwrap_or(0);
        println!("{attack}: {writes} writes for {changes} changes");
        let bound = minutes * WRITES_PER_MINUTE + changes * WRITES_PER_CHANGE;
        assert!(
            writes <= bound,
            "{attack}: {writes} writes for {changes} changes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_rollouts_cost_others_no_time_and_the_process_no_memory() {
    let hours: Option<u64> = std::env::var("SERIN_CHURN_HOURS").ok().map(|hours| {
        hours
            .parse()
            .expect("SERIN_CHURN_HOURS is a number of hours")
    });
    let (length, interval) = match hours {
        None => (SLICE, SLICE_INTERVAL),
        Some(hours) => (Duration::from_secs(hours * 3_600), DAY_INTERVAL),
    };
    let directory = tempfile::tempdir().unwrap();
    let journal = || Journal::open(directory.path(), jiff::Timestamp::UNIX_EPOCH).unwrap();
    let alone = World::start(701, &[], SLICE_INTERVAL, journal());
    let alone = Box::pin(alone.run(SLICE)).await;
    let began = std::time::Instant::now();
    let beside = World::start(702, &ATTACKS, interval, journal());
    let beside = Box::pin(beside.run(length)).await;
    println!(
        "simulated {length:?} with {} releases in {:?}; largest status {} bytes; most entries {:?}",
        beside.releases.len(),
        began.elapsed(),
        beside.largest_status_bytes,
        beside.largest_counts
    );
    assert_releases_take_at_most_twice_their_time_alone(&alone, &beside);
    assert_memory_is_flat(&beside.resident_kib);
    assert_writes_are_bounded(&beside, length);
}
