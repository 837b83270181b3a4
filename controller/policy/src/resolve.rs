//! Resolution of one Rollout.

use serde_json::Value;
use serin_crds::analysis_template::DefinitionRef;
use serin_crds::guardrails::Guardrails;
use serin_crds::policy::FailurePolicy;
use serin_crds::policy_defaults::PolicyDefaults;
use serin_crds::{RolloutPolicySpec, RolloutSpec};

use crate::catalog::{Catalog, Expanded, Kind, Reference, TemplateInput, fault_problem};
use crate::document::{
    CHECKS, Fields, OBJECTIVES, defaults_of, document_of, entry_name, object, spec_with,
};
use crate::guardrails::{GuardrailOrigins, combine_guardrails};
use crate::merge::{
    REFERENCE_FIELDS, SOURCE_FIELDS, fill, fill_entries, put_entries, record, record_document,
    remove_replaced_counters, remove_unfitting, take_entries,
};
use crate::select::{PolicyInput, sort_by_precedence};
use crate::source::{Origins, Problem, ProblemKind, Problems, Source, reference_problem};
use crate::substitute::substitute_all;

/// Maximum number of objectives and of checks, as in the schema of a Rollout.
const LIMITS: [(&str, usize); 2] = [(OBJECTIVES, 8), (CHECKS, 16)];
/// Maximum size of the values that a release keeps of its policies, in bytes of JSON.
const MAX_RELEASE_BYTES: usize = 16 * 1024;
/// Maximum number of policies that apply to one Rollout.
pub const MAX_POLICIES: usize = 32;

/// The Rollout whose spec is resolved.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its spec as it was written.
    pub spec: &'a RolloutSpec,
}

/// What a spec is resolved with.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The policies that match the Rollout, in any order.
    pub policies: Vec<PolicyInput<'a>>,
    /// The templates of its namespace, at least those that it names, or why they are not known.
    pub templates: Result<Vec<TemplateInput<'a>>, &'a str>,
}

/// Which defaults apply.
#[derive(Clone, Copy, Debug)]
pub enum Defaults<'a> {
    /// Those of the policies as they are now: for the next release.
    Current,
    /// Those that a release in progress began with.
    OfRelease {
        /// The policies of the release.
        policies: &'a [AppliedPolicy],
        /// Whether the release has an analysis. A release without one gets none from a policy.
        has_analysis: bool,
    },
}

/// A policy that applies, with the values that a release keeps until it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedPolicy {
    /// Its name.
    pub name: String,
    /// What happens if it is deleted.
    pub failure_policy: FailurePolicy,
    /// Its defaults apart from those of the analysis, which is fixed with a release in any case.
    /// `None` if it has none.
    pub defaults: Option<Value>,
}

/// The effective spec of a Rollout.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The spec. Fields with a built-in default are unset. As written if there are problems.
    pub spec: RolloutSpec,
    /// Where each value comes from.
    pub origins: Origins,
    /// Why the spec cannot be resolved. Empty if it is.
    pub problems: Vec<Problem>,
    /// Names of the policies that apply, in the order of their precedence.
    pub policies: Vec<String>,
    /// The problems of policies that are left out because their failure policy is Ignore.
    pub ignored: Vec<Problem>,
    /// The guardrails of all policies.
    pub guardrails: Guardrails,
    /// The policy of each guardrail.
    pub guardrail_origins: GuardrailOrigins,
}

/// Whether a spec refers to definitions.
pub fn has_references(spec: &RolloutSpec) -> bool {
    spec.analysis.as_ref().is_some_and(|analysis| {
        let mut objectives = analysis.objectives.iter();
        let mut checks = analysis.checks.iter();
        objectives.any(|one| one.reference.is_some() || one.indicator_ref.is_some())
            || checks.any(|one| one.reference.is_some())
    })
}

/// Names of the AnalysisTemplates that a spec refers to, without those that only definitions refer
/// to.
pub fn template_names(spec: &RolloutSpec) -> impl Iterator<Item = &str> {
    let analysis = spec.analysis.iter();
    analysis.flat_map(|analysis| {
        let objectives = analysis.objectives.iter();
        let of_objectives = objectives.flat_map(|one| {
            let of_indicator = one.indicator_ref.as_ref();
            let of_indicator = of_indicator.and_then(|one| one.analysis_template.as_deref());
            one.analysis_template
                .as_deref()
                .into_iter()
                .chain(of_indicator)
        });
        let checks = analysis.checks.iter();
        of_objectives.chain(checks.filter_map(|one| one.analysis_template.as_deref()))
    })
}

