//! Tests of the load generator against servers that fail in different ways.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod load;
mod program;
mod server;
