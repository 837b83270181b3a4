//! The header `WWW-Authenticate`, with which a registry demands a token or a password.

/// What a registry demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from a server for tokens.
    Bearer {
        /// URL of that server.
        realm: String,
        /// Name of the registry there.
        service: Option<String>,
    },
}

impl Challenge {
    /// The first challenge of a header that can be met. `None` if there is none.
    pub fn parse(header: &str) -> Option<Self> {
        let header = header.trim();
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = rest;
        while let Some((name, value, next)) = parameter(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
            rest = next;
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
        })
    }
}

/// The next parameter: its name, its value, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, value) = text.trim_start_matches([' ', ',']).split_once('=')?;
    let Some(quoted) = value.trim_start().strip_prefix('"') else {
        let (value, rest) = value.split_once(',').unwrap_or((value, ""));
        return Some((name.trim(), value.trim().to_owned(), rest));
    };
    let mut unquoted = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name.trim(), unquoted, &quoted[at + 1..])),
            '\\' => unquoted.push(characters.next()?.1),
            other => unquoted.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn the_server_for_tokens_is_read_from_the_header() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://a.io/token",service="r",scope="repository:a:pull,push""#,
                Some(bearer("https://a.io/token", Some("r"))),
            ),
            (
                "bearer realm=https://a.io/t",
                Some(bearer("https://a.io/t", None)),
            ),
            (
                r#"Bearer service="a\"b", realm="x""#,
                Some(bearer("x", Some("a\"b"))),
            ),
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            (r#"Bearer realm="no end"#, None),
            ("Negotiate abc", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }
}
