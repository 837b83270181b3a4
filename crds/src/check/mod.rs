//! The parts of a check: a query, a request or a Job with arguments, and a condition on its result.
//!
//! All are parsed when a Rollout is validated, so that mistakes are reported early, and again when
//! the check runs. Tenants write them, and one controller reads them for all tenants, so every
//! parser here bounds time, memory and stack before it uses them.

mod condition;
mod json_condition;
mod promql;
mod query;
mod render;

pub use condition::Condition;
pub use json_condition::{ObjectCondition, ResponseCondition};
pub use promql::{compile_regex, parse_composed_promql, parse_promql};
pub use query::{BUILT_IN_ARGS, is_arg_name, render_query};
pub use render::{Escaping, render_json, render_text};
