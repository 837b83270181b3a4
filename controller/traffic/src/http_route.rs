//! Gateway API HTTPRoute: stable and canary are two `backendRefs` of a rule.

use json_patch::Patch;
use serde_json::Value;
use serin_core::plan::RouteKind;
use serin_core::units::Weight;

use crate::backend::{Backend, Rule};
use crate::error::{RouteError, RouteName};
use crate::original::{OriginalBackend, OriginalRule, OriginalWeights};
use crate::patch_builder::PatchBuilder;
use crate::programmed::{ProgrammedStatus, programmed_status};
use crate::router::{ManagedRule, Router, Services};
use crate::split::{Split, share, split};

const KIND: &str = "HTTPRoute";

/// `gateway.networking.k8s.io` HTTPRoute.
pub(crate) struct HttpRouteRouter;

impl Router for HttpRouteRouter {
    fn route_kind(&self) -> RouteKind {
        RouteKind::HttpRoute
    }

    fn group(&self) -> &'static str {
        "gateway.networking.k8s.io"
    }

    /// The fields that Serin uses are equal in all versions.
    fn versions(&self) -> &'static [&'static str] {
        &["v1", "v1beta1"]
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    fn plural(&self) -> &'static str {
        "httproutes"
    }

    fn installed_by(&self) -> &'static str {
        "the CRDs of the Gateway API"
    }

    fn managed_rules(
        &self,
        route: &Value,
        rule: Option<&str>,
        stable: &str,
    ) -> Result<Vec<ManagedRule>, RouteError> {
        managed_rules(route, rule, stable)
    }

    fn canary_weight(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
    ) -> Result<Weight, RouteError> {
        canary_weight(route, rule, services)
    }

    fn set_weight(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        weight: Weight,
        original: Option<&OriginalWeights>,
    ) -> Result<Patch, RouteError> {
        set_weight(route, rule, services, weight, original)
    }

    fn programmed_status(&self, route: &Value) -> ProgrammedStatus {
        programmed_status(route)
    }

    fn refresh_original(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        known: Option<&OriginalWeights>,
    ) -> Result<OriginalWeights, RouteError> {
        refresh_original(route, rule, services, known)
    }

    fn restore(
        &self,
        route: &Value,
        original: &OriginalWeights,
        services: Services<'_>,
    ) -> Result<Patch, RouteError> {
        restore(route, original, services)
    }
}

fn managed_rules(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
) -> Result<Vec<ManagedRule>, RouteError> {
    let rules = selected_rules(route, &route_name(route), rule, stable)?;
    let managed = rules.iter().map(|rule| ManagedRule {
        name: rule.name.map(Into::into),
        services: rule
            .backends
            .iter()
            .filter(|backend| backend.identity.is_service(&backend.identity.name))
            .map(|backend| backend.identity.name.clone())
            .collect(),
    });
    Ok(managed.collect())
}

fn canary_weight(
    route: &Value,
    rule: Option<&str>,
    Services { stable, canary }: Services<'_>,
) -> Result<Weight, RouteError> {
    let name = route_name(route);
    let mut shares = Vec::new();
    for rule in selected_rules(route, &name, rule, stable)? {
        let weight = |service| -> Result<u64, RouteError> {
            Ok(rule.service(service, &name)?.map_or(0, Backend::weight))
        };
        let (stable, canary) = (weight(stable)?, weight(canary)?);
        // A rule without traffic for either side is ignored.
        if stable + canary > 0 {
            shares.push((rule.title(), share(stable, canary)));
        }
    }
    let first = shares.first().map_or(Weight::ZERO, |(_, share)| *share);
    if shares.iter().all(|(_, share)| *share == first) {
        return Ok(first);
    }
    Err(RouteError::RulesDisagree {
        route: name,
        shares: shares
            .iter()
            .map(|(rule, share)| format!("{rule}: {share}"))
            .collect(),
    })
}

fn set_weight(
    route: &Value,
    rule: Option<&str>,
    services: Services<'_>,
    weight: Weight,
    original: Option<&OriginalWeights>,
) -> Result<Patch, RouteError> {
    let name = route_name(route);
    let mut changes = PatchBuilder::default();
    let rules = selected_rules(route, &name, rule, services.stable)?;
    let splits: Vec<RuleSplit<'_, '_>> = rules
        .iter()
        .map(|rule| RuleSplit::new(rule, &name, services, original))
        .collect::<Result<_, _>>()?;
    let any_traffic = !splits.iter().all(RuleSplit::has_no_traffic);
    for split_rule in splits {
        // The user has removed the traffic of this rule. Only the other rules are divided.
        if any_traffic && split_rule.has_no_traffic() {
            continue;
        }
        if weight.is_zero() {
            split_rule.reset(&mut changes, &name, Some(0))?;
        } else {
            split_rule.divide(&mut changes, &name, weight)?;
        }
    }
    changes.into_patch(route, &name)
}

fn refresh_original(
    route: &Value,
    rule: Option<&str>,
    services: Services<'_>,
    original: Option<&OriginalWeights>,
) -> Result<OriginalWeights, RouteError> {
    let name = route_name(route);
    let rules = selected_rules(route, &name, rule, services.stable)?;
    let refresh = |rule: &Rule<'_>| {
        let original_rule = RuleSplit::new(rule, &name, services, original)?.original_rule;
        Ok(OriginalRule {
            index: rule.index,
            ..original_rule
        })
    };
    Ok(OriginalWeights {
        rules: rules.iter().map(refresh).collect::<Result<_, _>>()?,
    })
}

