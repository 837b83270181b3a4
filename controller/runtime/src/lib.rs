//! The IO of Serin: watches, reconcile, status, events, Prometheus, election, metrics.
