//! Credentials from Secrets for pulling images.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::Repository;

/// Maximum size of a Secret that is read.
const MAX_SECRET_BYTES: usize = 64 << 10;
/// Maximum length of a user name or a password.
const MAX_CREDENTIAL_BYTES: usize = 8 << 10;
/// Keys of the two kinds of Secrets, and whether the registries are below `auths`.
const KEYS: [(&str, bool); 2] = [(".dockerconfigjson", true), (".dockercfg", false)];

/// User name and password for a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    /// Omits the values, which are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// A Secret for pulling images cannot be used. The text never contains what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPullSecret {
    /// It has none of the keys.
    #[error("it has neither the key .dockerconfigjson nor .dockercfg")]
    NoKey,
    /// It is too large.
    #[error("it has more than 64 KiB")]
    TooLarge,
    /// It is not JSON of the form that Docker writes.
    #[error("its content is not the JSON that docker login writes")]
    NotJson,
}

/// What a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` contains.
#[derive(Clone, Debug, Default)]
pub struct PullSecret {
    registries: BTreeMap<String, Credentials>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

#[derive(Deserialize)]
struct Auths {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

impl PullSecret {
    /// Reads the data of a Secret. Entries without a user name and a password are left out.
    ///
    /// # Errors
    /// The Secret is not one for pulling images.
    pub fn parse(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, InvalidPullSecret> {
        let found = KEYS
            .iter()
            .find_map(|(key, is_nested)| data.get(*key).map(|json| (json, *is_nested)));
        let (json, is_nested) = found.ok_or(InvalidPullSecret::NoKey)?;
        if json.len() > MAX_SECRET_BYTES {
            return Err(InvalidPullSecret::TooLarge);
        }
        // The error of the parser is not shown: it can repeat what is in the Secret.
        let entries = if is_nested {
            serde_json::from_slice::<Auths>(json).map(|auths| auths.auths)
        } else {
            serde_json::from_slice(json)
        };
        let entries = entries.map_err(|_| InvalidPullSecret::NotJson)?;
        let usable = entries
            .into_iter()
            .filter_map(|(registry, entry)| Some((normalized(&registry), entry.credentials()?)));
        Ok(Self {
            registries: usable.collect(),
        })
    }

    /// The credentials for a repository: those of the longest entry that is its registry, or its
    /// registry with the beginning of its path.
    pub fn credentials_for(&self, repository: &Repository) -> Option<&Credentials> {
        let name = format!("{}/{}", repository.registry(), repository.path());
        let covers = |entry: &str| {
            name.strip_prefix(entry)
                .is_some_and(|rest| rest.starts_with('/'))
                || name == entry
        };
        let entries = self.registries.iter().filter(|(entry, _)| covers(entry));
        let longest = entries.max_by_key(|(entry, _)| entry.len());
        longest.map(|(_, credentials)| credentials)
    }
}

impl Entry {
    fn credentials(self) -> Option<Credentials> {
        let (username, password) = match (self.username, self.password, self.auth) {
            (Some(username), Some(password), _) if !username.is_empty() => (username, password),
            (_, _, Some(auth)) => {
                let decoded = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
                let (username, password) = decoded.split_once(':')?;
                (username.to_owned(), password.to_owned())
            }
            _ => return None,
        };
        let is_short =
            username.len() <= MAX_CREDENTIAL_BYTES && password.len() <= MAX_CREDENTIAL_BYTES;
        (is_short && !username.is_empty()).then_some(Credentials { username, password })
    }
}

/// An entry as the name of a registry: `https://index.docker.io/v1/` is `docker.io`.
fn normalized(entry: &str) -> String {
    let entry = entry.trim().to_ascii_lowercase();
    let host = entry
        .strip_prefix("https://")
        .or_else(|| entry.strip_prefix("http://"))
        .unwrap_or(&entry);
    let host = host.trim_end_matches('/');
    let host = host
        .strip_suffix("/v1")
        .or_else(|| host.strip_suffix("/v2"))
        .unwrap_or(host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(key: &str, json: &str) -> Result<PullSecret, InvalidPullSecret> {
        PullSecret::parse(&[(key.to_owned(), json.as_bytes().to_vec())].into())
    }

    fn user_of(secret: &PullSecret, image: &str) -> Option<String> {
        let repository = Repository::parse(image).unwrap();
        let found = secret.credentials_for(&repository);
        found.map(|found| format!("{}:{}", found.username, found.password))
    }

    #[test]
    fn the_longest_entry_of_the_registry_counts() {
        let auth = STANDARD.encode("ci:s3:cret");
        let json = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "ghcr.io": {{"username": "all", "password": "p"}},
                "ghcr.io/team": {{"username": "team", "password": "p"}},
                "broken.io": {{"auth": "%"}}}}}}"#
        );
        let secret = secret(".dockerconfigjson", &json).unwrap();
        for (image, expected) in [
            ("docker.io/library/nginx", Some("ci:s3:cret")),
            ("ghcr.io/other/app", Some("all:p")),
            ("ghcr.io/team/app", Some("team:p")),
            ("ghcr.io/teams/app", Some("all:p")),
            ("ghcr.io.evil/app", None),
            ("broken.io/app", None),
        ] {
            assert_eq!(user_of(&secret, image).as_deref(), expected, "{image}");
        }
        assert!(!format!("{secret:?}").contains("s3cret"));
    }

    #[test]
    fn the_older_kind_of_secret_is_read_and_others_are_refused() {
        let json = r#"{"quay.io": {"username": "u", "password": "p"}}"#;
        let old = secret(".dockercfg", json).unwrap();
        assert_eq!(user_of(&old, "quay.io/a").as_deref(), Some("u:p"));
        let refused = |key: &str, json: &str| secret(key, json).unwrap_err();
        assert_eq!(refused("token", "{}"), InvalidPullSecret::NoKey);
        assert_eq!(refused(".dockercfg", "s3cret"), InvalidPullSecret::NotJson);
        let large = " ".repeat(MAX_SECRET_BYTES + 1);
        assert_eq!(refused(".dockercfg", &large), InvalidPullSecret::TooLarge);
    }
}
