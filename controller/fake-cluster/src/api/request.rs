//! Parsed requests.

use std::collections::HashMap;

use http::Method;
use http::request::Parts;

use super::managed_fields::FieldManager;

/// A parsed request.
#[derive(Clone, Debug)]
pub(crate) struct ApiRequest {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    /// `None` if the request is not for objects (discovery, health).
    pub(crate) resource_path: Option<ResourcePath>,
}

/// The path of a collection, an object or a subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// `None` for all namespaces or a cluster-scoped kind.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl ApiRequest {
    pub(crate) fn parse(parts: &Parts) -> Self {
        let header = |name: http::HeaderName| {
            let value = parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let query = parts.uri.query().unwrap_or_default();
        Self {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            accept: header(http::header::ACCEPT),
            content_type: header(http::header::CONTENT_TYPE),
            resource_path: ResourcePath::parse(parts.uri.path()),
        }
    }

    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The RBAC verb, or `None` if the request is not for objects.
    pub(crate) fn verb(&self) -> Option<&'static str> {
        let resource_path = self.resource_path.as_ref()?;
        Some(match (&self.method, &resource_path.name) {
            (&Method::GET, Some(_)) => "get",
            (&Method::GET, None) if self.query("watch") == "true" || self.query("watch") == "1" => {
                "watch"
            }
            (&Method::GET, None) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, Some(_)) => "delete",
            (&Method::DELETE, None) => "deletecollection",
            _ => return None,
        })
    }

    /// The field manager of the request. Defaults to the name of the client.
    pub(crate) fn field_manager(&self, client: &str) -> FieldManager {
        let named = self.query("fieldManager");
        FieldManager {
            manager: if named.is_empty() {
                client.to_owned()
            } else {
                named.to_owned()
            },
            is_apply: self
                .content_type
                .starts_with("application/apply-patch+yaml"),
            is_patch: self.method == Method::PATCH,
            subresource: self
                .resource_path
                .as_ref()
                .and_then(|resource_path| resource_path.subresource.clone())
                .unwrap_or_default(),
        }
    }

    /// Whether the client accepts JSON.
    pub(crate) fn accepts_json(&self) -> bool {
        self.accept.is_empty()
            || ["application/json", "*/*"]
                .iter()
                .any(|kind| self.accept.contains(kind))
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.query("dryRun") == "All"
    }

    /// Whether the client requests only metadata.
    pub(crate) fn wants_metadata_only(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }
}

impl ResourcePath {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // `namespaces/x` alone is the Namespace object itself.
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && *rest != ["status"] => {
                (Some(*namespace), rest)
            }
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(Self {
            group: group.into(),
            version: version.into(),
            plural: (*plural).into(),
            namespace: namespace.map(Into::into),
            name: name.map(Into::into),
            subresource: subresource.map(Into::into),
        })
    }

    /// `replicasets.apps`, `pods`.
    pub(crate) fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parsed_into_collections_objects_and_subresources() {
        let parse = |path: &str| ResourcePath::parse(path).unwrap();
        let status = parse("/apis/apps/v1/namespaces/shop/replicasets/checkout-1/status");
        assert_eq!(
            (
                status.resource().as_str(),
                status.namespace.as_deref(),
                status.name.as_deref(),
                status.subresource.as_deref()
            ),
            (
                "replicasets.apps",
                Some("shop"),
                Some("checkout-1"),
                Some("status")
            ),
        );
        let all = parse("/api/v1/pods");
        assert_eq!(
            (all.resource().as_str(), all.namespace, all.name),
            ("pods", None, None)
        );
        let namespace = parse("/api/v1/namespaces/shop");
        assert_eq!(
            (namespace.plural.as_str(), namespace.name.as_deref()),
            ("namespaces", Some("shop"))
        );
        assert_eq!(ResourcePath::parse("/apis/apps/v1"), None);
        assert_eq!(ResourcePath::parse("/version"), None);
    }
}
