//! The temper of the bets of the next tick.

use super::Evidence;
use crate::arm_dispersion::ArmDispersion;
use crate::config::{EvidenceConfig, Temper};
use crate::counts::Tick;
use crate::multi_scale::SerialDispersion;
use crate::share::BlockShape;

/// Length of the blocks of the share bets where clusters outlast a scrape and pods are not
/// distinguished, in milliseconds.
const LASTING_BLOCK_MS: i64 = 60_000;

/// The temper of a source that does not distinguish pods. What looks like clusters in the course of
/// stable's errors may be a rate that both arms share, which is harmless. So the release decides: the
/// clusters of a tick count until its errors refute that they reach one arm as a whole, and those of
/// longer times if requests come to the arms in clusters.
///
/// The margin is for what is assumed from before. What the release shows is no assumption.
fn gateway_temper(serial: &SerialDispersion, arm_dispersion: &ArmDispersion, margin: f64) -> f64 {
    let of_ticks = serial.k_of_ticks();
    let assumed = if arm_dispersion.routes_in_clusters() {
        serial.k()
    } else if arm_dispersion.refutes_clusters(of_ticks) {
        1.0
    } else {
        of_ticks
    };
    arm_dispersion.k().max(with_margin(assumed, margin))
}

/// An estimated temper with its margin. Where no clusters are seen there is none, so that independent
/// errors cost no power.
fn with_margin(k: f64, margin: f64) -> f64 {
    if k > 1.0 { margin * k } else { k }
}

impl Evidence {
    /// The temper: an estimate, or as configured. The promotion bets of the next tick, and those of the
    /// bounds, are divided by it.
    pub fn k(&self, config: &EvidenceConfig) -> f64 {
        match config.temper {
            Temper::Auto if self.dispersion.has_data() => self.dispersion.k(),
            Temper::Auto => gateway_temper(&self.serial, &self.arm_dispersion, 1.0),
            Temper::Fixed(k) => k,
        }
    }

    /// The temper by which the rollback bets of the next tick are divided: an estimate has a margin,
    /// because the release may differ from what it was learned from.
    pub fn rollback_k(&self, config: &EvidenceConfig) -> f64 {
        if config.calibration.is_some() {
            // The evidence must be a function of the release alone, as it was when calibrated.
            return 1.0;
        }
        let margin = config.temper_margin;
        match config.temper {
            Temper::Auto if self.dispersion.has_data() => with_margin(self.dispersion.k(), margin),
            Temper::Auto => gateway_temper(&self.serial, &self.arm_dispersion, margin),
            Temper::Fixed(k) => k,
        }
    }

    /// How the share bets of the next block are placed. It depends on earlier ticks only.
    pub(super) fn share_block(&self, config: &EvidenceConfig, tick: &Tick) -> BlockShape {
        if config.calibration.is_some() {
            return BlockShape::default();
        }
        match config.temper {
            Temper::Auto if self.distinguishes_pods() => BlockShape {
                k: with_margin(self.dispersion.serial_k(), config.temper_margin),
                length_ms: 0,
            },
            Temper::Auto if self.clusters_last() => {
                let tick_ms = tick.at_ms.saturating_sub(tick.started_ms).max(1);
                let level = (LASTING_BLOCK_MS / tick_ms).max(1).ilog2();
                BlockShape {
                    k: self.serial.serial_k(level as usize),
                    length_ms: LASTING_BLOCK_MS,
                }
            }
            Temper::Fixed(_) | Temper::Auto => BlockShape::default(),
        }
    }
}
