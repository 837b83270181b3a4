//! The configuration: parsed once, strictly, with every problem named at once.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::http::HeaderValue;

/// No delay is longer than this; what is longer is a slip of the unit.
const LONGEST_DELAY_MS: u64 = 3_600_000;

/// The variables read, in the order of the crate's table.
const KNOWN: [&str; 14] = [
    "VERSION",
    "PORT",
    "BIND_ADDRESS",
    "ERROR_RATE",
    "ERROR_AFTER_MS",
    "SEED",
    "LATENCY_MS",
    "LATENCY_JITTER_MS",
    "START_DELAY_MS",
    "NEVER_READY",
    "CRASH_ON_START",
    "CRASH_AFTER_REQUESTS",
    "CRASH_AFTER_MS",
    "DRAIN_MS",
];

/// A variable that begins like this and is not in [`KNOWN`] is a slip that would make a bad release
/// look good.
const OURS: [&str; 6] = [
    "ERROR_",
    "LATENCY_",
    "START_DELAY",
    "NEVER_",
    "CRASH_",
    "DRAIN_",
];

/// What the service shall be and how it shall fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the answers and metrics say: 1 to 63 letters, digits, `.`, `_`, `-` or `+`.
    pub version: String,
    /// The same as a header value.
    pub version_header: HeaderValue,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The fraction of requests answered 500, from 0 to 1.
    pub error_fraction: f64,
    /// How long after the start the first of them may fail.
    pub error_after: Duration,
    /// The seed of the randomness, or none for one from the system.
    pub seed: Option<u64>,
    /// How long every request takes at least.
    pub latency: Duration,
    /// How much longer a request takes at most.
    pub latency_jitter: Duration,
    /// How long after the start it becomes ready; none for never.
    pub ready_after: Option<Duration>,
    /// Whether to exit before listening.
    pub crash_on_start: bool,
    /// How many requests to answer before crashing on the next.
    pub crash_after_requests: Option<u64>,
    /// How long after the start to crash.
    pub crash_after: Option<Duration>,
    /// How long to keep accepting after SIGTERM.
    pub drain: Duration,
}

/// One variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}{}: {fix}", .value.as_ref().map(|value| format!("={value:?}")).unwrap_or_default())]
pub struct Problem {
    /// The variable's name.
    pub variable: String,
    /// Its value as found, if it was set.
    pub value: Option<String>,
    /// What to do about it.
    pub fix: String,
}

impl Config {
    /// Reads the environment's variables.
    ///
    /// # Errors
    /// Every variable that is missing, malformed, out of range, or nearly but not quite one of
    /// ours.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(variables);
        let (version, version_header) = reader.version();
        let port = reader.parse(
            "PORT",
            8080,
            "set a port from 1 to 65535, or 0 for any free one",
        );
        let address = reader.parse(
            "BIND_ADDRESS",
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            "set an IP address such as 0.0.0.0 or 127.0.0.1",
        );
        let start_delay = reader.delay("START_DELAY_MS");
        let never_ready = reader.flag("NEVER_READY");
        let config = Self {
            version,
            version_header,
            listen: SocketAddr::new(address, port),
            error_fraction: reader.percentage("ERROR_RATE"),
            error_after: reader.delay("ERROR_AFTER_MS").unwrap_or_default(),
            seed: reader.optional("SEED", "set a whole number from 0 to 18446744073709551615"),
            latency: reader.delay("LATENCY_MS").unwrap_or_default(),
            latency_jitter: reader.delay("LATENCY_JITTER_MS").unwrap_or_default(),
            ready_after: (!never_ready).then_some(start_delay.unwrap_or_default()),
            crash_on_start: reader.flag("CRASH_ON_START"),
            crash_after_requests: reader
                .optional("CRASH_AFTER_REQUESTS", "set a whole number of requests"),
            crash_after: reader.delay("CRASH_AFTER_MS"),
            drain: reader.delay("DRAIN_MS").unwrap_or(Duration::from_secs(2)),
        };
        if never_ready && start_delay.is_some() {
            reader.problem(
                "START_DELAY_MS",
                "unset it, or NEVER_READY, which makes it pointless",
            );
        }
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            Err(reader.problems)
        }
    }
}

