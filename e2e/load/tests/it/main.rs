//! The generator against servers that fail in every way.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod load;
mod program;
mod server;
