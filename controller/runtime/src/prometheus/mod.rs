//! A bounded, shared client of Prometheus.
