//! Kills a controller at each of its writes.

use jiff::Timestamp;
use serin_fake_cluster::FakeCluster;

use crate::harness::*;

/// A change during which the controller `serin-0` was killed, and `serin-1` was started.
pub struct Crash {
    pub cluster: FakeCluster,
    /// The controller that continues.
    pub second: RunningController,
    /// The number of writes after which the first one was killed.
    pub writes: usize,
    /// When the change began.
    pub began_at: Timestamp,
}

/// Repeats a change, each time killing the controller `serin-0` one write later, until the change
/// ends before that. Returns how often it was killed: the number of writes of the change.
///
/// `prepare` starts the controller and a monitor of the traffic, and reaches the state before the
/// change. `begin` begins the change; `check` gets what it returns, and checks the end state.
pub async fn crash_at_any_write<T>(
    seed: u64,
    prepare: impl AsyncFn(&FakeCluster) -> (RunningController, TrafficMonitor),
    begin: impl AsyncFn(&FakeCluster) -> T,
    check: impl AsyncFn(&Crash, T),
) -> usize {
    let mut writes = 0;
    loop {
        writes += 1;
        assert!(writes < 60, "the change does not end within 60 writes");
        let cluster = FakeCluster::new(seed + u64::try_from(writes).unwrap());
        let (first, monitor) = prepare(&cluster).await;
        cluster.kill_after_writes(&first.name, writes);
        let began_at = cluster.now();
        let result = begin(&cluster).await;
        let is_dead = |cluster: &FakeCluster| cluster.is_dead("serin-0");
        if cluster.wait_until(is_dead, 2 * MINUTE).await.is_err() {
            monitor.finish().await;
            return writes - 1;
        }
        first.kill(&cluster);
        cluster.sleep(3 * SECOND).await;
        let crash = Crash {
            second: start_controller(&cluster, "serin-1"),
            cluster,
            writes,
            began_at,
        };
        check(&crash, result).await;
        monitor.finish().await;
    }
}
