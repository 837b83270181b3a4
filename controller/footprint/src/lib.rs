//! Measures what a Rollout and a release cost: memory, CPU time, allocations and requests of the
//! controller.
//!
//! The controller runs in threads of its own, against a [`serin_fake_cluster::FakeCluster`] in other
//! threads of the same process. Figures of the CPU and of allocations are those of the threads of
//! the controller. The memory of the controller is what becomes free when it is dropped.

mod allocator;
mod controller_process;
mod measure;

pub use allocator::CountingAllocator;
pub use measure::{Footprint, ReleaseCost, Releases, measure, measure_release};
