//! How fast the world is, and what becomes of its pods.

use std::ops::Range;
use std::time::Duration;

/// How long things take. Change it by [`crate::World::tune`], at any time.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// A message between a client and the API server, one way.
    pub latency: Range<Duration>,
    /// A change on its way to a watcher, so that caches are behind.
    pub watch_lag: Range<Duration>,
    /// From a ReplicaSet that has too few or too many pods to the pods.
    pub replica_sets: Duration,
    /// From a pod without a node to one with a node and an address.
    pub schedule: Duration,
    /// From a pod with a node to a ready one, where its [`Fate`] does not say otherwise.
    pub pods_ready: Duration,
    /// From a pod's deletion to its end.
    pub pods_stop: Duration,
    /// From a Service or a pod to the EndpointSlices.
    pub endpoints: Duration,
    /// From a route to what its gateway says of it.
    pub gateway: Duration,
    /// What the gateway says.
    pub gateway_reports: GatewayReports,
    /// From an owner's end to its dependents'.
    pub garbage: Duration,
}

/// What the gateway says of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayReports {
    /// Its conditions, with the generation that they are about.
    WithGeneration,
    /// Its conditions, without a generation, as some gateways do.
    WithoutGeneration,
    /// Nothing: no gateway looks at the routes.
    Nothing,
}

impl Default for Tuning {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            latency: ms(1)..ms(4),
            watch_lag: ms(1)..ms(8),
            replica_sets: ms(20),
            schedule: ms(20),
            pods_ready: ms(1_300),
            pods_stop: ms(2_000),
            endpoints: ms(50),
            gateway: ms(150),
            gateway_reports: GatewayReports::WithGeneration,
            garbage: ms(100),
        }
    }
}

/// What becomes of a pod.
///
/// The image decides where no rule of [`crate::World::fate`] does: one with `never-ready` in its
/// name never gets ready, one with `crash` crashes one second after each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It gets ready so long after its start, and stays so.
    Ready(Duration),
    /// It runs and never gets ready.
    NeverReady,
    /// Its image cannot be pulled.
    ImagePullBackOff,
    /// It is ready so long after each start as a healthy one, and crashes so long after each start.
    CrashesAfter(Duration),
}
