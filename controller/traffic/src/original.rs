//! The original weights of a route.

use serde::{Deserialize, Serialize};

/// The weights of a route before the first change by Serin.
///
/// Stored as a short JSON string in the Rollout's status. Contains only weights, not whole
/// backends, so that other changes by users during a release survive a restoration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalWeights {
    /// The managed rules.
    pub rules: Vec<OriginalRule>,
}

/// The weights of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalRule {
    /// The list of the rule under `spec`. `None` for the first list of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The index. It identifies a rule without a name.
    pub index: usize,
    /// The name, if the rule has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The backends in order.
    pub backends: Vec<OriginalBackend>,
}

/// Identity and weight of a backend, with defaults omitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginalBackend {
    /// The API group. `None` for the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind. `None` for Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace. `None` for the namespace of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The port, if specified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u64>,
    /// The specified weight, 0 to 1,000,000. `None` means the default of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
}

impl OriginalBackend {
    /// Whether the backend is this Service in the namespace of the route.
    pub(crate) fn is_service(&self, service: &str) -> bool {
        self.group.is_none()
            && self.kind.is_none()
            && self.namespace.is_none()
            && self.name == service
    }

    fn is_same_backend(&self, other: &Self) -> bool {
        Self {
            weight: None,
            ..self.clone()
        } == Self {
            weight: None,
            ..other.clone()
        }
    }
}

impl OriginalWeights {
    /// The rule of this list with this name, or the unnamed rule at this index.
    pub(crate) fn rule(
        &self,
        list: Option<&str>,
        index: usize,
        name: Option<&str>,
    ) -> Option<&OriginalRule> {
        let of_list = |rule: &&OriginalRule| rule.list.as_deref() == list;
        self.rules.iter().filter(of_list).find(|rule| match name {
            Some(_) => rule.name.as_deref() == name,
            None => rule.name.is_none() && rule.index == index,
        })
    }

    /// Adds the rules of `earlier` that are not known.
    pub fn add_missing(&mut self, earlier: Self) {
        for rule in earlier.rules {
            let is_known = |known: &OriginalRule| {
                (&known.list, known.index, &known.name) == (&rule.list, rule.index, &rule.name)
            };
            if !self.rules.iter().any(is_known) {
                self.rules.push(rule);
            }
        }
        self.rules
            .sort_by(|one, other| (&one.list, one.index).cmp(&(&other.list, other.index)));
    }
}

impl OriginalRule {
    /// The backend of a Service.
    pub(crate) fn service(&self, service: &str) -> Option<&OriginalBackend> {
        self.backends
            .iter()
            .find(|backend| backend.is_service(service))
    }

    /// The original of `backends[index]`. If several backends have the same identity, they are
    /// matched in order.
    pub(crate) fn counterpart(
        &self,
        backends: &[OriginalBackend],
        index: usize,
    ) -> Option<&OriginalBackend> {
        let backend = backends.get(index)?;
        let before = backends
            .iter()
            .take(index)
            .filter(|b| b.is_same_backend(backend))
            .count();
        self.backends
            .iter()
            .filter(|b| b.is_same_backend(backend))
            .nth(before)
    }
}
