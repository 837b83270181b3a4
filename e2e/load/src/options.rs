//! Options of a load, and the limits that keep it harmless.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    num::NonZeroU32,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::Scheme};

/// The limits of every load.
pub mod limits {
    use std::time::Duration;

    /// Maximum rate in requests per second. No test needs more.
    pub const RATE_PER_SECOND: u32 = 5_000;
    /// Maximum duration. Every load ends after this time.
    pub const DURATION: Duration = Duration::from_hours(4);
    /// Maximum number of requests in flight. Each may hold a socket.
    pub const IN_FLIGHT: u32 = 16_000;
    /// Maximum timeout of a request.
    pub const TIMEOUT: Duration = Duration::from_mins(1);
    /// Maximum number of records of 16 bytes each: one hour at 2,700 requests per second. The load
    /// ends when it is reached.
    pub const RECORDS: u64 = 10_000_000;
}

/// Options of a load. Start from [`LoadOptions::new`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// An `http` URL. Its host must be, or resolve only to, loopback or private addresses. It is
    /// resolved once; IPv4 is preferred.
    pub url: String,
    /// The `Host` header. Defaults to the host of the URL.
    pub host: Option<String>,
    /// Further headers of every request, by name. Defaults to none.
    pub headers: Vec<(String, String)>,
    /// Requests per second, from 1 to [`limits::RATE_PER_SECOND`].
    pub rate_per_second: u32,
    /// Duration, at most [`limits::DURATION`]. If `None`, the load runs until it is stopped or
    /// reaches that limit.
    pub duration: Option<Duration>,
    /// Timeout of one request, from connecting to the end of the body, at most [`limits::TIMEOUT`].
    pub timeout: Duration,
    /// Maximum number of requests in flight, from 1 to [`limits::IN_FLIGHT`]. A request beyond it
    /// is not sent but counted as an overrun.
    pub max_in_flight: u32,
    /// Fraction of requests, from 0 to 1, that use a new connection, evenly spread. Keep-alive
    /// connections alone would not exercise the routing of new connections.
    pub fresh_connection_fraction: f64,
}

impl LoadOptions {
    /// 100 requests per second until stopped, with a timeout of 2 s, at most 4,096 in flight, all
    /// on keep-alive connections.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            host: None,
            headers: Vec::new(),
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
        /// The given value.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The host has no address.
    #[error("{host} cannot be resolved")]
    Resolve {
        /// The URL's host and port.
        host: String,
        /// The error of the resolver.
        #[source]
        source: io::Error,
    },
    /// The host has a public address.
    #[error("{address} is neither loopback nor private: use a loopback or private address")]
    Public {
        /// The address it resolved to.
        address: IpAddr,
    },
    /// The `Host` header cannot be sent.
    #[error("{host:?} is not a host name")]
    Host {
        /// The given value.
        host: String,
    },
    /// A header cannot be sent.
    #[error("{name:?} cannot be sent as a header with this value")]
    Header {
        /// Its name.
        name: String,
    },
    /// A number is out of its range.
    #[error("{option} must be {range}, not {value}")]
    Range {
        /// The option's name.
        option: &'static str,
        /// The allowed range.
        range: String,
        /// The given value.
        value: String,
    },
    /// The requests in flight may need more open files than the process is allowed to open.
    #[error(
        "the load may need {needed} open files but only {allowed} are allowed: raise `ulimit -n` \
         or lower max_in_flight"
    )]
    OpenFiles {
        /// Sockets, and a reserve for the rest of the process.
        needed: u64,
        /// The hard limit.
        allowed: u64,
    },
    /// The system refuses to start threads or to raise the limit of open files.
    #[error("cannot start the threads of the load")]
    Threads(#[from] io::Error),
}

/// A valid rate in requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestRate(NonZeroU32);

impl RequestRate {
    pub(crate) fn per_second(rate: u32) -> Result<Self, StartError> {
        in_range("rate_per_second", &rate, &1, &limits::RATE_PER_SECOND)?;
        Ok(Self(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN)))
    }

    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }
}

/// Validated [`LoadOptions`].
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    pub(crate) url: String,
    pub(crate) target: LoadTarget,
    pub(crate) rate: RequestRate,
    pub(crate) duration: Duration,
    pub(crate) timeout: Duration,
    pub(crate) max_in_flight: u32,
    /// Requests of every 10,000 that use a new connection.
    pub(crate) fresh_per_10_000: u32,
}

/// The validated target address. It is not resolved again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoadTarget {
    pub(crate) uri: Uri,
    pub(crate) host: HeaderValue,
    /// Further headers.
    pub(crate) headers: HeaderMap,
}

