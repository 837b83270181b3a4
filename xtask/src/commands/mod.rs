//! One module per subcommand.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod codegen;
pub(crate) mod demo;
mod kubectl_reference;
pub(crate) mod lint;
mod reference;
pub(crate) mod release;
pub(crate) mod soak;
pub(crate) mod test;
