//! The definitions that references can name, and their expansion.

use std::collections::BTreeMap;

use serde_json::Value;
use serin_crds::AnalysisTemplateSpec;
use serin_crds::analysis_template::{DefinitionRef, ParameterSpec, ParameterValue};

use crate::document::{Fields, object};
use crate::merge::remove_replaced_counters;
use crate::select::PolicyInput;
use crate::source::{Problem, ProblemKind, Source, reference_problem};
use crate::substitute::{Fault, MAX_TEXT_BYTES, Scope, is_value, substitute, substitute_all};

/// Maximum number of definitions that are based on each other.
const MAX_DEPTH: usize = 8;
/// Maximum number of names in a message.
const MAX_NAMES: usize = 8;

/// An AnalysisTemplate.
#[derive(Clone, Copy, Debug)]
pub struct TemplateInput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its spec, or why it cannot be read.
    pub spec: Result<&'a AnalysisTemplateSpec, &'a str>,
}

/// What a definition defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Indicator,
    Objective,
    Check,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Indicator => "indicator",
            Self::Objective => "objective",
            Self::Check => "check",
        }
    }

    const fn list(self) -> &'static str {
        match self {
            Self::Indicator => "indicators",
            Self::Objective => "objectives",
            Self::Check => "checks",
        }
    }
}

/// The definitions that one Rollout can refer to.
pub(crate) struct Catalog<'a> {
    pub namespace: &'a str,
    pub rollout: &'a str,
    /// The policies that match the Rollout, in the order of their precedence.
    pub policies: &'a [PolicyInput<'a>],
    /// The templates of the namespace, or why they are not known.
    pub templates: Result<&'a [TemplateInput<'a>], &'a str>,
}

/// A reference, and where it is written.
#[derive(Clone, Copy)]
pub(crate) struct Reference<'a> {
    pub kind: Kind,
    pub to: &'a DefinitionRef,
    /// The object that has the reference.
    pub source: &'a Source,
    /// Path of the reference in it.
    pub path: &'a str,
}

/// One definition.
struct Definition {
    name: String,
    source: Source,
    path: String,
    parameters: Vec<ParameterSpec>,
    extends: Option<DefinitionRef>,
    fields: Fields,
}

/// The fields of a definition, each with its source.
pub(crate) type Expanded = BTreeMap<String, (Value, Source)>;

