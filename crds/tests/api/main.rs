//! The API as its users and an API server see it.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod status;
