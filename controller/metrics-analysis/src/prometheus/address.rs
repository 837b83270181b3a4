//! Which addresses the controller connects to for a Rollout.
//!
//! `spec.analysis.prometheus.address` is text of a tenant, but the requests come from the
//! controller's place in the network. The installer can list the addresses that Rollouts may use.
//! Without a list, addresses are refused that no Prometheus of a tenant has.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use reqwest::Url;

/// Addresses of metadata services of cloud providers that are not link-local.
const METADATA_SERVICES: [IpAddr; 4] = [
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Oracle Cloud.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// The beginning of the addresses that Rollouts may use: a scheme and a host, optionally a port and
/// a path. Without a port, every port of the host is allowed.
///
/// ```
/// use serin_metrics_analysis::prometheus::AllowedAddress;
///
/// let allowed: AllowedAddress = "https://mimir.example.com/prometheus".parse().unwrap();
/// assert!(allowed.permits("https://mimir.example.com/prometheus/tenant"));
/// assert!(!allowed.permits("https://mimir.example.com.evil.example/prometheus"));
/// assert!(!allowed.permits("https://mimir.example.com/prometheus2"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedAddress {
    scheme: String,
    host: String,
    port: Option<u16>,
    path: Vec<String>,
}

/// Why a text is not the beginning of an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use http:// or https:// and a host, optionally with a port and a path")]
pub struct InvalidAddress;

impl FromStr for AllowedAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        let url = parse(text).ok_or(InvalidAddress)?;
        let (scheme, host) = (url.scheme().to_owned(), host(&url).ok_or(InvalidAddress)?);
        Ok(Self {
            scheme,
            host,
            // The URL does not contain the usual port, even if it was written.
            port: url.port().or_else(|| written_port(text)),
            path: segments(&url).ok_or(InvalidAddress)?,
        })
    }
}

impl fmt::Display for AllowedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.path
            .iter()
            .try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl AllowedAddress {
    /// Whether the address begins with this one.
    pub fn permits(&self, address: &str) -> bool {
        let Some(url) = parse(address) else {
            return false;
        };
        let (Some(host), Some(path)) = (host(&url), segments(&url)) else {
            return false;
        };
        url.scheme() == self.scheme
            && host == self.host
            && self
                .port
                .is_none_or(|port| url.port_or_known_default() == Some(port))
            && path.starts_with(&self.path)
    }
}

/// An HTTP URL without credentials, query and fragment.
fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    is_plain.then_some(url)
}

/// The host without the brackets of IPv6 and without the final dot of a complete name.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// The segments of the path. `None` if one of them contains an encoded slash or backslash, which
/// servers decode differently.
fn segments(url: &Url) -> Option<Vec<String>> {
    let path = url.path();
    let is_ambiguous = ["%2f", "%5c", "%2e"]
        .iter()
        .any(|encoded| path.to_ascii_lowercase().contains(encoded));
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    (!is_ambiguous).then(|| segments.map(str::to_owned).collect())
}

/// The port after the host of a URL, as it is written.
fn written_port(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok()
}

/// Host and port of a URL, which share limits. Empty if it is not a URL.
pub(crate) fn host_and_port(url: &str) -> (String, u16) {
    let url = Url::parse(url).ok();
    let host_and_port = url
        .as_ref()
        .and_then(|url| Some((host(url)?, url.port_or_known_default()?)));
    host_and_port.unwrap_or_default()
}

/// The IP address in a URL. `None` if its host is a name.
pub(super) fn literal_ip(url: &str) -> Option<IpAddr> {
    host(&Url::parse(url).ok()?)?.parse().ok()
}

/// Addresses that are refused for Rollouts, unless the installer allows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedAddresses {
    api_servers: BTreeSet<IpAddr>,
    api_server_names: BTreeSet<String>,
}

impl RefusedAddresses {
    /// Refuses the addresses of the API server, too: IP addresses and names.
    #[must_use]
    pub fn with_api_server(mut self, host: &str) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse() {
            Ok(ip) => self.api_servers.insert(unmapped(ip)),
            Err(_) => self.api_server_names.insert(host.to_ascii_lowercase()),
        };
        self
    }

    /// Why this IP address is refused. `None` if it is not.
    pub fn ip_reason(&self, ip: IpAddr) -> Option<&'static str> {
        let ip = unmapped(ip);
        if self.api_servers.contains(&ip) {
            return Some("an address of the Kubernetes API server");
        }
        if METADATA_SERVICES.contains(&ip) {
            return Some("the address of a metadata service");
        }
        match ip {
            _ if ip.is_loopback() => Some("a loopback address"),
            _ if ip.is_unspecified() => Some("the unspecified address"),
            _ if ip.is_multicast() => Some("a multicast address"),
            IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("an address of this host"),
            IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
            IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
            _ => None,
        }
    }

    /// Why this name is refused. `None` if it is not, which says nothing about its IP addresses.
    pub fn name_reason(&self, name: &str) -> Option<&'static str> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.api_server_names
            .contains(&name)
            .then_some("the name of the Kubernetes API server")
    }
}

