//! A fault of this pod that is set while it runs, as by a slow node.

use std::time::Duration;

/// How many requests are slowed down, and by how much. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PodFault {
    /// Fraction of the requests, from 0 to 1.
    pub slow_fraction: f64,
    /// Additional duration of these requests.
    pub latency: Duration,
}

impl PodFault {
    /// Reads `slow_percent=20&latency_ms=150`.
    ///
    /// # Errors
    /// The parameter that is missing, unknown or invalid.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut fault = Self::default();
        for parameter in query.split('&') {
            let value = parameter.split_once('=');
            let (name, value) = value
                .ok_or_else(|| format!("{parameter:?}: use slow_percent=20&latency_ms=150"))?;
            match (name, value.parse::<u32>()) {
                ("slow_percent", Ok(percent @ 0..=100)) => {
                    fault.slow_fraction = f64::from(percent) / 100.0;
                }
                ("latency_ms", Ok(milliseconds @ 0..=60_000)) => {
                    fault.latency = Duration::from_millis(milliseconds.into());
                }
                _ => {
                    return Err(format!(
                        "{parameter:?}: use slow_percent from 0 to 100 and latency_ms from 0 to 60000"
                    ));
                }
            }
        }
        Ok(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parameters_are_read() {
        let fault = PodFault {
            slow_fraction: 0.2,
            latency: Duration::from_millis(150),
        };
        assert_eq!(
            PodFault::from_query("slow_percent=20&latency_ms=150"),
            Ok(fault)
        );
    }

    #[test]
    fn an_invalid_parameter_is_named() {
        for query in [
            "",
            "slow_percent",
            "slow_percent=101",
            "latency_ms=-1",
            "slow=1",
        ] {
            let problem = PodFault::from_query(query).unwrap_err();
            assert!(
                problem.starts_with(&format!("{query:?}: use ")),
                "{problem}"
            );
        }
    }
}
