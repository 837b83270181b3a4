//! `kubectl serin effective`: the spec that a Rollout has in effect, and where each value comes
//! from.

mod policies;
mod render;

use std::io::Write;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Serialize;
use serde_json::Value;
use serin_crds::RolloutSpec;
use serin_crds::guardrails::Guardrails;
use serin_crds::names::GROUP;
use serin_policy::{Effective, GuardrailOrigins, fill_in_builtin_defaults};

pub use policies::PolicySet;

use crate::cli::{EffectiveArgs, Format};
use crate::connect::{Connection, send, try_send};
use crate::display_text::{escaped_json, printable_lines, printable_object};
use crate::documents;
use crate::exit::{CliError, Exit};

/// Maximum number of policies, or of templates of one namespace, that are read.
const LIST_LIMIT: u32 = 500;

/// The effective spec of a Rollout.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveReport {
    /// Namespace and name, or only the name.
    pub rollout: String,
    /// The policies that apply, the highest precedence first.
    pub policies: Vec<String>,
    /// The strategy, the analysis and the deadlines with all defaults. As written if there are
    /// problems.
    pub spec: Value,
    /// Where each value comes from, by its path.
    pub origins: Vec<Origin>,
    /// The guardrails of the policies.
    pub guardrails: Guardrails,
    /// The policy of each guardrail.
    pub guardrail_origins: GuardrailOrigins,
    /// Why the spec cannot be resolved or used. Empty if it can.
    pub problems: Vec<String>,
    /// Problems of policies that are left out because their failure policy is Ignore, and what
    /// could not be read.
    pub notes: Vec<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Path of the value.
    pub path: String,
    /// Rollout, a RolloutPolicy, an AnalysisTemplate, or the built-in default.
    pub source: String,
}

/// Prints the effective spec of a Rollout of the cluster, or of files.
///
/// # Errors
/// The Rollout or the files cannot be read, or the output cannot be written.
pub async fn effective(
    connection: Option<&Connection>,
    args: &EffectiveArgs,
    out: &mut (dyn Write + Send),
) -> Result<Exit, CliError> {
    let mut reports = Vec::new();
    match connection {
        Some(connection) => {
            let name = args.name.as_deref().unwrap_or_default();
            reports.push(of_cluster(connection, name, args).await?);
        }
        None => reports.extend(of_files(args)?),
    }
    let text = match args.output {
        None => {
            let texts: Vec<String> = reports.iter().map(render::render).collect();
            printable_lines(&texts.join("\n")).into_owned()
        }
        Some(Format::Json) => {
            let json = if let [report] = reports.as_slice() {
                serde_json::to_string_pretty(report)
            } else {
                serde_json::to_string_pretty(&reports)
            };
            let json = json.map_err(|error| print_error(&error))?;
            format!("{}\n", escaped_json(&json))
        }
        Some(Format::Yaml) => {
            let documents = reports.iter().map(serde_saphyr::to_string);
            let documents: Result<Vec<String>, _> = documents.collect();
            let documents = documents.map_err(|error| print_error(&error))?;
            documents.join("---\n")
        }
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let has_problem = reports.iter().any(|report| !report.problems.is_empty());
    Ok(if has_problem {
        Exit::Refused
    } else {
        Exit::Done
    })
}

fn print_error(error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::Usage, format!("cannot print the spec: {error}"))
}

/// The reports of all Rollouts in the files.
fn of_files(args: &EffectiveArgs) -> Result<Vec<EffectiveReport>, CliError> {
    let mut policies = PolicySet::read(&args.policies)?;
    let documents = documents::read(&args.files)?;
    if let Some(problem) = documents.problems.first() {
        return Err(CliError::new(Exit::Usage, format!("-f {problem}")));
    }
    let mut rollouts = Vec::new();
    for document in &documents.objects {
        policies.add(&document.object);
        let version = document.object["apiVersion"].as_str().unwrap_or_default();
        if document.object["kind"] == "Rollout" && version.split('/').next() == Some(GROUP) {
            let object = printable_object(&document.object)
                .map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
            rollouts.push((document.source.clone(), object));
        }
    }
    if rollouts.is_empty() {
        let message = "-f: contains no Rollout of serin.dev";
        return Err(CliError::new(Exit::Usage, message)
            .hint("Use a file with a document of kind: Rollout."));
    }
    let reports = rollouts
        .iter()
        .map(|(source, rollout)| report(rollout, &policies, Vec::new(), source));
    reports.collect()
}

async fn of_cluster(
    connection: &Connection,
    name: &str,
    args: &EffectiveArgs,
) -> Result<EffectiveReport, CliError> {
    let namespace = &connection.namespace;
    let kind = resource_of("Rollout", "rollouts");
    let rollouts: Api<DynamicObject> =
        Api::namespaced_with(connection.client.clone(), namespace, &kind);
    let rollout = send(
        &format!("read Rollout {name} in namespace {namespace}"),
        rollouts.get(name),
    )
    .await?;
    let rollout = serde_json::to_value(&rollout)
        .map_err(|error| CliError::new(Exit::Api, error.to_string()))?;
    let (policies, notes) = policies_of(connection, &args.policies).await?;
    report(&rollout, &policies, notes, &format!("Rollout {name}"))
}

