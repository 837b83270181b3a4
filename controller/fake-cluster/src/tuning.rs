//! Speed of the cluster and behavior of its pods.

use std::ops::Range;
use std::time::Duration;

/// Speed of the cluster. Change it with [`crate::FakeCluster::tune`] at any time.
#[derive(Clone, Debug)]
pub struct ClusterTuning {
    /// One-way latency between a client and the API server.
    pub latency: Range<Duration>,
    /// Delay of a watch event. It makes caches stale.
    pub watch_lag: Range<Duration>,
    /// Delay before the Deployment controller sees a change of a Deployment. It sees ReplicaSets at
    /// once.
    pub deployments: Duration,
    /// Delay before a ReplicaSet with too few or too many pods is scaled.
    pub replica_sets: Duration,
    /// Delay before a new pod gets a node and an address.
    pub schedule: Duration,
    /// Delay before a scheduled pod is ready, unless its [`PodBehavior`] overrides it.
    pub pods_ready: Duration,
    /// Time that a deleted pod takes to stop.
    pub pods_stop: Duration,
    /// Delay before EndpointSlices follow a Service or a pod.
    pub endpoints: Duration,
    /// Delay before the gateway reports on a changed route.
    pub gateway: Duration,
    /// What the gateway reports.
    pub gateway_reporting: GatewayReporting,
    /// Delay before the dependents of a deleted owner are deleted.
    pub garbage: Duration,
}

/// What the gateway reports in the status of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayReporting {
    /// Conditions with `observedGeneration`.
    WithGeneration,
    /// Conditions without `observedGeneration`, as some gateways report them.
    WithoutGeneration,
    /// No conditions at all: no gateway handles the routes.
    Disabled,
}

impl Default for ClusterTuning {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            latency: ms(1)..ms(4),
            watch_lag: ms(1)..ms(8),
            deployments: ms(30),
            replica_sets: ms(20),
            schedule: ms(20),
            pods_ready: ms(1_300),
            pods_stop: ms(2_000),
            endpoints: ms(50),
            gateway: ms(150),
            gateway_reporting: GatewayReporting::WithGeneration,
            garbage: ms(100),
        }
    }
}

/// Simulated behavior of a pod.
///
/// If no rule of [`crate::FakeCluster::set_pod_behavior`] matches a pod, its image decides: a pod
/// whose image contains `never-ready` never becomes ready, and one whose image contains `crash`
/// crashes one second after each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodBehavior {
    /// Becomes ready after the given time and stays ready.
    Ready(Duration),
    /// Runs and never becomes ready.
    NeverReady,
    /// The image cannot be pulled.
    ImagePullBackOff,
    /// The containers are never created, for example because a volume cannot be mounted.
    ContainerCreating,
    /// Becomes ready like a healthy pod and crashes the given time after each start.
    CrashesAfter(Duration),
}

impl PodBehavior {
    /// Whether the containers wait for something that never comes.
    pub(crate) fn is_waiting(self) -> bool {
        matches!(self, Self::ImagePullBackOff | Self::ContainerCreating)
    }
}
