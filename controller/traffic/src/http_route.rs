//! Gateway API HTTPRoute: a split is two `backendRefs` of one rule.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation,
};
use serde_json::Value;
use serin_core::units::Weight;

use crate::backend::{Backend, Rule, malformed};
use crate::original::{Original, OriginalBackend, OriginalRule};
use crate::problem::{RouteName, RouteProblem};
use crate::split::{Split, share, split};

/// The stable and the canary Service.
type Services<'a> = (&'a str, &'a str);

pub(crate) fn canary_weight(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
) -> Result<Weight, RouteProblem> {
    let name = name_of(route);
    let mut shares = Vec::new();
    for rule in selected(route, &name, rule, stable)? {
        let weight = |service| -> Result<u64, RouteProblem> {
            Ok(rule.service(service, &name)?.map_or(0, Backend::weight))
        };
        let (stable, canary) = (weight(stable)?, weight(canary)?);
        // A rule that gives nothing to either side says nothing about the split.
        if stable + canary > 0 {
            shares.push((rule.title(), share(stable, canary)));
        }
    }
    let first = shares.first().map_or(Weight::ZERO, |(_, share)| *share);
    if shares.iter().all(|(_, share)| *share == first) {
        return Ok(first);
    }
    Err(RouteProblem::RulesDisagree {
        route: name,
        shares: shares
            .iter()
            .map(|(rule, share)| format!("{rule}: {share}"))
            .collect(),
    })
}

pub(crate) fn set_weight(
    route: &Value,
    rule: Option<&str>,
    services: Services<'_>,
    weight: Weight,
    original: Option<&Original>,
) -> Result<Patch, RouteProblem> {
    let name = name_of(route);
    let mut changes = Changes::default();
    let rules = selected(route, &name, rule, services.0)?;
    let hands: Vec<Hand<'_, '_>> = rules
        .iter()
        .map(|rule| Hand::of(rule, &name, services, original))
        .collect::<Result<_, _>>()?;
    let any_traffic = !hands.iter().all(Hand::is_unused);
    for hand in hands {
        // The user has taken the traffic of this rule off the Rollout; that of the others is
        // divided.
        if any_traffic && hand.is_unused() {
            continue;
        }
        if weight.is_zero() {
            hand.reset(&mut changes, &name, Some(0))?;
        } else {
            hand.divide(&mut changes, &name, weight)?;
        }
    }
    changes.into_patch(route, &name)
}

pub(crate) fn refreshed(
    route: &Value,
    rule: Option<&str>,
    (stable, canary): Services<'_>,
    known: Option<&Original>,
) -> Result<Original, RouteProblem> {
    let name = name_of(route);
    let rules = selected(route, &name, rule, stable)?;
    let refresh = |rule: &Rule<'_>| {
        let base = Hand::of(rule, &name, (stable, canary), known)?.base;
        Ok(OriginalRule {
            index: rule.index,
            ..base
        })
    };
    Ok(Original {
        rules: rules.iter().map(refresh).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn restore(
    route: &Value,
    original: &Original,
    services: Services<'_>,
) -> Result<Patch, RouteProblem> {
    let name = name_of(route);
    let mut changes = Changes::default();
    for rule in Rule::all(route, &name)? {
        let remembered = original.rule(rule.index, rule.name).is_some();
        if remembered && rule.service(services.0, &name)?.is_some() {
            Hand::of(&rule, &name, services, Some(original))?.reset(&mut changes, &name, None)?;
        }
    }
    changes.into_patch(route, &name)
}

/// The rules to split: the named one, or all that have the stable Service; never none.
fn selected<'a>(
    route: &'a Value,
    name: &RouteName,
    rule: Option<&str>,
    stable: &str,
) -> Result<Vec<Rule<'a>>, RouteProblem> {
    let rules = Rule::all(route, name)?;
    if let Some(wanted) = rule
        && rules.iter().all(|rule| rule.name != Some(wanted))
    {
        return Err(RouteProblem::RuleNotFound {
            route: name.clone(),
            rule: wanted.into(),
            known: rules.iter().map(Rule::title).collect(),
        });
    }
    let mut others = Vec::new();
    let mut chosen = Vec::new();
    for candidate in rules {
        if rule.is_some() && candidate.name != rule {
            continue;
        }
        if candidate.service(stable, name)?.is_some() {
            chosen.push(candidate);
        } else {
            others.extend(
                candidate
                    .backends
                    .iter()
                    .map(|b| format!("`{}`", b.seen.name)),
            );
        }
    }
    if chosen.is_empty() {
        others.dedup();
        return Err(RouteProblem::StableNotFound {
            route: name.clone(),
            place: rule.map_or_else(|| "any rule".into(), |rule| format!("rule `{rule}`")),
            stable: stable.into(),
            backends: others,
        });
    }
    Ok(chosen)
}

