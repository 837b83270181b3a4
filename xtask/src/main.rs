//! Developer commands: demo, test, soak, cluster, codegen.

fn main() {}