/// The IPv4 address inside an IPv6 address that leads to it: mapped (`::ffff:a.b.c.d`), compatible
/// (`::a.b.c.d`), NAT64 (`64:ff9b::a.b.c.d`) or 6to4 (`2002:aabb:ccdd::`).
fn unmapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let segments = v6.segments();
    let [.., a, b, c, d] = v6.octets();
    match segments {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => ip,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, ..] => Ipv4Addr::new(a, b, c, d).into(),
        [0x2002, high, low, ..] => {
            let [[a, b], [c, d]] = [high, low].map(u16::to_be_bytes);
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(text: &str) -> AllowedAddress {
        text.parse().unwrap()
    }

    #[test]
    fn an_allowed_address_is_a_prefix_of_whole_parts() {
        let host = allowed("http://prometheus.monitoring");
        for address in [
            "http://prometheus.monitoring",
            "http://prometheus.monitoring:9090",
            "http://PROMETHEUS.monitoring./tenant",
        ] {
            assert!(host.permits(address), "{address}");
        }
        for address in [
            "https://prometheus.monitoring",
            "http://prometheus.monitoring.evil",
            "http://prometheus.monitoring@evil",
            "http://prometheus.monitoring:9090@evil",
            "http://evil/prometheus.monitoring",
            "http://evil#http://prometheus.monitoring",
            "http://prometheus.monitoring/?a",
            "prometheus.monitoring",
            "",
        ] {
            assert!(!host.permits(address), "{address}");
        }
        let path = allowed("https://mimir.example.com:443/prometheus/");
        assert!(path.permits("https://mimir.example.com/prometheus"));
        assert!(path.permits("https://mimir.example.com/prometheus/api"));
        for address in [
            "https://mimir.example.com:8443/prometheus",
            "https://mimir.example.com/",
            "https://mimir.example.com/prometheus2",
            "https://mimir.example.com/prometheus/../admin",
            "https://mimir.example.com/prometheus/%2e%2e/admin",
            "https://mimir.example.com/prometheus%2f..%2fadmin",
        ] {
            assert!(!path.permits(address), "{address}");
        }
        assert_eq!(path.to_string(), "https://mimir.example.com:443/prometheus");
        assert!(allowed("http://127.0.0.1").permits("http://127.1:9090"));
        for text in [
            "",
            "prometheus",
            "ftp://host",
            "http://",
            "http://a@b",
            "http://a?b",
        ] {
            assert_eq!(
                text.parse::<AllowedAddress>(),
                Err(InvalidAddress),
                "{text}"
            );
        }
    }

    #[test]
    fn addresses_that_no_prometheus_of_a_tenant_has_are_refused() {
        let refused = RefusedAddresses::default()
            .with_api_server("10.96.0.1")
            .with_api_server("[fd00::1]")
            .with_api_server("api.Example.com");
        let is_refused = |ip: &str| refused.ip_reason(ip.parse().unwrap()).is_some();
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "fe80::1",
            "febf::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
            "10.96.0.1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.96.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ] {
            assert!(is_refused(ip), "{ip}");
        }
        for ip in [
            "10.0.0.7",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::2",
            "2001:db8::1",
        ] {
            assert!(!is_refused(ip), "{ip}");
        }
        assert!(refused.name_reason("API.example.com.").is_some());
        assert!(refused.name_reason("example.com").is_none());
    }

    #[test]
    fn an_ip_address_is_found_however_it_is_written() {
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.1",
            "[::1]",
            "127.0.0.1.",
        ] {
            let ip = literal_ip(&format!("http://{host}:9090/a")).unwrap();
            assert!(
                RefusedAddresses::default().ip_reason(ip).is_some(),
                "{host}"
            );
        }
        assert_eq!(literal_ip("http://localhost:9090"), None);
    }

    #[test]
    fn limits_belong_to_host_and_port() {
        let known = host_and_port("http://h/a");
        assert_eq!(known, ("h".to_owned(), 80));
        for same in ["http://h/b", "http://H:80", "http://user@h./?c"] {
            assert_eq!(host_and_port(same), known, "{same}");
        }
        assert_ne!(host_and_port("http://h:81/a"), known);
    }

    proptest! {
        #[test]
        fn what_is_allowed_begins_with_the_allowed_parts(address in ".{0,40}", prefix in prop::bool::ANY) {
            let allowed = allowed("http://prometheus:9090/team");
            let address = if prefix { format!("http://prometheus:9090/team{address}") } else { address };
            if allowed.permits(&address) {
                let url = Url::parse(&address).unwrap();
                prop_assert_eq!((url.scheme(), url.host_str(), url.port()), ("http", Some("prometheus"), Some(9090)));
                let mut path = url.path().split('/').filter(|segment| !segment.is_empty());
                prop_assert_eq!(path.next(), Some("team"));
            }
        }
    }
}
