//! Translates the resources of Argo Rollouts, Flagger and OpenKruise Rollouts, Deployments and the
//! canary Ingresses of ingress-nginx into Rollouts of Serin.
//!
//! [`convert`] takes objects and returns objects, with a [`Note`] for everything that has another
//! meaning or no counterpart. It reads no files and no cluster. A resource whose traffic would be
//! split in another way is not converted: a wrong translation is worse than none.

#![warn(missing_docs)]

mod argo;
mod backends;
mod checks;
mod deployment;
mod fields;
mod flagger;
mod http_checks;
mod http_route;
mod kruise;
mod nginx;
mod note;
mod objects;
mod promql;
mod rollout;
mod server_fields;
mod side_metadata;

pub use note::{Note, NoteLevel};
pub use objects::{ObjectId, is_convertible};
pub use server_fields::remove_server_fields;

use objects::Objects;
use serde_json::Value;

/// Choices that the sources do not contain.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A Deployment becomes a Rollout with its own template that takes over the pods, instead of a
    /// reference to the Deployment.
    pub inline: bool,
    /// The Gateway that carries the traffic from now on, as `NAME` or `NAMESPACE/NAME`. With it, the
    /// routers that Serin does not write (ingress-nginx, Istio and others) become HTTPRoutes.
    pub gateway: Option<String>,
    /// Source of the counters of objectives: an indicator of Serin, for example `traefik`.
    pub indicator: Option<String>,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was converted, and nothing changed.
    Whole,
    /// It was converted. Its notes say what changed or was lost.
    WithNotes,
    /// It was not converted. Its notes say why.
    NotConverted,
    /// It needs no conversion and stays as it is.
    Unchanged,
    /// Its content is part of another object now.
    Absorbed,
}

/// The result for one object.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The object.
    pub source: ObjectId,
    /// What became of it.
    pub outcome: Outcome,
    /// The objects that replace it. Empty if it is kept as it is.
    pub outputs: Vec<Value>,
    /// What changed, in the order of the source.
    pub notes: Vec<Note>,
}

/// Converts objects that belong together. The result has one entry for each object, in their order.
pub fn convert(objects: &[Value], options: &Options) -> Vec<Conversion> {
    let set = Objects::new(objects, options);
    let mut results: Vec<Conversion> = objects
        .iter()
        .enumerate()
        .map(|(index, object)| convert_one(&set, index, object))
        .collect();
    objects::mark_used(&set, &mut results);
    flagger::generated::keep_unconverted(&set, objects, &mut results);
    results
}

fn convert_one(set: &Objects<'_>, index: usize, object: &Value) -> Conversion {
    let source = ObjectId::new(object);
    if let Some(conversion) = flagger::generated::convert(set, &source, object) {
        return conversion;
    }
    let draft = match source.group_and_kind() {
        ("argoproj.io", "Rollout") => argo::convert(set, object),
        ("argoproj.io", "AnalysisTemplate" | "ClusterAnalysisTemplate")
        | ("flagger.app", "MetricTemplate") => return absorbed(source),
        ("argoproj.io", "Experiment" | "AnalysisRun") => note::Translation::refused(
            "kind",
            "a stand-alone analysis has no object in Serin",
            "judge recorded metrics with `kubectl serin replay`",
        ),
        ("flagger.app", "Canary") => flagger::convert(set, object),
        ("flagger.app", "AlertProvider") => note::Translation::refused(
            "kind",
            "Serin sends no notifications yet",
            "alert on the metrics and Events of the controller",
        ),
        ("rollouts.kruise.io", "Rollout") => kruise::convert(set, object),
        ("apps", "Deployment") if !set.is_referenced_deployment(object) => {
            deployment::convert(set, object)
        }
        ("", "Service") if let Some(written) = argo::service::convert(object) => written,
        ("autoscaling", "HorizontalPodAutoscaler") => {
            return objects::retarget_autoscaler(set, source, object);
        }
        ("networking.k8s.io", "Ingress") if set.is_replaced_ingress(index) => {
            return absorbed(source);
        }
        ("networking.k8s.io", "Ingress") if nginx::is_canary(object) => {
            nginx::convert_unclaimed(set, object)
        }
        _ => {
            return Conversion {
                source,
                outcome: Outcome::Unchanged,
                outputs: Vec::new(),
                notes: Vec::new(),
            };
        }
    };
    draft.into_conversion(source)
}

fn absorbed(source: ObjectId) -> Conversion {
    Conversion {
        source,
        outcome: Outcome::Absorbed,
        outputs: Vec::new(),
        notes: Vec::new(),
    }
}
