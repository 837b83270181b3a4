//! A Kubernetes cluster in memory, for tests of controllers in milliseconds.
//!
//! [`World`] holds an API server (a store behind the real rules of resourceVersion, generation,
//! finalizers, watches, patches and refusals, reached by a real [`kube::Client`]) and the
//! controllers that a workload needs around it: ReplicaSets make pods, pods get ready or crash,
//! Services get EndpointSlices, a gateway reports on routes, and what lost its owner goes. All of
//! it runs on tokio's clock, so that a test with paused time waits for nothing.
//!
//! What goes wrong is planned: [`Fault`] for single requests, [`World::api_away_for`] for outages,
//! [`World::dies_after_writes`] for a controller that is killed between two writes, [`World::fate`]
//! for pods.
//!
//! [`tls`] is for a Prometheus that wants to be asked in confidence.
//!
//! What it is not: there is no schema validation (structural defaults are filled in), no admission,
//! ownership of fields is kept for Rollouts only (elsewhere server-side apply merges), and
//! strategic merge patches replace lists.

mod actors;
mod api;
pub mod conformance;
mod faults;
mod shared;
pub mod tls;
mod tuning;
mod turns;
mod world;

pub use api::{Failure, Kind};
pub use faults::{Fault, RequestSeen};
pub use tuning::{Fate, GatewayReports, Tuning};
pub use world::{Overdue, Refusal, World};
