//! Tests of the API: examples, schema, admission, status and where text of tenants is parsed.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod guardrails;
#[cfg(test)]
mod repeated_fields;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod status;