/// A rule, and what its weights are without Serin's hand in it.
struct Hand<'r, 'a> {
    rule: &'r Rule<'a>,
    services: Services<'r>,
    stable: &'r Backend<'a>,
    /// Stable's weight without Serin, as written.
    stable_base: OriginalBackend,
    canary: Option<&'r Backend<'a>>,
    /// The canary's backend, where the user wrote one.
    canary_base: Option<OriginalBackend>,
    base: OriginalRule,
}

impl<'r, 'a> Hand<'r, 'a> {
    fn of(
        rule: &'r Rule<'a>,
        route: &RouteName,
        services: Services<'r>,
        original: Option<&Original>,
    ) -> Result<Self, RouteProblem> {
        let (stable, canary) = services;
        let Some(stable_now) = rule.service(stable, route)? else {
            return Err(RouteProblem::StableNotFound {
                route: route.clone(),
                place: rule.title(),
                stable: stable.into(),
                backends: rule
                    .backends
                    .iter()
                    .map(|b| format!("`{}`", b.seen.name))
                    .collect(),
            });
        };
        let canary_now = rule.service(canary, route)?;
        // Without a canary the rule is as its user wrote it; with one, only what was remembered
        // tells.
        let remembered = original
            .and_then(|original| original.rule(rule.index, rule.name))
            .filter(|known| canary_now.is_some() && known.service(stable).is_some());
        let base = remembered.cloned().unwrap_or_else(|| rule.as_original());
        Ok(Self {
            rule,
            services,
            stable: stable_now,
            stable_base: base
                .service(stable)
                .cloned()
                .unwrap_or_else(|| stable_now.seen.clone()),
            canary: canary_now,
            canary_base: base.service(canary).cloned(),
            base,
        })
    }

    /// Whether the user's weights give nothing to either side.
    fn is_unused(&self) -> bool {
        let canary = self.canary.map_or(0, Backend::weight);
        self.stable_base.weight_in_force() == 0 && self.stable.weight() == 0 && canary == 0
    }

    /// Divides stable's original share.
    fn divide(
        &self,
        changes: &mut Changes,
        route: &RouteName,
        weight: Weight,
    ) -> Result<(), RouteProblem> {
        let whole = self.stable_base.weight_in_force();
        if whole == 0 {
            return Err(self.no_traffic(route));
        }
        let others = self
            .others()
            .map(|(_, base)| base.map_or(0, OriginalBackend::weight_in_force));
        let largest_other = others.filter(|weight| *weight > 0).max();
        let Split {
            stable,
            canary,
            factor,
        } = split(whole, largest_other, weight).ok_or_else(|| RouteProblem::TooFine {
            route: route.clone(),
            rule: self.rule.title(),
            stable: self.services.0.into(),
            weight,
        })?;
        changes.weight(self.rule, self.stable, Some(stable));
        for (backend, base) in self.others() {
            if let Some(base) = base
                && (factor > 1 || self.others_are_scaled())
            {
                let scaled = base.weight_in_force() * factor;
                changes.weight(
                    self.rule,
                    backend,
                    if factor > 1 {
                        Some(scaled)
                    } else {
                        base.weight
                    },
                );
            }
        }
        match (self.canary, &self.canary_base) {
            (Some(now), Some(_)) => changes.weight(self.rule, now, Some(canary)),
            (Some(now), None) => changes.replace(self.rule, now, self.canary_like_stable(canary)),
            (None, _) => changes.append(self.rule, self.stable, self.canary_like_stable(canary)),
        }
        Ok(())
    }

