//! The configuration from environment variables. Parsing is strict and reports all problems at
//! once.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::http::HeaderValue;

/// Upper limit of delays. A larger value is most likely in the wrong unit.
const MAX_DELAY_MS: u64 = 3_600_000;

/// Upper limit of the CPU time of a request. A longer one would stop the probes.
const MAX_CPU_US: u64 = 100_000;

/// The supported variables, in the order of the crate documentation.
const SETTINGS: [&str; 16] = [
    "VERSION",
    "PORT",
    "BIND_ADDRESS",
    "ERROR_RATE",
    "ERROR_AFTER_MS",
    "ERROR_UNTIL_MS",
    "SEED",
    "LATENCY_MS",
    "LATENCY_JITTER_MS",
    "CPU_US",
    "START_DELAY_MS",
    "NEVER_READY",
    "CRASH_ON_START",
    "CRASH_AFTER_REQUESTS",
    "CRASH_AFTER_MS",
    "DRAIN_MS",
];

/// A variable with one of these prefixes that is not in [`SETTINGS`] is refused: a typo would
/// otherwise disable a fault.
const SETTING_PREFIXES: [&str; 6] = [
    "ERROR_",
    "LATENCY_",
    "START_DELAY",
    "NEVER_",
    "CRASH_",
    "DRAIN_",
];

/// The configuration of the service and its faults.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The version in responses and metrics: 1 to 63 letters, digits, `.`, `_`, `-` or `+`.
    pub version: String,
    /// The version as a header value.
    pub version_header: HeaderValue,
    /// Address to listen on. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// Fraction of requests that get status 500, from 0 to 1.
    pub error_fraction: f64,
    /// Time after the start before the first request fails.
    pub error_after: Duration,
    /// Time after the start from which no request fails. `None` if requests always may.
    pub error_until: Option<Duration>,
    /// Seed of the random numbers. `None` takes a seed from the system.
    pub seed: Option<u64>,
    /// Minimum duration of a request.
    pub latency: Duration,
    /// Maximum additional random duration of a request.
    pub latency_jitter: Duration,
    /// CPU time that each request takes.
    pub cpu_time: Duration,
    /// Time after the start before the service becomes ready. `None` if it never does.
    pub ready_after: Option<Duration>,
    /// Whether to exit before listening.
    pub crash_on_start: bool,
    /// Number of requests to serve before the crash.
    pub crash_after_requests: Option<u64>,
    /// Time after the start at which the service crashes.
    pub crash_after: Option<Duration>,
    /// Time to keep accepting requests after SIGTERM.
    pub drain: Duration,
}

/// One invalid variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}{}: {fix}", .value.as_ref().map(|value| format!("={value:?}")).unwrap_or_default())]
pub struct ConfigProblem {
    /// The variable's name.
    pub variable: String,
    /// Its value, if it is set.
    pub value: Option<String>,
    /// How to fix it.
    pub fix: String,
}

impl Config {
    /// Reads the environment's variables.
    ///
    /// # Errors
    /// One problem for each variable that is missing, malformed, out of range or unknown.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<ConfigProblem>> {
        let mut reader = EnvironmentReader::new(variables);
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
            error_until: reader.delay("ERROR_UNTIL_MS"),
            seed: reader.optional("SEED", "set a whole number from 0 to 18446744073709551615"),
            latency: reader.delay("LATENCY_MS").unwrap_or_default(),
            latency_jitter: reader.delay("LATENCY_JITTER_MS").unwrap_or_default(),
            cpu_time: reader.cpu_time("CPU_US").unwrap_or_default(),
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

/// Reads variables and collects the problems. An invalid variable reads as its default.
struct EnvironmentReader {
    variables: BTreeMap<String, String>,
    problems: Vec<ConfigProblem>,
}

impl EnvironmentReader {
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
        let unknown_settings: Vec<String> = reader
            .variables
            .keys()
            .filter(|name| is_unknown_setting(name))
            .cloned()
            .collect();
        for name in unknown_settings {
            reader.problem(
                &name,
                &format!("no such setting; the settings are {}", SETTINGS.join(", ")),
            );
        }
        reader
    }

