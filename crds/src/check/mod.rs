//! The two parts of a check: a query with arguments, and a condition on its result.
//!
//! Both are parsed when a Rollout is validated, so that mistakes are reported early, and again when
//! the check runs.

mod condition;
mod query;

pub use condition::Condition;
pub use query::{BUILT_IN_ARGS, is_arg_name, render_query};
