//! Steps that send chosen requests to the canary, or copy them to it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// Maximum number of managed routes of a Rollout.
pub const MAX_MANAGED_ROUTES: usize = 8;
/// Maximum number of matches of a managed route, of which one suffices.
pub const MAX_MATCHES: usize = 8;
/// Maximum number of headers of a match.
pub const MAX_MATCH_HEADERS: usize = 8;
/// Maximum length of the name of a header or a cookie.
pub const MAX_HEADER_NAME: usize = 128;
/// Maximum length of a text that is matched.
pub const MAX_TEXT: usize = 256;

/// A rule that steps set and remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedRouteName {
    /// Name of the rule, unique in the list.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::managed_route_name())]
    pub name: String,
}

/// Sends all requests that match to the canary, at any weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRouteSpec {
    /// Name of the rule in `trafficRouting.managedRoutes`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The requests. One match suffices. If empty, the rule of this name is removed.
    #[serde(rename = "match", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_MATCHES))]
    pub matches: Vec<HeaderRouteMatch>,
}

/// Requests with a header or with a cookie. Exactly one of the two must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::header_or_cookie())]
pub struct HeaderRouteMatch {
    /// Name of the header, for example `x-user-group`. Requires `headerValue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_HEADER_NAME))]
    pub header_name: Option<String>,
    /// Value of the header. Requires `headerName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_value: Option<StringMatchSpec>,
    /// A cookie with its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<CookieMatchSpec>,
}

/// A cookie with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CookieMatchSpec {
    /// Name of the cookie.
    #[schemars(length(min = 1, max = MAX_HEADER_NAME))]
    pub name: String,
    /// Value of the cookie, exactly.
    #[schemars(length(max = MAX_TEXT))]
    pub value: String,
}

/// A condition on a text. Exactly one of the fields must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_string_match())]
pub struct StringMatchSpec {
    /// The whole text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_TEXT))]
    pub exact: Option<String>,
    /// The beginning of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_TEXT))]
    pub prefix: Option<String>,
    /// A regular expression, as the router understands it. Whether it has to match the whole text
    /// depends on the router: begin with `^` and end with `$`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_TEXT))]
    pub regex: Option<String>,
}

/// Copies requests that match to the canary, whose answers are discarded. The requests themselves
/// are answered as all others are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorRouteSpec {
    /// Name of the rule in `trafficRouting.managedRoutes`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Percentage of the requests that are copied. Defaults to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percentage: Option<i32>,
    /// The requests. One match suffices. If empty, the rule of this name is removed.
    #[serde(rename = "match", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_MATCHES))]
    pub matches: Vec<MirrorRouteMatch>,
}

/// Requests that meet all of these conditions. At least one must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::a_condition_is_set())]
pub struct MirrorRouteMatch {
    /// HTTP method. Only `exact` is possible, for example `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatchSpec>,
    /// Path. `prefix: /` is every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<StringMatchSpec>,
    /// Headers, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = MAX_MATCH_HEADERS))]
    pub headers: Option<BTreeMap<String, StringMatchSpec>>,
}
