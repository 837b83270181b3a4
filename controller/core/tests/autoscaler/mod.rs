//! A HorizontalPodAutoscaler, with the formulas of its documentation and its controller.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "numbers of pods in tests are small"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;

/// Interval of the autoscaler.
pub const SYNC_PERIOD: Duration = Duration::from_secs(15);
/// Relative difference from the target that is tolerated.
pub const TOLERANCE: f64 = 0.1;
/// Time for which a higher recommendation prevents a lower one.
pub const STABILIZATION: Duration = Duration::from_secs(300);

/// What an autoscaler is configured to keep at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `Resource`, `ContainerResource` and `Pods`: an average over the pods that the selector finds.
    PerPod,
    /// `Object` and `External` with `averageValue`: a total, divided by `status.replicas`.
    AverageValue,
    /// `Object` and `External` with `value`: a number that the ready pods are multiplied by.
    Value,
}

/// A pod that the selector finds.
#[derive(Clone, Copy, Debug)]
pub struct MeasuredPod {
    pub is_ready: bool,
    /// The load, relative to the target. `None` if no metrics have been collected yet.
    pub usage: Option<f64>,
}

/// What the autoscaler reads.
#[derive(Clone, Debug)]
pub struct Reading {
    pub spec_replicas: u32,
    pub status_replicas: u32,
    pub pods: Vec<MeasuredPod>,
    /// The load of the service in pods that are at the target.
    pub total: f64,
    /// The value of the metric relative to its target, for [`Metric::Value`].
    pub value: f64,
}

impl Reading {
    /// The replicas that the metric asks for.
    pub fn desired(&self, metric: Metric) -> u32 {
        match metric {
            Metric::PerPod => self.desired_by_pods(),
            Metric::AverageValue => {
                let ratio = self.total / f64::from(self.status_replicas);
                if is_tolerated(ratio) {
                    self.status_replicas
                } else {
                    self.total.ceil() as u32
                }
            }
            Metric::Value if is_tolerated(self.value) => self.spec_replicas,
            Metric::Value => {
                let ready = self.pods.iter().filter(|pod| pod.is_ready).count();
                (self.value * ready as f64).ceil() as u32
            }
        }
    }

    /// Pods without metrics are taken for idle if the others need more pods, and for busy if they
    /// need fewer. Unready pods are taken for idle if the others need more.
    fn desired_by_pods(&self) -> u32 {
        let (ready, unready): (Vec<&MeasuredPod>, Vec<_>) =
            self.pods.iter().partition(|pod| pod.is_ready);
        let mut usages: Vec<f64> = ready.iter().filter_map(|pod| pod.usage).collect();
        if usages.is_empty() {
            return self.spec_replicas;
        }
        let ratio = mean(&usages);
        let missing = ready.len() - usages.len();
        let counts_unready = !unready.is_empty() && ratio > 1.0;
        if missing > 0 {
            let assumed = match ratio.total_cmp(&1.0) {
                Ordering::Less => Some(1.0),
                Ordering::Equal => None,
                Ordering::Greater => Some(0.0),
            };
            usages.extend(
                assumed
                    .iter()
                    .flat_map(|one| std::iter::repeat_n(*one, missing)),
            );
        }
        if counts_unready {
            usages.extend(std::iter::repeat_n(0.0, unready.len()));
        }
        let corrected = mean(&usages);
        let turns = (ratio < 1.0 && corrected > 1.0) || (ratio > 1.0 && corrected < 1.0);
        if is_tolerated(corrected) || turns {
            return self.spec_replicas;
        }
        let desired = (corrected * usages.len() as f64).ceil() as u32;
        let is_corrected = missing > 0 || counts_unready;
        let contradicts = (corrected < 1.0 && desired > self.spec_replicas)
            || (corrected > 1.0 && desired < self.spec_replicas);
        if is_corrected && contradicts {
            return self.spec_replicas;
        }
        desired
    }
}

/// The memory of an autoscaler.
#[derive(Clone, Debug, Default)]
pub struct Autoscaler {
    recommendations: Vec<(Timestamp, u32)>,
}

impl Autoscaler {
    /// The replicas that the autoscaler sets.
    pub fn next(&mut self, now: Timestamp, reading: &Reading, metric: Metric) -> u32 {
        let current = reading.spec_replicas;
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
        let desired = reading.desired(metric);
        let begin = now.checked_sub(STABILIZATION).unwrap();
        self.recommendations.retain(|(at, _)| *at > begin);
        self.recommendations.push((now, desired));
        let highest = self.recommendations.iter().map(|(_, count)| *count).max();
        let highest = highest.unwrap_or(desired);
        let fastest = (2 * current).max(current + 4);
        if desired > current {
            desired.min(fastest)
        } else {
            highest.min(current)
        }
    }
}

fn is_tolerated(ratio: f64) -> bool {
    (1.0 - ratio).abs() <= TOLERANCE
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
