//! Tests of the API: examples, schema, admission and status.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod status;