    /// Puts the weights back as the user wrote them; a canary that the user wrote gets
    /// `canary_weight`, or without one its own.
    fn reset(
        &self,
        changes: &mut Changes,
        route: &RouteName,
        canary_weight: Option<u64>,
    ) -> Result<(), RouteProblem> {
        let Some(canary) = self.canary else {
            return Ok(());
        };
        let keeps_canary = canary_weight.is_none() && self.canary_base.is_some();
        if self.stable_base.weight == Some(0) && canary.weight() > 0 && !keeps_canary {
            return Err(self.no_traffic(route));
        }
        changes.weight(self.rule, self.stable, self.stable_base.weight);
        if self.others_are_scaled() {
            for (backend, base) in self.others() {
                if let Some(base) = base {
                    changes.weight(self.rule, backend, base.weight);
                }
            }
        }
        match &self.canary_base {
            Some(base) => changes.weight(self.rule, canary, canary_weight.or(base.weight)),
            None => changes.remove(self.rule, canary),
        }
        Ok(())
    }

    /// Whether the two sum to something else than stable's own weight, so that the others' weights
    /// were multiplied too. Where they were not, they are their user's at every moment and are not
    /// touched.
    fn others_are_scaled(&self) -> bool {
        let both = self.stable.weight() + self.canary.map_or(0, Backend::weight);
        both != self.stable_base.weight_in_force()
    }

    /// The rule's other backends, each with what it was.
    fn others(&self) -> impl Iterator<Item = (&'r Backend<'a>, Option<&OriginalBackend>)> {
        let seen: Vec<OriginalBackend> =
            self.rule.backends.iter().map(|b| b.seen.clone()).collect();
        self.rule.backends.iter().filter_map(move |backend| {
            let (stable, canary) = self.services;
            let ours = backend.seen.is_service(stable) || backend.seen.is_service(canary);
            (!ours).then(|| (backend, self.base.counterpart(&seen, backend.index)))
        })
    }

    /// The stable backend as it stands (port, filters and what else it has), under the canary's
    /// name.
    fn canary_like_stable(&self, weight: u64) -> Value {
        let mut copy = self.stable.object.clone();
        copy["name"] = self.services.1.into();
        copy["weight"] = weight.into();
        copy
    }

    fn no_traffic(&self, route: &RouteName) -> RouteProblem {
        RouteProblem::StableHasNoTraffic {
            route: route.clone(),
            rule: self.rule.title(),
            stable: self.services.0.into(),
        }
    }
}

/// A patch in the making: what is expected of the object, what changes in place, and what goes
/// (last, so that no index moves under another operation).
#[derive(Default)]
struct Changes {
    tests: Vec<PatchOperation>,
    edits: Vec<PatchOperation>,
    removals: Vec<PatchOperation>,
}

impl Changes {
    /// Gives a backend this weight, or no weight field.
    fn weight(&mut self, rule: &Rule<'_>, backend: &Backend<'_>, weight: Option<u64>) {
        if backend.seen.weight == weight {
            return;
        }
        self.expect(rule, backend);
        let path = backend_path(rule, backend).with_trailing_token("weight");
        let written = backend.object.get("weight").is_some();
        self.edits.push(match weight {
            None => PatchOperation::Remove(RemoveOperation { path }),
            Some(w) if written => PatchOperation::Replace(ReplaceOperation {
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
        self.expect(rule, backend);
        let path = backend_path(rule, backend);
        self.edits
            .push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }

    fn append(&mut self, rule: &Rule<'_>, beside: &Backend<'_>, value: Value) {
        self.expect(rule, beside);
        let path =
            PointerBuf::from_tokens(["spec", "rules", &rule.index.to_string(), "backendRefs", "-"]);
        self.edits
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn remove(&mut self, rule: &Rule<'_>, backend: &Backend<'_>) {
        self.expect(rule, backend);
        let path = backend_path(rule, backend);
        self.removals
            .push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// The backend at this place is still the one that was read.
    fn expect(&mut self, rule: &Rule<'_>, backend: &Backend<'_>) {
        let path = backend_path(rule, backend).with_trailing_token("name");
        let value = Value::from(backend.seen.name.as_str());
        let test = PatchOperation::Test(TestOperation { path, value });
        if !self.tests.contains(&test) {
            self.tests.push(test);
        }
    }

    /// Nothing at all where nothing changes.
    fn into_patch(self, route: &Value, name: &RouteName) -> Result<Patch, RouteProblem> {
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
                "a text",
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
    let (rule, place) = (rule.index.to_string(), backend.index.to_string());
    PointerBuf::from_tokens(["spec", "rules", &rule, "backendRefs", &place])
}

fn name_of(route: &Value) -> RouteName {
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