    fn problem(&mut self, variable: &str, fix: &str) {
        let value = self.variables.get(variable).cloned();
        self.problems.push(ConfigProblem {
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
        let fix = format!("set a whole number of milliseconds, at most {MAX_DELAY_MS}");
        let milliseconds = self.optional(variable, &fix)?;
        if milliseconds > MAX_DELAY_MS {
            self.problem(variable, &fix);
            return None;
        }
        Some(Duration::from_millis(milliseconds))
    }

    fn cpu_time(&mut self, variable: &str) -> Option<Duration> {
        let fix = format!("set a whole number of microseconds, at most {MAX_CPU_US}");
        let microseconds = self.optional(variable, &fix)?;
        if microseconds > MAX_CPU_US {
            self.problem(variable, &fix);
            return None;
        }
        Some(Duration::from_micros(microseconds))
    }

    /// Reads a percentage as a fraction.
    fn percentage(&mut self, variable: &str) -> f64 {
        let fix = "set a percentage of requests from 0 to 100 without a sign, such as 3 or 0.05";
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

/// Whether a name looks like a setting but is not one. Kubernetes adds variables for the Services
/// of a namespace (`ERROR_PAGES_SERVICE_HOST`, `ERROR_PAGES_PORT_80_TCP`), which are ignored.
fn is_unknown_setting(name: &str) -> bool {
    let kubernetes = name.contains("_SERVICE_") || name.contains("_PORT");
    SETTING_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
        && !SETTINGS.contains(&name)
        && !kubernetes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<ConfigProblem>> {
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
    fn the_version_is_the_only_required_setting() {
        let config = read(&[("VERSION", "v1"), ("HOME", "/")]).unwrap();
        assert_eq!(config.listen, "0.0.0.0:8080".parse().unwrap());
        assert!(config.error_fraction.abs() < f64::EPSILON);
        assert_eq!(config.ready_after, Some(Duration::ZERO));
        assert_eq!(config.drain, Duration::from_secs(2));
        assert_eq!(config.crash_after_requests, None);
        assert!(!config.crash_on_start);
    }

    #[test]
    fn every_setting_is_read() {
        let config = read(&[
            ("VERSION", "v2.1"),
            ("PORT", "0"),
            ("BIND_ADDRESS", "127.0.0.1"),
            ("ERROR_RATE", "0.05"),
            ("ERROR_AFTER_MS", "900"),
            ("ERROR_UNTIL_MS", "1900"),
            ("SEED", "7"),
            ("LATENCY_MS", "20"),
            ("LATENCY_JITTER_MS", "5"),
            ("CPU_US", "250"),
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
                error_until: Some(Duration::from_millis(1900)),
                seed: Some(7),
                latency: Duration::from_millis(20),
                latency_jitter: Duration::from_millis(5),
                cpu_time: Duration::from_micros(250),
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
                r#"ERROR_RATE="3%": set a percentage of requests from 0 to 100 without a sign, such as 3 or 0.05"#
            ]
        );
        assert_eq!(
            read(&[]).unwrap_err()[0].to_string(),
            "VERSION: set 1 to 63 letters, digits, '.', '_', '-' or '+', such as VERSION=v2"
        );
    }

    #[test]
    fn invalid_values_are_refused() {
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
    fn all_problems_are_reported_at_once() {
        assert_eq!(
            problems(&[("PORT", "x"), ("DRAIN_MS", "x"), ("NEVER_READY", "x")]).len(),
            3
        );
    }

    #[test]
    fn a_misspelled_setting_is_refused_and_a_kubernetes_variable_is_not() {
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
    fn never_ready_and_a_start_delay_exclude_each_other() {
        let problems = problems(&[("NEVER_READY", "true"), ("START_DELAY_MS", "5")]);
        assert_eq!(problems.len(), 1);
    }
}
