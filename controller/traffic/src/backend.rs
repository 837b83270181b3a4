//! A rule's backends, read without losing what is not understood.

use serde_json::Value;

use crate::original::{OriginalBackend, OriginalRule};
use crate::problem::{RouteName, RouteProblem};
use crate::split::MAX_WEIGHT;

/// A rule of a route.
pub(crate) struct Rule<'a> {
    pub(crate) index: usize,
    pub(crate) name: Option<&'a str>,
    pub(crate) backends: Vec<Backend<'a>>,
}

/// A backend of a rule: the object, and who it is.
pub(crate) struct Backend<'a> {
    pub(crate) index: usize,
    pub(crate) object: &'a Value,
    /// Who it is and its weight as written.
    pub(crate) seen: OriginalBackend,
}

impl Backend<'_> {
    /// The weight in force: 1 where none is written.
    pub(crate) fn weight(&self) -> u64 {
        self.seen.weight_in_force()
    }
}

impl<'a> Rule<'a> {
    /// All rules of a route.
    pub(crate) fn all(route: &'a Value, name: &RouteName) -> Result<Vec<Self>, RouteProblem> {
        let rules = match route.pointer("/spec/rules") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(rules)) => rules,
            Some(_) => return Err(malformed(name, "/spec/rules".into(), "a list")),
        };
        let read = |(index, rule)| Self::read(index, rule, name);
        rules.iter().enumerate().map(read).collect()
    }

    fn read(index: usize, rule: &'a Value, route: &RouteName) -> Result<Self, RouteProblem> {
        let at = format!("/spec/rules/{index}/backendRefs");
        let references = match rule.get("backendRefs") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(references)) => references,
            Some(_) => return Err(malformed(route, at, "a list")),
        };
        let read = |(place, object)| -> Result<Backend<'a>, RouteProblem> {
            let seen = read_backend(object, route, &format!("{at}/{place}"))?;
            Ok(Backend {
                index: place,
                object,
                seen,
            })
        };
        let backends = references.iter().enumerate().map(read);
        Ok(Self {
            index,
            name: rule.get("name").and_then(Value::as_str),
            backends: backends.collect::<Result<_, _>>()?,
        })
    }

    /// The rule as messages name it.
    pub(crate) fn title(&self) -> String {
        match self.name {
            Some(name) => format!("rule `{name}`"),
            None => format!("rule #{}", self.index),
        }
    }

    /// The backend that is this Service of the route's own namespace.
    pub(crate) fn service(
        &self,
        service: &str,
        route: &RouteName,
    ) -> Result<Option<&Backend<'a>>, RouteProblem> {
        let mut found = self.backends.iter().filter(|b| b.seen.is_service(service));
        let first = found.next();
        if found.next().is_some() {
            return Err(RouteProblem::ListedTwice {
                route: route.clone(),
                rule: self.title(),
                service: service.into(),
            });
        }
        Ok(first)
    }

    /// The rule's weights as they stand.
    pub(crate) fn as_original(&self) -> OriginalRule {
        OriginalRule {
            index: self.index,
            name: self.name.map(Into::into),
            backends: self.backends.iter().map(|b| b.seen.clone()).collect(),
        }
    }
}

fn read_backend(
    object: &Value,
    route: &RouteName,
    at: &str,
) -> Result<OriginalBackend, RouteProblem> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let Some(name) = text("name") else {
        return Err(malformed(route, format!("{at}/name"), "a text"));
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
    let unless = |field: &str, default: &str| {
        text(field)
            .filter(|v| !v.is_empty() && *v != default)
            .map(Into::into)
    };
    Ok(OriginalBackend {
        group: unless("group", ""),
        kind: unless("kind", "Service"),
        namespace: unless("namespace", &route.namespace),
        name: name.into(),
        port: object.get("port").and_then(Value::as_u64),
        weight,
    })
}

pub(crate) fn malformed(route: &RouteName, at: String, expected: &'static str) -> RouteProblem {
    RouteProblem::Malformed {
        route: route.clone(),
        at,
        expected,
    }
}
