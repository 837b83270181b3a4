//! The API server: a store of objects behind the rules and the wire format of Kubernetes.

mod defaults;
mod discovery;
mod error;
mod handler;
mod kinds;
mod managed_fields;
mod metadata;
mod mutation;
mod patch;
mod request;
mod scale;
mod selector;
mod server;
mod store;
mod validation;
mod watch;

pub use error::ApiError;
pub use kinds::ServedKind;

pub(crate) use managed_fields::FieldManager;
pub(crate) use metadata::metadata_str;
pub(crate) use mutation::{DeleteOptions, ObjectPart, format_time};
pub(crate) use request::ApiRequest;
pub(crate) use selector::Selector;
pub(crate) use server::ApiServer;
pub(crate) use store::{Change, ObjectKey, ObjectStore, Ownership};
