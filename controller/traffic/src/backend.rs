//! Rules and backends of a route, read without losing unknown fields.

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use crate::added_rules::{AddedRuleSyntax, is_added_rule};
use crate::error::{RouteError, RouteName};
use crate::original::{OriginalBackend, OriginalRule};
use crate::split::MAX_WEIGHT;

/// What a rule assigns to one of its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoutedUnit {
    Requests,
    Connections,
}

/// The rules in one field of `spec`.
#[derive(Debug)]
pub(crate) struct RuleList {
    pub(crate) field: &'static str,
    /// Whether the field is one rule instead of a list.
    pub(crate) is_single: bool,
    pub(crate) unit: RoutedUnit,
}

/// A field of a backend that does not match its schema.
pub(crate) struct InvalidField {
    /// A JSON pointer into the backend.
    pub(crate) at: &'static str,
    pub(crate) expected: &'static str,
}

/// How a kind of route writes its rules and backends.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The lists of rules.
    pub(crate) rule_lists: &'static [RuleList],
    /// The field of a rule with its backends.
    pub(crate) backends: &'static str,
    /// The field of a backend that tells which backend it is. Patches test it.
    pub(crate) identity: &'static str,
    /// The identity of a backend of a route in this namespace. The weight is read by the caller.
    pub(crate) parse_identity: fn(&Value, &str) -> Result<OriginalBackend, InvalidField>,
    /// Makes a copy of a backend name another Service.
    pub(crate) set_service: fn(&mut Value, &str),
    /// The weight of a backend without one, given the number of backends of its rule.
    pub(crate) default_weight: fn(usize) -> u64,
    /// Whether the rule of a list is the one that a plan names.
    pub(crate) is_rule: fn(&RuleList, &Value, &str) -> bool,
    /// Whether the sum of the weights of a rule is kept where it can be.
    pub(crate) keeps_total: bool,
    /// The object in a rule that keeps the sessions of clients on one backend.
    pub(crate) persistence: Option<&'static str>,
    /// Whether backends that all have weight 0 share the traffic equally, instead of having none.
    pub(crate) zero_is_even: bool,
    /// How rules for chosen requests are written. `None` if the kind cannot hold them.
    pub(crate) added_rules: Option<&'static AddedRuleSyntax>,
}

/// A rule of a route.
pub(crate) struct Rule<'a> {
    pub(crate) layout: &'static Layout,
    pub(crate) list: &'static RuleList,
    /// The index in its list.
    pub(crate) index: usize,
    /// The index among the rules of its list that users wrote. For an added rule, that of the next
    /// one.
    pub(crate) position: usize,
    pub(crate) object: &'a Value,
    pub(crate) name: Option<&'a str>,
    pub(crate) backends: Vec<Backend<'a>>,
}

/// A backend of a rule: the JSON object and its parsed identity.
pub(crate) struct Backend<'a> {
    pub(crate) index: usize,
    pub(crate) object: &'a Value,
    /// Identity and specified weight.
    pub(crate) identity: OriginalBackend,
    /// The effective weight.
    pub(crate) weight: u64,
}

impl RuleList {
    /// The backends of the rule at `index`.
    pub(crate) fn backends_path(&self, index: usize, layout: &Layout) -> PointerBuf {
        let index = (!self.is_single).then(|| index.to_string());
        let tokens = ["spec", self.field].into_iter().chain(index.as_deref());
        PointerBuf::from_tokens(tokens.chain([layout.backends]))
    }
}

impl<'a> Rule<'a> {
    /// All rules of a route.
    pub(crate) fn all(
        layout: &'static Layout,
        route: &'a Value,
        name: &RouteName,
    ) -> Result<Vec<Self>, RouteError> {
        let mut all = Vec::new();
        for list in layout.rule_lists {
            let spec = route.get("spec");
            let rules = match spec.and_then(|spec| spec.get(list.field)) {
                None | Some(Value::Null) => continue,
                Some(rule @ Value::Object(_)) if list.is_single => std::slice::from_ref(rule),
                Some(Value::Array(rules)) if !list.is_single => rules,
                Some(_) if list.is_single => {
                    return Err(malformed(
                        name,
                        format!("/spec/{}", list.field),
                        "an object",
                    ));
                }
                Some(_) => {
                    return Err(malformed(name, format!("/spec/{}", list.field), "a list"));
                }
            };
            let mut position = 0;
            for (index, rule) in rules.iter().enumerate() {
                let mut rule = Self::parse(layout, list, index, rule, name)?;
                rule.position = position;
                position += usize::from(!rule.is_added());
                all.push(rule);
            }
        }
        Ok(all)
    }