/// Resolves the effective spec of a Rollout.
///
/// The cost is bounded: by the number of policies and of entries, by the depth of references, and
/// by the length of texts after the replacement of parameters.
pub fn resolve(subject: Subject<'_>, inputs: &Inputs<'_>, defaults: Defaults<'_>) -> Effective {
    let mut policies = inputs.policies.clone();
    sort_by_precedence(&mut policies);
    let templates = inputs.templates.as_ref().map(Vec::as_slice);
    let templates = templates.map_err(|reason| *reason);
    let mut ignored = Vec::new();
    loop {
        let catalog = Catalog {
            namespace: subject.namespace,
            rollout: subject.name,
            policies: &policies,
            templates,
        };
        let attempt = Attempt::run(subject, &catalog, defaults);
        let left_out = attempt.problems.iter().find_map(|problem| {
            let is_source = |policy: &PolicyInput<'_>| {
                policy.failure_policy == FailurePolicy::Ignore
                    && problem.source == Source::Policy(policy.name.to_owned())
            };
            Some((policies.iter().position(is_source)?, problem.clone()))
        });
        let Some((index, problem)) = left_out else {
            let (guardrails, guardrail_origins) = combine_guardrails(&policies);
            let is_resolved = attempt.problems.is_empty();
            return Effective {
                spec: attempt
                    .spec
                    .filter(|_| is_resolved)
                    .unwrap_or_else(|| subject.spec.clone()),
                origins: attempt.origins,
                problems: attempt.problems,
                policies: policies
                    .iter()
                    .map(|policy| policy.name.to_owned())
                    .collect(),
                ignored,
                guardrails,
                guardrail_origins,
            };
        };
        ignored.push(problem);
        policies.remove(index);
    }
}

/// The defaults of a policy that a release keeps until it ends: all but those of the analysis.
/// `None` if there are none.
pub fn kept_defaults(policy: &RolloutPolicySpec) -> Option<Value> {
    let kept = PolicyDefaults {
        analysis: None,
        ..policy.defaults.clone()?
    };
    let kept = defaults_of(&kept);
    (!kept.is_empty()).then_some(Value::Object(kept))
}

/// One attempt with a list of policies.
struct Attempt {
    spec: Option<RolloutSpec>,
    origins: Origins,
    problems: Vec<Problem>,
}

impl Attempt {
    fn run(subject: Subject<'_>, catalog: &Catalog<'_>, defaults: Defaults<'_>) -> Self {
        let mut resolution = Resolution {
            catalog,
            origins: Origins::new(),
            problems: Problems::default(),
        };
        resolution.check_policies();
        let mut document = document_of(subject.spec);
        record_document(&mut resolution.origins, &document, &Source::Rollout);
        let has_own_analysis = document.contains_key("analysis");
        let mut lists = LIMITS.map(|(list, _)| take_entries(&mut document, list));
        resolution.fill_document(&mut document, &mut lists, defaults);
        for ((list, limit), entries) in LIMITS.into_iter().zip(lists) {
            let entries = resolution.resolve_entries(list, limit, entries);
            put_entries(&mut document, list, entries);
        }
        let has_entries = document
            .get("analysis")
            .is_some_and(|analysis| LIMITS.iter().any(|(list, _)| analysis.get(*list).is_some()));
        if !has_own_analysis && !has_entries {
            // Settings alone make no analysis.
            document.remove("analysis");
            let is_other = |path: &String, _: &mut Source| !path.starts_with("spec.analysis.");
            resolution.origins.retain(is_other);
        }
        let spec = resolution.spec_of(subject.spec, document);
        Self {
            spec,
            origins: resolution.origins,
            problems: resolution.problems.into_vec(),
        }
    }
}

struct Resolution<'a> {
    catalog: &'a Catalog<'a>,
    origins: Origins,
    problems: Problems,
}

