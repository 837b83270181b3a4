//! The raw figures, as they are stored in the JSON file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::Requests;
use crate::phase::Phase;
use crate::product::Product;
use crate::statistics::Summary;

/// The results of all products.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// One entry per product, in the order of [`Product::ALL`].
    pub products: Vec<ProductResults>,
}

/// The results of one product on a control plane of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductResults {
    /// The product.
    pub product: Product,
    /// Machine, compiler, commit and date.
    pub environment: String,
    /// The phases in the order in which they ran.
    pub phases: Vec<PhaseResult>,
    /// Why the run ended early. `None` if it did not.
    pub stopped: Option<String>,
}

/// The figures of one phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseResult {
    /// The phase.
    pub phase: Phase,
    /// Number of rollouts at the end of the phase.
    pub rollouts: u32,
    /// Number of rollouts that the phase creates or changes.
    pub changed: u32,
    /// Number of changed rollouts that were not done in time.
    pub unfinished: u32,
    /// Maximum time of the phase in seconds.
    pub limit_seconds: f64,
    /// Time from the first request until the last rollout is done, in seconds.
    pub wall_seconds: f64,
    /// Time that the driver needed to send all requests, in seconds.
    pub driver_seconds: f64,
    /// Time from the driver's request until the rollout is done, in seconds.
    pub done: Option<Summary>,
    /// Time from the driver's request until the controller's first write on the rollout, in
    /// seconds.
    pub first_write: Option<Summary>,
    /// The use of the machine until the last rollout is done.
    pub usage: Usage,
    /// The requests of the controller, including those that follow within the settle time.
    pub requests: Requests,
    /// Aborts during the update.
    pub aborts: Option<AbortResult>,
    /// Takeovers by the standby.
    pub takeovers: Vec<Takeover>,
    /// Start of the controller with existing rollouts.
    pub start: Option<StartResult>,
}

/// Use of the machine during a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in seconds by process. The measured controllers are `controller`, this process is
    /// `driver`, all that is not started by it is `other`.
    pub cpu_seconds: BTreeMap<String, f64>,
    /// Resident memory of the controller at the end, in MiB.
    pub rss_mib: f64,
    /// Peak of the resident memory of the controller during the phase, in MiB.
    pub peak_rss_mib: f64,
}

impl Usage {
    /// CPU time of a process in seconds.
    pub fn cpu(&self, process: &str) -> f64 {
        self.cpu_seconds.get(process).copied().unwrap_or_default()
    }
}

/// Times of aborts, in seconds from the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AbortResult {
    /// Until the status reports the abort, while nothing else happens.
    pub quiet_reported: Option<Summary>,
    /// Until the canary is scaled to 0, while nothing else happens.
    pub quiet_removed: Option<Summary>,
    /// Until the status reports the abort, during the update of all others.
    pub flood_reported: Option<Summary>,
    /// Until the canary is scaled to 0, during the update of all others.
    pub flood_removed: Option<Summary>,
    /// Aborts that were not complete in time.
    pub unfinished: u32,
}

/// How the leader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ending {
    /// SIGKILL.
    Killed,
    /// SIGTERM.
    Stopped,
}

/// One takeover. Times are in seconds after the signal. `None` if it did not happen in time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Takeover {
    /// How the leader ended.
    pub ending: Ending,
    /// Until the standby's first write except for Leases.
    pub first_write: Option<f64>,
    /// Until the status reports the Rollout that was changed right after the signal as observed.
    pub observed: Option<f64>,
}

/// Start of a controller with existing rollouts, one of which was changed while it did not run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartResult {
    /// Time in seconds until the change is observed. `None` if it was not in time.
    pub observed: Option<f64>,
    /// CPU time of the controller until then, in seconds.
    pub cpu_seconds: f64,
}

impl ProductResults {
    /// The results of a phase with a number of rollouts.
    pub fn phase(&self, phase: Phase, rollouts: u32) -> Option<&PhaseResult> {
        let mut phases = self.phases.iter();
        phases.find(|result| result.phase == phase && result.rollouts == rollouts)
    }

    /// The results of a phase with the most rollouts.
    pub fn largest(&self, phase: Phase) -> Option<&PhaseResult> {
        let phases = self.phases.iter().filter(|result| result.phase == phase);
        phases.max_by_key(|result| result.rollouts)
    }

    fn merge(&mut self, newer: Self) {
        self.phases
            .retain(|old| newer.phase(old.phase, old.rollouts).is_none());
        self.phases.extend(newer.phases);
        self.phases
            .sort_by_key(|result| (result.phase, result.rollouts));
        self.stopped = newer.stopped;
        // The latest comes first. Results of other commits stay attributed.
        if !self.environment.contains(&newer.environment) {
            self.environment = format!("{} Some phases: {}", newer.environment, self.environment);
        }
    }
}

impl Results {
    /// Adds results. They replace those of the same product, phase and number of rollouts.
    #[must_use]
    pub fn merged(mut self, newer: Self) -> Self {
        for new in newer.products {
            let mut products = self.products.iter_mut();
            match products.find(|old| old.product == new.product) {
                Some(old) => old.merge(new),
                None => self.products.push(new),
            }
        }
        self.products.sort_by_key(|results| results.product);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results_of(product: Product, environment: &str) -> ProductResults {
        ProductResults {
            product,
            environment: environment.into(),
            phases: Vec::new(),
            stopped: None,
        }
    }

    fn phase(phase: Phase, rollouts: u32, changed: u32) -> PhaseResult {
        PhaseResult {
            phase,
            rollouts,
            changed,
            ..PhaseResult::default()
        }
    }

    #[test]
    fn newer_results_replace_those_of_the_same_phase_and_size() {
        let mut older = results_of(Product::Serin, "old.");
        older.phases = vec![phase(Phase::Create, 20, 1), phase(Phase::Update, 20, 1)];
        let mut newer = results_of(Product::Serin, "new.");
        newer.phases = vec![phase(Phase::Create, 20, 2), phase(Phase::Create, 9, 2)];
        let older = Results {
            products: vec![older, results_of(Product::Flagger, "old.")],
        };
        let newer = Results {
            products: vec![results_of(Product::ArgoRaised, "new."), newer],
        };
        let merged = older.merged(newer).products;
        let products: Vec<_> = merged.iter().map(|results| results.product).collect();
        let expected = [Product::Serin, Product::ArgoRaised, Product::Flagger];
        assert_eq!(products, expected);
        let serin = &merged[0];
        assert_eq!(serin.environment, "new. Some phases: old.");
        let expected = [
            phase(Phase::Create, 9, 2),
            phase(Phase::Create, 20, 2),
            phase(Phase::Update, 20, 1),
        ];
        assert_eq!(serin.phases, expected);
    }

    #[test]
    fn results_survive_the_json_file() {
        let mut results = results_of(Product::Serin, "x");
        results.phases.push(PhaseResult {
            phase: Phase::Update,
            takeovers: vec![Takeover {
                ending: Ending::Killed,
                first_write: None,
                observed: Some(4.0),
            }],
            ..PhaseResult::default()
        });
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(
            serde_json::from_str::<ProductResults>(&text).unwrap(),
            results
        );
    }
}
