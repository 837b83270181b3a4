//! What a Rollout costs, what a release costs, and what policies add to it.
//!
//! One test, because the figures are those of the whole process, and releases take their time.

use serin_footprint::{CountingAllocator, ReleaseCost, Releases, measure, measure_release};
use serin_runtime::memory_need::BYTES_PER_ROLLOUT;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The number of Rollouts is such that what the controller does for the policies themselves,
/// whatever the number of Rollouts, is small beside the releases.
const RELEASES: Releases = Releases::quick(60);

/// What is needed includes the release, so a Rollout at rest takes at most two thirds. It takes at
/// least a quarter, otherwise the documented figure would waste memory.
///
/// Allocations are compared, because the CPU time of a busy machine is not reproducible. The CPU
/// time is printed.
#[test]
fn a_rollout_needs_the_documented_memory_and_five_policies_add_less_than_a_fifth_to_a_release() {
    let footprint = measure(RELEASES).unwrap();
    println!("{footprint}");
    let needed = f64::from(u32::try_from(BYTES_PER_ROLLOUT).unwrap());
    for at_rest in footprint.bytes_per_rollout {
        assert!(at_rest < needed * 2.0 / 3.0, "{footprint}");
        assert!(at_rest > needed / 4.0, "{footprint}");
    }
    let without = footprint.release;
    assert!(without.writes() < 10.5, "{without}");

    let under = measure_release(RELEASES.under_policies(5)).unwrap();
    println!("under five policies:\n{under}");
    let ratio = |of: fn(&ReleaseCost) -> f64| of(&under) / of(&without);
    let allocations = ratio(|cost| cost.allocations);
    let bytes = ratio(|cost| cost.allocated_bytes);
    println!("allocations of a release: {allocations:.3}, allocated bytes: {bytes:.3}");
    assert!(allocations < 1.2, "{allocations}");
    // Nothing more is written: one more write of each release would be a tenth.
    let writes = ratio(ReleaseCost::writes);
    assert!(writes < 1.05, "{writes}");
}

#[test]
fn the_chart_documents_the_same_figures() {
    let values = include_str!("../../../charts/serin/values.yaml");
    let kibibytes = BYTES_PER_ROLLOUT / 1024;
    assert!(values.contains(&format!("{kibibytes} KiB for each Rollout")));
}
