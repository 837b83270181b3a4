//! An in-memory Kubernetes cluster for controller tests that run in milliseconds.
//!
//! [`FakeCluster`] contains an API server and the controllers that a workload depends on. The API
//! server implements resourceVersion, generation, finalizers, watches, patches and error responses
//! as Kubernetes does; tests reach it through a real [`kube::Client`]. The controllers create pods
//! for ReplicaSets, make pods ready or crash them, write EndpointSlices for Services, report route
//! status as a gateway, and delete orphaned objects. Everything runs on tokio's clock, so a test
//! with paused time never waits.
//!
//! Tests inject failures with [`Fault`] (single requests), [`FakeCluster::take_api_down_for`]
//! (outages), [`FakeCluster::kill_after_writes`] (a controller that crashes between two writes) and
//! [`FakeCluster::set_pod_behavior`] (pods).
//!
//! [`certificates`] issues certificates, also those of the local cluster. [`tls`] provides TLS
//! listeners for a fake Prometheus.
//!
//! Limitations: there is no schema validation (structural defaults are applied) and no admission.
//! Field ownership is tracked for Rollouts only; for other kinds server-side apply merges.
//! Strategic merge patches replace lists.

mod api;
pub mod certificates;
mod cluster;
pub mod conformance;
mod controller_loop;
mod controllers;
mod faults;
mod state;
pub mod tls;
mod tuning;

pub use api::{ApiError, ServedKind};
pub use cluster::{ClusterError, FakeCluster, WaitTimeout};
pub use faults::{Fault, RequestRecord};
pub use tuning::{ClusterTuning, GatewayReporting, PodBehavior};
