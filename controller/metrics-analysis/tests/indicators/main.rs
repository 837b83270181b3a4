//! Tests of the built-in indicators.

#[cfg(test)]
mod exporters;

#[cfg(test)]
mod latency;

#[cfg(test)]
mod names;

#[cfg(test)]
mod support;

#[cfg(test)]
mod traefik_names;
