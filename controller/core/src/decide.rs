//! The decision.

use jiff::Timestamp;

use crate::effect::Decision;
use crate::observed::Observed;
use crate::plan::Plan;

/// Decides what comes next.
pub fn decide(plan: &Plan, seen: &Observed, now: Timestamp) -> Decision {
    let _ = (plan, now);
    Decision { state: seen.state.clone(), effects: Vec::new(), wake_at: None, because: Vec::new() }
}
