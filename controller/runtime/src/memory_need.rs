//! How much memory the controller needs for the objects that it caches, compared with the limit of
//! its container. A container over its limit is killed, and after each restart it lists the same
//! objects again, so the limit is reported before it is reached.

use std::fs;
use std::path::Path;

/// Memory of a controller without Rollouts: code, threads, TLS and HTTP buffers, in bytes.
const BASE_BYTES: u64 = 40 << 20;
/// Memory for a Rollout with one pod and two revisions, and for its release, in bytes. The
/// documentation and the chart contain the same figures, and a test compares them with a
/// measurement.
pub const BYTES_PER_ROLLOUT: u64 = 36 << 10;
/// Memory for each further pod, in bytes.
pub const BYTES_PER_POD: u64 = 2 << 10;

/// The memory limit of the container, by the version of the cgroups.
const LIMIT_FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
/// Version 1 reports no limit as a number close to the maximum.
const UNLIMITED: u64 = 1 << 60;

/// The memory in bytes that a fleet of this size needs, releases of all Rollouts at once included.
///
/// # Examples
///
/// ```
/// use serin_runtime::memory_need::needed_bytes;
///
/// let mebibytes = needed_bytes(5_000, 20_000) / (1 << 20);
/// assert_eq!(mebibytes, 245);
/// ```
pub const fn needed_bytes(rollouts: u64, pods: u64) -> u64 {
    BASE_BYTES + rollouts * BYTES_PER_ROLLOUT + pods.saturating_sub(rollouts) * BYTES_PER_POD
}

/// The memory limit of this container in bytes. `None` if it has none, or outside of a container.
pub fn container_limit() -> Option<u64> {
    LIMIT_FILES
        .iter()
        .find_map(|file| fs::read_to_string(Path::new(file)).ok())
        .and_then(|text| parse_limit(&text))
}

/// The number in a limit file. `max` is no limit.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

/// Reports once that the limit does not suffice, and again after it has sufficed in between.
#[derive(Debug, Default)]
pub struct MemoryCheck {
    limit: Option<u64>,
    is_reported: bool,
}

impl MemoryCheck {
    /// A check against this limit in bytes.
    pub const fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            is_reported: false,
        }
    }

    /// A warning if the fleet needs more memory than the limit, and that was not reported yet.
    pub fn warning(&mut self, rollouts: u64, pods: u64) -> Option<String> {
        let limit = self.limit?;
        let needed = needed_bytes(rollouts, pods);
        let was_reported = std::mem::replace(&mut self.is_reported, needed > limit);
        (needed > limit && !was_reported).then(|| {
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            format!(
                "{rollouts} Rollouts with {pods} pods need up to {} MiB of memory, and the limit \
                 of the container is {} MiB: set resources.limits.memory to at least {0}Mi, or \
                 the controller may be killed during releases",
                mebibytes(needed),
                limit >> 20,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_versions_of_cgroups_are_read() {
        assert_eq!(parse_limit("268435456\n"), Some(256 << 20));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit(""), None);
    }

    #[test]
    fn a_limit_that_does_not_suffice_is_reported_once_with_the_fix() {
        let mut check = MemoryCheck::new(Some(256 << 20));
        assert_eq!(check.warning(1_000, 5_000), None);
        let warning = check.warning(10_000, 10_000).unwrap();
        assert!(
            warning.contains("limit of the container is 256 MiB")
                && warning.contains("at least 392Mi"),
            "{warning}"
        );
        assert_eq!(check.warning(10_001, 10_001), None, "it is reported once");
        assert_eq!(check.warning(1_000, 1_000), None);
        assert!(
            check.warning(10_000, 10_000).is_some(),
            "it is too much again"
        );
        assert_eq!(MemoryCheck::new(None).warning(u64::from(u32::MAX), 0), None);
    }
}