/// Reads variables and gathers what is wrong with them; a bad one reads as its default meanwhile.
struct Reader {
    variables: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Reader {
    fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let variables = variables
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        let mut reader = Self {
            variables,
            problems: Vec::new(),
        };
        let strays: Vec<String> = reader
            .variables
            .keys()
            .filter(|name| is_stray(name))
            .cloned()
            .collect();
        for name in strays {
            reader.problem(
                &name,
                &format!("no such setting; the settings are {}", KNOWN.join(", ")),
            );
        }
        reader
    }

    fn problem(&mut self, variable: &str, fix: &str) {
        let value = self.variables.get(variable).cloned();
        self.problems.push(Problem {
            variable: variable.to_owned(),
            value,
            fix: fix.to_owned(),
        });
    }

    fn optional<T: std::str::FromStr>(&mut self, variable: &str, fix: &str) -> Option<T> {
        let parsed = self.variables.get(variable)?.parse();
        if parsed.is_err() {
            self.problem(variable, fix);
        }
        parsed.ok()
    }

    fn parse<T: std::str::FromStr>(&mut self, variable: &str, default: T, fix: &str) -> T {
        self.optional(variable, fix).unwrap_or(default)
    }

    fn flag(&mut self, variable: &str) -> bool {
        self.parse(variable, false, "set true or false")
    }

    fn delay(&mut self, variable: &str) -> Option<Duration> {
        let fix = format!("set a whole number of milliseconds, at most {LONGEST_DELAY_MS}");
        let milliseconds = self.optional(variable, &fix)?;
        if milliseconds > LONGEST_DELAY_MS {
            self.problem(variable, &fix);
            return None;
        }
        Some(Duration::from_millis(milliseconds))
    }

    /// Reads a percentage as a fraction.
    fn percentage(&mut self, variable: &str) -> f64 {
        let fix = "set per cent of requests from 0 to 100 without a sign, such as 3 or 0.05";
        let percent: f64 = self.parse(variable, 0.0, fix);
        if !(0.0..=100.0).contains(&percent) {
            self.problem(variable, fix);
            return 0.0;
        }
        percent / 100.0
    }

    fn version(&mut self) -> (String, HeaderValue) {
        let fix = "set 1 to 63 letters, digits, '.', '_', '-' or '+', such as VERSION=v2";
        let version = self.variables.get("VERSION").cloned().unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
        match HeaderValue::from_str(&version) {
            Ok(header) if (1..=63).contains(&version.len()) && version.bytes().all(plain) => {
                (version, header)
            }
            _ => {
                self.problem("VERSION", fix);
                (version, HeaderValue::from_static(""))
            }
        }
    }
}

