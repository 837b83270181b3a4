//! Runs many rollouts on all cores, each with its own seed.

use std::num::NonZeroUsize;
use std::thread;

/// Runs `one` for `runs` seeds and returns the results in order of the runs, independent of the
/// number of threads.
pub(crate) fn map_seeds<T: Send>(runs: u32, seed: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = u32::try_from(threads).unwrap_or(1);
    let share = runs.div_ceil(threads).max(1);
    let one = &one;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let first = (thread * share).min(runs);
                let last = first.saturating_add(share).min(runs);
                scope.spawn(move || {
                    (first..last)
                        .map(|run| one(derive_seed(seed, run)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

/// `SplitMix64` (Steele, Lea, Flood 2014): similar seeds give unrelated streams.
pub(crate) fn derive_seed(seed: u64, run: u32) -> u64 {
    let mut z = seed.wrapping_add(
        u64::from(run)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15),
    );
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_run_is_returned_once_in_order() {
        let seeds = super::map_seeds(1001, 42, |seed| seed);
        assert_eq!(seeds.len(), 1001);
        assert_eq!(
            seeds,
            (0..1001)
                .map(|run| super::derive_seed(42, run))
                .collect::<Vec<_>>()
        );
    }
}
