//! The sample service whose faults are set by environment.

fn main() {}
