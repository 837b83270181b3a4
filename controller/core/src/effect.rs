//! Decisions and their effects: desired states, never deltas, so that each can be repeated.

use jiff::Timestamp;

use crate::command::CommandOutcome;
use crate::plan::RouteRef;
use crate::state::State;
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
    /// The route's rule gives the canary this share.
    SetWeight {
        /// Which route.
        route: RouteRef,
        /// The canary's share.
        canary: Weight,
    },
    /// The Service exists and selects this revision's pods.
    BindService {
        /// Which side.
        side: Side,
        /// The Service's name.
        name: String,
        /// The revision to pick.
        revision: Revision,
    },
    /// A ReplicaSet for the target revision exists with so many replicas.
    CreateReplicaSet {
        /// The revision, which is the target.
        revision: Revision,
        /// `spec.replicas` at creation.
        replicas: u32,
    },
    /// A ReplicaSet has so many replicas.
    Scale {
        /// The revision.
        revision: Revision,
        /// The object's name.
        name: String,
        /// `spec.replicas`.
        replicas: u32,
    },
    /// An empty ReplicaSet beyond the history limit is gone.
    DeleteReplicaSet {
        /// The revision.
        revision: Revision,
        /// The object's name.
        name: String,
    },
    /// A command's outcome stands in its status.
    FinishCommand {
        /// The object's name.
        name: String,
        /// The object's UID.
        uid: String,
        /// How it ended.
        outcome: CommandOutcome,
    },
}

/// A side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The revision that production stands on.
    Stable,
    /// The revision that is being released.
    Canary,
}

/// Why something was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One CamelCase word, as an Event's reason.
    pub code: &'static str,
    /// What an operator reads.
    pub message: String,
    /// How much it matters.
    pub level: Level,
}

/// How much a [`Reason`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For the log alone.
    Detail,
    /// A transition: becomes a Normal Event.
    Normal,
    /// A transition that people should see: becomes a Warning Event.
    Warning,
}
