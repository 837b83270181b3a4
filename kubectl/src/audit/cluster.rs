//! Reads the inventory of a cluster.

use std::collections::BTreeMap;

use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;
use serin_crds::api_status;
use serin_guardrails::facts::{Fact, NamespaceFacts, Source};

use super::inventory::{Inventory, Policy, namespace_of};
use super::workload::{Workload, remove_replaced, text};
use crate::connect::{Connection, try_send};
use crate::exit::{CliError, Exit};

/// Page size of the list requests.
const PAGE: u32 = 500;
/// Maximum number of objects of one kind that are read.
const MAX_OBJECTS: usize = 50_000;
/// API group and version of the constraints of Gatekeeper.
const CONSTRAINTS: (&str, &str) = ("constraints.gatekeeper.sh", "v1beta1");
/// Maximum number of kinds of constraints.
const MAX_CONSTRAINT_KINDS: usize = 200;

/// What is read.
pub struct Scope<'a> {
    /// The namespace. `None`: all of them.
    pub namespace: Option<&'a str>,
    /// Whether Deployments are audited, too.
    pub deployments: bool,
    /// Policies that replace those of the cluster. Empty: those of the cluster apply.
    pub policies: Vec<Policy>,
}

/// Reads workloads, policies and everything that guardrails look at.
///
/// # Errors
/// The workloads cannot be read. What else cannot be read is unknown in the inventory.
pub async fn read(connection: &Connection, scope: Scope<'_>) -> Result<Inventory, CliError> {
    let reader = Reader {
        client: &connection.client,
        namespace: scope.namespace,
    };
    let rollouts = reader
        .list("serin.dev", "v1alpha1", ("rollouts", "Rollout"), true)
        .await;
    let deployments = reader
        .list("apps", "v1", ("deployments", "Deployment"), true)
        .await;
    let rollouts = required(rollouts, "Rollouts", scope.deployments)?;
    let deployments = match deployments {
        Fact::Known(deployments) => deployments,
        other if scope.deployments => required(other, "Deployments", false)?,
        _ => Vec::new(),
    };
    let references: Vec<&Value> = deployments.iter().collect();
    let audited = rollouts.iter().chain(
        scope
            .deployments
            .then_some(&deployments)
            .into_iter()
            .flatten(),
    );
    let mut workloads: Vec<Workload> = audited
        .filter_map(|object| Workload::from_object(object, &references))
        .collect();
    remove_replaced(&mut workloads);
    workloads
        .sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    let policies = if scope.policies.is_empty() {
        reader.policies().await
    } else {
        scope.policies
    };
    let mut objects = BTreeMap::new();
    for source in Source::ALL {
        if let Some(fact) = reader.source(*source).await {
            objects.insert(*source, fact);
        }
    }
    Ok(Inventory {
        workloads,
        policies,
        namespaces: reader.namespaces().await,
        objects,
        pods: reader.list("", "v1", ("pods", "Pod"), true).await,
    })
}

fn required(fact: Fact<Vec<Value>>, what: &str, is_optional: bool) -> Result<Vec<Value>, CliError> {
    let reason = match fact {
        Fact::Known(objects) => return Ok(objects),
        Fact::NotServed if is_optional => return Ok(Vec::new()),
        Fact::NotServed | Fact::NotAsked => "the cluster does not serve the kind".to_owned(),
        Fact::Forbidden(why) => {
            return Err(CliError::new(
                Exit::Refused,
                format!("cannot list {what}: {why}"),
            ));
        }
        Fact::OtherVersion(why) | Fact::Failed(why) => why,
    };
    Err(CliError::new(
        Exit::Api,
        format!("cannot list {what}: {reason}"),
    ))
}

struct Reader<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
}

