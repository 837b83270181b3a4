//! The service guard: multi-window burn rates over all versions of the service together.

use serde::{Deserialize, Serialize};

use crate::budget::burn_rate;

/// A pair of windows whose burn rates must both exceed the threshold (Google SRE Workbook,
/// "Alerting on SLOs").
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowPair {
    /// The burn rate that both windows must exceed.
    pub threshold: f64,
    /// The long window: the burn is significant.
    pub long_seconds: u32,
    /// The short window: the burn is still ongoing.
    pub short_seconds: u32,
}

/// The window pairs of the guard: 14.4 over 1 h and 5 min, 6 over 6 h and 30 min, 28.8 over 15 min
/// and 2 min.
pub const WINDOW_PAIRS: [WindowPair; 3] = [
    WindowPair {
        threshold: 14.4,
        long_seconds: 3600,
        short_seconds: 300,
    },
    WindowPair {
        threshold: 6.0,
        long_seconds: 21_600,
        short_seconds: 1800,
    },
    WindowPair {
        threshold: 28.8,
        long_seconds: 900,
        short_seconds: 120,
    },
];

/// Requests of the whole service over one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowCounts {
    /// All requests.
    pub requests: f64,
    /// Bad requests among them.
    pub bad: f64,
}

/// A window pair that exceeds its threshold, with its burn rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BurnAlert {
    /// The window pair.
    pub pair: WindowPair,
    /// The long window's burn rate.
    pub long_rate: f64,
    /// The short window's burn rate.
    pub short_rate: f64,
}

/// Returns the first pair whose burn rates both exceed its threshold. `windows` are (long, short)
/// in the order of [`WINDOW_PAIRS`]. A window without requests has a burn rate of 0.
pub fn burn_alert(
    windows: &[(WindowCounts, WindowCounts); 3],
    budget_fraction: f64,
) -> Option<BurnAlert> {
    WINDOW_PAIRS
        .iter()
        .zip(windows)
        .find_map(|(pair, (long, short))| {
            let long_rate = burn_rate(long.bad, long.requests, budget_fraction);
            let short_rate = burn_rate(short.bad, short.requests, budget_fraction);
            (long_rate > pair.threshold && short_rate > pair.threshold).then_some(BurnAlert {
                pair: *pair,
                long_rate,
                short_rate,
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: f64) -> WindowCounts {
        WindowCounts {
            requests: 1e6,
            bad: rate * 1e3,
        }
    }

    #[test]
    fn both_windows_of_a_pair_must_exceed_the_threshold() {
        let calm = (at(1.0), at(1.0));
        assert_eq!(burn_alert(&[calm; 3], 0.001), None);
        assert_eq!(burn_alert(&[(at(15.0), at(1.0)), calm, calm], 0.001), None);
        assert_eq!(burn_alert(&[(at(1.0), at(15.0)), calm, calm], 0.001), None);
        assert_eq!(
            burn_alert(&[(at(15.0), at(15.0)), calm, calm], 0.001)
                .unwrap()
                .pair,
            WINDOW_PAIRS[0]
        );
        assert_eq!(
            burn_alert(&[calm, (at(6.1), at(7.0)), calm], 0.001)
                .unwrap()
                .pair,
            WINDOW_PAIRS[1]
        );
        assert_eq!(
            burn_alert(&[calm, calm, (at(29.0), at(29.0))], 0.001)
                .unwrap()
                .pair,
            WINDOW_PAIRS[2]
        );
        assert_eq!(
            burn_alert(
                &[
                    (at(14.3), at(14.3)),
                    (at(5.9), at(5.9)),
                    (at(28.0), at(28.0))
                ],
                0.001
            ),
            None
        );
    }

    #[test]
    fn windows_without_requests_do_not_burn() {
        assert_eq!(
            burn_alert(
                &[(WindowCounts::default(), WindowCounts::default()); 3],
                0.001
            ),
            None
        );
    }
}
