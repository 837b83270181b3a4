//! How long to wait before trying a failed reconcile again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// Delay after this number of consecutive failures. Doubles from 200 ms up to 30 s.
///
/// `jitter` (0.0 to 1.0, from the shell) spreads retries over the upper half of the wait, so that
/// many objects that failed together do not come back together.
pub fn retry_after(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_bound() {
        assert_eq!(retry_after(1, 1.0), FIRST);
        assert_eq!(retry_after(2, 1.0), 2 * FIRST);
        assert_eq!(retry_after(u32::MAX, 1.0), LONGEST);
        assert_eq!(retry_after(1, 0.0), FIRST / 2);
    }
}
