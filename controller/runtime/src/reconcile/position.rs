//! Distinguishes changes of the position of a release from changes of what is reported about it.

use serin_core::state::{Phase, State};
use serin_core::text::Message;

/// Whether a decision changes more than the phase, the message and the holds. These follow the
/// observations, which may change with every query. All other changes are limited by the plan, or
/// they are an abort or another command, and must not wait.
pub(super) fn changes_position(before: &State, after: &State) -> bool {
    // Most reconciles change nothing, so the states are compared before they are copied.
    before != after && without_reports(before) != without_reports(after)
}

fn without_reports(state: &State) -> State {
    State {
        phase: Phase::default(),
        message: Message::default(),
        holds: Vec::new(),
        ..state.clone()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serin_core::hold::{Hold, HoldCode};
    use serin_core::state::{Abort, AbortCause, Stage};
    use serin_core::units::Revision;

    use super::*;

    #[test]
    fn only_holds_and_messages_are_no_change_of_position() {
        let before = State {
            stage: Stage::Progressing,
            ..State::default()
        };
        let reported = State {
            phase: Phase::Paused,
            message: "waiting for metrics".into(),
            holds: vec![Hold::new(HoldCode::InvalidSpec, "the spec is invalid")],
            ..before.clone()
        };
        assert!(!changes_position(&before, &reported));
        let aborted = State {
            abort: Some(Abort {
                revision: Revision::new("v2"),
                at: Timestamp::UNIX_EPOCH,
                cause: AbortCause::Evidence,
                by: None,
                message: "worse".into(),
            }),
            ..before.clone()
        };
        assert!(changes_position(&before, &aborted));
        let advanced = State {
            stage: Stage::Promoting,
            ..reported
        };
        assert!(changes_position(&before, &advanced));
    }
}
