//! What policies add to the cost of a release.

use serin_footprint::{CountingAllocator, Releases, measure};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations are compared, because the CPU time of a busy machine is not reproducible. The CPU
/// time is printed. The number of Rollouts is such that what the controller does for the policies
/// themselves, whatever the number of Rollouts, is small beside the releases.
#[test]
fn five_policies_add_less_than_a_fifth_to_the_cost_of_a_release() {
    let rollouts = 40;
    let without = measure(Releases::quick(rollouts)).unwrap();
    let under = measure(Releases::quick(rollouts).under_policies(5)).unwrap();
    println!("without policies: {without}\nunder five policies: {under}");
    let ratio = |of: fn(&serin_footprint::Footprint) -> f64| of(&under) / of(&without);
    let allocations = ratio(|footprint| footprint.allocations);
    let bytes = ratio(|footprint| footprint.allocated_bytes);
    println!("allocations of a release: {allocations:.3}, allocated bytes: {bytes:.3}");
    assert!(allocations < 1.2, "{allocations}");
    // Nothing more is written: one more write of each release would be a tenth.
    let writes = ratio(serin_footprint::Footprint::writes);
    assert!(writes < 1.05, "{writes}");
}
