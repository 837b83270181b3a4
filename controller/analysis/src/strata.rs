//! Evidence by endpoint, so that a broken endpoint with little traffic is found among the requests
//! of all the others.
//!
//! Each endpoint is a stratum with its own process of share bets ([`crate::bet::share`]). The
//! evidence of an objective with strata is the mean of the process of all requests and of the mean
//! over the strata. A mean of e-processes is an e-process, whatever their dependence, so the bound
//! on false rollbacks is the same: for a release that is good at every endpoint. Source: Turner and
//! Grünwald, arXiv 2302.11401.
//!
//! The strata are fixed by the first answer, from series of all requests, which do not depend on
//! errors. Endpoints that appear later, and those beyond the maximum, are one more stratum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bet::share;
use crate::config::EvidenceConfig;
use crate::counters::{CounterConfig, RoundBuilder, SampleBatch};
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::evidence::Bets;
use crate::numeric::log_sum_exp;
use crate::objective::RoundContext;

/// Maximum number of strata, with the one of all other endpoints.
pub const MAX_STRATA: usize = 20;

/// The persistent state of the strata: about 500 bytes of JSON for each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StrataState {
    /// The strata. The last one has all endpoints that have none of their own.
    strata: Vec<Stratum>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stratum {
    /// Name of the endpoint. Empty for the stratum of all others.
    name: String,
    round_at_ms: i64,
    totals: Counts,
    ticks: u64,
    mixture: Mixture,
    funding: Funding,
}

/// The endpoint with the strongest evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointEvidence {
    /// Name of the endpoint.
    pub name: String,
    /// Its requests and errors.
    pub counts: Counts,
}

impl StrataState {
    /// Whether this state fits the bets. Otherwise it belongs to another configuration.
    pub fn is_compatible(&self, bets: &Bets) -> bool {
        let len = bets.rollback_ln_weights().len();
        self.strata.len() <= MAX_STRATA
            && self
                .strata
                .iter()
                .all(|stratum| stratum.mixture.len() == len)
    }

    /// Whether the strata are known.
    pub fn is_set(&self) -> bool {
        !self.strata.is_empty()
    }

    /// Number of strata.
    pub fn len(&self) -> usize {
        self.strata.len()
    }

    /// Whether there are no strata yet.
    pub fn is_empty(&self) -> bool {
        self.strata.is_empty()
    }

    /// Index of the stratum of an endpoint.
    pub fn index_of(&self, endpoint: &str) -> usize {
        let named = self
            .strata
            .iter()
            .position(|stratum| stratum.name == endpoint);
        named.unwrap_or_else(|| self.strata.len().saturating_sub(1))
    }

    /// `ln` of the mean of this process and of the process of all requests, `ln_e`.
    pub fn ln_mean_with(&self, ln_e: f64, bets: &Bets) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 20 strata")]
        let ln_strata = (self.strata.len().max(1) as f64).ln();
        // Before the strata are known nothing is at stake.
        let strata = if self.strata.is_empty() {
            0.0
        } else {
            log_sum_exp(self.strata.iter().map(|stratum| stratum.ln_e(bets))) - ln_strata
        };
        log_sum_exp([ln_e, strata].into_iter()) - std::f64::consts::LN_2
    }

    /// The named endpoint with the strongest evidence, if it is evidence that the canary is worse.
    pub fn worst(&self, bets: &Bets) -> Option<EndpointEvidence> {
        let worst = self
            .strata
            .iter()
            .filter(|stratum| !stratum.name.is_empty() && stratum.ln_e(bets) > 0.0)
            .max_by(|one, other| one.ln_e(bets).total_cmp(&other.ln_e(bets)))?;
        Some(EndpointEvidence {
            name: worst.name.clone(),
            counts: worst.totals,
        })
    }
}

impl Stratum {
    fn new(name: String, round_at_ms: i64, bets: &Bets) -> Self {
        Self {
            name,
            round_at_ms,
            totals: Counts::default(),
            ticks: 0,
            mixture: Mixture::new(bets.rollback_ln_weights().len()),
            funding: Funding::default(),
        }
    }

