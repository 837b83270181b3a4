//! The router of every kind of route whose rules list weighted backends.

use json_patch::Patch;
use serde_json::Value;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::managed_route::ManagedRoute;
use serin_core::plan::RouteKind;
use serin_core::units::Weight;

use crate::added_rules::{self, AddedRules};
use crate::backend::{Backend, Layout, RoutedUnit, Rule, malformed};
use crate::error::{RouteError, RouteName};
use crate::original::{OriginalRule, OriginalWeights};
use crate::patch_builder::PatchBuilder;
use crate::programmed::ProgrammedStatus;
use crate::router::{ManagedRule, RouteBackend, RouteRule, Router, Services};
use crate::rule_split::RuleSplit;
use crate::split::share;

/// A kind of route, described by where it keeps its rules and backends.
#[derive(Debug)]
pub(crate) struct BackendRouter {
    pub(crate) route_kind: RouteKind,
    pub(crate) group: &'static str,
    pub(crate) versions: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) installed_by: &'static str,
    pub(crate) layout: &'static Layout,
    pub(crate) programmed_status: fn(&Value) -> ProgrammedStatus,
}

impl Router for BackendRouter {
    fn route_kind(&self) -> RouteKind {
        self.route_kind
    }

    fn group(&self) -> &'static str {
        self.group
    }

    fn versions(&self) -> &'static [&'static str] {
        self.versions
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn plural(&self) -> &'static str {
        self.plural
    }

    fn installed_by(&self) -> &'static str {
        self.installed_by
    }

    fn rules(&self, route: &Value) -> Result<Vec<RouteRule>, RouteError> {
        let name = self.route_name(route);
        let rules = self.all_rules(route, &name)?;
        let rule = |rule: &Rule<'_>| RouteRule {
            title: rule.title(),
            index: rule.index,
            name: rule.name.map(Into::into),
            backends: service_backends(rule, &name.namespace),
        };
        Ok(rules.iter().map(rule).collect())
    }

    fn managed_rules(
        &self,
        route: &Value,
        rule: Option<&str>,
        stable: &str,
    ) -> Result<Vec<ManagedRule>, RouteError> {
        let rules = self.selected_rules(route, &self.route_name(route), rule, stable)?;
        let managed = rules.iter().map(|rule| ManagedRule {
            title: rule.title(),
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
        &self,
        route: &Value,
        rule: Option<&str>,
        Services { stable, canary }: Services<'_>,
    ) -> Result<Weight, RouteError> {
        let name = self.route_name(route);
        let mut shares = Vec::new();
        for rule in self.selected_rules(route, &name, rule, stable)? {
            let weight = |service| -> Result<u64, RouteError> {
                Ok(rule
                    .service(service, &name)?
                    .map_or(0, |backend| backend.weight))
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
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        weight: Weight,
        managed: &[ManagedRoute],
        original: Option<&OriginalWeights>,
    ) -> Result<Patch, RouteError> {
        let mut patch = self.divide(route, rule, services, weight, original)?;
        let name = self.route_name(route);
        let has_added = self.all_rules(route, &name)?.iter().any(Rule::is_added);
        if managed.is_empty() && !has_added {
            return Ok(patch);
        }
        // A copy of a rule has the backends that the rule will have.
        let mut divided = route.clone();
        json_patch::patch(&mut divided, &patch)
            .map_err(|_| malformed(&name, "/spec".into(), "an object that can be patched"))?;
        let operations =
            self.with_added_rules(&divided, rule, services, |rules| rules.operations(managed))??;
        added_rules::extend(&mut patch, operations, route, &name)?;
        Ok(patch)
    }

    fn managed_routes<'p>(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        candidates: &'p [Vec<ManagedRoute>],
    ) -> Option<&'p [ManagedRoute]> {
        let find = |rules: &AddedRules<'_>| rules.find(candidates);
        self.with_added_rules(route, rule, services, find).ok()?
    }

    fn refresh_original(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        original: Option<&OriginalWeights>,
    ) -> Result<OriginalWeights, RouteError> {
        let name = self.route_name(route);
        let rules = self.selected_rules(route, &name, rule, services.stable)?;
        let refresh = |rule: &Rule<'_>| {
            let original_rule = RuleSplit::new(rule, &name, services, original)?.original_rule;
            Ok(OriginalRule {
                index: rule.position,
                ..original_rule
            })
        };
        Ok(OriginalWeights {
            rules: rules.iter().map(refresh).collect::<Result<_, _>>()?,
        })
    }

    fn restore(
        &self,
        route: &Value,
        original: &OriginalWeights,
        services: Services<'_>,
    ) -> Result<Patch, RouteError> {
        let name = self.route_name(route);
        let mut changes = PatchBuilder::default();
        let rules = self.all_rules(route, &name)?;
        for rule in rules.iter().filter(|rule| !rule.is_added()) {
            let recorded = original
                .rule(rule.list_name(), rule.position, rule.name)
                .is_some();
            if recorded && rule.service(services.stable, &name)?.is_some() {
                RuleSplit::new(rule, &name, services, Some(original))?.reset(
                    &mut changes,
                    &name,
                    None,
                )?;
            }
        }
        let mut patch = changes.into_patch(route, &name)?;
        if let Some(syntax) = self.layout.added_rules {
            let added = rules.iter().filter(|rule| rule.is_added());
            let operations = added_rules::removals(syntax, added);
            added_rules::extend(&mut patch, operations, route, &name)?;
        }
        Ok(patch)
    }

    fn assignment_unit(&self, route: &Value, rule: Option<&str>, stable: &str) -> AssignmentUnit {
        let name = self.route_name(route);
        let rules = self.selected_rules(route, &name, rule, stable);
        // A route that cannot be read is not split either.
        let rules = rules.unwrap_or_default();
        let of_connections = |rule: &&Rule<'_>| rule.list.unit == RoutedUnit::Connections;
        if let Some(rule) = rules.iter().find(of_connections) {
            let why = format!(
                "{} {}: {} divides connections",
                self.kind,
                name.name,
                rule.field_path()
            );
            return AssignmentUnit::Connection { why };
        }
        let persistent = rules.iter().find_map(|rule| self.persistence(rule, &name));
        persistent.map_or(AssignmentUnit::Request, |why| AssignmentUnit::Client {
            why,
        })
    }

    fn programmed_status(&self, route: &Value) -> ProgrammedStatus {
        (self.programmed_status)(route)
    }
}