impl Reader<'_> {
    /// The objects of a source. `None` if it is no list.
    async fn source(&self, source: Source) -> Option<Fact<Vec<Value>>> {
        if source == Source::Constraints {
            return Some(self.constraints().await);
        }
        let (group, versions, plural) = source.resource()?;
        let is_everywhere = source.is_cluster_scoped() || source.reaches_other_namespaces();
        let mut fact = Fact::NotServed;
        for version in versions {
            fact = self
                .list(group, version, (plural, ""), !is_everywhere)
                .await;
            if fact != Fact::NotServed {
                break;
            }
        }
        Some(fact)
    }

    async fn policies(&self) -> Vec<Policy> {
        match self
            .list(
                "serin.dev",
                "v1alpha1",
                ("rolloutpolicies", "RolloutPolicy"),
                false,
            )
            .await
        {
            Fact::Known(objects) => objects.iter().filter_map(Policy::from_object).collect(),
            Fact::NotServed | Fact::NotAsked => Vec::new(),
            Fact::OtherVersion(why) | Fact::Forbidden(why) | Fact::Failed(why) => vec![Policy {
                name: "(all)".to_owned(),
                spec: Err(why),
            }],
        }
    }

    async fn namespaces(&self) -> Fact<BTreeMap<String, NamespaceFacts>> {
        let found = match self.namespace {
            None => {
                self.list("", "v1", ("namespaces", "Namespace"), false)
                    .await
            }
            Some(name) => {
                let api: Api<DynamicObject> =
                    Api::all_with(self.client.clone(), &resource("", "v1", "namespaces"));
                fact_of(try_send(api.get(name)).await).map_known(|object| vec![to_json(&object)])
            }
        };
        found.map_known(|objects| {
            let named = objects.iter();
            named
                .map(|object| (text(object, "name").to_owned(), namespace_of(object)))
                .collect()
        })
    }

    /// The constraints of Gatekeeper, of which every kind is a kind of its own.
    async fn constraints(&self) -> Fact<Vec<Value>> {
        let (group, version) = CONSTRAINTS;
        let path = format!("{group}/{version}");
        let listed = try_send(self.client.list_api_group_resources(&path)).await;
        let kinds = match fact_of(listed) {
            Fact::Known(list) => list.resources,
            other => return other.map_known(|_| Vec::new()),
        };
        let mut constraints = Vec::new();
        let plurals = kinds.iter().filter(|kind| !kind.name.contains('/'));
        for kind in plurals.take(MAX_CONSTRAINT_KINDS) {
            match self
                .list(group, version, (&kind.name, &kind.kind), false)
                .await
            {
                Fact::Known(objects) => constraints.extend(objects),
                // It was removed meanwhile.
                Fact::NotServed => {}
                other => return other,
            }
        }
        Fact::Known(constraints)
    }

    /// All objects of a kind.
    async fn list(
        &self,
        group: &str,
        version: &str,
        (plural, kind): (&str, &str),
        is_namespaced: bool,
    ) -> Fact<Vec<Value>> {
        let resource = resource(group, version, plural);
        let client = self.client.clone();
        let api: Api<DynamicObject> = match self.namespace.filter(|_| is_namespaced) {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let mut objects = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match fact_of(try_send(api.list(&params)).await) {
                Fact::Known(page) => page,
                other => return other.map_known(|_| Vec::new()),
            };
            let items = page.items.iter();
            objects.extend(items.map(|object| with_type(to_json(object), group, version, kind)));
            if objects.len() > MAX_OBJECTS {
                return Fact::Failed(format!("there are more than {MAX_OBJECTS} {plural}"));
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Fact::Known(objects),
            }
        }
    }
}

/// A resource of which only the plural matters.
fn resource(group: &str, version: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, ""), plural)
}

fn to_json(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// An item of a list has no version and no kind of its own.
fn with_type(mut object: Value, group: &str, version: &str, kind: &str) -> Value {
    object["apiVersion"] = if group.is_empty() {
        version.into()
    } else {
        format!("{group}/{version}").into()
    };
    object["kind"] = kind.into();
    object
}

fn fact_of<T>(answer: Option<Result<T, kube::Error>>) -> Fact<T> {
    match answer {
        Some(Ok(value)) => Fact::Known(value),
        Some(Err(kube::Error::Api(status))) if api_status::is_missing_kind(&status) => {
            Fact::NotServed
        }
        Some(Err(kube::Error::Api(status))) if api_status::is_forbidden(&status) => {
            Fact::Forbidden(api_status::message(&status))
        }
        Some(Err(kube::Error::Api(status))) if status.code == 404 => Fact::NotServed,
        Some(Err(error)) => Fact::Failed(error.to_string()),
        None => Fact::Failed("no answer in time".to_owned()),
    }
}
