//! Parsing of command lines.

use std::time::Duration;

use serin_crds::command::CommandVerb;

use super::*;
use crate::command::CommandRequest;

fn parsed(line: &str) -> Result<Invocation, clap::Error> {
    let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let name = line.split(' ').next().unwrap();
    parse(name, arguments)
}

fn promote(line: &str) -> CommandRequest {
    match parsed(line).unwrap().task {
        Task::Promote(promote) => promote.command_request(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_definitions_are_valid() {
    SerinCli::command().debug_assert();
    PromoteCli::command().debug_assert();
    AbortCli::command().debug_assert();
}

#[test]
fn the_program_name_selects_the_command() {
    assert!(matches!(
        parsed("kubectl-abort checkout").unwrap().task,
        Task::Abort(_)
    ));
    assert!(matches!(
        parsed("kubectl-serin abort checkout").unwrap().task,
        Task::Abort(_)
    ));
    assert_eq!(
        promote("kubectl-promote checkout").verb,
        CommandVerb::Promote
    );
    assert_eq!(
        promote("kubectl-serin promote checkout --full").verb,
        CommandVerb::PromoteFull
    );
}

#[test]
fn global_flags_are_accepted_before_and_after_the_verb() {
    for line in [
        "kubectl-serin -n shop abort checkout",
        "kubectl-serin abort checkout --namespace shop",
    ] {
        assert_eq!(
            parsed(line).unwrap().options.namespace.as_deref(),
            Some("shop")
        );
    }
}

#[test]
fn steps_are_counted_from_one() {
    assert_eq!(
        promote("kubectl-promote checkout --step 3").step_index,
        Some(2)
    );
    assert!(parsed("kubectl-promote checkout --step 0").is_err());
}

#[test]
fn the_error_for_a_negative_number_names_the_option() {
    let simulate =
        "kubectl-serin simulate -f r.yaml --rps 100 --error-rate 0% --canary-error-rate 1%";
    let replay = "kubectl-serin replay -f r.yaml --prometheus http://localhost:9090 --from -1h";
    for (line, option) in [
        (simulate.replace("100", "-1"), "--rps"),
        (simulate.replace("0%", "-1%"), "--error-rate"),
        (simulate.replace(" 1%", " -1%"), "--canary-error-rate"),
        (format!("{simulate} --person-after -5s"), "--person-after"),
        (format!("{simulate} --runs -1"), "--runs"),
        (format!("{simulate} --seed -1"), "--seed"),
        (format!("{replay} --quiet -1m"), "--quiet"),
    ] {
        let error = parsed(&line).unwrap_err().to_string();
        assert!(
            error.contains("invalid value '-") && error.contains(option),
            "{line}: {error}"
        );
    }
}

#[test]
fn only_a_full_promotion_asks_for_confirmation() {
    assert!(promote("kubectl-promote checkout --full").confirm_first);
    assert!(!promote("kubectl-promote checkout --full -y").confirm_first);
    assert!(!promote("kubectl-promote checkout").confirm_first);
}

#[test]
fn a_timeout_requires_a_unit() {
    assert_eq!(
        promote("kubectl-promote checkout --timeout 1m30s").timeout,
        Some(Duration::from_secs(90))
    );
    assert_eq!(promote("kubectl-promote checkout --no-wait").timeout, None);
    assert!(parsed("kubectl-promote checkout --timeout 30").is_err());
    assert!(parsed("kubectl-promote checkout --timeout -5s").is_err());
}

#[test]
fn an_override_requires_a_reason_and_adopts_the_analysis_only_on_request() {
    let overriding = |line: &str| match parsed(line).unwrap().task {
        Task::Override(args) => args.command_request(),
        other => panic!("{other:?}"),
    };
    assert!(parsed("kubectl-serin override checkout").is_err());
    let plain = overriding("kubectl-serin override checkout --reason incident");
    assert_eq!(plain.verb, CommandVerb::Override);
    assert!(!plain.adopt_analysis);
    let adopting = overriding("kubectl-serin override checkout --adopt-analysis --reason typo");
    assert_eq!(adopting.verb, CommandVerb::Override);
    assert!(adopting.adopt_analysis);
    assert!(parsed("kubectl-serin promote checkout --adopt-analysis").is_err());
}