impl Resolution<'_> {
    /// Reports policies that cannot be read, and too many of them.
    fn check_policies(&mut self) {
        for policy in self.catalog.policies {
            let Err(reason) = policy.spec else { continue };
            self.problems.push(Problem {
                kind: ProblemKind::Policy,
                ..reference_problem(
                    &Source::Policy(policy.name.to_owned()),
                    "spec",
                    None,
                    format!("the policy cannot be read: {reason}"),
                    "correct the policy, or set its failurePolicy to Ignore",
                )
            });
        }
        let count = self.catalog.policies.len();
        if count > MAX_POLICIES {
            let problem = format!("{count} policies match this Rollout, more than {MAX_POLICIES}");
            let fix = "combine some of them, or narrow their selectors";
            self.problems.push(Problem {
                kind: ProblemKind::Policy,
                ..reference_problem(&Source::Rollout, "metadata.labels", None, problem, fix)
            });
        }
        let policies = self.catalog.policies.iter();
        let bytes: usize = policies.map(|policy| policy.kept_bytes).sum();
        if bytes > MAX_RELEASE_BYTES {
            let problem = format!(
                "the defaults of the policies have {bytes} bytes without those of the analysis, more \
                 than the {MAX_RELEASE_BYTES} that fit into the status of a release"
            );
            self.problems.push(Problem {
                kind: ProblemKind::Policy,
                ..reference_problem(
                    &Source::Rollout,
                    "metadata.labels",
                    None,
                    problem,
                    "use fewer steps in the policies",
                )
            });
        }
    }

    /// Fills in the defaults of the policies, in the order of their precedence.
    fn fill_document(
        &mut self,
        document: &mut Fields,
        lists: &mut [Vec<Fields>; 2],
        defaults: Defaults<'_>,
    ) {
        if let Defaults::OfRelease { policies, .. } = defaults {
            for policy in policies {
                let kept = policy.defaults.clone().map(object).unwrap_or_default();
                let source = Source::Policy(policy.name.clone());
                self.fill_from(document, kept, &source);
            }
        }
        let has_analysis = match defaults {
            Defaults::Current => true,
            Defaults::OfRelease { has_analysis, .. } => has_analysis,
        };
        let policies = self.catalog.policies.iter().take(MAX_POLICIES);
        for policy in policies {
            let spec = policy.spec.ok().and_then(|spec| spec.defaults.as_ref());
            let Some(spec) = spec else { continue };
            let source = Source::Policy(policy.name.to_owned());
            let mut filled = defaults_of(spec);
            let of_lists = LIMITS.map(|(list, _)| take_entries(&mut filled, list));
            if matches!(defaults, Defaults::OfRelease { .. }) {
                filled.retain(|name, _| name == "analysis");
            }
            if !has_analysis {
                filled.remove("analysis");
            }
            self.fill_from(document, filled, &source);
            if has_analysis {
                for (at, entries) in of_lists.into_iter().enumerate() {
                    self.fill_list(&mut lists[at], LIMITS[at].0, entries, &source);
                }
            }
        }
    }

    fn fill_from(&mut self, document: &mut Fields, mut defaults: Fields, source: &Source) {
        remove_unfitting(&mut defaults, document);
        fill(document, &defaults, "spec", source, &mut self.origins);
    }

    fn fill_list(
        &mut self,
        entries: &mut Vec<Fields>,
        list: &str,
        defaults: Vec<Fields>,
        source: &Source,
    ) {
        let mut complete = Vec::new();
        for default in defaults {
            let name = entry_name(&default);
            let mut value = Value::Object(default);
            match substitute_all(&mut value, &self.catalog.scope()) {
                Ok(()) => complete.push(object(value)),
                Err((field, fault)) => {
                    let path = format!("spec.defaults.analysis.{list}[{name}].{field}");
                    self.problems.push(fault_problem(source, &path, &fault));
                }
            }
        }
        let path = format!("spec.analysis.{list}");
        fill_entries(entries, &complete, &path, source, &mut self.origins);
    }

    /// Replaces the references of a list by what they refer to.
    fn resolve_entries(&mut self, list: &str, limit: usize, entries: Vec<Fields>) -> Vec<Fields> {
        if entries.len() > limit {
            let count = entries.len();
            let problem = format!(
                "with those of the policies there are {count}, more than the maximum of {limit}"
            );
            let path = format!("spec.analysis.{list}");
            let fix = "remove some of them from the Rollout or from the policies";
            self.problems.push(reference_problem(
                &Source::Rollout,
                &path,
                None,
                problem,
                fix,
            ));
        }
        let kind = if list == CHECKS {
            Kind::Check
        } else {
            Kind::Objective
        };
        let entries = entries.into_iter().take(limit);
        let mut resolved: Vec<Fields> = Vec::new();
        for mut entry in entries {
            let name = entry_name(&entry);
            let path = format!("spec.analysis.{list}[{name}]");
            let is_complete = self.resolve_entry(&mut entry, kind, &name, &path);
            if is_complete && resolved.iter().any(|other| entry_name(other) == name) {
                let problem = "two entries have this name";
                let fix = "set another name for one of them";
                let value = Some(name.as_str());
                let source = Source::Rollout;
                self.problems
                    .push(reference_problem(&source, &path, value, problem, fix));
            }
            resolved.push(entry);
        }
        resolved
    }

    /// Replaces the references of an entry. Returns whether that was possible.
    fn resolve_entry(&mut self, entry: &mut Fields, kind: Kind, name: &str, path: &str) -> bool {
        let is_reference = entry.contains_key("ref") || entry.contains_key("indicatorRef");
        let text = |field: &str, entry: &Fields| {
            let value = entry.get(field).and_then(Value::as_str);
            value.map(ToOwned::to_owned)
        };
        if let Some(to) = text("ref", entry) {
            let source = self.source_of(&format!("{path}.ref"));
            let parameters = entry.get("parameters").cloned().unwrap_or_default();
            let reference = DefinitionRef {
                name: to,
                analysis_template: text("analysisTemplate", entry),
                parameters: serde_json::from_value(parameters).unwrap_or_default(),
            };
            self.remove(entry, &REFERENCE_FIELDS, path);
            entry.insert("name".to_owned(), name.into());
            record(
                &mut self.origins,
                &format!("{path}.name"),
                &name.into(),
                &source,
            );
            if !self.expand_into(entry, kind, &reference, &source, path, "ref") {
                return false;
            }
        }
        if let Some(reference) = entry.get("indicatorRef").cloned() {
            let source = self.source_of(&format!("{path}.indicatorRef.name"));
            let reference: DefinitionRef = serde_json::from_value(reference).unwrap_or_default();
            self.remove(entry, &["indicatorRef"], path);
            let kind = Kind::Indicator;
            if !self.expand_into(entry, kind, &reference, &source, path, "indicatorRef") {
                return false;
            }
        }
        !is_reference || self.check_complete(entry, kind, path)
    }

    fn source_of(&self, path: &str) -> Source {
        self.origins.get(path).cloned().unwrap_or(Source::Rollout)
    }

    /// Removes fields and their sources.
    fn remove(&mut self, entry: &mut Fields, fields: &[&str], path: &str) {
        for field in fields {
            entry.remove(*field);
            let (own, inner) = (format!("{path}.{field}"), format!("{path}.{field}."));
            self.origins
                .retain(|path, _| *path != own && !path.starts_with(&inner));
        }
    }

    /// Fills an entry with the fields of a definition. Returns whether the definition was found.
    fn expand_into(
        &mut self,
        entry: &mut Fields,
        kind: Kind,
        reference: &DefinitionRef,
        source: &Source,
        path: &str,
        field: &str,
    ) -> bool {
        let at = match source {
            Source::Policy(_) => path.replacen("spec.", "spec.defaults.", 1),
            _ => path.to_owned(),
        };
        let expanded = self.catalog.expand(Reference {
            kind,
            to: reference,
            source,
            path: &format!("{at}.{field}"),
        });
        match expanded {
            Ok(expanded) => {
                self.fill_expanded(entry, &expanded, path);
                true
            }
            Err(problem) => {
                self.problems.push(problem);
                false
            }
        }
    }

    fn fill_expanded(&mut self, entry: &mut Fields, expanded: &Expanded, path: &str) {
        let mut fields: Fields = expanded
            .iter()
            .map(|(name, (value, _))| (name.clone(), value.clone()))
            .collect();
        remove_replaced_counters(&mut fields, entry);
        for (name, value) in fields {
            let Some((_, source)) = expanded.get(&name) else {
                continue;
            };
            let one = Fields::from_iter([(name, value)]);
            fill(entry, &one, path, source, &mut self.origins);
        }
    }

    /// Whether an entry that was a reference has all that it needs. Reports what is missing.
    fn check_complete(&mut self, entry: &Fields, kind: Kind, path: &str) -> bool {
        let has_source = SOURCE_FIELDS.iter().any(|field| entry.contains_key(*field));
        let missing = match kind {
            Kind::Check => ["query", "condition"]
                .into_iter()
                .find(|field| !entry.contains_key(*field)),
            Kind::Objective | Kind::Indicator if !has_source => Some("counters"),
            Kind::Objective | Kind::Indicator => {
                Some("objective").filter(|field| !entry.contains_key(*field))
            }
        };
        let Some(missing) = missing else { return true };
        let path = format!("{path}.{missing}");
        let problem = "neither the entry nor the definition that it refers to sets it";
        let fix = "set it in one of the two";
        self.problems.push(reference_problem(
            &Source::Rollout,
            &path,
            None,
            problem,
            fix,
        ));
        false
    }

    /// The spec with the values of a document. Reports values that a policy must not have.
    fn spec_of(&mut self, written: &RolloutSpec, document: Fields) -> Option<RolloutSpec> {
        match spec_with(written, document) {
            Ok(spec) => Some(spec),
            Err(error) => {
                let problem = format!("a value of the policies does not fit: {error}");
                let fix = "correct the policy that sets it";
                self.problems.push(Problem {
                    kind: ProblemKind::Policy,
                    ..reference_problem(&Source::Rollout, "spec", None, problem, fix)
                });
                None
            }
        }
    }
}