impl Catalog<'_> {
    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope {
            namespace: self.namespace,
            rollout: self.rollout,
            parameters: BTreeMap::new(),
        }
    }

    /// The fields of the definition of a reference, with those that it is based on.
    pub(crate) fn expand(&self, reference: Reference<'_>) -> Result<Expanded, Problem> {
        self.expand_after(reference, &mut Vec::new())
    }

    fn expand_after(
        &self,
        reference: Reference<'_>,
        trail: &mut Vec<(Source, String)>,
    ) -> Result<Expanded, Problem> {
        let Definition {
            name,
            source,
            path,
            parameters,
            extends,
            fields,
        } = self.find(reference)?;
        let refuse = |problem: String, fix: &str| {
            let value = Some(reference.to.name.as_str());
            reference_problem(reference.source, reference.path, value, problem, fix)
        };
        let step = (source.clone(), name);
        if trail.contains(&step) {
            let names = trail.iter().map(|(_, name)| name.as_str());
            let names: Vec<&str> = names.chain([step.1.as_str()]).collect();
            let problem = format!("the definitions refer to each other: {}", names.join(", "));
            return Err(refuse(problem, "remove extends from one of them"));
        }
        if trail.len() >= MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} definitions are based on each other");
            return Err(refuse(problem, "write some of them out"));
        }
        trail.push(step);
        let scope = Scope {
            parameters: bind(&parameters, reference)?,
            ..self.scope()
        };
        let mut fields = Value::Object(fields);
        substitute_all(&mut fields, &scope)
            .map_err(|(field, fault)| fault_problem(&source, &format!("{path}.{field}"), &fault))?;
        let mut own = object(fields);
        let mut expanded = Expanded::new();
        if let Some(extends) = extends {
            let path = format!("{path}.extends");
            let extends = forward(extends, &scope, &source, &path)?;
            let base = Reference {
                kind: reference.kind,
                to: &extends,
                source: &source,
                path: &path,
            };
            expanded = self.expand_after(base, trail)?;
            replace_base(&mut expanded, &mut own);
        }
        for (field, value) in own {
            expanded.insert(field, (value, source.clone()));
        }
        Ok(expanded)
    }

    fn find(&self, reference: Reference<'_>) -> Result<Definition, Problem> {
        let (to, kind) = (reference.to, reference.kind);
        let mut found = match &to.analysis_template {
            Some(template) => self.in_template(template, reference)?,
            None => self.in_policies(reference),
        };
        let refuse = |problem: String, fix: String| {
            let value = Some(to.name.as_str());
            reference_problem(reference.source, reference.path, value, problem, fix)
        };
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => {
                let (place, hint) = match &to.analysis_template {
                    Some(template) => (format!("AnalysisTemplate {template} has"), ""),
                    None => (
                        "the RolloutPolicies that match this Rollout have".to_owned(),
                        ", or set analysisTemplate if a template of the namespace has it",
                    ),
                };
                let known = self.known(reference);
                let problem = format!("{place} no {} with this name", kind.as_str());
                let fix = format!("{known}{hint}");
                Err(refuse(problem, fix))
            }
            count => {
                let problem = format!(
                    "{} has {count} {} with this name",
                    found[0].source,
                    kind.list()
                );
                Err(refuse(problem, "remove all of them but one".to_owned()))
            }
        }
    }

    /// The definitions with the name in the first policy that has one.
    fn in_policies(&self, reference: Reference<'_>) -> Vec<Definition> {
        for policy in self.policies {
            let Ok(spec) = policy.spec else { continue };
            let source = Source::Policy(policy.name.to_owned());
            let lists = (&spec.indicators, &spec.objectives, &spec.checks);
            let found = definitions(lists, reference, &source);
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    fn in_template(
        &self,
        template: &str,
        reference: Reference<'_>,
    ) -> Result<Vec<Definition>, Problem> {
        let unavailable = |problem: String, fix: &str| Problem {
            kind: ProblemKind::Unavailable,
            ..reference_problem(
                reference.source,
                reference.path,
                Some(template),
                problem,
                fix,
            )
        };
        let templates = self.templates.map_err(|reason| {
            let fix = "install the CRDs of Serin, and update the Role of the controller";
            unavailable(format!("AnalysisTemplates cannot be read: {reason}"), fix)
        })?;
        let Some(found) = templates.iter().find(|found| found.name == template) else {
            let problem = format!(
                "AnalysisTemplate {template} does not exist in namespace {}",
                self.namespace
            );
            let fix = "create it, or correct analysisTemplate";
            let value = Some(template);
            return Err(reference_problem(
                reference.source,
                reference.path,
                value,
                problem,
                fix,
            ));
        };
        let spec = found.spec.map_err(|reason| {
            let problem = format!("AnalysisTemplate {template} cannot be read: {reason}");
            unavailable(problem, "correct the template")
        })?;
        let source = Source::Template(template.to_owned());
        let lists = (&spec.indicators, &spec.objectives, &spec.checks);
        Ok(definitions(lists, reference, &source))
    }

    /// The names that would be found.
    fn known(&self, reference: Reference<'_>) -> String {
        let mut names: Vec<&str> = Vec::new();
        match (&reference.to.analysis_template, self.templates) {
            (Some(template), Ok(templates)) => {
                let specs = templates.iter().filter(|found| found.name == template);
                for spec in specs.filter_map(|found| found.spec.ok()) {
                    let lists = (&spec.indicators, &spec.objectives, &spec.checks);
                    names.extend(names_of(lists, reference.kind));
                }
            }
            (Some(_), Err(_)) => {}
            (None, _) => {
                for spec in self.policies.iter().filter_map(|policy| policy.spec.ok()) {
                    let lists = (&spec.indicators, &spec.objectives, &spec.checks);
                    names.extend(names_of(lists, reference.kind));
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return "define it, or write it out in the Rollout".to_owned();
        }
        names.truncate(MAX_NAMES);
        format!("use one of: {}", names.join(", "))
    }
}

type Lists<'a> = (
    &'a Vec<serin_crds::analysis_template::IndicatorDefinition>,
    &'a Vec<serin_crds::analysis_template::ObjectiveDefinition>,
    &'a Vec<serin_crds::analysis_template::CheckDefinition>,
);

fn names_of(lists: Lists<'_>, kind: Kind) -> Vec<&str> {
    let (indicators, objectives, checks) = lists;
    match kind {
        Kind::Indicator => indicators.iter().map(|one| one.name.as_str()).collect(),
        Kind::Objective => objectives.iter().map(|one| one.name.as_str()).collect(),
        Kind::Check => checks.iter().map(|one| one.name.as_str()).collect(),
    }
}

/// The definitions with the name of a reference in one object. More than one is a mistake.
fn definitions(lists: Lists<'_>, reference: Reference<'_>, source: &Source) -> Vec<Definition> {
    let (indicators, objectives, checks) = lists;
    let name = &reference.to.name;
    let value = |json: Result<Value, serde_json::Error>| json.unwrap_or_default();
    let found: Vec<Value> = match reference.kind {
        Kind::Indicator => indicators
            .iter()
            .filter(|one| one.name == *name)
            .map(|one| value(serde_json::to_value(one)))
            .collect(),
        Kind::Objective => objectives
            .iter()
            .filter(|one| one.name == *name)
            .map(|one| value(serde_json::to_value(one)))
            .collect(),
        Kind::Check => checks
            .iter()
            .filter(|one| one.name == *name)
            .map(|one| value(serde_json::to_value(one)))
            .collect(),
    };
    let list = reference.kind.list();
    let definition = |json: Value| {
        let mut fields = object(json);
        fields.remove("name");
        let parameters = fields.remove("parameters").unwrap_or_default();
        let extends = fields.remove("extends").unwrap_or_default();
        Definition {
            name: name.clone(),
            source: source.clone(),
            path: format!("spec.{list}[{name}]"),
            parameters: serde_json::from_value(parameters).unwrap_or_default(),
            extends: serde_json::from_value(extends).unwrap_or_default(),
            fields,
        }
    };
    found.into_iter().map(definition).collect()
}

/// Lets the fields of a definition replace those that it is based on. Objects are merged.
fn replace_base(base: &mut Expanded, own: &mut Fields) {
    let mut fields: Fields = base
        .iter()
        .map(|(name, (value, _))| (name.clone(), value.clone()))
        .collect();
    remove_replaced_counters(&mut fields, own);
    base.retain(|name, _| fields.contains_key(name));
    for (name, value) in own.iter_mut() {
        let inner = base.get(name).and_then(|(value, _)| value.as_object());
        if let (Value::Object(upper), Some(inner)) = (value, inner) {
            for (field, value) in inner {
                upper.entry(field.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// The values of the parameters of a definition.
fn bind(
    declared: &[ParameterSpec],
    reference: Reference<'_>,
) -> Result<BTreeMap<String, String>, Problem> {
    let given = &reference.to.parameters;
    let refuse = |value: Option<&str>, problem: String, fix: String| {
        // The parameters of an entry are beside its reference.
        let entry = reference.path.strip_suffix(".ref");
        let path = format!("{}.parameters", entry.unwrap_or(reference.path));
        reference_problem(reference.source, &path, value, problem, fix)
    };
    let unknown = given.iter().find(|value| {
        declared
            .iter()
            .all(|parameter| parameter.name != value.name)
    });
    if let Some(value) = unknown {
        let names: Vec<&str> = declared
            .iter()
            .take(MAX_NAMES)
            .map(|parameter| parameter.name.as_str())
            .collect();
        let fix = if names.is_empty() {
            "remove it: the definition has no parameters".to_owned()
        } else {
            format!("use one of: {}", names.join(", "))
        };
        let problem = format!("{} has no parameter with this name", reference.to.name);
        return Err(refuse(Some(&value.name), problem, fix));
    }
    let mut bound = BTreeMap::new();
    for ParameterSpec { name, default } in declared {
        let mut values = given.iter().filter(|value| value.name == *name);
        let value = values.next().map(|given| &given.value);
        if values.next().is_some() {
            let problem = "the parameter has two values".to_owned();
            return Err(refuse(Some(name), problem, "keep one of them".to_owned()));
        }
        let Some(value) = value.or(default.as_ref()) else {
            let problem = format!(
                "parameter {name} of {} has no value and no default",
                reference.to.name
            );
            let fix = format!("add {{name: {name}, value: ...}}");
            return Err(refuse(None, problem, fix));
        };
        if !is_value(value) {
            let problem = format!(
                "the value of parameter {name} has a quote, a backquote, a backslash, a brace or a \
                 control character, or is longer than 253 bytes"
            );
            let fix = "remove it from the value".to_owned();
            return Err(refuse(Some(value), problem, fix));
        }
        bound.insert(name.clone(), value.clone());
    }
    Ok(bound)
}

/// A reference of a definition, with the parameters of the definition in its values.
fn forward(
    mut reference: DefinitionRef,
    scope: &Scope<'_>,
    source: &Source,
    path: &str,
) -> Result<DefinitionRef, Problem> {
    for ParameterValue { name, value } in &mut reference.parameters {
        let replaced = substitute(value, false, scope);
        let path = || format!("{path}.parameters[{name}].value");
        *value = replaced.map_err(|fault| fault_problem(source, &path(), &fault))?;
    }
    Ok(reference)
}

/// Why a text of a policy or a template cannot be completed.
pub(crate) fn fault_problem(source: &Source, path: &str, fault: &Fault) -> Problem {
    let (value, problem, fix) = match fault {
        Fault::UnknownPlaceholder(name) => (
            Some(name),
            "there is no such placeholder".to_owned(),
            "use {{parameters.NAME}}, {{rollout.name}} or {{rollout.namespace}}",
        ),
        Fault::UnknownParameter(name) => (
            Some(name),
            "there is no parameter with this name".to_owned(),
            "declare it in parameters, or correct its name",
        ),
        Fault::OutsideOfLiteral(name) => (
            Some(name),
            "outside of a string literal, the value must be a number, a duration or a name"
                .to_owned(),
            "put the placeholder in quotes, or change the value",
        ),
        Fault::TooLong => (
            None,
            format!(
                "the text has more than {MAX_TEXT_BYTES} bytes with the values of its parameters"
            ),
            "shorten it",
        ),
    };
    reference_problem(source, path, value.map(String::as_str), problem, fix)
}
