//! Decisions and their effects: desired states, never deltas, so that each can be repeated.

use jiff::Timestamp;

use crate::command::CommandOutcome;
use crate::managed_route::ManagedRoute;
use crate::plan::RouteRef;
use crate::state::State;
use crate::text::Message;
use crate::units::{Revision, Weight};

/// The result of [`crate::decide()`].
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The new state. It is written to status, with a resourceVersion precondition, before any
    /// effect.
    pub state: State,
    /// The effects, in this order. Each may fail without stopping the others.
    pub effects: Vec<Effect>,
    /// When to decide again if nothing changes before.
    pub wake_at: Option<Timestamp>,
    /// The reasons, for people. Each is logged, and those of a transition become Events.
    pub reasons: Vec<Reason>,
}

/// One desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The route's rule gives the canary this share, and chosen requests have rules of their own.
    SetWeight {
        /// The route.
        route: RouteRef,
        /// The canary's share.
        canary: Weight,
        /// The rules for chosen requests, by precedence.
        managed_routes: Vec<ManagedRoute>,
    },
    /// The Service exists and selects this revision's pods.
    BindService {
        /// The side.
        side: Side,
        /// The Service's name.
        name: String,
        /// The revision to select.
        revision: Revision,
    },
    /// A ReplicaSet for the target revision exists with this number of replicas.
    CreateReplicaSet {
        /// The target revision.
        revision: Revision,
        /// `spec.replicas` at creation.
        replicas: u32,
    },
    /// A ReplicaSet has this number of replicas.
    Scale {
        /// The revision.
        revision: Revision,
        /// The object's name.
        name: String,
        /// `spec.replicas`.
        replicas: u32,
    },
    /// A pod is evicted, so that its ReplicaSet creates another one.
    EvictPod {
        /// The revision.
        revision: Revision,
        /// The name of the pod.
        name: String,
    },
    /// An empty ReplicaSet beyond the history limit is gone.
    DeleteReplicaSet {
        /// The revision.
        revision: Revision,
        /// The object's name.
        name: String,
    },
    /// The Deployment is paused.
    PauseDeployment {
        /// The object's name.
        name: String,
    },
    /// The Rollout is the controller of a Deployment's ReplicaSet, which has its labels.
    TakeReplicaSet {
        /// The revision.
        revision: Revision,
        /// The object's name.
        name: String,
    },
    /// All pods of a ReplicaSet have the labels of its template.
    LabelPods {
        /// The revision.
        revision: Revision,
        /// The name of the ReplicaSet.
        name: String,
    },
    /// A Deployment with the template of a revision exists. It is created paused.
    CreateDeployment {
        /// The object's name.
        name: String,
        /// The revision.
        revision: Revision,
    },
    /// The Services and routes are as their users wrote them.
    RestoreObjects,
    /// The Deployment is the controller of a ReplicaSet, which has none of Serin's labels.
    ReturnReplicaSet {
        /// The revision.
        revision: Revision,
        /// The object's name.
        name: String,
        /// The Deployment.
        deployment: String,
    },
    /// The Deployment is not paused.
    ResumeDeployment {
        /// The object's name.
        name: String,
    },
    /// The Deployment has this number of replicas. Only if the Rollout has pods of its own beside
    /// those of the Deployment.
    ScaleDeployment {
        /// The object's name.
        name: String,
        /// `spec.replicas`.
        replicas: u32,
    },
    /// A command's outcome is in its status.
    FinishCommand {
        /// The object's name.
        name: String,
        /// The object's UID.
        uid: String,
        /// How it ended.
        outcome: CommandOutcome,
    },
}

impl Effect {
    /// Whether requests reach the canary Service by it.
    pub fn gives_canary_requests(&self) -> bool {
        match self {
            Self::SetWeight {
                canary,
                managed_routes,
                ..
            } => !canary.is_zero() || !managed_routes.is_empty(),
            _ => false,
        }
    }
}

/// A side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The revision that serves production.
    Stable,
    /// The revision under release.
    Canary,
}

/// A reason for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A CamelCase word, used as an Event's reason.
    pub code: &'static str,
    /// What an operator reads.
    pub message: Message,
    /// Whether it becomes an Event.
    pub level: Level,
}

/// Whether a [`Reason`] becomes an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Log only.
    Detail,
    /// A Normal Event.
    Normal,
    /// A Warning Event.
    Warning,
}
