//! The effective spec of a Rollout: its own, with what its RolloutPolicies and AnalysisTemplates
//! contribute.
//!
//! A release in progress follows what it began with: the recorded defaults of its policies, and its
//! recorded analysis. A policy that is edited, deleted or broken meanwhile counts from the next
//! release.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serin_core::hold::HoldCode;
use serin_core::release_analysis::AnalysisDocument;
use serin_core::release_policy::ReleasePolicy;
use serin_core::state::{Stage, State};
use serin_crds::guardrails::Guardrails;
use serin_crds::policy::FailurePolicy;
use serin_crds::{AnalysisTemplateSpec, RolloutSpec};
use serin_policy::{
    AppliedPolicy, Defaults, Effective, GuardrailOrigins, Inputs, Problem, ProblemKind, Subject,
    TemplateInput, has_references, resolve, template_names,
};

use super::Context;
use crate::cluster_cache::policies::MatchingPolicies;
use crate::cluster_cache::{
    Availability, CachedTemplate, ClusterCache, Key, PolicyProblem, PolicyView, RolloutObject,
    shared_guardrails,
};
use crate::local_state::LocalState;
use crate::revision::TemplateRevision;

/// Maximum number of templates that one Rollout uses.
const MAX_TEMPLATES: usize = 32;
/// Maximum size of the guardrails that a release keeps, in bytes of JSON.
const MAX_GUARDRAIL_BYTES: usize = 8 * 1024;

/// Which policies apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Timing {
    /// The policies as they are now.
    Current,
    /// The policies of the release in progress.
    OfRelease,
}

impl Timing {
    /// The policies that apply until another release begins.
    pub(super) fn for_state(state: &State) -> Self {
        if state.is_releasing() {
            Self::OfRelease
        } else {
            Self::Current
        }
    }
}

/// The last resolution of a Rollout.
#[derive(Debug, Default)]
pub struct PolicyResolver(Option<Resolution>);

#[derive(Debug)]
struct Resolution {
    /// Identifies everything that was resolved.
    inputs: u64,
    /// The effective spec.
    spec: Arc<RolloutSpec>,
    view: Arc<PolicyView>,
}

/// The Rollout with its effective spec. The Rollout itself if no policy concerns it and it refers
/// to nothing.
pub(super) fn resolve_policies(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    timing: Timing,
    local: &mut LocalState,
) -> Arc<RolloutObject> {
    let Ok(spec) = &rollout.spec else {
        return Arc::clone(rollout);
    };
    let state = &rollout.status.state;
    let matching = context.cache.policies.matching(rollout);
    let is_concerned = !matching.policies.is_empty()
        || matching.unknown.is_some()
        || !state.release_policies.is_empty()
        || has_references(spec);
    if !is_concerned {
        local.policy = PolicyResolver::default();
        return Arc::clone(rollout);
    }
    let request = Request {
        cache: &context.cache,
        rollout,
        spec,
        state,
        timing,
        matching,
    };
    let templates = request.templates();
    let inputs = request.fingerprint(&templates);
    let known = local.policy.0.take();
    let resolution = known
        .filter(|known| known.inputs == inputs)
        .unwrap_or_else(|| {
            context.metrics.record_policy_resolution();
            request.resolve(inputs, &templates)
        });
    let object = RolloutObject {
        spec: Ok(Arc::clone(&resolution.spec)),
        policy: Some(Arc::clone(&resolution.view)),
        ..(**rollout).clone()
    };
    local.policy = PolicyResolver(Some(resolution));
    Arc::new(object)
}

/// Whether a release of `target` would begin that its policies must not let begin: it is neither
/// the current nor the stable revision, or it was aborted and could be retried.
pub(super) fn is_held(target: &TemplateRevision, state: &State) -> bool {
    let TemplateRevision::Known(target) = target else {
        return false;
    };
    if state.stable_revision.as_ref() == Some(target) {
        return false;
    }
    state.current_revision.as_ref() != Some(target) || state.stage == Stage::Aborted
}

/// Whether another release than the one in progress begins.
pub(super) fn begins_release(target: &TemplateRevision, state: &State) -> bool {
    let current = state.current_revision.as_ref();
    matches!(target, TemplateRevision::Known(target) if current != Some(target))
}

/// A template that a Rollout may use, or that does not exist.
type NamedTemplate = (String, Option<Arc<CachedTemplate>>);

struct Request<'a> {
    cache: &'a ClusterCache,
    rollout: &'a RolloutObject,
    spec: &'a RolloutSpec,
    state: &'a State,
    timing: Timing,
    matching: MatchingPolicies,
}

