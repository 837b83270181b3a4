//! Calibrates the evidence with placebo releases, by the conformal quantile of their evidence.
//!
//! Without an estimated temper, the evidence of an hour is a fixed function of the counts of that
//! hour. Let `M_h` be the strongest evidence `ln E` of all placebo releases of hour `h`. If the hour of
//! the release and `n` placebo hours are exchangeable, the rank of the hour of the release among all
//! `n + 1` is uniform, so that it exceeds the `ceil((1 - level)(n + 1))`-th smallest `M` with a
//! probability of at most `level`, however errors cluster and pods differ. The evidence of the release
//! is divided by that `M`, in units of the threshold, and rolls back a good release with at most this
//! probability (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005).

use super::{PlaceboRule, placebo};
use crate::config::{Calibration, ConfigError, EvidenceConfig};
use crate::counts::Tick;
use crate::evidence::Bets;

/// Resolution of the temper: it is rounded up to the next hundredth, so that it is above the quantile.
const STEPS: f64 = 100.0;
/// Tolerance of counts that are computed from fractions.
const ROUNDING: f64 = 1e-9;

/// Number of placebo hours that a calibration at this level needs at least: `1/level - 1`.
pub fn calibration_hours(level: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates"
    )]
    {
        (1.0 / level - 1.0 - ROUNDING).ceil() as u32
    }
}

/// What a calibration is for.
#[derive(Debug, Clone, Copy)]
pub struct CalibrationTarget<'a> {
    /// The configuration of the evidence. Its temper is not used.
    pub config: &'a EvidenceConfig,
    /// The evidence rolls back at `1/alpha`.
    pub alpha: f64,
    /// Maximum probability of a false rollback by this objective: `alpha` divided by the number of
    /// objectives.
    pub level: f64,
    /// Share of the pods that are the canary together, see [`PlaceboRule::canary_share`].
    pub canary_share: f64,
}

/// The temper with which at most the part `level` of the hours like those of `ticks` would have a
/// placebo release that is rolled back. `None` with fewer than [`calibration_hours`].
///
/// # Errors
/// The first field of the configuration that is out of its range.
pub fn calibrate(
    ticks: &[Tick],
    hour_ms: i64,
    target: &CalibrationTarget<'_>,
) -> Result<Option<Calibration>, ConfigError> {
    let CalibrationTarget {
        alpha,
        level,
        canary_share,
        ..
    } = *target;
    let bets = Bets::new(EvidenceConfig {
        calibration: Some(Calibration {
            temper: 1.0,
            hours: 0,
        }),
        ..target.config.clone()
    })?;
    let rule = PlaceboRule {
        bets: &bets,
        alpha,
        canary_share,
    };
    let hours = placebo(ticks, hour_ms, &rule).hours;
    let strongest = hours.iter().map(|hour| hour.ln_e).collect();
    Ok(quantile(strongest, level).map(|strongest| Calibration {
        temper: temper(strongest / -alpha.ln()),
        hours: u32::try_from(hours.len()).unwrap_or(u32::MAX),
    }))
}

/// The `ceil((1 - level)(n + 1))`-th smallest of `n` values. `None` if there are too few.
fn quantile(mut values: Vec<f64>, level: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number of hours"
    )]
    let rank = ((1.0 - level) * (values.len() + 1) as f64 - ROUNDING).ceil() as usize;
    values.get(rank.checked_sub(1)?).copied()
}

