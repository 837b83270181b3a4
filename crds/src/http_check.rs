//! Checks by HTTP: the controller sends a request and evaluates the response.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::KeyRefSpec;
use crate::rules;

/// Maximum length of a URL with its arguments.
pub const MAX_URL_BYTES: usize = 8 << 10;
/// Maximum length of a body with its arguments.
pub const MAX_BODY_BYTES: usize = 64 << 10;

/// An HTTP request whose response decides a check. Redirects are not followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::secret_headers_require_https())]
pub struct HttpCheckSpec {
    /// URL, for example `http://{{args.canaryService}}.{{args.namespace}}.svc:8080/healthz`. Without
    /// a list of the installer, only Services of the Rollout's namespace can be reached, by a name
    /// that ends with `.svc` or `.svc.cluster.local`. `{{args.NAME}}` is replaced by the value of an
    /// argument, percent-encoded.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::http_check_url())]
    pub url: String,
    /// GET or POST. Defaults to GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// Headers of the request. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<HttpHeaderSpec>,
    /// If true, headers with values from Secrets may be sent to an http address, unencrypted.
    /// Everyone who can read the traffic can then read them. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_insecure_headers: Option<bool>,
    /// Body of the request, for POST. `{{args.NAME}}` is replaced by the value of an argument,
    /// escaped as in a JSON string. Defaults to an empty body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub body: Option<String>,
    /// Maximum time of the request in seconds, including the response. Defaults to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30))]
    pub timeout_seconds: Option<i32>,
    /// If true, an endpoint that cannot be reached or does not respond in time is a failure of the
    /// check. Otherwise it holds the release until it responds. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_if_unreachable: Option<bool>,
}

/// Method of an HTTP request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HttpMethod {
    /// Reads.
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// Sends a body.
    #[serde(rename = "POST")]
    Post,
}

/// Header of an HTTP request. Exactly one of `value` and `valueFrom` must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::exactly_one_header_value())]
pub struct HttpHeaderSpec {
    /// Name of the header, for example `Authorization`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::header_name())]
    pub name: String,
    /// Value of the header. It is not secret: everyone who can read the Rollout can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::header_value())]
    pub value: Option<String>,
    /// Source of a secret value. If unset, `value` is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<HeaderSourceSpec>,
}

/// Source of the value of a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderSourceSpec {
    /// Key of a Secret in the Rollout's namespace. The controller needs permission to read it, and
    /// so does the author of the Rollout.
    pub secret_key_ref: KeyRefSpec,
}
