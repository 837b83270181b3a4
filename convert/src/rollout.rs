//! Assembles a Rollout of Serin and checks that Serin accepts it.

use serde_json::{Map, Value, json};
use serin_crds::RolloutSpec;

use crate::checks::AnalysisDraft;
use crate::note::{Notes, Translation};
use crate::server_fields::remove_foreign_annotations;

/// A Rollout in progress.
#[derive(Debug, Default)]
pub(crate) struct RolloutDraft {
    pub metadata: Value,
    pub spec: Map<String, Value>,
    pub canary: Map<String, Value>,
    /// The blue/green strategy. `None` for a canary.
    pub blue_green: Option<Map<String, Value>>,
    pub steps: Vec<Value>,
    pub analysis: AnalysisDraft,
    pub notes: Notes,
    /// Further objects, for example an HTTPRoute.
    pub others: Vec<Value>,
    /// Whether the source cannot be converted. The notes say why.
    pub is_refused: bool,
}

impl RolloutDraft {
    /// A Rollout with the metadata of its source.
    pub fn new(source: &Value) -> Self {
        let mut draft = Self::default();
        draft.metadata = metadata(source, &mut draft.notes);
        draft
    }

    pub fn name(&self) -> &str {
        self.metadata["name"].as_str().unwrap_or_default()
    }

    pub fn has_router(&self) -> bool {
        self.canary.contains_key("trafficRouting")
    }

    /// Whether all routes are of kinds that can hold rules for chosen requests.
    pub fn can_choose_requests(&self) -> bool {
        let routing = self.canary.get("trafficRouting").and_then(Value::as_object);
        let of_gateways = |routes: &Value| {
            let lists = ["httpRoute", "httpRoutes", "grpcRoutes"];
            routes
                .as_object()
                .is_some_and(|routes| routes.keys().all(|list| lists.contains(&list.as_str())))
        };
        routing.is_some_and(|routing| {
            routing.iter().all(|(field, routes)| match field.as_str() {
                "gatewayAPI" => of_gateways(routes),
                "istio" | "managedRoutes" | "settle" => true,
                _ => false,
            })
        })
    }

    /// Lists the rule of a step, behind those that are known.
    pub fn add_managed_route(&mut self, name: &str) {
        let Some(Value::Object(routing)) = self.canary.get_mut("trafficRouting") else {
            return;
        };
        let list = routing.entry("managedRoutes").or_insert_with(|| json!([]));
        if let Value::Array(list) = list
            && !list.iter().any(|known| known["name"] == name)
        {
            list.push(json!({"name": name}));
        }
    }

    /// Splits the traffic by an HTTPRoute.
    pub fn set_route(&mut self, route: &str) {
        let routing = json!({"gatewayAPI": {"httpRoute": route}});
        self.canary.insert("trafficRouting".to_owned(), routing);
    }

    /// Lets a person decide about the promotion, because a metric of the source could not be
    /// converted: no release may be promoted without what the source requires.
    pub fn pause_before_promotion(&mut self, path: &str) {
        let pause = json!({"pause": {}});
        if self.steps.last() == Some(&pause) {
            return;
        }
        self.notes.changed(
            path,
            "a person confirms the promotion, because not all of its metrics could be converted",
            "check the metrics that the other notes name, and promote by hand",
        );
        self.steps.push(pause);
    }

    /// Copies a field under the same name.
    pub fn copy(&mut self, fields: &mut crate::fields::Fields, names: &[&str]) {
        for name in names {
            let value = fields.take(name);
            self.spec
                .extend(value.map(|value| ((*name).to_owned(), value)));
        }
    }

    /// The objects and notes. A Rollout that Serin would reject is not returned.
    pub fn finish(mut self) -> Translation {
        if self.is_refused {
            return Translation {
                outputs: Vec::new(),
                notes: self.notes,
            };
        }
        if !self.steps.is_empty() {
            self.canary
                .insert("steps".to_owned(), Value::Array(self.steps));
        }
        if let Some(analysis) = self.analysis.into_value() {
            self.spec.insert("analysis".to_owned(), analysis);
        }
        let strategy = match self.blue_green {
            Some(blue_green) => json!({"blueGreen": blue_green}),
            None => json!({"canary": self.canary}),
        };
        self.spec.insert("strategy".to_owned(), strategy);
        let spec = Value::Object(self.spec);
        let name = self.metadata["name"].as_str().unwrap_or_default();
        let problems = problems(&spec, name);
        if !problems.is_empty() {
            for problem in problems {
                let fix = "correct the source, or write this Rollout by hand";
                self.notes.lost(
                    "spec",
                    format!("the result would be invalid: {problem}"),
                    fix,
                );
            }
            return Translation {
                outputs: Vec::new(),
                notes: self.notes,
            };
        }
        let rollout = json!({
            "apiVersion": "serin.dev/v1alpha1",
            "kind": "Rollout",
            "metadata": self.metadata,
            "spec": spec,
        });
        let mut outputs = vec![rollout];
        outputs.append(&mut self.others);
        Translation {
            outputs,
            notes: self.notes,
        }
    }
}

/// Why Serin would reject a spec.
fn problems(spec: &Value, name: &str) -> Vec<String> {
    let spec: RolloutSpec = match serde_json::from_value(spec.clone()) {
        Ok(spec) => spec,
        Err(error) => return vec![error.to_string()],
    };
    match spec.plan(name) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// Name, namespace, labels and annotations of the source.
fn metadata(source: &Value, notes: &mut Notes) -> Value {
    let from = &source["metadata"];
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels", "annotations"] {
        if !from[field].is_null() {
            metadata.insert(field.to_owned(), from[field].clone());
        }
    }
    if let Some(Value::Object(annotations)) = metadata.get("annotations")
        && annotations
            .keys()
            .any(|key| key.starts_with("notifications.argoproj.io/"))
    {
        notes.not_yet(
            "metadata.annotations",
            "Serin sends no notifications yet",
            "alert on the metrics and Events of the controller",
        );
    }
    remove_foreign_annotations(&mut metadata);
    if from["name"].is_null() && !from["generateName"].is_null() {
        notes.lost(
            "metadata.generateName",
            "a Rollout needs a fixed name",
            "set metadata.name",
        );
    }
    Value::Object(metadata)
}
