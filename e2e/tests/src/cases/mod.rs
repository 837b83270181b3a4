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

/// What a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A controller that runs all the time; others may work beside it.
    Controller,
    /// The cluster to itself, and no controller but its own.
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

cases! {
    Controller: journey::five_releases_under_load,
    Controller: journey::a_release_paced_by_evidence,
    Controller: journey::a_release_without_a_router,
    Controller: interventions::an_edited_route_is_put_back_and_told,
    Controller: interventions::v3_in_the_middle_of_v2,
    Controller: interventions::git_revert_in_mid_rollout,
    Controller: interventions::steps_edited_in_mid_rollout,
    Controller: interventions::template_and_replicas_in_one_apply,
    Controller: interventions::scaled_while_paused,
    Controller: interventions::the_same_template_written_otherwise_is_no_release,
    Controller: interventions::deleting_the_rollout_restores_the_route,
    Controller: commands::kubectl_promotes_and_aborts,
    Controller: commands::stale_commands_are_refused,
    Controller: commands::who_may_only_abort_cannot_promote,
    Controller: metrics::trouble_with_prometheus_holds_and_resumes,
    Controller: metrics::a_prometheus_behind_tls_and_a_token_is_asked_with_what_a_secret_holds,
    Controller: metrics::a_mistyped_error_selector_holds,
    Controller: judging::a_failing_check_rolls_back_what_the_objective_lets_pass,
    Controller: judging::a_canary_that_keeps_its_threshold_and_is_slower_is_held_by_the_latency_guard,
    Controller: judging::a_breach_in_the_watch_gives_the_traffic_back,
    Controller: judging::a_spent_budget_freezes_releases_until_someone_overrides,
    Controller: malformed::malformed_rollouts_are_told_and_stop_nobody,
    Controller: malformed::abort_works_on_a_spec_that_became_invalid,
    Controller: examples::every_example_is_accepted,
    Alone: chart::the_chart_installs_a_controller_that_works,
    Alone: outages::killed_at_random_moments,
    Alone: outages::the_standby_takes_over,
    Alone: outages::prometheus_away_and_back,
    Alone: outages::api_server_away_and_back,
}
