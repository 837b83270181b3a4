//! From a file and arguments to what is simulated, and to what is told.

use jiff::tz::TimeZone;
use serin_simulation::Decision;
use serin_simulation::odds::odds;

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

fn case_of(strategy: &str, analysis: &str, line: &str) -> Case {
    case(&manifest(strategy, analysis), &args(line).unwrap()).unwrap()
}

fn told_of(case: &Case) -> String {
    let options = Options { runs: 400, seed: 1 };
    let ended = odds(options, &case.release).unwrap();
    let took = told::Took {
        seconds: 0.25,
        cores: 2,
    };
    let look = Look {
        now: "2026-03-01T12:00:00Z".parse().unwrap(),
        zone: TimeZone::UTC,
        width: 80,
    };
    anstream::adapter::strip_str(&told::told(case, &ended, options, &took, &look)).to_string()
}

#[test]
fn what_the_file_says_is_what_is_simulated() {
    let analysis = "analysis: {prometheus: {scrapeInterval: 5s}, maxDuration: 30m, warmUp: 30s, rollback: {falseRollbackProbability: 0.05},
      budget: {maxShareOfBudget: 1%}, objectives: [{name: availability, objective: 99, window: 7d, indicator: traefik}]}";
    let case = case_of(", pace: {firstWeight: 10, maxWeight: 40}", analysis, BAD);
    let release = &case.release;
    assert_eq!(release.scenario.tick_seconds, 5);
    assert_eq!(release.pace, Pace::Evidence);
    let near = |value: f64, expected: f64| {
        assert!(
            (value / expected - 1.0).abs() < 1e-9,
            "{value} is not {expected}"
        )
    };
    near(release.judge.steps.first_weight, 0.1);
    near(release.judge.steps.max_weight, 0.4);
    near(release.judge.alpha, 0.05);
    near(release.longest_seconds, 1_800.0);
    near(release.evidence.warm_up_seconds, 30.0);
    near(release.evidence.budget_fraction, 0.01);
    // 1 % of the errors that a week at 99 % allows.
    near(release.allotment, 0.01 * 0.01 * 120.0 * 7.0 * 86_400.0);
    assert_eq!(case.notes, Vec::<String>::new());
}

#[test]
fn steps_are_simulated_as_written() {
    let steps = ", steps: [{setWeight: 5}, {pause: {duration: 2m}}, {setCanaryScale: {replicas: 2}}, {setWeight: 20}, {analysis: {duration: 3m}}, {analysis: {}}, {pause: {}}]";
    let case = case_of(steps, ANALYSIS, &format!("{GOOD} --person-after 10m"));
    let expected = vec![
        Step::SetWeight(0.05),
        Step::Pause(120.0),
        Step::SetWeight(0.2),
        Step::Analysis(Some(180.0)),
        Step::Analysis(None),
        Step::Pause(600.0),
    ];
    assert_eq!(case.release.pace, Pace::Steps(expected));
    assert!(
        case.notes[0].contains("promotes after 10 min"),
        "{:?}",
        case.notes
    );
}

#[test]
fn a_good_release_is_told() {
    insta::assert_snapshot!(told_of(&case_of("", ANALYSIS, GOOD)));
}

#[test]
fn a_bad_release_is_told() {
    insta::assert_snapshot!(told_of(&case_of("", ANALYSIS, BAD)));
}

