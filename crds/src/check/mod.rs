//! What a check is made of: a query with its arguments in place, and a condition on its result.
//!
//! Both are read when a Rollout is admitted, so that a mistake is told then, and again where they
//! are used.

mod condition;
mod query;

pub use condition::Condition;
pub use query::{BUILT_IN_ARGS, is_arg_name, query};
