//! What a route's weights were before Serin's first change.

use serde::{Deserialize, Serialize};

/// What a route's weights were before Serin's first change: all that Serin ever changes in it.
///
/// It is stored as a short JSON text in the Rollout's status. Only weights are kept, not whole
/// backends, so that whatever else its users change in the route meanwhile survives a restoration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Original {
    /// The rules that Serin was pointed to.
    pub rules: Vec<OriginalRule>,
}

/// The weights of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalRule {
    /// Its index, by which a rule without a name is known.
    pub index: usize,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its backends in their order.
    pub backends: Vec<OriginalBackend>,
}

/// One backend: who it is, with defaults left out, and its weight as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalBackend {
    /// The API group; none: the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind; none: Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace; none: the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The port, where one is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u64>,
    /// The weight as written, 0 to 1,000,000; none: not written, which means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
}

impl OriginalBackend {
    /// Whether it is this Service of the route's own namespace.
    pub(crate) fn is_service(&self, service: &str) -> bool {
        self.group.is_none()
            && self.kind.is_none()
            && self.namespace.is_none()
            && self.name == service
    }

    pub(crate) fn weight_in_force(&self) -> u64 {
        self.weight.unwrap_or(1)
    }

    fn same_backend(&self, other: &Self) -> bool {
        Self {
            weight: None,
            ..self.clone()
        } == Self {
            weight: None,
            ..other.clone()
        }
    }
}

impl Original {
    /// The rule of this name, or without one at this index.
    pub(crate) fn rule(&self, index: usize, name: Option<&str>) -> Option<&OriginalRule> {
        self.rules.iter().find(|rule| match name {
            Some(_) => rule.name.as_deref() == name,
            None => rule.name.is_none() && rule.index == index,
        })
    }
}

impl OriginalRule {
    /// This Service's backend.
    pub(crate) fn service(&self, service: &str) -> Option<&OriginalBackend> {
        self.backends
            .iter()
            .find(|backend| backend.is_service(service))
    }

    /// The remembered counterpart of `backends[place]`: the first of its kind for the first, the
    /// second for the second.
    pub(crate) fn counterpart(
        &self,
        backends: &[OriginalBackend],
        place: usize,
    ) -> Option<&OriginalBackend> {
        let wanted = backends.get(place)?;
        let before = backends
            .iter()
            .take(place)
            .filter(|b| b.same_backend(wanted))
            .count();
        self.backends
            .iter()
            .filter(|b| b.same_backend(wanted))
            .nth(before)
    }
}
