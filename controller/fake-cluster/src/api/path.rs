//! What a request is about.

use std::collections::HashMap;

use http::Method;
use http::request::Parts;

use super::managed::Writer;

/// A request, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    /// None: not about objects (discovery, health).
    pub(crate) target: Option<Target>,
}

/// A collection, or an object of it, or a path below that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// None: all namespaces, or the kind has none.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Call {
    pub(crate) fn read(parts: &Parts) -> Self {
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
            target: Target::read(parts.uri.path()),
        }
    }

    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// What the request does, in the words of RBAC; none for what is not about objects.
    pub(crate) fn verb(&self) -> Option<&'static str> {
        let target = self.target.as_ref()?;
        Some(match (&self.method, &target.name) {
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

    /// For whom the request writes: its field manager, or else its client.
    pub(crate) fn writer(&self, who: &str) -> Writer {
        let named = self.query("fieldManager");
        Writer {
            manager: if named.is_empty() {
                who.to_owned()
            } else {
                named.to_owned()
            },
            applies: self
                .content_type
                .starts_with("application/apply-patch+yaml"),
            patches: self.method == Method::PATCH,
            subresource: self
                .target
                .as_ref()
                .and_then(|target| target.subresource.clone())
                .unwrap_or_default(),
        }
    }

    /// Whether the client takes JSON.
    pub(crate) fn accepts_json(&self) -> bool {
        self.accept.is_empty()
            || ["application/json", "*/*"]
                .iter()
                .any(|kind| self.accept.contains(kind))
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.query("dryRun") == "All"
    }

    /// Whether only metadata is asked for.
    pub(crate) fn wants_metadata_only(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }
}

impl Target {
    fn read(path: &str) -> Option<Self> {
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
    fn paths_name_collections_objects_and_what_is_below() {
        let read = |path: &str| Target::read(path).unwrap();
        let status = read("/apis/apps/v1/namespaces/shop/replicasets/checkout-1/status");
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
        let all = read("/api/v1/pods");
        assert_eq!(
            (all.resource().as_str(), all.namespace, all.name),
            ("pods", None, None)
        );
        let namespace = read("/api/v1/namespaces/shop");
        assert_eq!(
            (namespace.plural.as_str(), namespace.name.as_deref()),
            ("namespaces", Some("shop"))
        );
        assert_eq!(Target::read("/apis/apps/v1"), None);
        assert_eq!(Target::read("/version"), None);
    }
}
