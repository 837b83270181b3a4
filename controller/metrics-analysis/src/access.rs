//! What opens a Prometheus: from what Secrets, ConfigMaps and directories hold to headers and TLS,
//! and what is wrong with them.
//!
//! Nothing here reads them, and no message repeats what a Secret holds.

use std::collections::BTreeMap;
use std::fmt;

use reqwest::header::{HeaderName, HeaderValue};

use crate::prometheus::Tls;
use crate::selector::Trouble;

/// The most headers that are sent, and the longest value, in bytes: servers take in few kilobytes
/// of them.
const MOST_HEADERS: usize = 32;
const LONGEST_VALUE: usize = 8 << 10;

/// So many of the keys that are there are told where the right one is missing.
const TOLD_KEYS: usize = 10;

/// The headers that a request has anyway: another value would make it another request.
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

/// What a place holds, by key or file name.
pub type Data = BTreeMap<String, Vec<u8>>;

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Secret of the Rollout's namespace.
    Secret,
    /// A ConfigMap of the Rollout's namespace.
    ConfigMap,
    /// A directory of the controller's, for example of a mounted Secret.
    Directory,
}

/// A place where something that opens a Prometheus is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// Of which kind.
    pub kind: Kind,
    /// Its namespace; empty for a directory.
    pub namespace: &'a str,
    /// Its name; of a directory its path.
    pub name: &'a str,
    /// The field or the option that names it.
    pub named_by: &'static str,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            named_by,
            ..
        } = self;
        match self.kind {
            Kind::Secret => write!(f, "Secret {namespace}/{name} ({named_by})"),
            Kind::ConfigMap => write!(f, "ConfigMap {namespace}/{name} ({named_by})"),
            Kind::Directory => write!(f, "directory {name} ({named_by})"),
        }
    }
}

