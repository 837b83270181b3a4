//! The rules of a route that belong to managed routes: chosen requests go to the canary, or are
//! copied to it.
//!
//! An added rule is a copy of a rule that is split, with narrower matches. Its name begins with
//! [`ADDED_PREFIX`] and ends with the position of the rule that it is a copy of. What it contains
//! follows from that rule and from the plan, so that a rule that somebody else has changed is found
//! by comparison.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation};
use serde_json::Value;
use serin_core::managed_route::{ManagedAction, ManagedRoute, RequestMatch};

use crate::backend::{Layout, Rule};
use crate::error::{RouteError, RouteName};
use crate::patch_builder::test_version;
use crate::router::Services;

/// The prefix of the names of added rules. Users must not use it.
pub(crate) const ADDED_PREFIX: &str = "serin.dev.";

/// Whether a rule of this name was written by Serin.
pub fn is_added_rule(name: &str) -> bool {
    name.starts_with(ADDED_PREFIX)
}

/// Why a match cannot be narrowed, with the fix.
pub(crate) type Problem = String;

/// How a kind of route writes added rules.
#[derive(Debug)]
pub(crate) struct AddedRuleSyntax {
    /// The list of rules that can hold them.
    pub(crate) list: &'static str,
    /// The field of a rule with its matches, of which one suffices. Without any it matches all
    /// requests.
    pub(crate) matches: &'static str,
    /// Narrows a match of a rule. Returns false if no request can match both.
    pub(crate) narrow: fn(&mut Value, &RequestMatch) -> Result<bool, Problem>,
    /// Makes a copy of a backend the only one of its rule.
    pub(crate) make_only: fn(&mut Value),
    /// Copies a percentage of the requests of a rule to a backend.
    pub(crate) mirror: fn(&mut Value, &Value, u32) -> Result<(), Problem>,
    /// Whether the most specific match counts instead of the first one. Rules at the end then keep
    /// the indices of the other rules, which metrics of routers contain.
    pub(crate) is_by_specificity: bool,
    /// The maximum number of rules, and of matches of a rule, in the schema of the kind.
    pub(crate) limits: Option<(usize, usize)>,
}

/// An added rule to write.
struct Generated {
    /// The index of the rule that it is a copy of.
    source: usize,
    /// Whether it has to come before that rule.
    is_before: bool,
    rule: Value,
}

/// The added rules of a route object.
pub(crate) struct AddedRules<'a> {
    layout: &'static Layout,
    route: &'a RouteName,
    services: Services<'a>,
    /// All rules of the object.
    rules: &'a [Rule<'a>],
    /// The indices of the rules that are split, in the list of the syntax.
    split: Vec<usize>,
}

impl<'a> AddedRules<'a> {
    /// `split` are the rules that are split.
    pub(crate) fn new(
        layout: &'static Layout,
        route: &'a RouteName,
        services: Services<'a>,
        rules: &'a [Rule<'a>],
        split: &[Rule<'_>],
    ) -> Self {
        let list = layout.added_rules.map(|syntax| syntax.list);
        let of_list = split.iter().filter(|rule| Some(rule.list.field) == list);
        Self {
            layout,
            route,
            services,
            rules,
            split: of_list.map(|rule| rule.index).collect(),
        }
    }

