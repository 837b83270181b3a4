//! The documented memory of a Rollout is that which is measured.

use serin_footprint::{CountingAllocator, Releases, measure};
use serin_runtime::memory_need::BYTES_PER_ROLLOUT;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What is needed includes the release, so a Rollout at rest takes at most two thirds. It takes at
/// least a quarter, otherwise the documented figure would waste memory.
#[test]
fn a_rollout_at_rest_takes_between_a_quarter_and_two_thirds_of_the_documented_memory() {
    let footprint = measure(Releases::quick(60)).unwrap();
    println!("{footprint}");
    let needed = f64::from(u32::try_from(BYTES_PER_ROLLOUT).unwrap());
    for at_rest in footprint.bytes_per_rollout {
        assert!(at_rest < needed * 2.0 / 3.0, "{footprint}");
        assert!(at_rest > needed / 4.0, "{footprint}");
    }
    assert!(footprint.writes() < 10.5, "{footprint}");
}

#[test]
fn the_chart_documents_the_same_figures() {
    let values = include_str!("../../../charts/serin/values.yaml");
    let kibibytes = BYTES_PER_ROLLOUT / 1024;
    assert!(values.contains(&format!("{kibibytes} KiB for each Rollout")));
}
