//! Names of repositories, tags and digests. They become parts of URLs, so that nothing else than the
//! grammar of the specification is accepted.

/// Maximum length of a host with its port, and of the path of a repository.
const MAX_NAME_BYTES: usize = 255;
/// Maximum length of a tag.
const MAX_TAG_BYTES: usize = 128;
/// Registry whose API has another host than its name.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// The name of an image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImage {
    /// Registry or path.
    #[error(
        "{0:?} is not the name of an image with its registry, for example registry.example.com/team/app"
    )]
    Name(String),
    /// Tag.
    #[error("{0:?} is not a tag: use letters, digits, '.', '_' and '-'")]
    Tag(String),
    /// Digest.
    #[error("{0:?} is not a digest: it is sha256: and 64 hexadecimal digits")]
    Digest(String),
}

/// A repository in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Parses a name with its registry, for example `docker.io/library/nginx`.
    ///
    /// # Errors
    /// The name does not follow the grammar of the distribution specification.
    pub fn parse(name: &str) -> Result<Self, InvalidImage> {
        let invalid = || InvalidImage::Name(crate::error::shortened(name));
        let (registry, path) = name.split_once('/').ok_or_else(invalid)?;
        if is_registry(registry) && is_path(path) {
            Ok(Self {
                registry: registry.to_ascii_lowercase(),
                path: path.to_owned(),
            })
        } else {
            Err(invalid())
        }
    }

    /// The host of the registry as users write it, with its port if it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The host that serves the API.
    pub(crate) fn api_host(&self) -> &str {
        let (name, host) = DOCKER_HUB;
        if self.registry == name {
            host
        } else {
            &self.registry
        }
    }
}

fn is_registry(text: &str) -> bool {
    let is_permitted =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_permitted)
}

/// Whether each part of a path begins and ends with a letter or a digit, so that none is `..`.
fn is_path(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(|end| is_plain(*end)))
            && part
                .bytes()
                .all(|byte| is_plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
    };
    text.len() <= MAX_NAME_BYTES && text.split('/').all(is_part)
}

/// The tag, if it is one.
pub(crate) fn checked_tag(tag: &str) -> Result<&str, InvalidImage> {
    let is_permitted =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_start = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let is_tag = tag.len() <= MAX_TAG_BYTES
        && tag.as_bytes().first().is_some_and(is_start)
        && tag.bytes().all(is_permitted);
    is_tag
        .then_some(tag)
        .ok_or_else(|| InvalidImage::Tag(crate::error::shortened(tag)))
}

/// Whether a text is a digest with SHA-256: `sha256:` and 64 lowercase hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

/// The digest, if it is one.
pub(crate) fn checked_digest(text: &str) -> Result<&str, InvalidImage> {
    is_digest(text)
        .then_some(text)
        .ok_or_else(|| InvalidImage::Digest(crate::error::shortened(text)))
}

/// A SHA-256 as the text of a digest.
pub(crate) fn digest_text(hash: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in hash {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn only_names_that_are_safe_in_a_url_are_repositories() {
        for (name, registry, path) in [
            ("docker.io/library/nginx", "docker.io", "library/nginx"),
            ("Reg:5000/a/b_c-d.e", "reg:5000", "a/b_c-d.e"),
            ("[fd00::1]:5000/app", "[fd00::1]:5000", "app"),
        ] {
            let parsed = Repository::parse(name).unwrap();
            assert_eq!((parsed.registry(), parsed.path()), (registry, path));
        }
        for name in [
            "",
            "nginx",
            "reg/",
            "reg/../../secret",
            "reg/a/../b",
            "reg/A",
            "reg/a?b",
            "reg/a%2fb",
            "user@reg/a",
            "reg\n/a",
            "reg/-a",
            &format!("reg/{}", "a".repeat(256)),
        ] {
            assert!(Repository::parse(name).is_err(), "{name}");
        }
        let hub = Repository::parse("docker.io/library/nginx").unwrap();
        assert_eq!(hub.api_host(), "registry-1.docker.io");
    }

    #[test]
    fn tags_and_digests_follow_their_grammar() {
        for tag in ["v1.2", "_a", "sha256-12.sig", "A"] {
            assert!(checked_tag(tag).is_ok(), "{tag}");
        }
        for tag in ["", ".a", "a/b", "a b", "a?", &"a".repeat(129)] {
            assert!(checked_tag(tag).is_err(), "{tag}");
        }
        let digest = digest_text(&Sha256::digest(b""));
        assert_eq!(
            digest,
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!(is_digest(&digest));
        for text in [
            "",
            "sha256:12",
            &digest.to_uppercase(),
            &format!("{digest}0"),
        ] {
            assert!(!is_digest(text), "{text}");
        }
    }
}