/// A kind of Serin.
fn resource_of(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, "v1alpha1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// The policies and templates of these files, or those of the cluster if there are no files. Also
/// what could not be read.
///
/// # Errors
/// A file cannot be read, or has no policy and no template.
pub async fn policies_of(
    connection: &Connection,
    files: &[PathBuf],
) -> Result<(PolicySet, Vec<String>), CliError> {
    let Connection { client, namespace } = connection;
    let client = || client.clone();
    let mut policies = PolicySet::read(files)?;
    let mut notes = Vec::new();
    if policies.is_empty() {
        let of_cluster: Api<DynamicObject> =
            Api::all_with(client(), &resource_of("RolloutPolicy", "rolloutpolicies"));
        let of_namespace: Api<DynamicObject> = Api::namespaced_with(
            client(),
            namespace,
            &resource_of("AnalysisTemplate", "analysistemplates"),
        );
        for (api, what) in [
            (of_cluster, "RolloutPolicies"),
            (of_namespace, "AnalysisTemplates"),
        ] {
            let params = ListParams::default().limit(LIST_LIMIT);
            match try_send(api.list(&params)).await {
                Some(Ok(list)) => {
                    for item in list.items {
                        policies.add(&serde_json::to_value(&item).unwrap_or_default());
                    }
                }
                Some(Err(error)) => notes.push(format!("{what} could not be read: {error}")),
                None => notes.push(format!("{what} could not be read: no response in time")),
            }
        }
    }
    let namespaces: Api<Namespace> = Api::all(client());
    match try_send(namespaces.get_metadata(namespace)).await {
        Some(Ok(PartialObjectMeta { metadata, .. })) => {
            policies.add_namespace(namespace, metadata.labels.unwrap_or_default());
        }
        _ => notes.push(format!(
            "the labels of namespace {namespace} could not be read: policies apply whatever \
             namespaces they select"
        )),
    }
    Ok((policies, notes))
}

/// The report on one Rollout. `source` is the start of an error.
fn report(
    rollout: &Value,
    policies: &PolicySet,
    mut notes: Vec<String>,
    source: &str,
) -> Result<EffectiveReport, CliError> {
    let spec: RolloutSpec =
        serde_path_to_error::deserialize(&rollout["spec"]).map_err(|error| {
            let message = format!("{source}: spec.{}: {}", error.path(), error.inner());
            CliError::new(Exit::Usage, message)
        })?;
    let Effective {
        spec,
        mut origins,
        problems,
        policies,
        ignored,
        guardrails,
        guardrail_origins,
    } = policies.resolve(rollout, &spec);
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    notes.extend(ignored.iter().map(|problem| format!("{problem} (ignored)")));
    let name = rollout["metadata"]["name"].as_str().unwrap_or_default();
    let mut shown = spec.clone();
    if problems.is_empty() {
        // The template of a Deployment is not known here, and policies do not contribute to it.
        if let Err(errors) = spec.plan(name) {
            problems.extend(errors.iter().map(ToString::to_string));
        }
        shown = fill_in_builtin_defaults(&spec, &mut origins)
            .map_err(|error| CliError::new(Exit::Usage, format!("{source}: {error}")))?;
    }
    let namespace = rollout["metadata"]["namespace"].as_str();
    let namespace = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
    let origins = origins.into_iter().map(|(path, source)| Origin {
        path,
        source: source.to_string(),
    });
    Ok(EffectiveReport {
        rollout: format!("{namespace}{name}"),
        policies,
        spec: render::parts(&shown),
        origins: origins.collect(),
        guardrails,
        guardrail_origins,
        problems,
        notes,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout() -> Value {
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {
                "workloadRef": {"kind": "Deployment", "name": "checkout"},
                "strategy": {"canary": {"trafficRouting": {"gatewayAPI": {"httpRoute": "checkout"}}}},
                "analysis": {"objectives": [{"ref": "http-availability", "objective": 99.5}]},
            },
        })
    }

    fn policies() -> PolicySet {
        let mut set = PolicySet::default();
        set.add(&json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
            "metadata": {"name": "platform"},
            "spec": {
                "namespaceSelector": {"matchLabels": {"team": "shop"}},
                "defaults": {"progressDeadlineSeconds": 300},
                "guardrails": {"resources": {"mode": "Enforce"}},
                "objectives": [{"name": "http-availability", "objective": 99.9, "window": "7d",
                    "indicator": "traefik"}],
            },
        }));
        set
    }

    #[test]
    fn every_value_is_shown_with_its_source() {
        let report = report(&rollout(), &policies(), Vec::new(), "f.yaml").unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.policies, ["platform"]);
        let text = render::render(&report);
        for line in [
            "Rollout shop/checkout",
            "RolloutPolicies: platform",
            "spec.progressDeadlineSeconds",
            "RolloutPolicy platform",
            "spec.analysis.objectives[http-availability].objective",
            "spec.strategy.canary.podRestartLimit",
            "built-in default",
            "resources: Enforce",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_policy_of_another_namespace_does_not_apply() {
        let mut set = policies();
        set.add_namespace("shop", serin_policy::Labels::new());
        let report = report(&rollout(), &set, Vec::new(), "f.yaml").unwrap();
        assert!(report.policies.is_empty());
        assert_eq!(report.problems.len(), 1);
        assert!(
            report.problems[0].contains("objectives[http-availability].ref"),
            "{:?}",
            report.problems
        );
    }
}
