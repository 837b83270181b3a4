//! The guard over the whole service, all versions together: multi-window burn rates.

use serde::{Deserialize, Serialize};

use crate::budget::burn_rate;

/// One pair of windows that must both burn faster than the threshold (Google SRE Workbook, alerting
/// on SLOs).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowPair {
    /// The burn rate that both must exceed.
    pub threshold: f64,
    /// The window that says it matters.
    pub long_seconds: u32,
    /// The window that says it still goes on.
    pub short_seconds: u32,
}

/// The pairs that the guard watches: 14.4 over 1 h and 5 min, 6 over 6 h and 30 min, 28.8 over 15
/// min and 2 min.
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

/// Requests and bad ones of the whole service over one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowCounts {
    /// All requests.
    pub requests: f64,
    /// Those of them that were bad.
    pub bad: f64,
}

/// A pair of windows that burns too fast, with what it burns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Burning {
    /// Which pair.
    pub pair: WindowPair,
    /// The long window's burn rate.
    pub long_rate: f64,
    /// The short window's burn rate.
    pub short_rate: f64,
}

/// The first pair whose windows both burn faster than its threshold. `windows` are (long, short) in
/// the order of [`WINDOW_PAIRS`]; a window without data does not burn.
pub fn burning(
    windows: &[(WindowCounts, WindowCounts); 3],
    budget_fraction: f64,
) -> Option<Burning> {
    WINDOW_PAIRS
        .iter()
        .zip(windows)
        .find_map(|(pair, (long, short))| {
            let long_rate = burn_rate(long.bad, long.requests, budget_fraction);
            let short_rate = burn_rate(short.bad, short.requests, budget_fraction);
            (long_rate > pair.threshold && short_rate > pair.threshold).then_some(Burning {
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
    fn both_windows_of_a_pair_must_burn() {
        let calm = (at(1.0), at(1.0));
        assert_eq!(burning(&[calm; 3], 0.001), None);
        assert_eq!(burning(&[(at(15.0), at(1.0)), calm, calm], 0.001), None);
        assert_eq!(burning(&[(at(1.0), at(15.0)), calm, calm], 0.001), None);
        assert_eq!(
            burning(&[(at(15.0), at(15.0)), calm, calm], 0.001)
                .unwrap()
                .pair,
            WINDOW_PAIRS[0]
        );
        assert_eq!(
            burning(&[calm, (at(6.1), at(7.0)), calm], 0.001)
                .unwrap()
                .pair,
            WINDOW_PAIRS[1]
        );
        assert_eq!(
            burning(&[calm, calm, (at(29.0), at(29.0))], 0.001)
                .unwrap()
                .pair,
            WINDOW_PAIRS[2]
        );
        assert_eq!(
            burning(
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
            burning(
                &[(WindowCounts::default(), WindowCounts::default()); 3],
                0.001
            ),
            None
        );
    }
}
