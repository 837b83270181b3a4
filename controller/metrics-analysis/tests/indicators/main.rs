//! Tests of the built-in indicators.

#[cfg(test)]
mod exporters;

#[cfg(test)]
mod names;
