//! What to send where, and the bounds that keep it harmless.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    num::NonZeroU32,
    time::Duration,
};

use http::{HeaderValue, Uri, uri::Scheme};

/// The limits of every load.
pub mod limits {
    use std::time::Duration;

    /// Requests a second at most: more than one machine's gateway is asked to carry in any test.
    pub const RATE_PER_SECOND: u32 = 5_000;
    /// A load ends by itself after this time.
    pub const DURATION: Duration = Duration::from_hours(4);
    /// Requests in flight at most; each may hold a socket.
    pub const IN_FLIGHT: u32 = 16_000;
    /// A request may take this long at most.
    pub const TIMEOUT: Duration = Duration::from_mins(1);
    /// Answers recorded at most, of 16 bytes each: an hour at 2,700 a second. The load ends there.
    pub const RECORDS: u64 = 10_000_000;
}

/// What to send where. Start from [`Options::new`].
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// An `http` URL whose host is, or resolves only to, loopback or private addresses. It is
    /// resolved once; an IPv4 address is preferred.
    pub url: String,
    /// The `Host` header, where it is not the URL's host.
    pub host: Option<String>,
    /// Requests a second, from 1 to [`limits::RATE_PER_SECOND`].
    pub rate_per_second: u32,
    /// How long to send, at most [`limits::DURATION`]; none for until stopped (or that limit).
    pub duration: Option<Duration>,
    /// How long one request may take from its connection to the end of its body, at most
    /// [`limits::TIMEOUT`].
    pub timeout: Duration,
    /// Requests in flight, from 1 to [`limits::IN_FLIGHT`]. An arrival beyond is not sent but
    /// counted as overrun.
    pub max_in_flight: u32,
    /// The fraction of requests, from 0 to 1, sent on a connection of their own, evenly spread.
    /// Kept-alive connections alone would not exercise a router's choice for new ones.
    pub fresh_connection_fraction: f64,
}

impl Options {
    /// 100 requests a second until stopped, each at most 2 s, at most 4,096 in flight, all on
    /// kept-alive connections.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            host: None,
            rate_per_second: 100,
            duration: None,
            timeout: Duration::from_secs(2),
            max_in_flight: 4_096,
            fresh_connection_fraction: 0.0,
        }
    }
}

/// Why a load cannot start or change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The URL is not `http://host[:port][/path]`.
    #[error("{url:?} is not a URL like http://127.0.0.1:8000/path: {problem}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The host has no address.
    #[error("{host} cannot be resolved")]
    Resolve {
        /// The URL's host and port.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The host is, or might be, someone else's.
    #[error("{address} is neither loopback nor private: load goes only to machines of one's own")]
    Public {
        /// The address it resolved to.
        address: IpAddr,
    },
    /// The `Host` header cannot be sent.
    #[error("{host:?} is not a host name")]
    Host {
        /// As it was given.
        host: String,
    },
    /// A number is out of its range.
    #[error("{option} must be {range}, not {value}")]
    Range {
        /// The option's name.
        option: &'static str,
        /// What is allowed.
        range: String,
        /// What was given.
        value: String,
    },
    /// The requests in flight may need more open files than the process may have.
    #[error(
        "{needed} open files may be needed and {allowed} are allowed: raise `ulimit -n` or lower max_in_flight"
    )]
    OpenFiles {
        /// Sockets and what the process needs beside them.
        needed: u64,
        /// The hard limit.
        allowed: u64,
    },
    /// The system refuses the threads, or the open files that it allows.
    #[error("cannot start the load's threads")]
    Threads(#[from] io::Error),
}

/// Requests a second, in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(NonZeroU32);

impl Rate {
    pub(crate) fn per_second(rate: u32) -> Result<Self, StartError> {
        in_range("rate_per_second", &rate, &1, &limits::RATE_PER_SECOND)?;
        Ok(Self(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN)))
    }

    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }
}

/// [`Options`] that have been checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) url: String,
    pub(crate) target: Target,
    pub(crate) rate: Rate,
    pub(crate) duration: Duration,
    pub(crate) timeout: Duration,
    pub(crate) max_in_flight: u32,
    /// Requests of every 10,000 that get a connection of their own.
    pub(crate) fresh_per_10_000: u32,
}

/// Where to send: an address that was checked, so that no later resolution can change it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) uri: Uri,
    pub(crate) host: HeaderValue,
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Result<Self, StartError> {
        let duration = options.duration.unwrap_or(limits::DURATION);
        let shortest = Seconds(Duration::from_millis(1));
        in_range(
            "duration",
            &Seconds(duration),
            &shortest,
            &Seconds(limits::DURATION),
        )?;
        in_range(
            "timeout",
            &Seconds(options.timeout),
            &shortest,
            &Seconds(limits::TIMEOUT),
        )?;
        in_range(
            "max_in_flight",
            &options.max_in_flight,
            &1,
            &limits::IN_FLIGHT,
        )?;
        in_range(
            "fresh_connection_fraction",
            &options.fresh_connection_fraction,
            &0.0,
            &1.0,
        )?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 10,000, checked above"
        )]
        let fresh_per_10_000 = (options.fresh_connection_fraction * 10_000.0).round() as u32;
        Ok(Self {
            url: options.url.clone(),
            target: Target::resolve(&options.url, options.host.as_deref())?,
            rate: Rate::per_second(options.rate_per_second)?,
            duration,
            timeout: options.timeout,
            max_in_flight: options.max_in_flight,
            fresh_per_10_000,
        })
    }
}

