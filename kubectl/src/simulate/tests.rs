//! Simulation input from a manifest and arguments, and its output.

use jiff::tz::TimeZone;
use serin_simulation::FinalDecision;
use serin_simulation::release_simulation::simulate_releases;

use super::*;
use crate::cli::{Task, parse};

fn args(line: &str) -> Result<SimulateArgs, String> {
    let line = format!("kubectl-serin simulate -f rollout.yaml {line}");
    let arguments = line.split_whitespace().map(Into::into).collect();
    match parse("kubectl-serin", arguments)
        .map_err(|error| error.to_string())?
        .task
    {
        Task::Simulate(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

fn manifest(strategy: &str, analysis: &str) -> Manifest {
    let text = format!(
        "apiVersion: serin.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: checkout}}\nspec:\n  \
         selector: {{matchLabels: {{app: c}}}}\n  \
         template: {{metadata: {{labels: {{app: c}}}}, spec: {{containers: [{{name: c, image: 'i:1'}}]}}}}\n  \
         strategy: {{canary: {{trafficRouting: {{gatewayAPI: {{httpRoute: c}}}}{strategy}}}}}\n  {analysis}\n"
    );
    manifest::parse(&text, "-f rollout.yaml").unwrap()
}

const ANALYSIS: &str =
    "analysis: {objectives: [{name: availability, objective: 99.9, indicator: traefik}]}";
const GOOD: &str = "--rps 120 --error-rate 0.05% --canary-error-rate 0.05%";
const BAD: &str = "--rps 120 --error-rate 0.05% --canary-error-rate 0.5%";

fn input(strategy: &str, analysis: &str, line: &str) -> SimulationInput {
    build_input(&manifest(strategy, analysis), &args(line).unwrap()).unwrap()
}

fn rendered(input: &SimulationInput) -> String {
    let options = SimulationOptions { runs: 400, seed: 1 };
    let ended = simulate_releases(options, &input.release).unwrap();
    let took = render::SimulationTiming {
        seconds: 0.25,
        cores: 2,
    };
    let display = DisplayContext {
        now: "2026-03-01T12:00:00Z".parse().unwrap(),
        zone: TimeZone::UTC,
        width: 80,
    };
    anstream::adapter::strip_str(&render::render(input, &ended, options, &took, &display))
        .to_string()
}

#[test]
fn the_settings_of_the_manifest_are_used() {
    let analysis = "analysis: {prometheus: {scrapeInterval: 5s}, maxDuration: 30m, warmUp: 30s, rollback: {falseRollbackProbability: 0.05},
      budget: {maxShareOfBudget: 1%}, objectives: [{name: availability, objective: 99, window: 7d, indicator: traefik}]}";
    let input = input(", pace: {firstWeight: 10, maxWeight: 40}", analysis, BAD);
    let release = &input.release;
    assert_eq!(release.scenario.tick_seconds, 5);
    assert_eq!(release.pace, SimulatedPace::Evidence);
    let near = |value: f64, expected: f64| {
        assert!(
            (value / expected - 1.0).abs() < 1e-9,
            "{value} is not {expected}"
        );
    };
    near(release.analysis.steps.first_weight, 0.1);
    near(release.analysis.steps.max_weight, 0.4);
    near(release.analysis.alpha, 0.05);
    near(release.max_duration_seconds, 1_800.0);
    near(release.evidence.warm_up_seconds, 30.0);
    near(release.evidence.budget_fraction, 0.01);
    // 1 % of the errors that a week at 99 % allows.
    near(release.allotment, 0.01 * 0.01 * 120.0 * 7.0 * 86_400.0);
    assert_eq!(input.notes, Vec::<String>::new());
}

#[test]
fn steps_are_simulated_as_written() {
    let steps = ", steps: [{setWeight: 5}, {pause: {duration: 2m}}, {setCanaryScale: {replicas: 2}}, {setWeight: 20}, {analysis: {duration: 3m}}, {analysis: {}}, {pause: {}}]";
    let input = input(steps, ANALYSIS, &format!("{GOOD} --person-after 10m"));
    let expected = vec![
        SimulatedStep::SetWeight(0.05),
        SimulatedStep::Pause(120.0),
        SimulatedStep::SetWeight(0.2),
        SimulatedStep::Analysis(Some(180.0)),
        SimulatedStep::Analysis(None),
        SimulatedStep::Pause(600.0),
    ];
    assert_eq!(input.release.pace, SimulatedPace::Steps(expected));
    assert!(
        input.notes[0].contains("promotes after 10 min"),
        "{:?}",
        input.notes
    );
}

#[test]
fn good_release() {
    insta::assert_snapshot!(rendered(&input("", ANALYSIS, GOOD)));
}

#[test]
fn bad_release() {
    insta::assert_snapshot!(rendered(&input("", ANALYSIS, BAD)));
}

// kortix-ai/suna PR #3403: at next to no traffic a single 5xx aborted a release.
#[test]
fn a_canary_as_good_as_stable_is_rarely_rolled_back_at_next_to_no_traffic() {
    let input = input(
        "",
        ANALYSIS,
        "--rps 0.5 --error-rate 0.1% --canary-error-rate 0.1%",
    );
    let ended =
        simulate_releases(SimulationOptions { runs: 500, seed: 1 }, &input.release).unwrap();
    let is_rollback = |decision| {
        matches!(
            decision,
            FinalDecision::RolledBack | FinalDecision::RolledBackByBudget
        )
    };
    let rolled_back = ended
        .iter()
        .filter(|ended| is_rollback(ended.decision))
        .count();
    assert!(
        rolled_back * 100 <= ended.len(),
        "{rolled_back} of {} were rolled back",
        ended.len()
    );
}

#[test]
fn steps_without_analysis_are_reported() {
    let steps = ", steps: [{setWeight: 10}, {pause: {duration: 1m}}]";
    let text = rendered(&input(
        steps,
        ANALYSIS,
        "--rps 20 --error-rate 0.05% --canary-error-rate 0.15%",
    ));
    assert!(text.contains("promote when their time is over"), "{text}");
    assert!(text.contains("10 %, pause 1 min"), "{text}");
}

#[test]
fn infeasible_objectives_and_an_exhausted_budget_are_reported() {
    let slow = input(
        "",
        ANALYSIS,
        "--rps 2 --error-rate 0.05% --canary-error-rate 0.05%",
    );
    assert!(
        slow.notes[0].contains("At 2 requests/s this objective needs"),
        "{:?}",
        slow.notes
    );
    let spent = input(
        "",
        ANALYSIS,
        "--rps 120 --error-rate 0.2% --canary-error-rate 0.2%",
    );
    assert!(
        spent
            .notes
            .iter()
            .any(|note| note.contains("alone exhausts the error budget of 99.9 %")),
        "{:?}",
        spent.notes
    );
    let little = rendered(&input(
        "",
        ANALYSIS,
        "--rps 0.02 --error-rate 0.05% --canary-error-rate 0.05%",
    ));
    assert!(
        little.contains("0.02 requests/s, a scrape every") && !little.contains(" 0 requests/s"),
        "{little}"
    );
    assert!(rendered(&spent).contains("undecided, manual review"));
}

#[test]
fn the_simulated_objective_can_be_selected() {
    let analysis =
        "analysis: {objectives: [{name: availability, objective: 99.9, indicator: traefik},
      {name: strict, objective: 99.99, indicator: traefik}]}";
    let strict = input("", analysis, &format!("{GOOD} --objective strict"));
    assert_eq!(strict.objective.name, "strict");
    assert!(
        strict.notes[0].contains("availability, strict"),
        "{:?}",
        strict.notes
    );
    let unknown = build_input(
        &manifest("", analysis),
        &args(&format!("{GOOD} --objective none")).unwrap(),
    )
    .unwrap_err();
    assert!(
        unknown.to_string().contains("--objective none")
            && unknown.to_string().contains("Use one of"),
        "{unknown}"
    );
}

