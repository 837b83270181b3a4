//! Computes when requests are due and which of them use a new connection. Has no clock: the time is
//! passed in.

use std::time::Duration;

use crate::options::RequestRate;

/// Arrivals at a constant rate without drift: arrival n is due at `origin + n / rate`.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    rate: RequestRate,
    origin: Duration,
    arrivals: u64,
}

impl Schedule {
    /// A schedule whose first arrival is due immediately.
    pub(crate) fn new(rate: RequestRate) -> Self {
        Self {
            rate,
            origin: Duration::ZERO,
            arrivals: 0,
        }
    }

    /// When the next arrival is due, since the start.
    pub(crate) fn next_due(&self) -> Duration {
        let rate = u64::from(self.rate.get());
        let nanoseconds = (self.arrivals % rate) * 1_000_000_000 / rate;
        self.origin + Duration::from_secs(self.arrivals / rate) + Duration::from_nanos(nanoseconds)
    }

    /// Advances to the following arrival.
    pub(crate) fn advance(&mut self) {
        self.arrivals += 1;
    }

    /// Changes the rate at `now`. The next arrival is due one new interval after the last one, but
    /// not before `now`: a change from 1 to 1,000 per second must not send a burst for the past
    /// second.
    pub(crate) fn set_rate(&mut self, rate: RequestRate, now: Duration) {
        let pending = self.next_due();
        let old_interval = Duration::from_secs(1) / self.rate.get();
        let interval = Duration::from_secs(1) / rate.get();
        let next = (pending.saturating_sub(old_interval) + interval).max(now);
        // An overdue arrival keeps its due time.
        self.origin = if pending < now { pending } else { next };
        self.arrivals = 0;
        self.rate = rate;
    }
}

/// Selects a fixed share of the requests, evenly spread, and exact over every 10,000.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    per_10_000: u32,
    accumulated: u32,
}

impl Rotation {
    pub(crate) fn new(per_10_000: u32) -> Self {
        Self {
            per_10_000,
            accumulated: 0,
        }
    }

    /// Whether the next request is selected.
    pub(crate) fn next(&mut self) -> bool {
        self.accumulated += self.per_10_000;
        let chosen = self.accumulated >= 10_000;
        if chosen {
            self.accumulated -= 10_000;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: u32) -> RequestRate {
        RequestRate::per_second(rate).unwrap()
    }

    fn next_arrivals(schedule: &mut Schedule, count: usize) -> Vec<Duration> {
        let mut due = Vec::new();
        for _ in 0..count {
            due.push(schedule.next_due());
            schedule.advance();
        }
        due
    }

    #[test]
    fn arrivals_are_even_and_do_not_drift() {
        let mut schedule = Schedule::new(rate(300));
        let due = next_arrivals(&mut schedule, 300 * 3_600 + 1);
        assert_eq!(due[0], Duration::ZERO);
        assert_eq!(due[1], Duration::from_nanos(3_333_333));
        assert_eq!(due[300], Duration::from_secs(1));
        assert_eq!(due[300 * 3_600], Duration::from_hours(1));
        assert!(due.is_sorted());
    }

    #[test]
    fn a_new_rate_starts_one_interval_after_the_last_arrival() {
        let mut schedule = Schedule::new(rate(10));
        next_arrivals(&mut schedule, 3); // the last at 200 ms, the next would be at 300 ms
        schedule.set_rate(rate(100), Duration::from_millis(205));
        let due = next_arrivals(&mut schedule, 3);
        assert_eq!(due, [210, 220, 230].map(Duration::from_millis));
    }

    #[test]
    fn a_rate_change_neither_repeats_nor_drops_arrivals() {
        let mut schedule = Schedule::new(rate(1));
        next_arrivals(&mut schedule, 1);
        schedule.set_rate(rate(1_000), Duration::from_millis(900));
        assert_eq!(schedule.next_due(), Duration::from_millis(900));

        let mut late = Schedule::new(rate(1_000));
        next_arrivals(&mut late, 1); // 1 ms is overdue at 500 ms
        late.set_rate(rate(1), Duration::from_millis(500));
        assert_eq!(late.next_due(), Duration::from_millis(1));
    }

    #[test]
    fn the_selected_share_is_exact_and_evenly_spread() {
        let chosen = |per_10_000| {
            let mut rotation = Rotation::new(per_10_000);
            (0..10_000).filter(|_| rotation.next()).collect::<Vec<_>>()
        };
        assert!(chosen(0).is_empty());
        assert_eq!(chosen(10_000).len(), 10_000);
        let quarter = chosen(2_500);
        assert_eq!(quarter.len(), 2_500);
        assert!(quarter.windows(2).all(|pair| pair[1] - pair[0] == 4));
        assert_eq!(chosen(1).len(), 1);
    }
}