impl BackendRouter {
    /// The patch that divides the weights, without rules for chosen requests.
    fn divide(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        weight: Weight,
        original: Option<&OriginalWeights>,
    ) -> Result<Patch, RouteError> {
        let name = self.route_name(route);
        let mut changes = PatchBuilder::default();
        let rules = self.selected_rules(route, &name, rule, services.stable)?;
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

    fn route_name(&self, route: &Value) -> RouteName {
        RouteName::new(self.kind, route)
    }

    /// Evaluates the added rules of a route.
    fn with_added_rules<T>(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        evaluate: impl FnOnce(&AddedRules<'_>) -> T,
    ) -> Result<T, RouteError> {
        let name = self.route_name(route);
        let rules = self.all_rules(route, &name)?;
        let split = self.selected_rules(route, &name, rule, services.stable)?;
        Ok(evaluate(&AddedRules::new(
            self.layout,
            &name,
            services,
            &rules,
            &split,
        )))
    }

    fn all_rules<'a>(
        &self,
        route: &'a Value,
        name: &RouteName,
    ) -> Result<Vec<Rule<'a>>, RouteError> {
        Rule::all(self.layout, route, name)
    }

    /// Why the sessions of clients stay on one side.
    fn persistence(&self, rule: &Rule<'_>, name: &RouteName) -> Option<String> {
        let field = self.layout.persistence?;
        let persistence = rule.object.get(field)?.as_object()?;
        // The default of the Gateway API, and the only type of Traefik.
        let type_ = persistence
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or("Cookie");
        Some(format!(
            "{} {}: {}.{field} is set (type {type_})",
            self.kind,
            name.name,
            rule.field_path()
        ))
    }

    /// The managed rules: the rule with this name, or all rules with the stable Service. Never empty.
    fn selected_rules<'a>(
        &self,
        route: &'a Value,
        name: &RouteName,
        rule: Option<&str>,
        stable: &str,
    ) -> Result<Vec<Rule<'a>>, RouteError> {
        let rules = self.all_rules(route, name)?;
        let rules: Vec<Rule<'_>> = rules.into_iter().filter(|rule| !rule.is_added()).collect();
        if let Some(expected) = rule
            && !rules.iter().any(|rule| rule.is_named(expected))
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
            if rule.is_some_and(|name| !candidate.is_named(name)) {
                continue;
            }
            if candidate.service(stable, name)?.is_some() {
                if self.layout.zero_is_even && candidate.backends.iter().all(|b| b.weight == 0) {
                    return Err(RouteError::StableHasNoTraffic {
                        route: name.clone(),
                        rule: candidate.title(),
                        stable: stable.into(),
                    });
                }
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
}

/// The Services of a rule.
fn service_backends(rule: &Rule<'_>, namespace: &str) -> Vec<RouteBackend> {
    let services = rule
        .backends
        .iter()
        .filter(|backend| backend.identity.group.is_none() && backend.identity.kind.is_none());
    let backend = |backend: &Backend<'_>| RouteBackend {
        namespace: backend
            .identity
            .namespace
            .clone()
            .unwrap_or_else(|| namespace.to_owned()),
        service: backend.identity.name.clone(),
        port: backend.identity.port,
        weight: backend.weight,
    };
    services.map(backend).collect()
}
