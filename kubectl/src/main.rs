//! The kubectl plugin of Serin.

fn main() {}
