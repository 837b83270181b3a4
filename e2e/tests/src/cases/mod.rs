//! The cases. Each verifies a guarantee of the README or of docs/reference/invariants.md on a real
//! cluster.

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::env::Env;

pub mod admission;
pub mod analysis;
pub mod blue_green;
pub mod changes_during_release;
pub mod chart;
pub mod commands;
pub mod complete_releases;
pub mod earlier_revisions;
pub mod example_manifests;
pub mod gateway_api_installation;
pub mod guardrail_exceptions;
pub mod guardrail_images;
pub mod guardrail_kinds;
pub mod guardrail_pods;
pub mod guardrail_registry;
pub mod guardrails;
pub mod header_routes;
pub mod hostile_input;
pub mod invalid_specs;
pub mod kill_proof;
pub mod lifecycle;
pub mod outages;
pub mod ownership;
pub mod pod_problems;
pub mod policies;
pub mod policy_edits;
pub mod progress_deadline;
pub mod prometheus_faults;
pub mod request_attribution;
pub mod scale_to_zero;
pub mod scaling;
pub mod scrape_configuration;
pub mod services_and_routes;
mod smoke_tests;
pub mod takeover;
pub mod traffic_split;
pub mod uneven_traffic;
pub mod upgrades;

/// One case.
pub struct TestCase {
    /// Its name: a sentence in snake case.
    pub name: &'static str,
    /// Which other cases may run at the same time.
    pub isolation: Isolation,
    /// The function that runs it.
    pub run: for<'a> fn(&'a Env) -> LocalBoxFuture<'a, Result<()>>,
}

/// The isolation that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// It uses the shared controller. Other cases run at the same time, each in its own namespace,
    /// so the case must not depend on the speed of an idle machine.
    Shared,
    /// It uses the shared controller and has a load of hundreds of requests per second. Another such
    /// case runs at the same time.
    UnderLoad,
    /// It uses the shared controller, and no other case runs at the same time, because it measures
    /// times or restarts the gateway.
    Exclusive,
    /// It starts its own controllers, which manage its namespace only. Other such cases run at the
    /// same time, and no shared controller.
    OwnControllers,
    /// It uses the whole cluster and starts its own controllers.
    Alone,
}

macro_rules! cases {
    ($($isolation:ident: $module:ident::$name:ident,)*) => {
        /// All cases.
        pub const ALL: &[TestCase] = &[
            $(TestCase { name: stringify!($name), isolation: Isolation::$isolation, run: |env| Box::pin($module::$name(env)) },)*
        ];
    };
}

