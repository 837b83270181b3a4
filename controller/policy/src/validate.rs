//! What is wrong with a policy, whatever Rollouts it matches.

use serde_json::json;
use serin_crds::RolloutSpec;
use serin_crds::analysis_template::{DefinitionRef, ParameterSpec, ParameterValue};

use crate::catalog::{Catalog, Kind, Reference};
use crate::resolve::{Defaults, Inputs, Subject, resolve};
use crate::select::{PolicyInput, sort_by_precedence};
use crate::source::{Origins, Problem, ProblemKind, Problems, Source, reference_problem};

/// Name and namespace of the Rollout with which a policy is tried.
const PROBE: &str = "example";
/// Value of parameters without a default.
const PROBE_VALUE: &str = "1";

/// The problems of the policy called `name` among all policies: of its definitions, each with the
/// defaults of its parameters, and of its own defaults for a Rollout with a router.
/// AnalysisTemplates are not known, so references to them are not checked.
pub fn validate(name: &str, policies: &[PolicyInput<'_>]) -> Vec<Problem> {
    let mut policies = policies.to_vec();
    sort_by_precedence(&mut policies);
    let Some(policy) = policies.iter().find(|policy| policy.name == name).copied() else {
        return Vec::new();
    };
    let source = Source::Policy(name.to_owned());
    let mut problems = Problems::default();
    let catalog = Catalog {
        namespace: PROBE,
        rollout: PROBE,
        policies: &policies,
        templates: Ok(&[]),
    };
    if let Ok(spec) = policy.spec {
        let definitions = |kind, list: &str, name: &str, parameters: &[ParameterSpec]| {
            let value = |parameter: &ParameterSpec| ParameterValue {
                name: parameter.name.clone(),
                value: parameter
                    .default
                    .clone()
                    .unwrap_or_else(|| PROBE_VALUE.to_owned()),
            };
            let to = DefinitionRef {
                name: name.to_owned(),
                analysis_template: None,
                parameters: parameters.iter().map(value).collect(),
            };
            let reference = Reference {
                kind,
                to: &to,
                source: &source,
                path: &format!("spec.{list}[{name}]"),
            };
            // Another policy may define the same name, and comes first.
            let own = Catalog {
                policies: std::slice::from_ref(&policy),
                ..catalog
            };
            let found = own.expand(reference);
            let found = found.or_else(|_| catalog.expand(reference));
            found.err().filter(|problem| !names_template(problem))
        };
        let indicators = spec
            .indicators
            .iter()
            .map(|one| definitions(Kind::Indicator, "indicators", &one.name, &one.parameters));
        let objectives = spec
            .objectives
            .iter()
            .map(|one| definitions(Kind::Objective, "objectives", &one.name, &one.parameters));
        let checks = spec
            .checks
            .iter()
            .map(|one| definitions(Kind::Check, "checks", &one.name, &one.parameters));
        let all = indicators.chain(objectives).chain(checks);
        all.flatten().for_each(|problem| problems.push(problem));
        let guardrails = spec.guardrails.iter();
        for invalid in guardrails.flat_map(serin_guardrails::invalid_options) {
            let path = format!("spec.guardrails.{}", invalid.field);
            let (value, fix) = (Some(invalid.value.as_str()), "correct the field");
            problems.push(Problem {
                kind: ProblemKind::Policy,
                ..reference_problem(&source, &path, value, invalid.problem.clone(), fix)
            });
        }
    }
    for problem in problems_of_defaults(policy, &policies, &source) {
        problems.push(problem);
    }
    problems.into_vec()
}

/// Whether a problem is about a template, which belongs to a namespace.
fn names_template(problem: &Problem) -> bool {
    problem.problem.starts_with("AnalysisTemplate ")
}

/// Problems of the defaults for a Rollout with a router and nothing else.
fn problems_of_defaults(
    policy: PolicyInput<'_>,
    policies: &[PolicyInput<'_>],
    source: &Source,
) -> Vec<Problem> {
    let Some(spec) = probe() else {
        return Vec::new();
    };
    // Other policies only contribute definitions here.
    let others: Vec<_> = policies
        .iter()
        .filter(|other| other.name != policy.name)
        .filter_map(|other| {
            let spec = other.spec.ok()?;
            let definitions = serin_crds::RolloutPolicySpec {
                defaults: None,
                guardrails: None,
                ..spec.clone()
            };
            Some((other.name, definitions))
        })
        .collect();
    let mut inputs: Vec<_> = others
        .iter()
        .map(|(name, spec)| PolicyInput::new(name, spec))
        .collect();
    // With Fail, the problem is reported instead of the policy being left out.
    inputs.push(PolicyInput {
        failure_policy: serin_crds::policy::FailurePolicy::Fail,
        ..policy
    });
    let subject = Subject {
        namespace: PROBE,
        name: PROBE,
        spec: &spec,
    };
    let inputs = Inputs {
        policies: inputs,
        templates: Ok(Vec::new()),
    };
    let effective = resolve(subject, &inputs, Defaults::Current);
    if !effective.problems.is_empty() {
        let own = effective.problems.into_iter();
        return own.filter(|problem| !names_template(problem)).collect();
    }
    let Err(errors) = effective.spec.plan(PROBE) else {
        return Vec::new();
    };
    let of_policy = |path: &str| is_of_policy(path, &effective.origins, source);
    let errors = errors.iter().filter(|error| of_policy(&error.path));
    errors
        .map(|error| {
            let path = error.path.replacen("spec.", "spec.defaults.", 1);
            let value = error.value.as_deref();
            Problem {
                kind: ProblemKind::Policy,
                ..reference_problem(
                    source,
                    &path,
                    value,
                    error.problem.as_str(),
                    error.fix.as_str(),
                )
            }
        })
        .collect()
}

/// Whether a policy sets the field of a problem, or one in it. Entries of lists have numbers in
/// problems and names in origins, so they are compared by their list.
fn is_of_policy(path: &str, origins: &Origins, source: &Source) -> bool {
    let list = path.split('[').next().unwrap_or(path);
    origins
        .iter()
        .any(|(origin, of)| of == source && (origin.starts_with(list) || list.starts_with(origin)))
}

fn probe() -> Option<RolloutSpec> {
    let probe = json!({
        "workloadRef": {"kind": "Deployment", "name": PROBE},
        "strategy": {"canary": {"trafficRouting": {"gatewayAPI": {"httpRoute": PROBE}}}},
    });
    serde_json::from_value(probe).ok()
}
