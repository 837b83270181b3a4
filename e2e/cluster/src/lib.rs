//! A real local Kubernetes cluster without a container engine.
//!
//! [`Cluster::up`] builds the programs that `tools/` pins (once, into a cache), and starts them
//! in a *node*: a namespace for mounts and one for the network, with an address of its own on
//! a link to the host. Pods run in containerd and runc; Traefik serves the Gateway API;
//! Prometheus finds pods by their annotations. [`Cluster::down`] leaves nothing.
//!
//! Every cluster belongs to one checkout ([`Instance`]); several run side by side.

mod api;
mod cgroup;
mod cluster;
mod compile;
mod component;
mod config;
mod handles;
mod host;
mod image;
mod instance;
mod node;
mod objects;
mod paths;
mod pki;
mod prerequisites;
mod progress;
mod tools;

pub use cluster::Cluster;
pub use compile::build_static;
pub use component::Component;
pub use handles::{State, Status};
pub use image::Image;
pub use instance::{Cidr, Instance, Network, SLOTS};
pub use objects::{GATEWAY, GATEWAY_NAMESPACE};
pub use progress::Progress;
