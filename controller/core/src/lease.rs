//! Leader election as a pure rule: who may hold the Lease, and since when a silent holder counts as
//! gone.
//!
//! A holder counts its time from the moment at which it *sent* its last successful renewal. A
//! standby counts from the moment at which it *received* the changed record, which is later. The
//! holder ends its writes after [`writes_end_after`], and the standby acquires the Lease after the
//! duration that the holder declared. [`Timing::validate`] checks that the first is over before the
//! second, even if the clocks of the two machines run at different rates.

use std::time::Duration;

/// Limits of the lease duration.
pub const LEASE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Minimum interval of renewals, which are writes.
const MIN_RENEW_INTERVAL: Duration = Duration::from_millis(100);
/// Minimum time between the end of a holder's writes and the end of its Lease. The cancellation of a
/// write must reach the API server meanwhile.
const MIN_CANCELLATION_MARGIN: Duration = Duration::from_millis(100);
/// Maximum difference between the rate of a clock and real time, in percent. NTP slews by at most
/// 0.05 %, and quartz drifts by less than 0.01 %.
const MAX_CLOCK_RATE_ERROR: u32 = 1;

/// The timing of an election. All times are measured on the local monotonic clock, never compared
/// across machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a record must have stayed unchanged, as seen by a standby, before its holder counts
    /// as gone. The holder declares it in the record.
    pub lease: Duration,
    /// How often the holder renews.
    pub renew_every: Duration,
    /// How long after its last successful renewal a holder stops acting by itself; less than
    /// `lease`.
    pub fence_after: Duration,
}

impl Default for Timing {
    /// A standby takes over within 2 s of the death of the holder, also if its write takes 0.4 s.
    fn default() -> Self {
        Self::from_lease(Duration::from_millis(1_500))
    }
}

/// Why a timing is not safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The lease duration is out of bounds.
    #[error("lease duration {0:?}: use {min:?} to {max:?}", min = LEASE_BOUNDS.0, max = LEASE_BOUNDS.1)]
    LeaseDuration(Duration),
    /// The holder would act after another process has taken over.
    #[error(
        "renew deadline {deadline:?}: with a lease duration of {lease:?}, the writes of a leader could \
         end after the next leader has begun; use at most {max:?}"
    )]
    RenewDeadline {
        /// The time after which a leader stops.
        deadline: Duration,
        /// The lease duration.
        lease: Duration,
        /// The largest safe value.
        max: Duration,
    },
    /// A holder whose renewal fails once would lose the Lease.
    #[error(
        "renew interval {interval:?}: use {min:?} to half of the renew deadline, {max:?}, so that the \
         leader can repeat a failed renewal",
        min = MIN_RENEW_INTERVAL
    )]
    RenewInterval {
        /// The interval.
        interval: Duration,
        /// Half of the renew deadline.
        max: Duration,
    },
}

impl Timing {
    /// The default timing for a lease duration: six renewals per Lease, and a leader stops after
    /// three quarters of it.
    pub fn from_lease(lease: Duration) -> Self {
        Self {
            lease,
            renew_every: lease / 6,
            fence_after: lease * 3 / 4,
        }
    }

    /// Checks that no two holders can write at the same time, and that a failed renewal can be
    /// repeated.
    ///
    /// # Errors
    /// The first value that is not safe.
    pub fn validate(&self) -> Result<(), TimingError> {
        let (shortest, longest) = LEASE_BOUNDS;
        if self.lease < shortest || self.lease > longest {
            return Err(TimingError::LeaseDuration(self.lease));
        }
        let max = max_fence(self.lease);
        if self.fence_after > max {
            return Err(TimingError::RenewDeadline {
                deadline: self.fence_after,
                lease: self.lease,
                max,
            });
        }
        let max = self.fence_after / 2;
        if self.renew_every < MIN_RENEW_INTERVAL || self.renew_every > max {
            return Err(TimingError::RenewInterval {
                interval: self.renew_every,
                max,
            });
        }
        Ok(())
    }
}

/// The largest `fence_after` whose writes end in time: at the slowest holder and the fastest
/// standby, `MIN_CANCELLATION_MARGIN` is left.
fn max_fence(lease: Duration) -> Duration {
    let fastest = lease * (100 - MAX_CLOCK_RATE_ERROR) / 100;
    let writes_end =
        fastest.saturating_sub(MIN_CANCELLATION_MARGIN) * 100 / (100 + MAX_CLOCK_RATE_ERROR);
    // Solves `writes_end_after` for `fence_after`, rounded down to milliseconds.
    let fence = (writes_end * 5).saturating_sub(lease) / 4;
    Duration::from_millis(u64::try_from(fence.as_millis()).unwrap_or(u64::MAX))
}

/// The Lease's record as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`; none or empty: released.
    pub holder: Option<String>,
    /// The lease duration that the holder declared; none if the record has none.
    pub declared_lease: Option<Duration>,
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
    /// Another process holds the Lease. It may be acquired after this time if the record does not
    /// change meanwhile.
    Wait(Duration),
}