impl Source<'_> {
    /// It is not there.
    pub fn not_found(&self) -> Trouble {
        let cause = match self.kind {
            Kind::Secret => "SecretNotFound",
            Kind::ConfigMap => "ConfigMapNotFound",
            Kind::Directory => "DirectoryNotFound",
        };
        let message = format!(
            "The {self} does not exist. Create it, or correct the name; it is looked for again and again."
        );
        Trouble { cause, message }
    }

    /// The controller, known to the API server as `user`, has no right to read it.
    pub fn forbidden(&self, user: &str) -> Trouble {
        let (cause, resource) = match self.kind {
            Kind::Secret => ("SecretForbidden", "secret"),
            Kind::ConfigMap => ("ConfigMapForbidden", "configmap"),
            Kind::Directory => ("DirectoryForbidden", "directory"),
        };
        if self.kind == Kind::Directory {
            return Trouble {
                cause,
                message: format!("The {self} may not be read. Let {user} read it."),
            };
        }
        let Self {
            namespace, name, ..
        } = self;
        let role = format!("serin-{resource}-{name}");
        let message = format!(
            "The controller may not read the {self}. Give it the right to read this one: \
             kubectl -n {namespace} create role {role} --verb=get --resource={resource}s --resource-name={name} && \
             kubectl -n {namespace} create rolebinding {role} --role={role} --user={user}"
        );
        Trouble { cause, message }
    }

    /// It could not be read this time, and why.
    pub fn unavailable(&self, why: &str) -> Trouble {
        let cause = match self.kind {
            Kind::Secret => "SecretUnavailable",
            Kind::ConfigMap => "ConfigMapUnavailable",
            Kind::Directory => "DirectoryUnavailable",
        };
        Trouble {
            cause,
            message: format!("The {self} could not be read: {why}. It is tried again and again."),
        }
    }

    fn invalid(&self, what: &str, fix: &str) -> Trouble {
        let cause = match self.kind {
            Kind::Secret => "InvalidSecret",
            Kind::ConfigMap => "InvalidConfigMap",
            Kind::Directory => "InvalidDirectory",
        };
        Trouble {
            cause,
            message: format!("The {self} cannot be used: {what}; {fix}."),
        }
    }

    fn value<'d>(&self, data: &'d Data, key: &str) -> Result<&'d [u8], Trouble> {
        let value = data.get(key).filter(|value| !value.is_empty());
        value.map(Vec::as_slice).ok_or_else(|| {
            let keys: Vec<&str> = data.keys().map(String::as_str).take(TOLD_KEYS).collect();
            let has = if keys.is_empty() {
                "no keys".to_owned()
            } else {
                format!("the keys {}", keys.join(", "))
            };
            self.invalid(
                &format!("nothing is under the key {key:?}, it has {has}"),
                "add it, or name the right key",
            )
        })
    }

    /// Each key as a header's name, its value as the header's. White space around a value, as files
    /// end in it, is not sent.
    ///
    /// # Errors
    /// The key that is no header's name, or whose value is none.
    pub fn headers(&self, data: &Data) -> Result<Vec<(String, String)>, Trouble> {
        if data.is_empty() || data.len() > MOST_HEADERS {
            let what = format!("it has {} keys where each is a header", data.len());
            return Err(self.invalid(
                &what,
                &format!("use 1 to {MOST_HEADERS}, for example Authorization"),
            ));
        }
        data.iter()
            .map(|(key, value)| self.header(key, value))
            .collect()
    }

    fn header(&self, key: &str, value: &[u8]) -> Result<(String, String), Trouble> {
        let name = HeaderName::try_from(key).ok();
        let Some(name) = name.filter(|name| !OWN_HEADERS.contains(&name.as_str())) else {
            let what = format!("its key {key:?} is not the name of a header that can be given");
            return Err(self.invalid(
                &what,
                "each key is a header's name, for example Authorization",
            ));
        };
        let text = std::str::from_utf8(value)
            .map(str::trim)
            .unwrap_or_default();
        let is_sendable =
            !text.is_empty() && text.len() <= LONGEST_VALUE && HeaderValue::from_str(text).is_ok();
        if !is_sendable {
            let what = format!(
                "what it holds under the key {key:?} ({} bytes) is no value of a header",
                value.len()
            );
            let fix = format!(
                "write one line of text of at most {LONGEST_VALUE} bytes, for example Bearer and the token"
            );
            return Err(self.invalid(&what, &fix));
        }
        Ok((name.as_str().to_owned(), text.to_owned()))
    }

    /// The authorities under a key.
    ///
    /// # Errors
    /// There are none.
    pub fn authorities(&self, data: &Data, key: &str, tls: Tls) -> Result<Tls, Trouble> {
        let pem = self.value(data, key)?;
        tls.with_authorities(pem).map_err(|error| {
            let what = format!(
                "what it holds under the key {key:?} is no certificate of an authority: {error}"
            );
            self.invalid(&what, "put the authority's certificate there, as PEM")
        })
    }

    /// The certificate and the key of a Secret of type `kubernetes.io/tls`.
    ///
    /// # Errors
    /// One of them is missing, or they do not belong together.
    pub fn identity(&self, data: &Data, tls: Tls) -> Result<Tls, Trouble> {
        let (certificate, key) = (self.value(data, CERTIFICATE)?, self.value(data, KEY)?);
        tls.with_identity(certificate, key).map_err(|error| {
            let what =
                format!("{CERTIFICATE} and {KEY} are not a certificate and its key: {error}");
            self.invalid(
                &what,
                "put both there as PEM, for example by kubectl create secret tls",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Source<'_> = Source {
        kind: Kind::Secret,
        namespace: "shop",
        name: "prometheus-headers",
        named_by: "spec.analysis.prometheus.headersFrom",
    };

    fn data(pairs: &[(&str, &str)]) -> Data {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn each_key_is_a_header_and_the_newline_that_files_end_in_is_not_sent() {
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
    fn what_is_no_header_is_told_by_its_key_and_never_by_its_value() {
        for (key, value, words) in [
            (
                "Authorization",
                "s3cret\nX-Other: s3cret",
                "\"Authorization\" (22 bytes) is no value of a header",
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
                "its key \"not a name\" is not the name of a header",
            ),
            (
                "Host",
                "s3cret",
                "its key \"Host\" is not the name of a header that can be given",
            ),
        ] {
            let trouble = SECRET.headers(&data(&[(key, value)])).unwrap_err();
            assert_eq!(trouble.cause, "InvalidSecret");
            assert!(trouble.message.contains(words), "{}", trouble.message);
            assert!(
                trouble.message.contains(
                    "Secret shop/prometheus-headers (spec.analysis.prometheus.headersFrom)"
                )
            );
            assert!(!trouble.message.contains("s3cret"), "{}", trouble.message);
        }
        assert!(
            SECRET
                .headers(&Data::new())
                .unwrap_err()
                .message
                .contains("it has 0 keys")
        );
    }

    #[test]
    fn who_may_not_read_is_told_which_role_to_add() {
        let trouble = SECRET.forbidden("system:serviceaccount:serin-system:serin");
        assert_eq!(trouble.cause, "SecretForbidden");
        let role = "kubectl -n shop create role serin-secret-prometheus-headers --verb=get --resource=secrets --resource-name=prometheus-headers";
        let binding = "kubectl -n shop create rolebinding serin-secret-prometheus-headers --role=serin-secret-prometheus-headers --user=system:serviceaccount:serin-system:serin";
        assert!(
            trouble.message.ends_with(&format!("{role} && {binding}")),
            "{}",
            trouble.message
        );
    }

    #[test]
    fn certificates_that_are_none_are_told_and_never_shown() {
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let told = |trouble: Trouble, words: &str| {
            assert_eq!(trouble.cause, "InvalidSecret");
            assert!(trouble.message.contains(words), "{}", trouble.message);
            assert!(!trouble.message.contains("s3cret"), "{}", trouble.message);
        };
        let ca = |pairs: &[(&str, &str)]| {
            SECRET
                .authorities(&data(pairs), "ca.crt", Tls::default())
                .unwrap_err()
        };
        told(
            ca(&[]),
            "nothing is under the key \"ca.crt\", it has no keys",
        );
        told(
            ca(&[("tls.crt", "s3cret")]),
            "nothing is under the key \"ca.crt\", it has the keys tls.crt",
        );
        told(ca(&[("ca.crt", "s3cret")]), "no certificate in PEM");
        let of_garbage = "-----BEGIN CERTIFICATE-----\nczNjcmV0\n-----END CERTIFICATE-----\n";
        told(
            ca(&[("ca.crt", of_garbage)]),
            "no certificate of an authority",
        );

        let own = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap();
        let pair = |certificate: &str, key: &str| {
            SECRET.identity(
                &data(&[("tls.crt", certificate), ("tls.key", key)]),
                Tls::default(),
            )
        };
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let tls = pair(&certificate, &key).unwrap();
        assert_ne!(tls, Tls::default());
        let body = key.lines().nth(1).unwrap();
        assert!(!format!("{tls:?}").contains(body));
        let mixed = pair(&certificate, &other.signing_key.serialize_pem()).unwrap_err();
        told(mixed, "are not a certificate and its key");
        told(
            pair(&certificate, "s3cret").unwrap_err(),
            "are not a certificate and its key",
        );
        told(
            pair(&certificate, "").unwrap_err(),
            "nothing is under the key \"tls.key\", it has the keys tls.crt, tls.key",
        );
        assert!(
            SECRET
                .authorities(&data(&[("ca.crt", &certificate)]), "ca.crt", Tls::default())
                .is_ok()
        );
    }
}