// kortix-ai/suna PR #3403: at next to no traffic a single 5xx aborted a release.
#[test]
fn a_canary_as_good_as_stable_is_rarely_rolled_back_at_next_to_no_traffic() {
    let case = case_of(
        "",
        ANALYSIS,
        "--rps 0.5 --error-rate 0.1% --canary-error-rate 0.1%",
    );
    let ended = odds(Options { runs: 500, seed: 1 }, &case.release).unwrap();
    let is_rollback = |decision| {
        matches!(
            decision,
            Decision::RolledBack | Decision::RolledBackByBudget
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
fn steps_that_prove_nothing_are_told_as_such() {
    let steps = ", steps: [{setWeight: 10}, {pause: {duration: 1m}}]";
    let text = told_of(&case_of(
        steps,
        ANALYSIS,
        "--rps 20 --error-rate 0.05% --canary-error-rate 0.15%",
    ));
    assert!(text.contains("promote once their time is over"), "{text}");
    assert!(text.contains("10 %, pause 1 min"), "{text}");
}

#[test]
fn what_cannot_be_decided_in_time_and_a_spent_budget_are_said() {
    let slow = case_of(
        "",
        ANALYSIS,
        "--rps 2 --error-rate 0.05% --canary-error-rate 0.05%",
    );
    assert!(
        slow.notes[0].contains("At 2 requests/s this objective needs"),
        "{:?}",
        slow.notes
    );
    let spent = case_of(
        "",
        ANALYSIS,
        "--rps 120 --error-rate 0.2% --canary-error-rate 0.2%",
    );
    assert!(
        spent
            .notes
            .iter()
            .any(|note| note.contains("uses up the whole budget of 99.9 %")),
        "{:?}",
        spent.notes
    );
    let little = told_of(&case_of(
        "",
        ANALYSIS,
        "--rps 0.02 --error-rate 0.05% --canary-error-rate 0.05%",
    ));
    assert!(
        little.contains("0.02 requests/s, a scrape every") && !little.contains(" 0 requests/s"),
        "{little}"
    );
    assert!(told_of(&spent).contains("undecided, asks a person"));
}

#[test]
fn one_of_several_objectives_judges_and_that_is_said() {
    let analysis =
        "analysis: {objectives: [{name: availability, objective: 99.9, indicator: traefik},
      {name: strict, objective: 99.99, indicator: traefik}]}";
    let strict = case_of("", analysis, &format!("{GOOD} --objective strict"));
    assert_eq!(strict.objective.name, "strict");
    assert!(
        strict.notes[0].contains("availability, strict"),
        "{:?}",
        strict.notes
    );
    let unknown = case(
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
fn nonsense_is_refused_with_the_flag_the_value_and_the_fix() {
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
    let unjudged = case(&manifest("", ""), &args(GOOD).unwrap())
        .unwrap_err()
        .to_string();
    assert!(unjudged.contains("has no spec.analysis"), "{unjudged}");
    let checks =
        "analysis: {checks: [{name: queue, query: queue_length, condition: 'result[0] < 100'}]}";
    let checked = manifest(", steps: [{setWeight: 5}]", checks);
    let unasked = case(&checked, &args(GOOD).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        unasked.contains("spec.analysis.objectives: there is none")
            && unasked.contains("Write at least one"),
        "{unasked}"
    );
}

#[test]
fn the_chart_ends_at_the_odds() {
    let case = case_of("", ANALYSIS, BAD);
    let ended = odds(Options { runs: 200, seed: 1 }, &case.release).unwrap();
    let chart = told::chart(&case, &ended);
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
fn who_has_to_wait_is_told_for_how_long_and_how_to_wait_less() {
    assert_eq!(takes_long(0.008, 2_000), None);
    assert_eq!(takes_long(8.0, 1), None);
    let told = takes_long(8.0, 2_000).unwrap();
    assert_eq!(
        told,
        "This takes about 33 min. With --runs 20 it is faster, and tells less."
    );
}

#[test]
fn a_minute_has_sixty_seconds() {
    assert_eq!(told::minutes(59.4), "59 s");
    assert_eq!(told::minutes(119.6), "2 min");
    assert_eq!(told::minutes(150.0), "2 min 30 s");
}

#[test]
fn what_is_seldom_is_not_told_as_never() {
    assert_eq!(told::odds(2, 10_000), "0.02 %");
    assert_eq!(told::odds(8_652, 10_000), "86.5 %");
    assert_eq!(told::odds(9_998, 10_000), "99.98 %");
    assert_eq!(told::odds(0, 10_000), "< 0.03 %");
    assert_eq!(told::odds(10_000, 10_000), "> 99.97 %");
}