fn restore(
    route: &Value,
    original: &OriginalWeights,
    services: Services<'_>,
) -> Result<Patch, RouteError> {
    let name = route_name(route);
    let mut changes = PatchBuilder::default();
    for rule in Rule::all(route, &name)? {
        let recorded = original.rule(rule.index, rule.name).is_some();
        if recorded && rule.service(services.stable, &name)?.is_some() {
            RuleSplit::new(&rule, &name, services, Some(original))?.reset(
                &mut changes,
                &name,
                None,
            )?;
        }
    }
    changes.into_patch(route, &name)
}

/// The managed rules: the rule with this name, or all rules with the stable Service. Never empty.
fn selected_rules<'a>(
    route: &'a Value,
    name: &RouteName,
    rule: Option<&str>,
    stable: &str,
) -> Result<Vec<Rule<'a>>, RouteError> {
    let rules = Rule::all(route, name)?;
    if let Some(expected) = rule
        && rules.iter().all(|rule| rule.name != Some(expected))
    {
        return Err(RouteError::RuleNotFound {
            route: name.clone(),
            rule: expected.into(),
            existing: rules.iter().map(Rule::title).collect(),
        });
    }
    let mut others = Vec::new();
    let mut selected = Vec::new();
    for candidate in rules {
        if rule.is_some() && candidate.name != rule {
            continue;
        }
        if candidate.service(stable, name)?.is_some() {
            selected.push(candidate);
        } else {
            others.extend(
                candidate
                    .backends
                    .iter()
                    .map(|b| format!("`{}`", b.identity.name)),
            );
        }
    }
    if selected.is_empty() {
        others.dedup();
        return Err(RouteError::StableNotFound {
            route: name.clone(),
            location: rule.map_or_else(|| "any rule".into(), |rule| format!("rule `{rule}`")),
            stable: stable.into(),
            backends: others,
        });
    }
    Ok(selected)
}

/// A managed rule with its current and original weights.
struct RuleSplit<'r, 'a> {
    rule: &'r Rule<'a>,
    services: Services<'r>,
    stable: &'r Backend<'a>,
    /// The original stable backend.
    original_stable: OriginalBackend,
    canary: Option<&'r Backend<'a>>,
    /// The original canary backend, if the user listed one.
    original_canary: Option<OriginalBackend>,
    original_rule: OriginalRule,
}

impl<'r, 'a> RuleSplit<'r, 'a> {
    fn new(
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
            .and_then(|original| original.rule(rule.index, rule.name))
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
    fn has_no_traffic(&self) -> bool {
        let canary = self.canary.map_or(0, Backend::weight);
        self.original_stable.effective_weight() == 0 && self.stable.weight() == 0 && canary == 0
    }

    /// Divides the original stable weight.
    fn divide(
        &self,
        changes: &mut PatchBuilder,
        route: &RouteName,
        weight: Weight,
    ) -> Result<(), RouteError> {
        let stable_weight = self.original_stable.effective_weight();
        if stable_weight == 0 {
            return Err(self.no_traffic_error(route));
        }
        let others = self
            .others()
            .map(|(_, original_rule)| original_rule.map_or(0, OriginalBackend::effective_weight));
        let largest_other = others.filter(|weight| *weight > 0).max();
        let Split {
            stable,
            canary,
            factor,
        } = split(stable_weight, largest_other, weight).ok_or_else(|| {
            RouteError::WeightTooFine {
                route: route.clone(),
                rule: self.rule.title(),
                stable: self.services.stable.into(),
                weight,
            }
        })?;
        changes.set_weight(self.rule, self.stable, Some(stable));
        for (backend, original_rule) in self.others() {
            if let Some(original_rule) = original_rule
                && (factor > 1 || self.others_are_scaled())
            {
                let scaled = original_rule.effective_weight() * factor;
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
    fn reset(
        &self,
        changes: &mut PatchBuilder,
        route: &RouteName,
        canary_weight: Option<u64>,
    ) -> Result<(), RouteError> {
        let Some(canary) = self.canary else {
            return Ok(());
        };
        let keeps_canary = canary_weight.is_none() && self.original_canary.is_some();
        if self.original_stable.weight == Some(0) && canary.weight() > 0 && !keeps_canary {
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
        let both = self.stable.weight() + self.canary.map_or(0, Backend::weight);
        both != self.original_stable.effective_weight()
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
        copy["name"] = self.services.canary.into();
        copy["weight"] = weight.into();
        copy
    }

    fn no_traffic_error(&self, route: &RouteName) -> RouteError {
        RouteError::StableHasNoTraffic {
            route: route.clone(),
            rule: self.rule.title(),
            stable: self.services.stable.into(),
        }
    }
}

fn route_name(route: &Value) -> RouteName {
    let text = |field: &str| {
        let value = route
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        Box::from(value.and_then(Value::as_str).unwrap_or_default())
    };
    RouteName {
        kind: KIND,
        namespace: text("namespace"),
        name: text("name"),
    }
}
