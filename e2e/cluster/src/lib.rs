//! A real local Kubernetes cluster without a container engine.
//!
//! [`Cluster::up`] builds the programs that `tools/` pins (once, into a cache), and starts them in
//! a *node*: a mount namespace and a network namespace with its own address on a link to the host.
//! Pods run in containerd and runc; Traefik serves the Gateway API; Prometheus discovers pods by
//! their annotations. [`Cluster::down`] removes everything except the build cache.
//!
//! Every cluster belongs to one checkout ([`Instance`]). Several clusters can run in parallel.
//!
//! On a machine with Docker, [`KindCluster`] is the alternative for the demo.

mod api;
mod cgroup;
mod cluster;
mod compile;
mod component;
mod config;
mod host;
mod image;
mod instance;
mod kind;
mod node;
mod objects;
mod operations;
mod paths;
mod pinned;
mod pki;
mod prerequisites;
mod progress;
mod tools;
mod wheel;

pub use cluster::Cluster;
pub use compile::build_static;
pub use component::Component;
pub use image::{Image, ImageBinary, ImageContent, append_file, sha256_hex};
pub use instance::{Cidr, Instance, Network, SLOTS};
pub use kind::{KIND_CLUSTER, KindCluster};
pub use objects::{GATEWAY, GATEWAY_NAMESPACE};
pub use operations::{ApiCredentials, ComponentState, ComponentStatus};
pub use pinned::{
    ProgramFiles, build_cluster_programs, build_programs, install_wheel_program, module_sources,
};
pub use progress::Progress;
pub use tools::GoModule;
pub use wheel::WheelProgram;
