//! One module for each subcommand.

pub(crate) mod cluster;
pub(crate) mod codegen;
