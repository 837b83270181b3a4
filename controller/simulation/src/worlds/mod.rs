//! Good releases in worlds that are harsher than those of [`crate::scenario`].
//!
//! The simulated pods and the gateway are scraped, and the samples go through the same code as in
//! the controller: [`serin_analysis::counters`] makes rounds of them, [`serin_analysis::Objective`]
//! evaluates the rounds. The parameters are plausible, not measured.

mod release;
mod report;
mod service;

pub use report::{WorldCell, WorldReport, WorldsOptions, markdown, run};

/// How the sizes of clusters of errors are distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClusterSize {
    /// Geometric with this mean.
    Geometric(f64),
    /// Pareto with exponent 1.2, at most 500.
    Pareto,
}

/// A kind of traffic, of pods or of metrics. The canary runs the same code as stable in all of
/// them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum World {
    /// Independent errors at a constant rate.
    Plain,
    /// Both variants fail half of their requests for 10 s, every five minutes.
    SharedBursts,
    /// A dependency fails for five minutes: both variants fail half of their requests.
    DependencyOutage,
    /// Each weight change costs both variants two seconds in which this fraction of the requests
    /// fails. Weights of 5, 20, 50 %, ten minutes each.
    RouteReload {
        /// The fraction of failed requests.
        error_fraction: f64,
    },
    /// One of four stable pods fails ten times as often.
    BadStablePod,
    /// The only canary pod is on a node on which every pod fails ten times as often.
    CanaryOnBadNode,
    /// The error rate of each pod has a log-normal factor with this sigma. One canary pod.
    PodsDiffer {
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// Number of stable pods. The canary's weight is 20 % with up to four of them, otherwise
        /// that of one pod.
        stable_pods: u16,
    },
    /// The steps 5, 20, 50 % have 1, 4 and 10 canary pods. Each fails 3 % of its requests in its
    /// first minute.
    ScaleUpWarmUp,
    /// The canary fails another 2 % of its requests at first, decaying in 100 s.
    ColdCachePlus,
    /// The canary fails 20 times as often at first, decaying in 120 s.
    ColdCacheTimes,
    /// The canary's users fail this many times as often, whatever the code.
    WorseUsers {
        /// The factor.
        times: f64,
    },
    /// Errors come in clusters on one pod, each within one scrape.
    ErrorClusters(ClusterSize),
    /// Errors come in clusters on one pod that last for a while.
    LastingClusters {
        /// Mean number of errors.
        mean: f64,
        /// Seconds between the start of a cluster and its last possible error.
        seconds: u16,
    },
    /// Each client stays with one pod. One client in twenty causes errors.
    SessionAffinity {
        /// Number of clients.
        clients: u16,
    },
    /// In a minute of overload every five minutes, both variants fail ten times as often, and
    /// scrapes are missed.
    MissedScrapes {
        /// Probability that a scrape of a stable pod, or of the gateway, is missed.
        stable: f64,
        /// Probability that a scrape of the canary's pod is missed.
        canary: f64,
    },
    /// Each process restarts in 2 % of the scrapes, and its counters start at 0.
    CounterResets,
    /// Stable grows from four to eight pods. Each new pod fails 3 % of its requests in its first
    /// minute.
    StableScales,
}

