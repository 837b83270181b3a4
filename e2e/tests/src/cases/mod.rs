//! The cases: each a promise of the README or of docs/invariants.md, seen on a real cluster.

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::env::Env;

pub mod absent_kinds;
pub mod backends;
pub mod chart;
pub mod commands;
pub mod deadlines;
pub mod examples;
pub mod history;
pub mod holds;
pub mod identity;
pub mod interventions;
pub mod journey;
pub mod judging;
pub mod lifecycle;
pub mod malformed;
pub mod metrics;
pub mod outages;
pub mod scaling;
pub mod scraping;

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
    /// The shared controller. Other cases run at the same time, each in its own namespace, so the
    /// case must not depend on how fast an idle machine is.
    Shared,
    /// The shared controller, and no other case at the same time: the case measures, or fills the
    /// machine.
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

// Shared cases are started in this order, so the longest come first: a long one at the end would
// run by itself.
cases! {
    Shared: metrics::trouble_with_prometheus_holds_and_resumes,
    Shared: journey::a_release_paced_by_evidence,
    Shared: deadlines::a_canary_is_not_overdue_when_a_pod_is_replaced_or_replicas_rise,
    Shared: history::only_promoted_revisions_skip_the_steps_inside_the_rollback_window,
    Shared: judging::a_check_begins_after_its_delay_and_after_the_warm_up,
    Shared: deadlines::two_rollouts_on_one_route_do_not_disturb_each_other,
    Shared: holds::scaling_to_zero_and_back_keeps_a_paused_and_an_aborted_release,
    Shared: scaling::an_autoscaler_owns_replicas_that_the_manifest_leaves_out,
    Shared: scraping::a_release_ends_when_samples_come_more_rarely_than_the_rollout_says,
    Shared: judging::a_breach_in_the_watch_gives_the_traffic_back,
    Shared: judging::a_spent_budget_freezes_releases_until_someone_overrides,
    Shared: judging::a_canary_that_keeps_its_threshold_and_is_slower_is_held_by_the_latency_guard,
    Shared: judging::a_failing_check_rolls_back_what_the_objective_lets_pass,
    Shared: lifecycle::status_until_done_never_ends_with_the_previous_health,
    Shared: history::old_restarts_do_not_stop_a_return_to_the_previous_revision,
    Shared: identity::two_services_whose_joined_names_are_equal_are_held_and_named,
    Shared: identity::requests_of_a_rule_that_is_not_split_do_not_count,
    Shared: lifecycle::a_rollout_survives_a_broken_start_and_repeated_aborts,
    Shared: scraping::a_renamed_service_label_is_read_or_named_with_its_remedy,
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
    Shared: scaling::scaling_in_mid_release_keeps_the_share_of_a_routed_canary,
    Shared: scaling::scaling_in_mid_release_keeps_the_share_of_a_canary_without_a_router,
    Shared: backends::ports_that_move_or_are_added_ship,
    Shared: backends::a_route_may_list_the_canary_service_from_the_beginning,
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
    Alone: absent_kinds::a_cluster_without_the_gateway_api_works_and_its_kinds_may_come_and_go,
    Alone: outages::api_server_away_and_back,
}