/// Whether a name looks like a setting and is none. Kubernetes adds variables of its own for the
/// Services of a namespace (`ERROR_PAGES_SERVICE_HOST`, `ERROR_PAGES_PORT_80_TCP`); those are left
/// alone.
fn is_stray(name: &str) -> bool {
    let kubernetes = name.contains("_SERVICE_") || name.contains("_PORT");
    OURS.iter().any(|prefix| name.starts_with(prefix)) && !KNOWN.contains(&name) && !kubernetes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        Config::from_environment(
            variables
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        )
    }

    fn problems(variables: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![("VERSION", "v1")];
        all.extend(variables);
        read(&all)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_version_is_enough() {
        let config = read(&[("VERSION", "v1"), ("HOME", "/")]).unwrap();
        assert_eq!(config.listen, "0.0.0.0:8080".parse().unwrap());
        assert!(config.error_fraction.abs() < f64::EPSILON);
        assert_eq!(config.ready_after, Some(Duration::ZERO));
        assert_eq!(config.drain, Duration::from_secs(2));
        assert_eq!(config.crash_after_requests, None);
        assert!(!config.crash_on_start);
    }

    #[test]
    fn everything_is_read() {
        let config = read(&[
            ("VERSION", "v2.1"),
            ("PORT", "0"),
            ("BIND_ADDRESS", "127.0.0.1"),
            ("ERROR_RATE", "0.05"),
            ("ERROR_AFTER_MS", "900"),
            ("SEED", "7"),
            ("LATENCY_MS", "20"),
            ("LATENCY_JITTER_MS", "5"),
            ("NEVER_READY", "true"),
            ("CRASH_ON_START", "true"),
            ("CRASH_AFTER_REQUESTS", "100"),
            ("CRASH_AFTER_MS", "1500"),
            ("DRAIN_MS", "0"),
        ])
        .unwrap();
        assert_eq!(
            config,
            Config {
                version: "v2.1".into(),
                version_header: HeaderValue::from_static("v2.1"),
                listen: "127.0.0.1:0".parse().unwrap(),
                error_fraction: 0.0005,
                error_after: Duration::from_millis(900),
                seed: Some(7),
                latency: Duration::from_millis(20),
                latency_jitter: Duration::from_millis(5),
                ready_after: None,
                crash_on_start: true,
                crash_after_requests: Some(100),
                crash_after: Some(Duration::from_millis(1500)),
                drain: Duration::ZERO,
            }
        );
    }

    #[test]
    fn a_problem_names_the_variable_the_value_and_the_fix() {
        assert_eq!(
            problems(&[("ERROR_RATE", "3%")]),
            [
                r#"ERROR_RATE="3%": set per cent of requests from 0 to 100 without a sign, such as 3 or 0.05"#
            ]
        );
        assert_eq!(
            read(&[]).unwrap_err()[0].to_string(),
            "VERSION: set 1 to 63 letters, digits, '.', '_', '-' or '+', such as VERSION=v2"
        );
    }

    #[test]
    fn what_is_not_meant_is_refused() {
        for (variable, value) in [
            ("VERSION", ""),
            ("VERSION", "v 2"),
            ("VERSION", "v2\n"),
            ("PORT", "65536"),
            ("PORT", ""),
            ("BIND_ADDRESS", "localhost"),
            ("ERROR_RATE", "-1"),
            ("ERROR_RATE", "100.1"),
            ("ERROR_RATE", "NaN"),
            ("ERROR_RATE", "inf"),
            ("ERROR_AFTER_MS", "1s"),
            ("SEED", "-1"),
            ("LATENCY_MS", "20ms"),
            ("LATENCY_MS", "3600001"),
            ("LATENCY_JITTER_MS", "-5"),
            ("START_DELAY_MS", "1.5"),
            ("NEVER_READY", "yes"),
            ("CRASH_ON_START", "1"),
            ("CRASH_AFTER_REQUESTS", "many"),
            ("CRASH_AFTER_MS", " 5"),
            ("DRAIN_MS", "2s"),
        ] {
            let problems = problems(&[(variable, value)]);
            assert_eq!(problems.len(), 1, "{variable}={value:?}: {problems:?}");
            assert!(
                problems[0].starts_with(&format!("{variable}={value:?}: set ")),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        assert_eq!(
            problems(&[("PORT", "x"), ("DRAIN_MS", "x"), ("NEVER_READY", "x")]).len(),
            3
        );
    }

    #[test]
    fn a_misspelt_setting_is_refused_and_what_kubernetes_adds_is_not() {
        let problems = problems(&[("CRASH_AFTER_REQUEST", "5"), ("ERROR_RATES", "3")]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with(
                "CRASH_AFTER_REQUEST=\"5\": no such setting; the settings are VERSION, "
            )
        );
        let kubernetes = [
            ("VERSION", "v1"),
            ("ERROR_PAGES_SERVICE_HOST", "10.0.0.1"),
            ("DRAIN_PORT_80_TCP", "tcp://"),
        ];
        assert!(read(&kubernetes).is_ok());
    }

    #[test]
    fn a_start_delay_that_never_ends_is_a_contradiction() {
        let problems = problems(&[("NEVER_READY", "true"), ("START_DELAY_MS", "5")]);
        assert_eq!(problems.len(), 1);
    }
}
