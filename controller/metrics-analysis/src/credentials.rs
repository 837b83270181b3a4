//! Prometheus credentials: converts the contents of Secrets, ConfigMaps and directories to headers
//! and TLS options, and explains what is wrong with them.
//!
//! This module does not read them itself. No message repeats the contents of a Secret.

use std::collections::BTreeMap;
use std::fmt;

use reqwest::header::{HeaderName, HeaderValue};

use serin_core::hold::HoldCode;

use crate::counter_selectors::AnalysisError;
use crate::prometheus::Tls;

/// Maximum number of headers, and maximum length of a value in bytes. Servers typically limit all
/// headers to a few kilobytes.
const MOST_HEADERS: usize = 32;
const LONGEST_VALUE: usize = 8 << 10;

/// Maximum number of existing keys that an error lists if the required key is missing.
const TOLD_KEYS: usize = 10;

/// Headers that the HTTP client sets itself and that must not be overridden.
const OWN_HEADERS: [&str; 6] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
];

/// The keys of a Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Contents of a credential source, by key or file name.
pub type CredentialData = BTreeMap<String, Vec<u8>>;

/// Kind of a credential source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialSourceKind {
    /// A Secret in the namespace of the Rollout.
    Secret,
    /// A ConfigMap in the namespace of the Rollout.
    ConfigMap,
    /// A directory in the controller's file system, for example a mounted Secret.
    Directory,
}

/// An object or directory that contains Prometheus credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialSource<'a> {
    /// Kind of the source.
    pub kind: CredentialSourceKind,
    /// Namespace of the object. Empty for a directory.
    pub namespace: &'a str,
    /// Name of the object, or path of the directory.
    pub name: &'a str,
    /// Spec field or command-line option that references it.
    pub referenced_by: &'static str,
}

impl fmt::Display for CredentialSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            referenced_by: named_by,
            ..
        } = self;
        match self.kind {
            CredentialSourceKind::Secret => write!(f, "Secret {namespace}/{name} ({named_by})"),
            CredentialSourceKind::ConfigMap => {
                write!(f, "ConfigMap {namespace}/{name} ({named_by})")
            }
            CredentialSourceKind::Directory => write!(f, "directory {name} ({named_by})"),
        }
    }
}

