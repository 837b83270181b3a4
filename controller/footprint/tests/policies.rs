//! What policies add to the cost of a release.

use serin_footprint::{CountingAllocator, Releases, measure};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations are compared, because the CPU time of a busy machine is not reproducible. The CPU
/// time is printed.
#[test]
fn five_policies_add_less_than_a_fifth_to_the_cost_of_a_reconcile() {
    let rollouts = 20;
    let without = measure(Releases::quick(rollouts)).unwrap();
    let under = measure(Releases::quick(rollouts).under_policies(5)).unwrap();
    println!("without policies: {without}\nunder five policies: {under}");
    let ratio = |of: fn(&serin_footprint::Footprint) -> f64| of(&under) / of(&without);
    let allocations = ratio(|footprint| footprint.allocations / footprint.reconciles);
    let bytes = ratio(|footprint| footprint.allocated_bytes / footprint.reconciles);
    println!("allocations of a reconcile: {allocations:.3}, allocated bytes: {bytes:.3}");
    assert!(allocations < 1.2, "{allocations}");
    assert!(bytes < 1.2, "{bytes}");
    // Nothing more is written: one more write of each release would be a tenth.
    let writes = ratio(serin_footprint::Footprint::writes);
    assert!(writes < 1.05, "{writes}");
}
