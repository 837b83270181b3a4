//! Rules of a route without a name, which are named by what they match.

use std::fmt;
use std::str::FromStr;

/// The protocol of a rule for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer4Protocol {
    /// TLS, which is passed through.
    Tls,
    /// TCP.
    Tcp,
}

impl Layer4Protocol {
    const ALL: [Self; 2] = [Self::Tls, Self::Tcp];

    /// `tls` or `tcp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }
}

/// A rule for connections, by what it matches. [`crate::plan::RouteRef::rule`] contains its text,
/// for example `tcp/3306/` or `tls/443/a.example.com,b.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer4Rule {
    /// The protocol.
    pub protocol: Layer4Protocol,
    /// The port that it matches. `None` for any.
    pub port: Option<u16>,
    /// The server names that it matches, sorted. Empty for any.
    pub sni_hosts: Vec<String>,
}

impl fmt::Display for Layer4Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        let hosts = self.sni_hosts.join(",");
        write!(formatter, "{}/{port}/{hosts}", self.protocol.as_str())
    }
}

/// The text is not that of a [`Layer4Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLayer4Rule;

impl FromStr for Layer4Rule {
    type Err = InvalidLayer4Rule;

    fn from_str(text: &str) -> Result<Self, InvalidLayer4Rule> {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().ok_or(InvalidLayer4Rule);
        let (protocol, port, hosts) = (next()?, next()?, next()?);
        let mut protocols = Layer4Protocol::ALL.into_iter();
        let protocol = protocols.find(|known| known.as_str() == protocol);
        let port = match port {
            "" => None,
            port => Some(port.parse().map_err(|_| InvalidLayer4Rule)?),
        };
        let hosts = hosts.split(',').filter(|host| !host.is_empty());
        Ok(Self {
            protocol: protocol.ok_or(InvalidLayer4Rule)?,
            port,
            sni_hosts: hosts.map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_rule_is_parsed_back() {
        let hosts = || vec!["a.example.com".to_owned(), "b.example.com".to_owned()];
        for protocol in Layer4Protocol::ALL {
            for (port, sni_hosts) in [(Some(443), hosts()), (None, hosts()), (Some(1), vec![])] {
                let rule = Layer4Rule {
                    protocol,
                    port,
                    sni_hosts,
                };
                assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }

    #[test]
    fn other_texts_are_no_rules_for_connections() {
        for text in [
            "",
            "main",
            "tcp",
            "tcp/80",
            "udp/80/",
            "tcp/x/",
            "tls/70000/",
        ] {
            assert_eq!(text.parse::<Layer4Rule>(), Err(InvalidLayer4Rule), "{text}");
        }
    }
}