impl LoadPlan {
    pub(crate) fn new(options: &LoadOptions) -> Result<Self, StartError> {
        let duration = options.duration.unwrap_or(limits::DURATION);
        let shortest = InSeconds(Duration::from_millis(1));
        in_range(
            "duration",
            &InSeconds(duration),
            &shortest,
            &InSeconds(limits::DURATION),
        )?;
        in_range(
            "timeout",
            &InSeconds(options.timeout),
            &shortest,
            &InSeconds(limits::TIMEOUT),
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
            target: LoadTarget {
                headers: parse_headers(&options.headers)?,
                ..LoadTarget::resolve(&options.url, options.host.as_deref())?
            },
            rate: RequestRate::per_second(options.rate_per_second)?,
            duration,
            timeout: options.timeout,
            max_in_flight: options.max_in_flight,
            fresh_per_10_000,
        })
    }
}

impl LoadTarget {
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
        let address = resolve_address(
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
            headers: HeaderMap::new(),
        })
    }
}

fn parse_headers(headers: &[(String, String)]) -> Result<HeaderMap, StartError> {
    let parse = |(name, value): &(String, String)| {
        let parsed = (
            name.parse::<HeaderName>().ok(),
            HeaderValue::from_str(value).ok(),
        );
        match parsed {
            (Some(name), Some(value)) => Ok((name, value)),
            _ => Err(StartError::Header { name: name.clone() }),
        }
    };
    headers.iter().map(parse).collect()
}

/// Resolves a host, checks all of its addresses, and returns one of them.
fn resolve_address(host: (&str, u16), shown: &str) -> Result<SocketAddr, StartError> {
    let unresolved = |source| StartError::Resolve {
        host: shown.to_owned(),
        source,
    };
    let mut addresses: Vec<SocketAddr> = host.to_socket_addrs().map_err(unresolved)?.collect();
    if let Some(public) = addresses.iter().find(|address| !is_local(address.ip())) {
        return Err(StartError::Public {
            address: public.ip(),
        });
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let none = || unresolved(io::Error::new(io::ErrorKind::NotFound, "no address"));
    addresses.first().copied().ok_or_else(none)
}

/// Whether an address is in 198.18.0.0/15, which RFC 2544 reserves for benchmarks. The local
/// cluster uses it.
fn is_for_benchmarks(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 198 && matches!(second, 18 | 19)
}

fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_private() || is_for_benchmarks(address)
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// A duration that is displayed in seconds.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct InSeconds(Duration);

impl fmt::Display for InSeconds {
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

    fn error_message(options: &LoadOptions) -> String {
        LoadPlan::new(options).unwrap_err().to_string()
    }

    #[test]
    fn only_loopback_and_private_addresses_are_allowed() {
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
                LoadPlan::new(&LoadOptions::new(format!("http://{own}:8000/"))).is_ok(),
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
            let error = LoadPlan::new(&LoadOptions::new(format!("http://{other}/"))).unwrap_err();
            assert!(
                matches!(error, StartError::Public { .. }),
                "{other}: {error}"
            );
        }
        let mapped = error_message(&LoadOptions::new("http://[::ffff:8.8.8.8]/"));
        assert!(mapped.contains("neither loopback nor private"), "{mapped}");
    }

    #[test]
    fn the_target_is_resolved_and_the_host_header_keeps_the_name() {
        let target = |url: &str, host| LoadTarget::resolve(url, host).unwrap();
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
    fn invalid_options_are_refused_with_the_valid_range() {
        let options = LoadOptions::new("http://127.0.0.1/");
        for (options, message) in [
            (
                LoadOptions::new("https://127.0.0.1/"),
                "the scheme must be http",
            ),
            (LoadOptions::new("127.0.0.1:80"), "the scheme must be http"),
            (
                LoadOptions::new("http://u:p@127.0.0.1/"),
                "credentials are not supported",
            ),
            (
                LoadOptions::new("not a url"),
                "is not a URL like http://127.0.0.1:8000/path",
            ),
            (
                LoadOptions {
                    host: Some("a b".into()),
                    ..options.clone()
                },
                "\"a b\" is not a host name",
            ),
            (
                LoadOptions {
                    rate_per_second: 0,
                    ..options.clone()
                },
                "rate_per_second must be from 1 to 5000, not 0",
            ),
            (
                LoadOptions {
                    rate_per_second: 5_001,
                    ..options.clone()
                },
                "rate_per_second must be from 1 to 5000, not 5001",
            ),
            (
                LoadOptions {
                    duration: Some(Duration::from_hours(5)),
                    ..options.clone()
                },
                "duration must be from 0.001 s to 14400 s, not 18000 s",
            ),
            (
                LoadOptions {
                    timeout: Duration::ZERO,
                    ..options.clone()
                },
                "timeout must be from 0.001 s to 60 s, not 0 s",
            ),
            (
                LoadOptions {
                    max_in_flight: 0,
                    ..options.clone()
                },
                "max_in_flight must be from 1 to 16000, not 0",
            ),
            (
                LoadOptions {
                    fresh_connection_fraction: f64::NAN,
                    ..options.clone()
                },
                "fresh_connection_fraction must be from 0 to 1, not NaN",
            ),
        ] {
            let message_text = error_message(&options);
            assert!(message_text.contains(message), "{message_text}");
        }
    }
}