/// What a candidate does next, given the record.
pub fn next_action(me: &str, record: &Record, timing: &Timing) -> ElectionAction {
    let expires_after = expires_after(record, timing);
    match record.holder.as_deref() {
        Some(holder) if holder == me => ElectionAction::Renew,
        None | Some("") => ElectionAction::Acquire,
        Some(_) if record.unchanged_for >= expires_after => ElectionAction::Acquire,
        Some(_) => ElectionAction::Wait(expires_after.saturating_sub(record.unchanged_for)),
    }
}

/// How long a record must have stayed unchanged. During an upgrade, the holder may have a longer
/// lease duration than this process, and stops later.
fn expires_after(record: &Record, timing: &Timing) -> Duration {
    let declared = record.declared_lease.unwrap_or_default();
    timing.lease.max(declared.min(LEASE_BOUNDS.1))
}

/// Whether a holder may still act: it must have renewed recently enough that nobody else can have
/// taken over.
pub fn is_lease_valid(since_last_renewal: Duration, timing: &Timing) -> bool {
    since_last_renewal < timing.fence_after
}

/// How long after its last successful renewal a holder gives up the writes that it has begun; after
/// `fence_after` and less than `lease`. The rest is for the cancellation to reach the API server.
pub fn writes_end_after(timing: &Timing) -> Duration {
    timing.fence_after + timing.lease.saturating_sub(timing.fence_after) / 5
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held_by(holder: &str, unchanged_for: Duration) -> Record {
        Record {
            holder: Some(holder.into()),
            declared_lease: None,
            unchanged_for,
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_silent_holder_is_replaced_only_after_the_lease() {
        let timing = Timing::default();
        assert_eq!(
            next_action("b", &held_by("a", millis(1_300)), &timing),
            ElectionAction::Wait(millis(200))
        );
        assert_eq!(
            next_action("b", &held_by("a", millis(1_500)), &timing),
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
    fn a_holder_with_a_longer_lease_is_waited_for() {
        let timing = Timing::default();
        let action = |declared, unchanged_for| {
            let record = Record {
                declared_lease: Some(declared),
                ..held_by("a", unchanged_for)
            };
            next_action("b", &record, &timing)
        };
        assert_eq!(
            action(millis(4_000), millis(3_000)),
            ElectionAction::Wait(millis(1_000))
        );
        assert_eq!(
            action(millis(4_000), millis(4_000)),
            ElectionAction::Acquire
        );
        assert_eq!(
            action(millis(10), millis(1_000)),
            ElectionAction::Wait(millis(500)),
            "a shorter declaration does not count"
        );
        assert_eq!(
            action(Duration::MAX, LEASE_BOUNDS.1),
            ElectionAction::Acquire,
            "an invalid declaration does not prevent a takeover"
        );
    }

    #[test]
    fn a_holder_fences_itself_before_anyone_can_take_over() {
        let timing = Timing::default();
        assert_eq!(timing.validate(), Ok(()));
        assert!(is_lease_valid(Duration::from_secs(1), &timing));
        assert!(!is_lease_valid(timing.fence_after, &timing));
        let end = writes_end_after(&timing);
        assert!(timing.fence_after < end && end < timing.lease, "{end:?}");
    }

    #[test]
    fn an_unsafe_timing_is_refused_with_the_largest_safe_value() {
        let timing = Timing {
            fence_after: millis(1_400),
            ..Timing::default()
        };
        assert_eq!(
            timing.validate().unwrap_err().to_string(),
            "renew deadline 1.4s: with a lease duration of 1.5s, the writes of a leader could end \
             after the next leader has begun; use at most 1.339s"
        );
        let timing = Timing {
            renew_every: millis(600),
            ..Timing::default()
        };
        assert_eq!(
            timing.validate().unwrap_err().to_string(),
            "renew interval 600ms: use 100ms to half of the renew deadline, 562.5ms, so that the \
             leader can repeat a failed renewal"
        );
        let error = Timing::from_lease(millis(999)).validate().unwrap_err();
        assert_eq!(error.to_string(), "lease duration 999ms: use 1s to 600s");
    }

    proptest! {
        #[test]
        fn the_default_timing_of_every_lease_duration_is_safe(lease in 1_000_u64..=600_000) {
            prop_assert_eq!(Timing::from_lease(millis(lease)).validate(), Ok(()));
        }

        /// Real times: the holder's clock is slow and that of the standby fast.
        #[test]
        fn with_a_valid_timing_the_writes_end_before_the_lease_on_any_two_clocks(
            lease in 1_000_u64..=600_000,
            fence_permille in 500_u64..=1_000,
            (holder_rate, standby_rate) in (0.99_f64..=1.01, 0.99_f64..=1.01),
        ) {
            let timing = Timing {
                lease: millis(lease),
                renew_every: millis(200),
                fence_after: millis(lease * fence_permille / 1_000),
            };
            prop_assume!(timing.validate().is_ok());
            let writes_end = writes_end_after(&timing).as_secs_f64() / holder_rate;
            let taken_over = timing.lease.as_secs_f64() / standby_rate;
            prop_assert!(writes_end + 0.09 < taken_over, "{writes_end} {taken_over}");
        }
    }
}