// Cases of one isolation start in this order. The longest ones come first, so that no long case runs
// alone at the end.
cases! {
    Shared: prometheus_faults::prometheus_faults_hold_the_release_until_they_are_fixed,
    Shared: complete_releases::a_release_without_steps_is_paced_by_evidence,
    Shared: progress_deadline::replaced_pods_and_added_replicas_do_not_exceed_the_progress_deadline,
    Shared: earlier_revisions::only_promoted_revisions_skip_steps_within_the_rollback_window,
    Shared: analysis::a_check_starts_after_its_delay_and_the_warm_up,
    Shared: progress_deadline::two_rollouts_can_share_a_route,
    Shared: scale_to_zero::scaling_to_zero_and_back_keeps_paused_and_aborted_releases,
    Shared: scaling::an_autoscaler_owns_replicas_that_the_manifest_omits,
    Shared: scrape_configuration::a_release_completes_with_a_longer_scrape_interval_than_configured,
    Shared: analysis::a_breach_during_bake_time_rolls_back,
    Shared: uneven_traffic::good_releases_of_a_service_with_sticky_sessions_are_promoted,
    Shared: uneven_traffic::a_slow_node_holds_good_releases_and_is_named,
    Shared: uneven_traffic::a_cold_start_is_compared_with_that_of_baseline_pods,
    Shared: analysis::an_exhausted_error_budget_freezes_releases_until_an_override,
    Shared: analysis::the_latency_guard_holds_a_slower_canary_below_the_threshold,
    Shared: analysis::a_failing_check_rolls_back_a_release_that_meets_its_objective,
    Shared: pod_problems::a_canary_that_cannot_run_names_the_cause_and_a_fix,
    Shared: smoke_tests::a_release_passes_its_smoke_tests_before_its_first_request,
    Shared: policies::a_ten_line_rollout_under_the_shipped_policies_is_a_guarded_release,
    Shared: guardrail_pods::guardrails_on_pods_let_no_request_reach_a_release,
    Shared: guardrail_kinds::kinds_of_guardrails_may_appear_disappear_and_change_their_version,
    Shared: guardrail_registry::a_tag_is_resolved_once_and_its_image_must_be_signed,
    Shared: guardrails::guardrails_on_objects_let_the_release_go_on_once_they_exist,
    Shared: guardrails::guardrails_on_the_template_hold_a_release_before_its_first_pod,
    Shared: policies::mistakes_in_policies_and_guardrails_hold_the_next_release_and_say_where,
    Shared: lifecycle::status_until_done_waits_for_the_new_revision,
    Shared: earlier_revisions::earlier_restarts_do_not_block_a_rollback_to_the_previous_revision,
    Shared: request_attribution::services_with_ambiguous_metric_names_are_held_and_reported,
    Shared: request_attribution::requests_of_unsplit_route_rules_are_not_counted,
    Shared: lifecycle::a_rollout_recovers_from_a_failed_first_release_and_repeated_aborts,
    Shared: scrape_configuration::a_renamed_service_label_is_supported_or_reported_with_a_fix,
    Shared: prometheus_faults::prometheus_credentials_and_ca_are_read_from_a_secret_and_a_config_map,
    Shared: prometheus_faults::a_mistyped_error_selector_holds_the_release,
    Shared: invalid_specs::invalid_rollouts_are_reported_and_do_not_affect_others,
    Shared: commands::the_kubectl_plugin_promotes_and_aborts,
    Shared: changes_during_release::a_new_release_supersedes_one_in_progress,
    Shared: changes_during_release::template_and_replicas_can_change_in_one_apply,
    Shared: changes_during_release::steps_can_be_edited_during_a_release,
    Shared: changes_during_release::a_paused_release_can_be_scaled,
    Shared: changes_during_release::an_edited_route_is_restored_and_reported,
    Shared: changes_during_release::reverting_the_manifest_aborts_the_release,
    Shared: complete_releases::a_release_without_a_router,
    Shared: scaling::scaling_during_a_release_keeps_the_traffic_share_with_a_router,
    Shared: scaling::scaling_during_a_release_keeps_the_traffic_share_without_a_router,
    Shared: services_and_routes::releases_can_change_and_add_ports,
    Shared: services_and_routes::a_route_may_list_the_canary_service_before_the_first_release,
    Shared: commands::commands_with_outdated_preconditions_are_refused,
    Shared: commands::a_user_with_abort_permission_only_cannot_promote,
    Shared: changes_during_release::deleting_the_rollout_restores_the_route,
    Shared: ownership::a_second_rollout_of_a_route_changes_nothing_until_the_first_is_deleted,
    Shared: ownership::a_rollout_takes_over_the_service_of_a_running_deployment_without_loss,
    Shared: invalid_specs::a_rollout_with_an_invalid_spec_can_be_aborted,
    Shared: changes_during_release::an_equivalent_template_does_not_start_a_release,
    Shared: guardrail_images::a_tag_that_moves_during_a_release_holds_it_and_is_named,
    Shared: guardrail_exceptions::an_exception_from_guardrails_needs_the_verb_except,
    Shared: guardrail_kinds::guardrails_name_what_pod_security_refuses_without_a_label_for_warnings,
    UnderLoad: blue_green::switches_of_the_service_and_back_lose_no_request,
    UnderLoad: blue_green::switches_of_the_route_and_back_lose_no_request,
    UnderLoad: blue_green::the_strategy_of_a_live_rollout_changes_without_loss,
    UnderLoad: traffic_split::verified_weights_are_those_of_the_traffic_up_and_down,
    UnderLoad: traffic_split::an_abort_whose_canary_pods_are_deleted_at_once_loses_nothing,
    UnderLoad: traffic_split::no_request_reaches_a_canary_before_its_endpoints_exist,
    UnderLoad: header_routes::requests_with_the_header_reach_the_canary_alone,
    UnderLoad: header_routes::an_abort_gives_requests_with_the_header_back_without_loss,
    UnderLoad: header_routes::mirrored_requests_never_change_what_clients_get,
    UnderLoad: complete_releases::five_releases_under_load_end_as_expected,
    Exclusive: traffic_split::a_gateway_restarted_during_a_release_keeps_the_weights,
    Exclusive: policy_edits::one_edit_of_guardrails_reaches_fifty_rollouts_without_a_burst,
    Exclusive: example_manifests::every_example_manifest_is_accepted,
    OwnControllers: outages::a_controller_killed_at_random_moments_completes_releases,
    OwnControllers: takeover::a_deployment_becomes_a_rollout_and_back_without_a_lost_request,
    OwnControllers: takeover::one_commit_that_replaces_a_deployment_by_a_rollout_loses_no_request,
    OwnControllers: kill_proof::a_rollout_that_may_have_killed_the_controller_is_quarantined_while_others_continue,
    OwnControllers: kill_proof::a_controller_killed_during_first_attempts_reconciles_every_rollout,
    Alone: chart::the_chart_installs_a_working_controller,
    Alone: admission::the_policies_limit_authors_commands_and_the_controller,
    Alone: hostile_input::hostile_input_in_one_namespace_does_not_stop_a_rollback_in_another,
    Alone: upgrades::upgrade_and_rollback,
    Alone: outages::the_standby_takes_over_when_the_leader_stops,
    Alone: outages::a_prometheus_outage_holds_the_release,
    Alone: gateway_api_installation::the_controller_works_without_the_gateway_api_and_detects_its_installation,
    Alone: outages::the_controller_survives_an_api_server_outage,
}

/// The cases that run on each data plane, by their names. They make no assumption about the kind of
/// the route.
pub const ON_EVERY_DATA_PLANE: [&str; 11] = [
    "five_releases_under_load_end_as_expected",
    "verified_weights_are_those_of_the_traffic_up_and_down",
    "an_abort_whose_canary_pods_are_deleted_at_once_loses_nothing",
    "no_request_reaches_a_canary_before_its_endpoints_exist",
    "a_gateway_restarted_during_a_release_keeps_the_weights",
    "requests_with_the_header_reach_the_canary_alone",
    "an_abort_gives_requests_with_the_header_back_without_loss",
    "mirrored_requests_never_change_what_clients_get",
    "a_new_release_supersedes_one_in_progress",
    "reverting_the_manifest_aborts_the_release",
    "a_controller_killed_at_random_moments_completes_releases",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_on_every_data_plane_exist() {
        for name in ON_EVERY_DATA_PLANE {
            assert!(ALL.iter().any(|case| case.name == name), "{name}");
        }
    }
}