impl CredentialSource<'_> {
    /// The error if the source does not exist.
    pub fn not_found(&self) -> AnalysisError {
        let code = match self.kind {
            CredentialSourceKind::Secret => HoldCode::SecretNotFound,
            CredentialSourceKind::ConfigMap => HoldCode::ConfigMapNotFound,
            CredentialSourceKind::Directory => HoldCode::DirectoryNotFound,
        };
        let message = format!(
            "The {self} does not exist. Create it or correct the name. Serin retries automatically."
        );
        AnalysisError { code, message }
    }

    /// The error if the controller, known to the API server as `user`, is not allowed to read the
    /// source.
    pub fn forbidden(&self, user: &str) -> AnalysisError {
        let code = match self.kind {
            CredentialSourceKind::Secret => HoldCode::SecretForbidden,
            CredentialSourceKind::ConfigMap => HoldCode::ConfigMapForbidden,
            CredentialSourceKind::Directory => HoldCode::DirectoryForbidden,
        };
        if self.kind == CredentialSourceKind::Directory {
            return AnalysisError {
                code,
                message: format!("The {self} is not readable. Allow {user} to read it."),
            };
        }
        let message = format!(
            "The controller is not allowed to read the {self}. Grant access to this object only: {}",
            self.grant(user)
        );
        AnalysisError { code, message }
    }

    /// The commands that let `user` read this object and no other one.
    pub fn grant(&self, user: &str) -> String {
        let Self {
            namespace, name, ..
        } = self;
        let resource = match self.kind {
            CredentialSourceKind::ConfigMap => "configmap",
            CredentialSourceKind::Secret | CredentialSourceKind::Directory => "secret",
        };
        let role = format!("serin-{resource}-{name}");
        format!(
            "kubectl -n {namespace} create role {role} --verb=get --resource={resource}s \
             --resource-name={name} && kubectl -n {namespace} create rolebinding {role} \
             --role={role} --user={user}"
        )
    }

    /// The error if the source could not be read for a temporary reason.
    pub fn unavailable(&self, why: &str) -> AnalysisError {
        let code = match self.kind {
            CredentialSourceKind::Secret => HoldCode::SecretUnavailable,
            CredentialSourceKind::ConfigMap => HoldCode::ConfigMapUnavailable,
            CredentialSourceKind::Directory => HoldCode::DirectoryUnavailable,
        };
        AnalysisError {
            code,
            message: format!("The {self} could not be read: {why}. Serin retries automatically."),
        }
    }

    fn invalid(&self, what: &str, fix: &str) -> AnalysisError {
        let code = match self.kind {
            CredentialSourceKind::Secret => HoldCode::InvalidSecret,
            CredentialSourceKind::ConfigMap => HoldCode::InvalidConfigMap,
            CredentialSourceKind::Directory => HoldCode::InvalidDirectory,
        };
        AnalysisError {
            code,
            message: format!("The {self} cannot be used: {what}; {fix}."),
        }
    }

    fn value<'d>(&self, data: &'d CredentialData, key: &str) -> Result<&'d [u8], AnalysisError> {
        let value = data.get(key).filter(|value| !value.is_empty());
        value.map(Vec::as_slice).ok_or_else(|| {
            let keys: Vec<&str> = data.keys().map(String::as_str).take(TOLD_KEYS).collect();
            let has = if keys.is_empty() {
                "no keys".to_owned()
            } else {
                format!("the keys {}", keys.join(", "))
            };
            self.invalid(
                &format!("the key {key:?} is missing or empty, it has {has}"),
                "add it, or reference the right key",
            )
        })
    }

    /// Converts each key and value to a header. Leading and trailing white space of a value, such
    /// as the final newline of a file, is removed.
    ///
    /// # Errors
    /// The key that is not a valid header name, or whose value is not a valid header value.
    pub fn headers(&self, data: &CredentialData) -> Result<Vec<(String, String)>, AnalysisError> {
        if data.is_empty() || data.len() > MOST_HEADERS {
            let what = format!(
                "it has {} keys, and each key is sent as a header",
                data.len()
            );
            return Err(self.invalid(
                &what,
                &format!("use 1 to {MOST_HEADERS}, for example Authorization"),
            ));
        }
        data.iter()
            .map(|(key, value)| self.header(key, value))
            .collect()
    }

    fn header(&self, key: &str, value: &[u8]) -> Result<(String, String), AnalysisError> {
        let name = HeaderName::try_from(key).ok();
        let Some(name) = name.filter(|name| !OWN_HEADERS.contains(&name.as_str())) else {
            let what = format!("its key {key:?} is not an allowed header name");
            return Err(self.invalid(
                &what,
                "use a header name as the key, for example Authorization",
            ));
        };
        let text = self.header_text(key, value)?;
        Ok((name.as_str().to_owned(), text))
    }

    /// The value of a header, from the key of a Secret. Leading and trailing white space is removed.
    ///
    /// # Errors
    /// The key is missing, or its value is not a valid header value.
    pub fn header_value(&self, data: &CredentialData, key: &str) -> Result<String, AnalysisError> {
        self.header_text(key, self.value(data, key)?)
    }

    fn header_text(&self, key: &str, value: &[u8]) -> Result<String, AnalysisError> {
        let text = std::str::from_utf8(value)
            .map(str::trim)
            .unwrap_or_default();
        let is_sendable =
            !text.is_empty() && text.len() <= LONGEST_VALUE && HeaderValue::from_str(text).is_ok();
        if !is_sendable {
            let what = format!(
                "the value of its key {key:?} ({} bytes) is not a valid header value",
                value.len()
            );
            let fix = format!(
                "write one line of text of at most {LONGEST_VALUE} bytes, for example Bearer and \
                 the token"
            );
            return Err(self.invalid(&what, &fix));
        }
        Ok(text.to_owned())
    }

    /// Adds the CA certificates that are stored under `key`.
    ///
    /// # Errors
    /// The key is missing or contains no certificate.
    pub fn add_ca_bundle(
        &self,
        data: &CredentialData,
        key: &str,
        tls: Tls,
    ) -> Result<Tls, AnalysisError> {
        let pem = self.value(data, key)?;
        tls.with_ca_bundle(pem).map_err(|error| {
            let what = format!("the value of its key {key:?} is not a CA certificate: {error}");
            self.invalid(&what, "store the CA certificate there as PEM")
        })
    }

    /// Adds the client certificate of a Secret of type `kubernetes.io/tls`.
    ///
    /// # Errors
    /// The certificate or its key is missing, or they do not match.
    pub fn add_client_certificate(
        &self,
        data: &CredentialData,
        tls: Tls,
    ) -> Result<Tls, AnalysisError> {
        let (certificate, key) = (self.value(data, CERTIFICATE)?, self.value(data, KEY)?);
        tls.with_client_certificate(certificate, key)
            .map_err(|error| {
                let what = format!(
                    "{CERTIFICATE} and {KEY} are not a matching certificate and key: {error}"
                );
                self.invalid(
                    &what,
                    "store both as PEM, for example with kubectl create secret tls",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use serin_fake_cluster::certificates::{CertificateAndKey, CertificateAuthority};

    use super::*;

    const SECRET: CredentialSource<'_> = CredentialSource {
        kind: CredentialSourceKind::Secret,
        namespace: "shop",
        name: "prometheus-headers",
        referenced_by: "spec.analysis.prometheus.headersFrom",
    };

    fn data(pairs: &[(&str, &str)]) -> CredentialData {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn each_key_becomes_a_header_without_trailing_newline() {
        let headers = SECRET
            .headers(&data(&[
                ("Authorization", "Bearer s3cret\n"),
                ("X-Scope-OrgID", "shop"),
            ]))
            .unwrap();
        let expected = [
            ("authorization", "Bearer s3cret"),
            ("x-scope-orgid", "shop"),
        ];
        assert_eq!(
            headers,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn invalid_headers_are_reported_without_their_value() {
        for (key, value, fragment) in [
            (
                "Authorization",
                "s3cret\nX-Other: s3cret",
                "\"Authorization\" (22 bytes) is not a valid header value",
            ),
            ("Authorization", "", "(0 bytes)"),
            (
                "Authorization",
                &"s3cret".repeat(2_000),
                "at most 8192 bytes",
            ),
            (
                "not a name",
                "s3cret",
                "its key \"not a name\" is not an allowed header name",
            ),
            (
                "Host",
                "s3cret",
                "its key \"Host\" is not an allowed header name",
            ),
        ] {
            let analysis_error = SECRET.headers(&data(&[(key, value)])).unwrap_err();
            assert_eq!(analysis_error.code, HoldCode::InvalidSecret);
            assert!(
                analysis_error.message.contains(fragment),
                "{}",
                analysis_error.message
            );
            assert!(
                analysis_error.message.contains(
                    "Secret shop/prometheus-headers (spec.analysis.prometheus.headersFrom)"
                )
            );
            assert!(
                !analysis_error.message.contains("s3cret"),
                "{}",
                analysis_error.message
            );
        }
        assert!(
            SECRET
                .headers(&CredentialData::new())
                .unwrap_err()
                .message
                .contains("it has 0 keys")
        );
    }

    #[test]
    fn a_forbidden_secret_is_reported_with_the_required_role() {
        let analysis_error = SECRET.forbidden("system:serviceaccount:serin-system:serin");
        assert_eq!(analysis_error.code, HoldCode::SecretForbidden);
        let role = "kubectl -n shop create role serin-secret-prometheus-headers --verb=get \
            --resource=secrets --resource-name=prometheus-headers";
        let binding = "kubectl -n shop create rolebinding serin-secret-prometheus-headers \
            --role=serin-secret-prometheus-headers --user=system:serviceaccount:serin-system:serin";
        assert!(
            analysis_error
                .message
                .ends_with(&format!("{role} && {binding}")),
            "{}",
            analysis_error.message
        );
    }

    #[test]
    fn invalid_certificates_are_reported_and_never_printed() {
        // Another test may already have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let assert_error = |analysis_error: AnalysisError, fragment: &str| {
            assert_eq!(analysis_error.code, HoldCode::InvalidSecret);
            assert!(
                analysis_error.message.contains(fragment),
                "{}",
                analysis_error.message
            );
            assert!(
                !analysis_error.message.contains("s3cret"),
                "{}",
                analysis_error.message
            );
        };
        let ca = |pairs: &[(&str, &str)]| {
            SECRET
                .add_ca_bundle(&data(pairs), "ca.crt", Tls::default())
                .unwrap_err()
        };
        assert_error(
            ca(&[]),
            "the key \"ca.crt\" is missing or empty, it has no keys",
        );
        assert_error(
            ca(&[("tls.crt", "s3cret")]),
            "the key \"ca.crt\" is missing or empty, it has the keys tls.crt",
        );
        assert_error(ca(&[("ca.crt", "s3cret")]), "no certificate in PEM");
        let of_garbage = "-----BEGIN CERTIFICATE-----\nczNjcmV0\n-----END CERTIFICATE-----\n";
        assert_error(ca(&[("ca.crt", of_garbage)]), "is not a CA certificate");

        let authority = CertificateAuthority::new().unwrap();
        let [own, other] = [(); 2].map(|()| authority.issue_certificate().unwrap());
        let pair = |certificate: &str, key: &str| {
            SECRET.add_client_certificate(
                &data(&[("tls.crt", certificate), ("tls.key", key)]),
                Tls::default(),
            )
        };
        let CertificateAndKey { certificate, key } = own;
        let tls = pair(&certificate, &key).unwrap();
        assert_ne!(tls, Tls::default());
        let body = key.lines().nth(1).unwrap();
        assert!(!format!("{tls:?}").contains(body));
        let mixed = pair(&certificate, &other.key).unwrap_err();
        assert_error(mixed, "are not a matching certificate and key");
        assert_error(
            pair(&certificate, "s3cret").unwrap_err(),
            "are not a matching certificate and key",
        );
        assert_error(
            pair(&certificate, "").unwrap_err(),
            "the key \"tls.key\" is missing or empty, it has the keys tls.crt, tls.key",
        );
        assert!(
            SECRET
                .add_ca_bundle(&data(&[("ca.crt", &certificate)]), "ca.crt", Tls::default())
                .is_ok()
        );
    }
}
