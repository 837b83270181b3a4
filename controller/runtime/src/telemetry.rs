//! Logs, spans and the metrics of the controller itself.