/// The smallest hundredth above the evidence in units of the threshold, at least 1.
fn temper(evidence: f64) -> f64 {
    if evidence < 1.0 {
        1.0
    } else {
        ((evidence * STEPS + ROUNDING).floor() + 1.0) / STEPS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counts::PodCounts;

    #[test]
    fn the_number_of_hours_is_that_of_the_level() {
        assert_eq!(calibration_hours(0.01), 99);
        assert_eq!(calibration_hours(0.05), 19);
        assert_eq!(calibration_hours(0.01 / 3.0), 299);
    }

    #[test]
    fn the_quantile_has_the_rank_of_one_more_value() {
        let values = |count: u32| (1..=count).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(quantile(values(98), 0.01), None);
        assert_eq!(quantile(values(99), 0.01), Some(99.0));
        assert_eq!(quantile(values(199), 0.01), Some(198.0));
        assert_eq!(quantile(values(9), 0.1), Some(9.0));
        assert_eq!(quantile(Vec::new(), 0.1), None);
    }

    #[test]
    fn the_temper_is_above_the_quantile() {
        assert_eq!(temper(0.3), 1.0);
        assert_eq!(temper(1.0), 1.01);
        assert_eq!(temper(2.345), 2.35);
        assert!(temper(2.35) > 2.35);
    }

    proptest! {
        /// The theorem, exactly: of all `n + 1` positions of the release among distinct values, at most
        /// the part `level` exceeds the quantile of the others.
        #[test]
        fn at_most_the_level_exceeds_the_quantile(count in 10_usize..60, level in 0.02..0.5_f64) {
            let all: Vec<f64> = (0..=count).map(|value| f64::from(u16::try_from(value).unwrap())).collect();
            let exceeding = (0..=count).filter(|release| {
                let mut others = all.clone();
                let value = others.remove(*release);
                quantile(others, level).is_some_and(|quantile| value > quantile)
            });
            let allowed = level * f64::from(u16::try_from(count + 1).unwrap());
            let found = f64::from(u16::try_from(exceeding.count()).unwrap());
            prop_assert!(found <= allowed + 1e-6, "{found} of {}, allowed {allowed}", count + 1);
        }
    }

    /// The next number from 0 to 1 of a linear congruential generator (Knuth).
    fn uniform(state: &mut u64) -> f64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(*state >> 32).unwrap()) / f64::from(u32::MAX)
    }

    const TICKS: i64 = 20;
    const SERVICE_HOUR_MS: i64 = TICKS * 15_000;

    /// An hour of four pods: independent errors, and in one of two hours a pod that fails in bursts.
    /// Hours are independent of each other, so they are exchangeable.
    fn clustered_hour(random: &mut u64, hour: i64) -> Vec<Tick> {
        let bad = (4.0 * uniform(random)).floor();
        let burst = if uniform(random) < 0.5 {
            40.0 * uniform(random)
        } else {
            0.0
        };
        (0..TICKS)
            .map(|index| {
                let pods = [0.0, 1.0, 2.0, 3.0].map(|pod: f64| {
                    let usual = f64::from(u8::from(uniform(random) < 0.3));
                    let is_burst = (pod - bad).abs() < 0.5 && uniform(random) < 0.3;
                    PodCounts {
                        requests: 500.0,
                        errors: usual + if is_burst { burst.floor() } else { 0.0 },
                        ..PodCounts::default()
                    }
                });
                let started_ms = (hour * TICKS + index) * 15_000;
                Tick {
                    started_ms,
                    at_ms: started_ms + 15_000,
                    stable_pods: pods.to_vec(),
                    ..Tick::default()
                }
            })
            .collect()
    }

    #[test]
    fn exchangeable_hours_roll_back_at_most_the_level() {
        const LEVEL: f64 = 0.1;
        let config = EvidenceConfig::default();
        let mut random = 11;
        let (mut calibrated, mut uncalibrated) = (0_u32, 0_u32);
        let releases = 300;
        for _ in 0..releases {
            // The first hour is history only, the last one is the release.
            let hours: Vec<Tick> = (0..11)
                .flat_map(|hour| clustered_hour(&mut random, hour))
                .collect();
            let (before, _) = hours.split_at(hours.len() - usize::try_from(TICKS).unwrap());
            let target = CalibrationTarget {
                config: &config,
                alpha: LEVEL,
                level: LEVEL,
                canary_share: 0.0,
            };
            let found = calibrate(before, SERVICE_HOUR_MS, &target).unwrap();
            let rolls_back = |calibration: Calibration| {
                let config = EvidenceConfig {
                    calibration: Some(calibration),
                    ..config.clone()
                };
                let bets = Bets::new(config).unwrap();
                let rule = PlaceboRule {
                    bets: &bets,
                    alpha: LEVEL,
                    canary_share: 0.0,
                };
                let hour = placebo(&hours, SERVICE_HOUR_MS, &rule).hours.pop().unwrap();
                hour.rolled_back > 0
            };
            let found = found.unwrap();
            assert_eq!(found.hours, 9);
            calibrated += u32::from(rolls_back(found));
            let independent = Calibration {
                temper: 1.0,
                hours: 0,
            };
            uncalibrated += u32::from(rolls_back(independent));
        }
        // Three standard errors of 300 releases above 10 %.
        assert!(calibrated <= 45, "{calibrated} of {releases}");
        assert!(
            uncalibrated > 90,
            "{uncalibrated} of {releases}: the hours are harmless"
        );
    }

    #[test]
    fn too_few_hours_give_no_temper() {
        let mut random = 3;
        let hours: Vec<Tick> = (0..9)
            .flat_map(|hour| clustered_hour(&mut random, hour))
            .collect();
        let target = CalibrationTarget {
            config: &EvidenceConfig::default(),
            alpha: 0.1,
            level: 0.1,
            canary_share: 0.0,
        };
        assert_eq!(calibrate(&hours, SERVICE_HOUR_MS, &target).unwrap(), None);
    }
}