    /// The set among `candidates` that the object has. `None` if it has added rules of no set.
    pub(crate) fn find<'p>(
        &self,
        candidates: &'p [Vec<ManagedRoute>],
    ) -> Option<&'p [ManagedRoute]> {
        if self.own().next().is_none() {
            return Some(&[]);
        }
        let mut sets = candidates.iter();
        let found = sets.find(|set| self.generate(set).is_ok_and(|rules| self.has(&rules)));
        found.map(Vec::as_slice)
    }

    /// The operations that make the object have exactly these added rules.
    pub(crate) fn operations(
        &self,
        managed: &[ManagedRoute],
    ) -> Result<Vec<PatchOperation>, RouteError> {
        let wanted = self.generate(managed)?;
        if self.has(&wanted) {
            return Ok(Vec::new());
        }
        let Some(syntax) = self.layout.added_rules else {
            return Ok(Vec::new());
        };
        let removed: Vec<usize> = self.own().map(|rule| rule.index).collect();
        let mut operations = removals(syntax, self.own());
        for (inserted, generated) in wanted.into_iter().enumerate() {
            let before = removed.iter().filter(|index| **index < generated.source);
            let index = generated.source - before.count() + inserted;
            let last = if generated.is_before {
                index.to_string()
            } else {
                "-".to_owned()
            };
            let path = PointerBuf::from_tokens(["spec", syntax.list, last.as_str()]);
            let value = generated.rule;
            operations.push(PatchOperation::Add(AddOperation { path, value }));
        }
        Ok(operations)
    }

    /// The added rules of the split rules, and those whose rule is gone.
    fn own(&self) -> impl Iterator<Item = &'a Rule<'a>> {
        let unmanaged = self.rules.iter().filter(|rule| !rule.is_added());
        let positions: Vec<usize> = unmanaged
            .filter(|rule| {
                Some(rule.list.field) == self.layout.added_rules.map(|syntax| syntax.list)
            })
            .filter(|rule| !self.split.contains(&rule.index))
            .map(|rule| rule.position)
            .collect();
        let rules = self.rules.iter().filter(|rule| rule.is_added());
        rules.filter(move |rule| {
            let source = rule.name.and_then(source_of);
            source.is_none_or(|source| !positions.contains(&source))
        })
    }

    /// Whether the object has exactly these added rules, each before the rule that it is a copy
    /// of where the order counts.
    fn has(&self, wanted: &[Generated]) -> bool {
        let own: Vec<&Rule<'_>> = self.own().collect();
        let is_same = |(found, wanted): (&&Rule<'_>, &Generated)| {
            let is_in_place = !wanted.is_before || found.index < wanted.source;
            is_in_place && is_as_generated(found.object, &wanted.rule)
        };
        own.len() == wanted.len() && own.iter().zip(wanted).all(is_same)
    }

    /// The rules of these managed routes, in the order of the rules that they are copies of.
    fn generate(&self, managed: &[ManagedRoute]) -> Result<Vec<Generated>, RouteError> {
        let Some(first) = managed.first() else {
            return Ok(Vec::new());
        };
        let Some(syntax) = self.layout.added_rules else {
            let problem = "objects of this kind cannot hold it; use an HTTPRoute, a GRPCRoute or a \
                           VirtualService";
            return Err(self.not_expressible(first, problem));
        };
        let mut generated = Vec::new();
        let mut written = vec![false; managed.len()];
        let is_before = comes_first(syntax, managed);
        let split = self
            .rules
            .iter()
            .filter(|rule| rule.list.field == syntax.list && self.split.contains(&rule.index));
        for source in split {
            for (managed, is_written) in managed.iter().zip(&mut written) {
                let rule = self.rule(syntax, source, managed)?;
                *is_written |= rule.is_some();
                generated.extend(rule.map(|rule| Generated {
                    source: source.index,
                    is_before,
                    rule,
                }));
            }
        }
        if let Some((unmatched, _)) = managed
            .iter()
            .zip(&written)
            .find(|(_, is_written)| !**is_written)
        {
            let problem = "no request matches both it and a rule that is split; change its path";
            return Err(self.not_expressible(unmatched, problem));
        }
        self.check_limits(syntax, first, &generated)?;
        Ok(generated)
    }

    /// The copy of a rule for a managed route. `None` if no request can match both.
    fn rule(
        &self,
        syntax: &AddedRuleSyntax,
        source: &Rule<'_>,
        managed: &ManagedRoute,
    ) -> Result<Option<Value>, RouteError> {
        let matches = self.matches(syntax, source, managed)?;
        let Some(stable) = source.service(self.services.stable, self.route)? else {
            return Ok(None);
        };
        if matches.is_empty() {
            return Ok(None);
        }
        let mut rule = source.object.clone();
        let (name, position) = (&managed.name, source.position);
        rule["name"] = format!("{ADDED_PREFIX}{name}.{position}").into();
        rule[syntax.matches] = matches.into();
        let mut canary = stable.object.clone();
        (self.layout.set_service)(&mut canary, self.services.canary);
        match managed.action {
            ManagedAction::ToCanary => {
                (syntax.make_only)(&mut canary);
                rule[self.layout.backends] = vec![canary].into();
            }
            ManagedAction::Mirror { percent } => {
                let mirrored = (syntax.mirror)(&mut rule, &canary, percent);
                mirrored.map_err(|problem| self.not_expressible(managed, &problem))?;
            }
        }
        Ok(Some(rule))
    }

    /// Every match of the rule, narrowed by every match of the managed route.
    fn matches(
        &self,
        syntax: &AddedRuleSyntax,
        source: &Rule<'_>,
        managed: &ManagedRoute,
    ) -> Result<Vec<Value>, RouteError> {
        let every = [Value::Object(serde_json::Map::new())];
        let existing = source.object[syntax.matches].as_array();
        let existing = existing.filter(|matches| !matches.is_empty());
        let existing = existing.map_or(&every[..], Vec::as_slice);
        let mut narrowed = Vec::new();
        for existing in existing {
            for request in &managed.matches {
                let mut both = existing.clone();
                let is_possible = (syntax.narrow)(&mut both, request)
                    .map_err(|problem| self.not_expressible(managed, &problem))?;
                if is_possible && !narrowed.contains(&both) {
                    narrowed.push(both);
                }
            }
        }
        Ok(narrowed)
    }

    fn check_limits(
        &self,
        syntax: &AddedRuleSyntax,
        first: &ManagedRoute,
        generated: &[Generated],
    ) -> Result<(), RouteError> {
        let Some((max_rules, max_matches)) = syntax.limits else {
            return Ok(());
        };
        let others = self.rules.len() - self.own().count();
        let rules = others + generated.len();
        let matches = generated
            .iter()
            .map(|one| one.rule[syntax.matches].as_array());
        let matches = matches
            .map(|matches| matches.map_or(0, Vec::len))
            .max()
            .unwrap_or(0);
        if rules > max_rules {
            let problem = format!(
                "the object would have {rules} rules, and its kind allows {max_rules}; split fewer \
                 rules, or use fewer managed routes"
            );
            return Err(self.not_expressible(first, &problem));
        }
        if matches > max_matches {
            let problem = format!(
                "a rule would have {matches} matches, and its kind allows {max_matches}; use fewer \
                 matches"
            );
            return Err(self.not_expressible(first, &problem));
        }
        Ok(())
    }

    fn not_expressible(&self, managed: &ManagedRoute, problem: &str) -> RouteError {
        RouteError::NotExpressible {
            route: self.route.clone(),
            managed: managed.name.clone(),
            problem: problem.into(),
        }
    }
}

