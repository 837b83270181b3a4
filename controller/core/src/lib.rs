//! The pure planner of Serin: plan, observed, state, decide.
