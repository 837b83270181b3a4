//! The API server: a store of objects behind the rules and the wire format of Kubernetes.

mod defaults;
mod discovery;
mod failure;
mod handler;
mod kinds;
mod managed;
mod metadata;
mod patch;
mod path;
mod rules;
mod selector;
mod server;
mod store;
mod watch;
mod write;

pub use failure::Failure;
pub use kinds::Kind;

pub(crate) use managed::Writer;
pub(crate) use metadata::{field, finalizers};
pub(crate) use path::Call;
pub(crate) use selector::Selector;
pub(crate) use server::Server;
pub(crate) use store::{Key, Store};
pub(crate) use write::{DeleteOptions, Part, seconds};