    fn parse(
        layout: &'static Layout,
        list: &'static RuleList,
        index: usize,
        object: &'a Value,
        route: &RouteName,
    ) -> Result<Self, RouteError> {
        let at = list.backends_path(index, layout).to_string();
        let references = match object.get(layout.backends) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(references)) => references,
            Some(_) => return Err(malformed(route, at, "a list")),
        };
        let default_weight = (layout.default_weight)(references.len());
        let parse = |(index, object)| -> Result<Backend<'a>, RouteError> {
            let identity = parse_backend(layout, object, route, &format!("{at}/{index}"))?;
            Ok(Backend {
                index,
                object,
                weight: identity.weight.unwrap_or(default_weight),
                identity,
            })
        };
        let backends = references.iter().enumerate().map(parse);
        Ok(Self {
            layout,
            list,
            index,
            position: index,
            object,
            name: object.get("name").and_then(Value::as_str),
            backends: backends.collect::<Result<_, _>>()?,
        })
    }

    /// The rule in messages.
    pub(crate) fn title(&self) -> String {
        let list = self.list_name();
        let list = list.map_or_else(String::new, |list| format!("{list} "));
        match self.name {
            _ if self.list.is_single => format!("spec.{}", self.list.field),
            Some(name) => format!("{list}rule `{name}`"),
            None => format!("{list}rule #{}", self.position),
        }
    }

    /// The list of the rule, unless it is the first one of its kind.
    pub(crate) fn list_name(&self) -> Option<&'static str> {
        let is_first = self.list.field == self.layout.rule_lists[0].field;
        (!is_first).then_some(self.list.field)
    }

    /// The field of the rule in messages, for example `spec.rules[1]`.
    pub(crate) fn field_path(&self) -> String {
        let field = self.list.field;
        if self.list.is_single {
            format!("spec.{field}")
        } else {
            format!("spec.{field}[{}]", self.index)
        }
    }

    /// Whether Serin wrote the rule for chosen requests.
    pub(crate) fn is_added(&self) -> bool {
        let syntax = self.layout.added_rules;
        let can_be = syntax.is_some_and(|syntax| syntax.list == self.list.field);
        can_be && self.name.is_some_and(is_added_rule)
    }

    /// Whether the rule is the one that a plan names.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        (self.layout.is_rule)(self.list, self.object, name)
    }

    /// The backend of a Service in the namespace of the route.
    pub(crate) fn service(
        &self,
        service: &str,
        route: &RouteName,
    ) -> Result<Option<&Backend<'a>>, RouteError> {
        let mut found = self
            .backends
            .iter()
            .filter(|b| b.identity.is_service(service));
        let first = found.next();
        if found.next().is_some() {
            return Err(RouteError::DuplicateBackend {
                route: route.clone(),
                rule: self.title(),
                service: service.into(),
            });
        }
        Ok(first)
    }

    /// The current weights of the rule.
    pub(crate) fn to_original(&self) -> OriginalRule {
        OriginalRule {
            list: self.list_name().map(Into::into),
            index: self.position,
            name: self.name.map(Into::into),
            backends: self.backends.iter().map(|b| b.identity.clone()).collect(),
        }
    }
}

fn parse_backend(
    layout: &Layout,
    object: &Value,
    route: &RouteName,
    at: &str,
) -> Result<OriginalBackend, RouteError> {
    let invalid =
        |field: InvalidField| malformed(route, format!("{at}{}", field.at), field.expected);
    let identity = (layout.parse_identity)(object, &route.namespace).map_err(invalid)?;
    let weight = match object.get("weight") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_u64().filter(|w| *w <= MAX_WEIGHT).ok_or_else(|| {
            malformed(
                route,
                format!("{at}/weight"),
                "a whole number from 0 to 1000000",
            )
        })?),
    };
    Ok(OriginalBackend { weight, ..identity })
}

/// The identity of a backend with the fields `name`, `namespace`, `kind`, `group` and `port`, as a
/// [`Layout::parse_identity`].
pub(crate) fn parse_service_identity(
    backend: &Value,
    namespace: &str,
) -> Result<OriginalBackend, InvalidField> {
    let text = |field: &str| backend.get(field).and_then(Value::as_str);
    let Some(name) = text("name") else {
        return Err(InvalidField {
            at: "/name",
            expected: "a string",
        });
    };
    let non_default = |field: &str, default: &str| {
        text(field)
            .filter(|v| !v.is_empty() && *v != default)
            .map(Into::into)
    };
    Ok(OriginalBackend {
        group: non_default("group", ""),
        kind: non_default("kind", "Service"),
        namespace: non_default("namespace", namespace),
        name: name.into(),
        port: backend.get("port").and_then(Value::as_u64),
        weight: None,
    })
}

pub(crate) fn malformed(route: &RouteName, at: String, expected: &'static str) -> RouteError {
    RouteError::Malformed {
        route: route.clone(),
        at,
        expected,
    }
}
