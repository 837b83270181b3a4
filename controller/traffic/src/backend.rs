//! Rules and backends of a route, read without losing unknown fields.

use serde_json::Value;

use crate::error::{RouteError, RouteName};
use crate::original::{OriginalBackend, OriginalRule};
use crate::split::MAX_WEIGHT;

/// A rule of a route.
pub(crate) struct Rule<'a> {
    pub(crate) index: usize,
    pub(crate) name: Option<&'a str>,
    pub(crate) backends: Vec<Backend<'a>>,
}

/// A backend of a rule: the JSON object and its parsed identity.
pub(crate) struct Backend<'a> {
    pub(crate) index: usize,
    pub(crate) object: &'a Value,
    /// Identity and specified weight.
    pub(crate) identity: OriginalBackend,
}

impl Backend<'_> {
    /// The effective weight. Defaults to 1.
    pub(crate) fn weight(&self) -> u64 {
        self.identity.effective_weight()
    }
}

impl<'a> Rule<'a> {
    /// All rules of a route.
    pub(crate) fn all(route: &'a Value, name: &RouteName) -> Result<Vec<Self>, RouteError> {
        let rules = match route.pointer("/spec/rules") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(rules)) => rules,
            Some(_) => return Err(malformed(name, "/spec/rules".into(), "a list")),
        };
        let parse = |(index, rule)| Self::parse(index, rule, name);
        rules.iter().enumerate().map(parse).collect()
    }

    fn parse(index: usize, rule: &'a Value, route: &RouteName) -> Result<Self, RouteError> {
        let at = format!("/spec/rules/{index}/backendRefs");
        let references = match rule.get("backendRefs") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(references)) => references,
            Some(_) => return Err(malformed(route, at, "a list")),
        };
        let parse = |(index, object)| -> Result<Backend<'a>, RouteError> {
            let identity = parse_backend(object, route, &format!("{at}/{index}"))?;
            Ok(Backend {
                index,
                object,
                identity,
            })
        };
        let backends = references.iter().enumerate().map(parse);
        Ok(Self {
            index,
            name: rule.get("name").and_then(Value::as_str),
            backends: backends.collect::<Result<_, _>>()?,
        })
    }

    /// The rule in messages.
    pub(crate) fn title(&self) -> String {
        match self.name {
            Some(name) => format!("rule `{name}`"),
            None => format!("rule #{}", self.index),
        }
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
            index: self.index,
            name: self.name.map(Into::into),
            backends: self.backends.iter().map(|b| b.identity.clone()).collect(),
        }
    }
}

fn parse_backend(
    object: &Value,
    route: &RouteName,
    at: &str,
) -> Result<OriginalBackend, RouteError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let Some(name) = text("name") else {
        return Err(malformed(route, format!("{at}/name"), "a string"));
    };
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
    let non_default = |field: &str, default: &str| {
        text(field)
            .filter(|v| !v.is_empty() && *v != default)
            .map(Into::into)
    };
    Ok(OriginalBackend {
        group: non_default("group", ""),
        kind: non_default("kind", "Service"),
        namespace: non_default("namespace", &route.namespace),
        name: name.into(),
        port: object.get("port").and_then(Value::as_u64),
        weight,
    })
}

pub(crate) fn malformed(route: &RouteName, at: String, expected: &'static str) -> RouteError {
    RouteError::Malformed {
        route: route.clone(),
        at,
        expected,
    }
}
