//! Leader election as a pure rule: who may hold the Lease, and since when a silent holder counts as
//! gone.

use std::time::Duration;

/// The timing of an election. All times are measured on the local monotonic clock, never compared
/// across machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a record must have stayed unchanged, as seen here, before its holder counts as
    /// gone.
    pub lease: Duration,
    /// How often the holder renews.
    pub renew_every: Duration,
    /// How long after its last successful renewal a holder stops acting by itself; less than
    /// `lease`.
    pub fence_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(4),
            renew_every: Duration::from_secs(1),
            fence_after: Duration::from_millis(2_500),
        }
    }
}

/// The Lease's record as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`; none or empty: released.
    pub holder: Option<String>,
    /// How long this process has seen the record unchanged.
    pub unchanged_for: Duration,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionAction {
    /// It holds the lease and renews it.
    Renew,
    /// The lease is free or its holder gone: take it, by compare-and-swap on the resourceVersion.
    Acquire,
    /// Another process holds the Lease. Check again after this time.
    Wait(Duration),
}

/// What a candidate does next, given the record.
pub fn next_action(me: &str, record: &Record, timing: &Timing) -> ElectionAction {
    match record.holder.as_deref() {
        Some(holder) if holder == me => ElectionAction::Renew,
        None | Some("") => ElectionAction::Acquire,
        Some(_) if record.unchanged_for >= timing.lease => ElectionAction::Acquire,
        Some(_) => ElectionAction::Wait(
            timing
                .lease
                .saturating_sub(record.unchanged_for)
                .min(timing.renew_every),
        ),
    }
}

/// Whether a holder may still act: it must have renewed recently enough that nobody else can have
/// taken over.
pub fn is_lease_valid(since_last_renewal: Duration, timing: &Timing) -> bool {
    since_last_renewal < timing.fence_after
}

/// How long after its last successful renewal a holder gives up the writes that it has begun; after
/// `fence_after` and less than `lease`. The rest is for the cancellation to reach the API server.
pub fn writes_end_after(timing: &Timing) -> Duration {
    let rest = timing.lease.saturating_sub(timing.fence_after) / 3;
    timing.lease.saturating_sub(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, unchanged_for: Duration) -> Record {
        Record {
            holder: Some(holder.into()),
            unchanged_for,
        }
    }

    #[test]
    fn a_silent_holder_is_replaced_only_after_the_lease() {
        let timing = Timing::default();
        assert_eq!(
            next_action("b", &held_by("a", Duration::from_secs(3)), &timing),
            ElectionAction::Wait(Duration::from_secs(1))
        );
        assert_eq!(
            next_action("b", &held_by("a", Duration::from_secs(4)), &timing),
            ElectionAction::Acquire
        );
        assert_eq!(
            next_action("b", &held_by("", Duration::ZERO), &timing),
            ElectionAction::Acquire
        );
        assert_eq!(
            next_action("a", &held_by("a", Duration::from_secs(9)), &timing),
            ElectionAction::Renew
        );
    }

    #[test]
    fn a_holder_fences_itself_before_anyone_can_take_over() {
        let timing = Timing::default();
        assert!(timing.fence_after + timing.renew_every < timing.lease);
        assert!(is_lease_valid(Duration::from_secs(2), &timing));
        assert!(!is_lease_valid(timing.fence_after, &timing));
        let end = writes_end_after(&timing);
        assert!(timing.fence_after < end && end < timing.lease, "{end:?}");
    }
}