impl World {
    /// All worlds of the table.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Plain, Self::SharedBursts, Self::DependencyOutage];
        all.extend([0.5, 0.1].map(|error_fraction| Self::RouteReload { error_fraction }));
        all.extend([Self::BadStablePod, Self::CanaryOnBadNode]);
        for stable_pods in [4, 50] {
            all.extend([0.3, 0.6, 1.0].map(|sigma| Self::PodsDiffer { sigma, stable_pods }));
        }
        all.extend([
            Self::ScaleUpWarmUp,
            Self::ColdCachePlus,
            Self::ColdCacheTimes,
        ]);
        all.extend([1.5, 2.0].map(|times| Self::WorseUsers { times }));
        all.extend([4.0, 10.0, 30.0].map(|mean| Self::ErrorClusters(ClusterSize::Geometric(mean))));
        all.push(Self::ErrorClusters(ClusterSize::Pareto));
        all.extend(
            [(4.0, 15), (7.0, 60), (7.0, 120), (7.0, 300)]
                .map(|(mean, seconds)| Self::LastingClusters { mean, seconds }),
        );
        all.extend([50, 500, 5000].map(|clients| Self::SessionAffinity { clients }));
        all.extend([0.3, 0.7, 0.95].map(|stable| Self::MissedScrapes {
            stable,
            canary: 0.0,
        }));
        all.push(Self::MissedScrapes {
            stable: 0.7,
            canary: 0.7,
        });
        all.extend([Self::CounterResets, Self::StableScales]);
        all
    }

    /// The name in tables.
    pub fn name(self) -> String {
        match self {
            Self::Plain => "independent errors".to_owned(),
            Self::SharedBursts => "bursts of 10 s in both variants every 5 min".to_owned(),
            Self::DependencyOutage => "a dependency fails for 5 min, for both variants".to_owned(),
            Self::RouteReload { error_fraction } => format!(
                "route reload: 2 s with {:.0} % errors at each weight change",
                100.0 * error_fraction
            ),
            Self::BadStablePod => "one of four stable pods fails 10x".to_owned(),
            Self::CanaryOnBadNode => "the canary's node fails 10x".to_owned(),
            Self::PodsDiffer { sigma, stable_pods } => {
                format!("pods differ: sigma {sigma}, 1 canary pod, {stable_pods} stable pods")
            }
            Self::ScaleUpWarmUp => {
                "each new canary pod fails 3 % in its first minute, 1, 4, 10 pods".to_owned()
            }
            Self::ColdCachePlus => "cold cache: +2 %, decaying in 100 s".to_owned(),
            Self::ColdCacheTimes => "cold cache: 20x, decaying in 120 s".to_owned(),
            Self::WorseUsers { times } => format!("the canary's users fail {times}x"),
            Self::ErrorClusters(ClusterSize::Geometric(mean)) => {
                format!("clusters of {mean} within a scrape")
            }
            Self::ErrorClusters(ClusterSize::Pareto) => {
                "clusters of up to 500 within a scrape (Pareto)".to_owned()
            }
            Self::LastingClusters { mean, seconds } => {
                format!("clusters of {mean} within {seconds} s")
            }
            Self::SessionAffinity { clients } => format!("session affinity, {clients} clients"),
            Self::MissedScrapes { stable, canary } => format!(
                "overload: {:.0} % of stable's and {:.0} % of the canary's scrapes are missed",
                100.0 * stable,
                100.0 * canary
            ),
            Self::CounterResets => "each process restarts in 2 % of the scrapes".to_owned(),
            Self::StableScales => {
                "stable grows from 4 to 8 pods, each fails 3 % in its first minute".to_owned()
            }
        }
    }

    /// Whether a good release is one that the rule should not roll back. Elsewhere the canary's
    /// pods or users really fail more often, although its code does not.
    pub fn is_good(self) -> bool {
        !matches!(
            self,
            Self::CanaryOnBadNode
                | Self::ColdCachePlus
                | Self::ColdCacheTimes
                | Self::WorseUsers { .. }
        )
    }

    /// Whether the router assigns each request, or each cluster within a scrape, by chance to pods
    /// that are alike. At a gateway the bound is claimed under this condition.
    fn meets_gateway_condition(self) -> bool {
        self.is_good()
            && !matches!(
                self,
                Self::LastingClusters { .. }
                    | Self::SessionAffinity { .. }
                    | Self::PodsDiffer { .. }
                    | Self::BadStablePod
            )
    }

    /// The weights of the release: seconds since its start, weight, number of canary pods.
    fn steps(self) -> Vec<Step> {
        let at = |seconds, weight, canary_pods| Step {
            seconds,
            weight,
            canary_pods,
        };
        match self {
            Self::RouteReload { .. } => vec![at(0, 0.05, 1), at(600, 0.2, 1), at(1200, 0.5, 1)],
            Self::ScaleUpWarmUp => vec![at(0, 0.05, 1), at(600, 0.2, 4), at(1200, 0.5, 10)],
            Self::PodsDiffer { stable_pods, .. } if stable_pods > 4 => {
                vec![at(0, 1.0 / (f64::from(stable_pods) + 1.0), 1)]
            }
            _ => vec![at(0, 0.2, 1)],
        }
    }

    /// Number of stable pods at the start.
    fn stable_pods(self) -> u16 {
        match self {
            Self::PodsDiffer { stable_pods, .. } => stable_pods,
            _ => 4,
        }
    }
}

/// A weight change.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    /// Seconds since the start of the release.
    seconds: i64,
    /// The canary's weight from then on.
    weight: f64,
    /// Number of canary pods from then on.
    canary_pods: u16,
}
