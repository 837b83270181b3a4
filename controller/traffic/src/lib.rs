//! Computes the RFC 6902 patch that sets the canary weight in a route object. Input is plain JSON.
//!
//! A route object belongs to its users. Serin only divides the weight of the stable backend between
//! the stable and the canary backend, in the rules that it manages. Therefore an object is read as
//! plain JSON, never through a type that could drop an unknown field, and changed by a JSON Patch
//! whose `test` operations fail if the object has changed since it was read.
//!
//! Each kind of route is described in its own module and listed in [`ROUTERS`].

#![warn(missing_docs)]

mod added_rules;
mod apisix;
mod assignment;
mod backend;
mod backend_router;
mod contour;
mod error;
mod gateway_api;
mod istio;
mod nginx;
mod original;
mod patch_builder;
mod programmed;
mod router;
mod rule_split;
mod split;
mod traefik;

pub use added_rules::is_added_rule;
pub use assignment::{RoutedObject, ServiceFacts, assignment_unit, sticky_annotation};
pub use error::RouteError;
pub use original::{OriginalBackend, OriginalRule, OriginalWeights};
pub use programmed::ProgrammedStatus;
pub use router::{
    ManagedRule, ROUTERS, RouteBackend, RouteRule, Router, Services, router_for, router_of,
};
