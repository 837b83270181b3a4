//! Gateway API HTTPRoute: stable and canary are two `backendRefs` of a rule.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation,
};
use serde_json::Value;
use serin_core::units::Weight;

use crate::backend::{Backend, Rule, malformed};
use crate::error::{RouteError, RouteName};
use crate::original::{OriginalBackend, OriginalRule, OriginalWeights};
use crate::programmed::{ProgrammedStatus, programmed_status};
use crate::router::{Router, Services};
use crate::split::{Split, share, split};

/// `gateway.networking.k8s.io` HTTPRoute.
pub(crate) struct HttpRouteRouter;

impl Router for HttpRouteRouter {
    fn group(&self) -> &'static str {
        "gateway.networking.k8s.io"
    }

    fn kind(&self) -> &'static str {
        "HTTPRoute"
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

/// Builds a patch: tests, changes in place, and removals. Removals come last, so that no index of
/// another operation shifts.
#[derive(Default)]
struct PatchBuilder {
    tests: Vec<PatchOperation>,
    edits: Vec<PatchOperation>,
    removals: Vec<PatchOperation>,
}

impl PatchBuilder {
    /// Sets the weight of a backend, or removes the field if `None`.
    fn set_weight(&mut self, rule: &Rule<'_>, backend: &Backend<'_>, weight: Option<u64>) {
        if backend.identity.weight == weight {
            return;
        }
        self.test_backend(rule, backend);
        let path = backend_path(rule, backend).with_trailing_token("weight");
        let has_weight = backend.object.get("weight").is_some();
        self.edits.push(match weight {
            None => PatchOperation::Remove(RemoveOperation { path }),
            Some(w) if has_weight => PatchOperation::Replace(ReplaceOperation {
                path,
                value: w.into(),
            }),
            Some(w) => PatchOperation::Add(AddOperation {
                path,
                value: w.into(),
            }),
        });
    }

    fn replace(&mut self, rule: &Rule<'_>, backend: &Backend<'_>, value: Value) {
        if *backend.object == value {
            return;
        }
        self.test_backend(rule, backend);
        let path = backend_path(rule, backend);
        self.edits
            .push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }

    fn append(&mut self, rule: &Rule<'_>, beside: &Backend<'_>, value: Value) {
        self.test_backend(rule, beside);
        let path =
            PointerBuf::from_tokens(["spec", "rules", &rule.index.to_string(), "backendRefs", "-"]);
        self.edits
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn remove(&mut self, rule: &Rule<'_>, backend: &Backend<'_>) {
        self.test_backend(rule, backend);
        let path = backend_path(rule, backend);
        self.removals
            .push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// Adds a test that the backend at this index is still the same.
    fn test_backend(&mut self, rule: &Rule<'_>, backend: &Backend<'_>) {
        let path = backend_path(rule, backend).with_trailing_token("name");
        let value = Value::from(backend.identity.name.as_str());
        let test = PatchOperation::Test(TestOperation { path, value });
        if !self.tests.contains(&test) {
            self.tests.push(test);
        }
    }

    /// The patch, or an empty patch without changes.
    fn into_patch(self, route: &Value, name: &RouteName) -> Result<Patch, RouteError> {
        if self.edits.is_empty() && self.removals.is_empty() {
            return Ok(Patch(Vec::new()));
        }
        let version = route
            .pointer("/metadata/resourceVersion")
            .filter(|v| v.is_string());
        let Some(version) = version else {
            return Err(malformed(
                name,
                "/metadata/resourceVersion".into(),
                "a string",
            ));
        };
        let unchanged = PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
            value: version.clone(),
        });
        let operations = std::iter::once(unchanged)
            .chain(self.tests)
            .chain(self.edits)
            .chain(self.removals);
        Ok(Patch(operations.collect()))
    }
}

fn backend_path(rule: &Rule<'_>, backend: &Backend<'_>) -> PointerBuf {
    let (rule, index) = (rule.index.to_string(), backend.index.to_string());
    PointerBuf::from_tokens(["spec", "rules", &rule, "backendRefs", &index])
}

fn route_name(route: &Value) -> RouteName {
    let text = |field: &str| {
        let value = route
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        Box::from(value.and_then(Value::as_str).unwrap_or_default())
    };
    RouteName {
        kind: "HTTPRoute",
        namespace: text("namespace"),
        name: text("name"),
    }
}