impl Request<'_> {
    fn namespace(&self) -> &str {
        self.rollout
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
    }

    /// The templates that the Rollout and its policies refer to, directly or not.
    fn templates(&self) -> Vec<NamedTemplate> {
        let mut names: Vec<String> = template_names(self.spec).map(ToOwned::to_owned).collect();
        let of_policies = self.matching.policies.iter();
        names.extend(of_policies.flat_map(|policy| policy.templates.iter().cloned()));
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        while let Some(name) = names.pop() {
            if found.len() >= MAX_TEMPLATES || !seen.insert(name.clone()) {
                continue;
            }
            let key = Key::new(self.namespace(), &name);
            let template = self.cache.policies.templates.get(&key);
            if let Some(template) = &template {
                names.extend(template.templates.iter().cloned());
            }
            found.push((name, template));
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        found
    }

    /// Why templates are not known. `None` if they are.
    fn templates_unavailable(&self) -> Option<&'static str> {
        match self.cache.policies.template_kind.availability() {
            Availability::Forbidden => Some("the controller may not list them"),
            Availability::Absent => Some("this cluster does not serve AnalysisTemplate"),
            Availability::Unknown | Availability::Served(_) => {
                let is_listed = self.cache.are_templates_listed(self.namespace());
                (!is_listed).then_some("the controller may not list them in this namespace")
            }
        }
    }

    /// Identifies the inputs of the resolution, so that it is repeated only if one has changed.
    fn fingerprint(&self, templates: &[NamedTemplate]) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.rollout.generation().hash(&mut hasher);
        self.rollout.template_version.hash(&mut hasher);
        self.timing.hash(&mut hasher);
        self.matching.unknown.hash(&mut hasher);
        self.templates_unavailable().hash(&mut hasher);
        for policy in &self.matching.policies {
            (&policy.identity.uid, policy.generation).hash(&mut hasher);
        }
        for (name, template) in templates {
            let version = template
                .as_ref()
                .map(|template| (&template.identity.uid, template.generation));
            (name, version).hash(&mut hasher);
        }
        match self.timing {
            Timing::Current => self.deleted_policy().hash(&mut hasher),
            // The policies and the analysis of a release are fixed when it begins.
            Timing::OfRelease => {
                let release = (self.state.release_started_at, &self.state.current_revision);
                let began_with = self.state.release_analysis.is_some();
                (
                    release.0,
                    release.1.as_ref().map(ToString::to_string),
                    began_with,
                )
                    .hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// A policy of the last release that does not exist any more, although it is required.
    fn deleted_policy(&self) -> Option<&str> {
        let required = self.state.release_policies.iter();
        let mut required = required.filter(|policy| policy.required);
        let is_gone = |policy: &&ReleasePolicy| {
            let key = Key::new("", policy.name.as_str());
            self.cache.policies.policies.get(&key).is_none()
        };
        required.find(is_gone).map(|policy| policy.name.as_str())
    }

    fn resolve(&self, inputs: u64, templates: &[NamedTemplate]) -> Resolution {
        let specs: Vec<(&str, Result<AnalysisTemplateSpec, String>)> = templates
            .iter()
            .filter_map(|(name, template)| Some((name.as_str(), template.as_ref()?.spec())))
            .collect();
        let templates: Vec<TemplateInput<'_>> = specs
            .iter()
            .map(|(name, spec)| TemplateInput {
                name,
                spec: spec.as_ref().map_err(String::as_str),
            })
            .collect();
        let with = Inputs {
            policies: self
                .matching
                .policies
                .iter()
                .map(|policy| policy.as_input())
                .collect(),
            templates: match self.templates_unavailable() {
                Some(reason) => Err(reason),
                None => Ok(templates),
            },
        };
        let of_release = applied_policies(&self.state.release_policies);
        let defaults = match self.timing {
            Timing::Current => Defaults::Current,
            Timing::OfRelease => Defaults::OfRelease {
                policies: &of_release,
                has_analysis: self.state.release_analysis.is_some(),
            },
        };
        let effective = resolve(self.subject(self.spec), &with, defaults);
        for problem in &effective.ignored {
            tracing::warn!(
                namespace = self.namespace(),
                rollout = self.rollout.metadata.name.as_deref().unwrap_or_default(),
                %problem,
                "a policy is ignored, because its failurePolicy is Ignore"
            );
        }
        match self.timing {
            Timing::Current => self.current(inputs, effective),
            Timing::OfRelease => self.of_release(inputs, effective, &of_release),
        }
    }

    fn subject<'s>(&'s self, spec: &'s RolloutSpec) -> Subject<'s> {
        Subject {
            namespace: self.namespace(),
            name: self.rollout.metadata.name.as_deref().unwrap_or_default(),
            spec,
        }
    }

    /// What applies to the next release.
    fn current(&self, inputs: u64, effective: Effective) -> Resolution {
        let problem = self
            .unavailable()
            .or_else(|| effective.problems.first().map(problem_of));
        let record = |name: &String| {
            let mut matching = self.matching.policies.iter();
            let policy = matching.find(|policy| policy.identity.key.name == *name)?;
            Some(policy.release_record.clone())
        };
        let policies: Vec<_> = effective.policies.iter().filter_map(record).collect();
        // Without its references, the analysis of the Rollout means nothing.
        let spec = if problem.is_some() {
            RolloutSpec {
                analysis: None,
                ..self.spec.clone()
            }
        } else {
            effective.spec
        };
        let of_release = serde_json::to_value(&effective.guardrails).ok();
        let of_release = of_release.filter(|guardrails| {
            !effective.policies.is_empty() && guardrails.to_string().len() <= MAX_GUARDRAIL_BYTES
        });
        let of_release = of_release.map(AnalysisDocument::from);
        let guardrails = (effective.guardrails.clone(), of_release);
        let origins = effective.guardrail_origins;
        resolution(inputs, spec, problem, policies, guardrails, origins)
    }

    /// What applies to the release in progress. It follows its records, whatever is wrong now.
    fn of_release(
        &self,
        inputs: u64,
        effective: Effective,
        policies: &[AppliedPolicy],
    ) -> Resolution {
        let spec = if effective.problems.is_empty() {
            effective.spec
        } else {
            let without_analysis = RolloutSpec {
                analysis: None,
                ..self.spec.clone()
            };
            let nothing = Inputs {
                policies: Vec::new(),
                templates: Ok(Vec::new()),
            };
            let defaults = Defaults::OfRelease {
                policies,
                has_analysis: false,
            };
            let recorded = resolve(self.subject(&without_analysis), &nothing, defaults);
            let analysis = self.state.release_analysis.as_ref();
            RolloutSpec {
                analysis: analysis.and_then(|analysis| {
                    serde_json::from_value(analysis.spec.as_value().clone()).ok()
                }),
                ..recorded.spec
            }
        };
        let policies = self.state.release_policies.clone();
        let current = &effective.guardrails;
        let recorded = &self.state.release_guardrails;
        let guardrails = match recorded {
            // They were too large for the status.
            None if !policies.is_empty() => current.clone(),
            None => current.during_release(&Guardrails::default()),
            Some(recorded) => {
                let at_start = serde_json::from_value(recorded.as_value().clone());
                at_start.map_or_else(
                    |_| current.clone(),
                    |at_start: Guardrails| current.during_release(&at_start),
                )
            }
        };
        let guardrails = (guardrails, recorded.clone());
        let origins = effective.guardrail_origins;
        resolution(inputs, spec, None, policies, guardrails, origins)
    }

    /// Why it is not known which policies apply.
    fn unavailable(&self) -> Option<PolicyProblem> {
        let problem = |message: String| PolicyProblem {
            code: HoldCode::PolicyUnavailable,
            message,
        };
        if let Some(reason) = self.matching.unknown {
            return Some(problem(reason.to_owned()));
        }
        let deleted = self.deleted_policy()?;
        let kind = &self.cache.policies.policy_kind;
        let message = if kind.availability() == Availability::Absent {
            format!(
                "RolloutPolicy {deleted} applied to the last release, and {}",
                kind.absent_message()
            )
        } else {
            format!(
                "RolloutPolicy {deleted} applied to the last release and was deleted, although its \
                 failurePolicy was Fail: create it again, and set failurePolicy to Ignore before it \
                 is deleted for good"
            )
        };
        Some(problem(message))
    }
}

fn resolution(
    inputs: u64,
    spec: RolloutSpec,
    problem: Option<PolicyProblem>,
    policies: Vec<ReleasePolicy>,
    (guardrails, guardrails_of_release): (Guardrails, Option<AnalysisDocument>),
    guardrail_origins: GuardrailOrigins,
) -> Resolution {
    let mut hasher = DefaultHasher::new();
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    json(serde_json::to_string(&spec.strategy)).hash(&mut hasher);
    json(serde_json::to_string(&spec.analysis)).hash(&mut hasher);
    let window = spec.rollback_window.as_ref();
    let window = window.map(|window| window.revisions);
    let deadline = (spec.progress_deadline_seconds, spec.progress_deadline_abort);
    (deadline, window).hash(&mut hasher);
    problem
        .as_ref()
        .map(|problem| &problem.message)
        .hash(&mut hasher);
    Resolution {
        inputs,
        spec: Arc::new(spec),
        view: Arc::new(PolicyView {
            version: hasher.finish(),
            problem,
            policies,
            guardrails: shared_guardrails(guardrails),
            guardrails_of_release,
            guardrail_origins,
        }),
    }
}

/// The hold of a problem.
fn problem_of(problem: &Problem) -> PolicyProblem {
    PolicyProblem {
        code: match problem.kind {
            ProblemKind::Reference => HoldCode::PolicyReferenceInvalid,
            ProblemKind::Policy => HoldCode::PolicyInvalid,
            ProblemKind::Unavailable => HoldCode::PolicyUnavailable,
        },
        message: problem.to_string(),
    }
}

/// The policies that a status records.
fn applied_policies(policies: &[ReleasePolicy]) -> Vec<AppliedPolicy> {
    let applied = policies.iter().map(|policy| AppliedPolicy {
        name: policy.name.as_str().to_owned(),
        failure_policy: if policy.required {
            FailurePolicy::Fail
        } else {
            FailurePolicy::Ignore
        },
        defaults: policy
            .defaults
            .as_ref()
            .map(|defaults| defaults.as_value().clone()),
    });
    applied.collect()
}
