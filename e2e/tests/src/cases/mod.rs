//! The cases: each a promise of the README or of docs/invariants.md, seen on a real cluster.

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::env::Env;

pub mod chart;
pub mod commands;
pub mod examples;
pub mod interventions;
pub mod journey;
pub mod judging;
pub mod malformed;
pub mod metrics;
pub mod outages;

/// One case.
pub struct Case {
    /// Its name, a sentence in snake case.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// The case itself.
    pub run: for<'a> fn(&'a Env) -> LocalBoxFuture<'a, Result<()>>,
}

/// What a case needs from its surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The shared controller. Other cases run at the same time, each in its own namespace, so the case
    /// must not depend on how fast an idle machine is.
    Shared,
    /// The shared controller, and no other case at the same time: the case measures, or fills the machine.
    Exclusive,
    /// The whole cluster, and no controller except its own.
    Alone,
}

macro_rules! cases {
    ($($needs:ident: $module:ident::$name:ident,)*) => {
        /// All cases.
        pub const ALL: &[Case] = &[
            $(Case { name: stringify!($name), needs: Needs::$needs, run: |env| Box::pin($module::$name(env)) },)*
        ];
    };
}

// Shared cases are started in this order, so the longest come first: a long one at the end would run by itself.
cases! {
    Shared: metrics::trouble_with_prometheus_holds_and_resumes,
    Shared: journey::a_release_paced_by_evidence,
    Shared: judging::a_breach_in_the_watch_gives_the_traffic_back,
    Shared: judging::a_spent_budget_freezes_releases_until_someone_overrides,
    Shared: judging::a_canary_that_keeps_its_threshold_and_is_slower_is_held_by_the_latency_guard,
    Shared: judging::a_failing_check_rolls_back_what_the_objective_lets_pass,
    Shared: metrics::a_prometheus_behind_tls_and_a_token_is_asked_with_what_a_secret_holds,
    Shared: metrics::a_mistyped_error_selector_holds,
    Shared: malformed::malformed_rollouts_are_told_and_stop_nobody,
    Shared: commands::kubectl_promotes_and_aborts,
    Shared: interventions::v3_in_the_middle_of_v2,
    Shared: interventions::template_and_replicas_in_one_apply,
    Shared: interventions::steps_edited_in_mid_rollout,
    Shared: interventions::scaled_while_paused,
    Shared: interventions::an_edited_route_is_put_back_and_told,
    Shared: interventions::git_revert_in_mid_rollout,
    Shared: journey::a_release_without_a_router,
    Shared: commands::stale_commands_are_refused,
    Shared: commands::who_may_only_abort_cannot_promote,
    Shared: interventions::deleting_the_rollout_restores_the_route,
    Shared: malformed::abort_works_on_a_spec_that_became_invalid,
    Shared: interventions::the_same_template_written_otherwise_is_no_release,
    Exclusive: journey::five_releases_under_load,
    Exclusive: examples::every_example_is_accepted,
    Alone: chart::the_chart_installs_a_controller_that_works,
    Alone: outages::killed_at_random_moments,
    Alone: outages::the_standby_takes_over,
    Alone: outages::prometheus_away_and_back,
    Alone: outages::api_server_away_and_back,
}