#[test]
fn invalid_arguments_are_refused_with_flag_value_and_fix() {
    let cases = [
        (
            "--rps 0 --error-rate 0.1% --canary-error-rate 1%",
            ["--rps", "'0'", "write for example 120"],
        ),
        (
            "--rps many --error-rate 0.1% --canary-error-rate 1%",
            ["--rps", "many", "write for example 120"],
        ),
        (
            "--rps NaN --error-rate 0.1% --canary-error-rate 1%",
            ["--rps", "NaN", "from 0.001"],
        ),
        (
            "--rps 9 --error-rate 100% --canary-error-rate 1%",
            ["--error-rate", "100%", "under 100%"],
        ),
        (
            "--rps 9 --error-rate 0.1% --canary-error-rate 1",
            ["--canary-error-rate", "'1'", "no unit"],
        ),
        (
            "--rps 9 --error-rate 0.1% --canary-error-rate 1% --runs 0",
            ["--runs", "'0'", "1..=1000000"],
        ),
    ];
    for (line, words) in cases {
        let refusal = args(line).unwrap_err();
        for word in words {
            assert!(
                refusal.contains(word),
                "{line}: {refusal} should have {word}"
            );
        }
    }
    let unjudged = build_input(&manifest("", ""), &args(GOOD).unwrap())
        .unwrap_err()
        .to_string();
    assert!(unjudged.contains("has no spec.analysis"), "{unjudged}");
    let checks =
        "analysis: {checks: [{name: queue, query: queue_length, condition: 'result[0] < 100'}]}";
    let checked = manifest(", steps: [{setWeight: 5}]", checks);
    let unasked = build_input(&checked, &args(GOOD).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        unasked.contains("spec.analysis.objectives: is empty")
            && unasked.contains("Add at least one"),
        "{unasked}"
    );
}

