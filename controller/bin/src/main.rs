//! The Serin controller program.

fn main() {}