impl Target {
    fn resolve(url: &str, host: Option<&str>) -> Result<Self, StartError> {
        let wrong = |problem: String| StartError::Url {
            url: url.to_owned(),
            problem,
        };
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(wrong("the scheme must be http".to_owned()));
        }
        let authority = uri
            .authority()
            .ok_or_else(|| wrong("it has no host".to_owned()))?;
        if authority.as_str().contains('@') {
            return Err(wrong("credentials are not supported".to_owned()));
        }
        let name = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let address = choose(
            (name, authority.port_u16().unwrap_or(80)),
            authority.as_str(),
        )?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let resolved = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(address.to_string())
            .path_and_query(path)
            .build();
        let host = host.unwrap_or(authority.as_str());
        Ok(Self {
            uri: resolved.map_err(|error| wrong(error.to_string()))?,
            host: host
                .parse::<http::uri::Authority>()
                .ok()
                .and_then(|host| HeaderValue::from_str(host.as_str()).ok())
                .ok_or_else(|| StartError::Host {
                    host: host.to_owned(),
                })?,
        })
    }
}

/// Resolves a host to one address, having checked all of them.
fn choose(host: (&str, u16), shown: &str) -> Result<SocketAddr, StartError> {
    let unresolved = |source| StartError::Resolve {
        host: shown.to_owned(),
        source,
    };
    let mut addresses: Vec<SocketAddr> = host.to_socket_addrs().map_err(unresolved)?.collect();
    if let Some(public) = addresses.iter().find(|address| !is_own(address.ip())) {
        return Err(StartError::Public {
            address: public.ip(),
        });
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let none = || unresolved(io::Error::new(io::ErrorKind::NotFound, "no address"));
    addresses.first().copied().ok_or_else(none)
}

/// Whether an address can only be a machine of one's own: loopback, RFC 1918 or RFC 4193.
/// 198.18.0.0/15, set aside for benchmarks of one's own network (RFC 2544): the local cluster lives
/// there.
fn is_for_benchmarks(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 198 && matches!(second, 18 | 19)
}

fn is_own(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_private() || is_for_benchmarks(address)
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// A duration that is shown in seconds.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

fn in_range<T: PartialOrd + fmt::Display>(
    option: &'static str,
    value: &T,
    least: &T,
    most: &T,
) -> Result<(), StartError> {
    if least <= value && value <= most {
        return Ok(());
    }
    Err(StartError::Range {
        option,
        range: format!("from {least} to {most}"),
        value: value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &Options) -> String {
        Plan::new(options).unwrap_err().to_string()
    }

    #[test]
    fn only_loopback_and_private_addresses_are_sent_to() {
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "10.244.0.7",
            "172.16.0.1",
            "192.168.1.1",
            "198.19.0.2",
            "[::1]",
            "[fd00::1]",
        ] {
            assert!(
                Plan::new(&Options::new(format!("http://{own}:8000/"))).is_ok(),
                "{own}"
            );
        }
        for other in [
            "8.8.8.8",
            "198.20.0.1",
            "172.32.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "[2001:db8::1]",
            "[fe80::1]",
            "[::]",
        ] {
            let error = Plan::new(&Options::new(format!("http://{other}/"))).unwrap_err();
            assert!(
                matches!(error, StartError::Public { .. }),
                "{other}: {error}"
            );
        }
        let mapped = refusal(&Options::new("http://[::ffff:8.8.8.8]/"));
        assert!(mapped.contains("neither loopback nor private"), "{mapped}");
    }

    #[test]
    fn the_target_is_the_address_and_the_host_header_the_name() {
        let target = |url: &str, host| Target::resolve(url, host).unwrap();
        let by_name = target("http://localhost:8000/a?b=c", None);
        assert!(
            ["127.0.0.1:8000", "[::1]:8000"].contains(&by_name.uri.authority().unwrap().as_str())
        );
        assert_eq!(by_name.uri.path_and_query().unwrap(), "/a?b=c");
        assert_eq!(by_name.host, "localhost:8000");
        let by_header = target("http://127.0.0.1", Some("shop.example"));
        assert_eq!(by_header.uri, "http://127.0.0.1:80/");
        assert_eq!(by_header.host, "shop.example");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_what_would_do() {
        let options = Options::new("http://127.0.0.1/");
        for (options, message) in [
            (
                Options::new("https://127.0.0.1/"),
                "the scheme must be http",
            ),
            (Options::new("127.0.0.1:80"), "the scheme must be http"),
            (
                Options::new("http://u:p@127.0.0.1/"),
                "credentials are not supported",
            ),
            (
                Options::new("not a url"),
                "is not a URL like http://127.0.0.1:8000/path",
            ),
            (
                Options {
                    host: Some("a b".into()),
                    ..options.clone()
                },
                "\"a b\" is not a host name",
            ),
            (
                Options {
                    rate_per_second: 0,
                    ..options.clone()
                },
                "rate_per_second must be from 1 to 5000, not 0",
            ),
            (
                Options {
                    rate_per_second: 5_001,
                    ..options.clone()
                },
                "rate_per_second must be from 1 to 5000, not 5001",
            ),
            (
                Options {
                    duration: Some(Duration::from_hours(5)),
                    ..options.clone()
                },
                "duration must be from 0.001 s to 14400 s, not 18000 s",
            ),
            (
                Options {
                    timeout: Duration::ZERO,
                    ..options.clone()
                },
                "timeout must be from 0.001 s to 60 s, not 0 s",
            ),
            (
                Options {
                    max_in_flight: 0,
                    ..options.clone()
                },
                "max_in_flight must be from 1 to 16000, not 0",
            ),
            (
                Options {
                    fresh_connection_fraction: f64::NAN,
                    ..options.clone()
                },
                "fresh_connection_fraction must be from 0 to 1, not NaN",
            ),
        ] {
            let refusal = refusal(&options);
            assert!(refusal.contains(message), "{refusal}");
        }
    }
}