#[test]
fn the_chart_ends_at_the_final_shares() {
    let input = input("", ANALYSIS, BAD);
    let ended =
        simulate_releases(SimulationOptions { runs: 200, seed: 1 }, &input.release).unwrap();
    let chart = render::chart(&input, &ended);
    let last = |name: &str| {
        let line = chart.panels[0]
            .lines
            .iter()
            .find(|line| line.name == name)
            .unwrap();
        line.pieces[0].last().unwrap().1
    };
    assert!((last("rolled back") + last("promoted") - 100.0).abs() < 1.0);
    assert!(last("rolled back") > 95.0);
    assert!(chart.to_svg().unwrap().contains("rolled back"));
}

#[test]
fn a_long_simulation_is_announced() {
    assert_eq!(slow_run_warning(0.008, 2_000), None);
    assert_eq!(slow_run_warning(8.0, 1), None);
    let warning = slow_run_warning(8.0, 2_000).unwrap();
    assert_eq!(
        warning,
        "This takes about 33 min. --runs 20 is faster but less precise."
    );
}

#[test]
fn minutes_are_formatted_with_seconds() {
    assert_eq!(render::format_minutes(59.4), "59 s");
    assert_eq!(render::format_minutes(119.6), "2 min");
    assert_eq!(render::format_minutes(150.0), "2 min 30 s");
}

#[test]
fn rare_outcomes_are_not_rounded_to_never() {
    assert_eq!(render::format_odds(2, 10_000), "0.02 %");
    assert_eq!(render::format_odds(8_652, 10_000), "86.5 %");
    assert_eq!(render::format_odds(9_998, 10_000), "99.98 %");
    assert_eq!(render::format_odds(0, 10_000), "< 0.03 %");
    assert_eq!(render::format_odds(10_000, 10_000), "> 99.97 %");
}

#[test]
fn baseline_pods_are_what_the_canary_is_compared_with() {
    let with_baseline = "analysis: {baseline: {replicas: 2}, objectives: [{name: availability, objective: 99.9, indicator: pod}]}";
    let whole = input("", with_baseline, GOOD);
    // One replica, so there is one canary pod, and one baseline pod beside one stable pod.
    let parts: Vec<f64> = whole
        .release
        .compared_stable
        .iter()
        .map(|(_, part)| *part)
        .collect();
    assert_eq!(parts, [0.5]);
    assert!(
        whole.notes[0]
            .starts_with("With baseline pods, the canary is compared with 50 % of stable's"),
        "{:?}",
        whole.notes
    );
    let steps = ", steps: [{setWeight: 5}, {setCanaryScale: {replicas: 2}}, {setWeight: 20}, {analysis: {}}]";
    let of_steps = input(steps, with_baseline, GOOD);
    let expected = vec![(0.05, 0.5), (0.2, 2.0 / 3.0)];
    assert_eq!(of_steps.release.compared_stable, expected);
}
