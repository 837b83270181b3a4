//! References of container images.

/// A reference: `[REGISTRY/]PATH[:TAG][@DIGEST]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageReference<'a> {
    /// Registry and path, as written.
    pub name: &'a str,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

impl<'a> ImageReference<'a> {
    pub fn parse(text: &'a str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash separates the port of a registry.
        let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
        match rest[path_at..].find(':') {
            Some(colon) => Self {
                name: &rest[..path_at + colon],
                tag: Some(&rest[path_at + colon + 1..]),
                digest,
            },
            None => Self {
                name: rest,
                tag: None,
                digest,
            },
        }
    }

    /// The name with the registry and the path that Kubernetes adds: `nginx` is
    /// `docker.io/library/nginx`.
    pub fn canonical_name(&self) -> String {
        match self.name.split_once('/') {
            None => format!("docker.io/library/{}", self.name),
            Some((first, rest)) if is_registry(first) => {
                let registry = match first {
                    "index.docker.io" | "registry-1.docker.io" => "docker.io",
                    other => other,
                };
                let is_official = registry == "docker.io" && !rest.contains('/');
                let library = if is_official { "library/" } else { "" };
                format!("{registry}/{library}{rest}")
            }
            Some(_) => format!("docker.io/{}", self.name),
        }
    }
}

/// Whether the first part of a name is the host of a registry.
pub(crate) fn is_registry(host: &str) -> bool {
    host.contains(['.', ':']) || host == "localhost"
}

/// The digest in the `imageID` of a container status: that of the image in its registry. `None` if
/// the container runtime reports only its own identifier, which differs by architecture.
pub fn registry_digest(image_id: &str) -> Option<&str> {
    let (_, digest) = image_id.rsplit_once('@')?;
    digest.contains(':').then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_split_into_name_tag_and_digest() {
        for (text, name, tag, digest) in [
            ("nginx", "nginx", None, None),
            ("nginx:1.27", "nginx", Some("1.27"), None),
            ("reg:5000/a/b", "reg:5000/a/b", None, None),
            ("reg:5000/a/b:v1", "reg:5000/a/b", Some("v1"), None),
            ("a/b@sha256:12", "a/b", None, Some("sha256:12")),
            ("a/b:v1@sha256:12", "a/b", Some("v1"), Some("sha256:12")),
            ("", "", None, None),
            (":", "", Some(""), None),
        ] {
            let parsed = ImageReference::parse(text);
            assert_eq!(parsed, ImageReference { name, tag, digest }, "{text}");
        }
    }

    #[test]
    fn names_are_compared_with_their_registry() {
        for (text, expected) in [
            ("nginx:1", "docker.io/library/nginx"),
            ("docker.io/nginx", "docker.io/library/nginx"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx"),
            ("team/app", "docker.io/team/app"),
            ("ghcr.io/team/app:1", "ghcr.io/team/app"),
            ("localhost/app", "localhost/app"),
            ("reg:5000/app", "reg:5000/app"),
        ] {
            assert_eq!(ImageReference::parse(text).canonical_name(), expected);
        }
    }

    #[test]
    fn only_a_digest_of_a_registry_is_compared() {
        let id = "docker.io/library/nginx@sha256:12";
        assert_eq!(registry_digest(id), Some("sha256:12"));
        assert_eq!(registry_digest("sha256:34"), None);
        assert_eq!(
            registry_digest("docker-pullable://nginx@sha256:1"),
            Some("sha256:1")
        );
        assert_eq!(registry_digest(""), None);
    }
}