/// Adds operations to a patch, which may be empty.
pub(crate) fn extend(
    patch: &mut Patch,
    operations: Vec<PatchOperation>,
    route: &Value,
    name: &RouteName,
) -> Result<(), RouteError> {
    if operations.is_empty() {
        return Ok(());
    }
    if patch.0.is_empty() {
        patch.0.push(test_version(route, name)?);
    }
    patch.0.extend(operations);
    Ok(())
}

/// The operations that remove these added rules. The last one comes first, so that no index of
/// another one shifts.
pub(crate) fn removals<'r, 'a: 'r>(
    syntax: &AddedRuleSyntax,
    rules: impl Iterator<Item = &'r Rule<'a>>,
) -> Vec<PatchOperation> {
    let mut indices: Vec<(usize, Option<&str>)> =
        rules.map(|rule| (rule.index, rule.name)).collect();
    indices.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
    let operations = indices.into_iter().flat_map(|(index, name)| {
        let index = index.to_string();
        let path = PointerBuf::from_tokens(["spec", syntax.list, index.as_str()]);
        let test = PatchOperation::Test(TestOperation {
            path: path.with_trailing_token("name"),
            value: name.into(),
        });
        [test, PatchOperation::Remove(RemoveOperation { path })]
    });
    operations.collect()
}

/// Whether an added rule has to come before the rule that it is a copy of. With a header more it is
/// more specific, but one that mirrors can match as specifically.
fn comes_first(syntax: &AddedRuleSyntax, managed: &[ManagedRoute]) -> bool {
    let mirrors = |route: &ManagedRoute| matches!(route.action, ManagedAction::Mirror { .. });
    !syntax.is_by_specificity || managed.iter().any(mirrors)
}

/// The position of the rule that an added rule is a copy of.
fn source_of(name: &str) -> Option<usize> {
    let (_, position) = name.strip_prefix(ADDED_PREFIX)?.rsplit_once('.')?;
    position.parse().ok()
}

/// Whether a rule is as it was written. The API server may have added defaults inside of its fields.
fn is_as_generated(found: &Value, wanted: &Value) -> bool {
    let (Some(found), Some(wanted)) = (found.as_object(), wanted.as_object()) else {
        return false;
    };
    found.len() == wanted.len()
        && wanted.iter().all(|(field, wanted)| {
            found
                .get(field)
                .is_some_and(|found| contains(found, wanted))
        })
}

fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(field, wanted)| {
            found
                .get(field)
                .is_some_and(|found| contains(found, wanted))
        }),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

/// Whether a path is within a prefix of whole path elements.
pub(crate) fn is_path_within(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prefix_ends_at_an_element_of_the_path() {
        for (prefix, path, expected) in [
            ("/", "/shop", true),
            ("/shop", "/shop", true),
            ("/shop", "/shop/cart", true),
            ("/shop/", "/shop", true),
            ("/shop", "/shopping", false),
            ("/shop/cart", "/shop", false),
        ] {
            assert_eq!(is_path_within(prefix, path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn defaults_of_the_api_server_are_not_a_change_and_everything_else_is() {
        let wanted = json!({"name": "a", "list": [{"x": 1}]});
        let is_same = |found: Value| is_as_generated(&found, &wanted);
        assert!(is_same(
            json!({"name": "a", "list": [{"x": 1, "default": ""}]})
        ));
        assert!(!is_same(json!({"name": "a", "list": [{"x": 2}]})));
        assert!(!is_same(json!({"name": "a", "list": [{"x": 1}, {"x": 1}]})));
        assert!(!is_same(
            json!({"name": "a", "list": [{"x": 1}], "filters": []})
        ));
        assert!(!is_same(json!({"name": "a"})));
    }

    #[test]
    fn the_position_of_the_source_is_the_end_of_the_name() {
        assert_eq!(source_of("serin.dev.staff.12"), Some(12));
        assert_eq!(source_of("serin.dev.staff"), None);
        assert_eq!(source_of("staff.12"), None);
    }
}