    fn ln_e(&self, bets: &Bets) -> f64 {
        self.mixture.ln_value(bets.rollback_ln_weights())
    }

    fn add(
        &mut self,
        config: &EvidenceConfig,
        began_ms: i64,
        tick: &Tick,
        terms: &StrataTerms<'_>,
    ) {
        self.ticks += 1;
        let context = terms.context.of_tick(tick);
        let omega = self.funding.due(
            &config.restarts,
            self.ticks,
            elapsed_seconds(began_ms, tick),
            tick.started_ms < context.warm_up_ends_ms,
            config.warm_up_seconds,
        );
        self.mixture.fund(omega);
        let has_both = tick.counts.canary_requests > 0.0 && tick.counts.stable_requests > 0.0;
        if has_both && !context.changes_weight(tick) {
            let delta = context.tolerance(config, tick);
            let lines = config.rollback.rho.iter().map(|rho| {
                share(&tick.counts, *rho, config.rho0)
                    .tempered(terms.k)
                    .at(delta)
            });
            self.mixture
                .multiply(lines, config.clip.unwrap_or(f64::INFINITY));
        }
        self.totals.add(&tick.counts);
        self.round_at_ms = tick.at_ms;
    }
}

/// What the bets of one observation assume.
#[derive(Debug, Clone, Copy)]
pub struct StrataTerms<'a> {
    /// The temper of the objective before this observation, at least 1.
    pub k: f64,
    /// Context of the ticks.
    pub context: &'a RoundContext,
}

/// Running strata: their configuration, and counter values that are rebuilt after a restart.
#[derive(Debug, Clone)]
pub struct Strata {
    counters: CounterConfig,
    began_ms: i64,
    builders: Vec<RoundBuilder>,
}

impl Strata {
    /// Resumes from a stored state. `began_ms` is the start of the release.
    pub fn resume(counters: CounterConfig, began_ms: i64, state: &StrataState) -> Self {
        let resume =
            |stratum: &Stratum| RoundBuilder::resume(counters, began_ms, stratum.round_at_ms);
        Self {
            counters,
            began_ms,
            builders: state.strata.iter().map(resume).collect(),
        }
    }

    /// Changes the counter configuration, effective with the next observation.
    pub fn set_counters(&mut self, counters: CounterConfig) {
        self.counters = counters;
        self.builders
            .iter_mut()
            .for_each(|builder| builder.set_config(counters));
    }

    /// Sets the strata to the endpoints with the most requests, unless they are set. `requests` are
    /// counter values by endpoint. With fewer than two endpoints there are no strata. Samples up to
    /// `round_at_ms` only serve as a baseline.
    pub fn set_endpoints(
        &mut self,
        state: &mut StrataState,
        requests: &BTreeMap<String, f64>,
        round_at_ms: i64,
        bets: &Bets,
    ) {
        if state.is_set() || requests.len() < 2 {
            return;
        }
        let mut endpoints: Vec<(&String, f64)> = requests
            .iter()
            .map(|(name, requests)| (name, *requests))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        endpoints.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let names = endpoints
            .into_iter()
            .take(MAX_STRATA - 1)
            .map(|(name, _)| name.clone())
            .chain(std::iter::once(String::new()));
        state.strata = names
            .map(|name| Stratum::new(name, round_at_ms, bets))
            .collect();
        *self = Self::resume(self.counters, self.began_ms, state);
    }

    /// Adds samples, one batch for each stratum in order.
    pub fn observe(
        &mut self,
        state: &mut StrataState,
        bets: &Bets,
        batches: &[SampleBatch<'_>],
        terms: &StrataTerms<'_>,
    ) {
        let strata = state.strata.iter_mut().zip(&mut self.builders);
        for ((stratum, builder), batch) in strata.zip(batches) {
            for tick in builder.add_samples(batch).ticks {
                stratum.add(bets.config(), self.began_ms, &tick, terms);
            }
            stratum.round_at_ms = builder.round_at_ms();
        }
    }
}

#[cfg(test)]
mod tests;
