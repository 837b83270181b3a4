//! The weights of one rule: divided between stable and canary, or as the user wrote them.

use serde_json::Value;
use serin_core::units::Weight;

use crate::backend::{Backend, Rule};
use crate::error::{RouteError, RouteName};
use crate::original::{OriginalBackend, OriginalRule, OriginalWeights};
use crate::patch_builder::PatchBuilder;
use crate::router::Services;
use crate::split::{Split, split};

/// A managed rule with its current and original weights.
pub(crate) struct RuleSplit<'r, 'a> {
    rule: &'r Rule<'a>,
    services: Services<'r>,
    stable: &'r Backend<'a>,
    /// The original stable backend.
    original_stable: OriginalBackend,
    canary: Option<&'r Backend<'a>>,
    /// The original canary backend, if the user listed one.
    original_canary: Option<OriginalBackend>,
    pub(crate) original_rule: OriginalRule,
}

impl<'r, 'a> RuleSplit<'r, 'a> {
    pub(crate) fn new(
        rule: &'r Rule<'a>,
        route: &RouteName,
        services: Services<'r>,
        original: Option<&OriginalWeights>,
    ) -> Result<Self, RouteError> {
        let Services { stable, canary } = services;
        let Some(stable_now) = rule.service(stable, route)? else {
            return Err(RouteError::StableNotFound {
                route: route.clone(),
                location: rule.title(),
                stable: stable.into(),
                backends: rule
                    .backends
                    .iter()
                    .map(|b| format!("`{}`", b.identity.name))
                    .collect(),
            });
        };
        let canary_now = rule.service(canary, route)?;
        // A rule without a canary backend is as the user wrote it. Otherwise the recorded original
        // is needed.
        let recorded = original
            .and_then(|original| original.rule(rule.list_name(), rule.position, rule.name))
            .filter(|original| canary_now.is_some() && original.service(stable).is_some());
        let original_rule = recorded.cloned().unwrap_or_else(|| rule.to_original());
        Ok(Self {
            rule,
            services,
            stable: stable_now,
            original_stable: original_rule
                .service(stable)
                .cloned()
                .unwrap_or_else(|| stable_now.identity.clone()),
            canary: canary_now,
            original_canary: original_rule.service(canary).cloned(),
            original_rule,
        })
    }

    /// Whether the user's weights give no traffic to either side.
    pub(crate) fn has_no_traffic(&self) -> bool {
        let canary = self.canary.map_or(0, |canary| canary.weight);
        self.original_stable_weight() == 0 && self.stable.weight == 0 && canary == 0
    }

    /// Divides the original stable weight.
    pub(crate) fn divide(
        &self,
        changes: &mut PatchBuilder,
        route: &RouteName,
        weight: Weight,
    ) -> Result<(), RouteError> {
        let stable_weight = self.original_stable_weight();
        if stable_weight == 0 {
            return Err(self.no_traffic_error(route));
        }
        let others = self
            .others()
            .map(|(_, original)| original.map_or(0, |original| self.effective_weight(original)));
        let largest_other = others.filter(|weight| *weight > 0).max();
        let Split {
            stable,
            canary,
            factor,
        } = split(
            stable_weight,
            largest_other,
            weight,
            self.rule.layout.keeps_total,
        )
        .ok_or_else(|| RouteError::WeightTooFine {
            route: route.clone(),
            rule: self.rule.title(),
            stable: self.services.stable.into(),
            weight,
        })?;
        changes.set_weight(self.rule, self.stable, Some(stable));
        for (backend, original_rule) in self.others() {
            if let Some(original_rule) = original_rule
                && (factor > 1 || self.others_are_scaled())
            {
                let scaled = self.effective_weight(original_rule) * factor;
                changes.set_weight(
                    self.rule,
                    backend,
                    if factor > 1 {
                        Some(scaled)
                    } else {
                        original_rule.weight
                    },
                );
            }
        }
        match (self.canary, &self.original_canary) {
            (Some(now), Some(_)) => changes.set_weight(self.rule, now, Some(canary)),
            (Some(now), None) => changes.replace(self.rule, now, self.canary_backend(canary)),
            (None, _) => changes.append(self.rule, self.stable, self.canary_backend(canary)),
        }
        Ok(())
    }

    /// Restores the original weights. A canary backend that the user listed gets `canary_weight`,
    /// or its original weight if `None`.
    pub(crate) fn reset(
        &self,
        changes: &mut PatchBuilder,
        route: &RouteName,
        canary_weight: Option<u64>,
    ) -> Result<(), RouteError> {
        let Some(canary) = self.canary else {
            return Ok(());
        };
        let keeps_canary = canary_weight.is_none() && self.original_canary.is_some();
        if self.original_stable_weight() == 0 && canary.weight > 0 && !keeps_canary {
            return Err(self.no_traffic_error(route));
        }
        changes.set_weight(self.rule, self.stable, self.original_stable.weight);
        if self.others_are_scaled() {
            for (backend, original_rule) in self.others() {
                if let Some(original_rule) = original_rule {
                    changes.set_weight(self.rule, backend, original_rule.weight);
                }
            }
        }
        match &self.original_canary {
            Some(original_rule) => {
                changes.set_weight(self.rule, canary, canary_weight.or(original_rule.weight));
            }
            None => changes.remove(self.rule, canary),
        }
        Ok(())
    }

    /// Whether the weights of the other backends were multiplied, because the weights of stable and
    /// canary do not sum to the original stable weight. If not, they are as the user wrote them and
    /// must not be changed.
    fn others_are_scaled(&self) -> bool {
        let both = self.stable.weight + self.canary.map_or(0, |canary| canary.weight);
        both != self.original_stable_weight()
    }

    /// The other backends of the rule, each with its original.
    fn others(&self) -> impl Iterator<Item = (&'r Backend<'a>, Option<&OriginalBackend>)> {
        let identity: Vec<OriginalBackend> = self
            .rule
            .backends
            .iter()
            .map(|b| b.identity.clone())
            .collect();
        self.rule.backends.iter().filter_map(move |backend| {
            let Services { stable, canary } = self.services;
            let is_managed =
                backend.identity.is_service(stable) || backend.identity.is_service(canary);
            (!is_managed).then(|| {
                (
                    backend,
                    self.original_rule.counterpart(&identity, backend.index),
                )
            })
        })
    }

    /// A copy of the current stable backend, including port and filters, with the name of the
    /// canary.
    fn canary_backend(&self, weight: u64) -> Value {
        let mut copy = self.stable.object.clone();
        (self.rule.layout.set_service)(&mut copy, self.services.canary);
        copy["weight"] = weight.into();
        copy
    }

    /// The weight of a backend of the original rule.
    fn effective_weight(&self, original: &OriginalBackend) -> u64 {
        let default_weight = self.rule.layout.default_weight;
        let specified = original.weight;
        specified.unwrap_or_else(|| default_weight(self.original_rule.backends.len()))
    }

    fn original_stable_weight(&self) -> u64 {
        self.effective_weight(&self.original_stable)
    }

    fn no_traffic_error(&self, route: &RouteName) -> RouteError {
        RouteError::StableHasNoTraffic {
            route: route.clone(),
            rule: self.rule.title(),
            stable: self.services.stable.into(),
        }
    }
}
