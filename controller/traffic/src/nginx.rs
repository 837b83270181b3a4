//! Ingress with the canary annotations of ingress-nginx: a second Ingress for the same hosts and
//! paths, whose backends are the canary Service. An annotation is its share of the requests.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation,
};
use serde_json::Value;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::managed_route::ManagedRoute;
use serin_core::plan::RouteKind;
use serin_core::units::Weight;

use crate::error::{RouteError, RouteName};
use crate::original::{OriginalBackend, OriginalRule, OriginalWeights};
use crate::patch_builder::test_version;
use crate::programmed::ProgrammedStatus;
use crate::router::{ManagedRule, RouteBackend, RouteRule, Router, Services};
use crate::split::{MAX_WEIGHT, THOUSANDTHS, share};

const CANARY: &str = "nginx.ingress.kubernetes.io/canary";
const WEIGHT: &str = "nginx.ingress.kubernetes.io/canary-weight";
const WEIGHT_TOTAL: &str = "nginx.ingress.kubernetes.io/canary-weight-total";
const AFFINITY: &str = "nginx.ingress.kubernetes.io/affinity";

/// Annotations that come before the weight.
const BEFORE_WEIGHT: [&str; 2] = [
    "nginx.ingress.kubernetes.io/canary-by-header",
    "nginx.ingress.kubernetes.io/canary-by-cookie",
];

/// The default of `canary-weight-total`, and its minimum: ingress-nginx ignores smaller values
/// (`rootfs/etc/nginx/lua/balancer.lua`).
const MIN_TOTAL: u64 = 100;

/// Its only rule in messages.
const TITLE: &str = "the canary weight";

/// The canary Ingress of ingress-nginx.
#[derive(Debug)]
pub(crate) struct CanaryIngress;

/// The annotations of a canary Ingress.
struct Annotations<'a> {
    name: RouteName,
    route: &'a Value,
    /// The specified weight. `None` if it is missing or not a number, which counts as 0.
    weight: Option<u64>,
    total: u64,
}

impl<'a> Annotations<'a> {
    fn parse(route: &'a Value) -> Result<Self, RouteError> {
        let name = RouteName::new(CanaryIngress.kind(), route);
        if annotation(route, CANARY) != Some("true") {
            return Err(RouteError::NotCanaryIngress { route: name });
        }
        let number = |key| annotation(route, key).and_then(|text| text.parse::<u64>().ok());
        let total = number(WEIGHT_TOTAL).unwrap_or(MIN_TOTAL);
        Ok(Self {
            name,
            route,
            weight: number(WEIGHT).map(|weight| weight.min(MAX_WEIGHT)),
            total: total.clamp(MIN_TOTAL, MAX_WEIGHT),
        })
    }

    /// Checks that all backends are the canary Service.
    fn check_backends(&self, canary: &str) -> Result<(), RouteError> {
        let names = backend_names(self.route);
        if names == [Some(canary)] {
            return Ok(());
        }
        let title = |name: Option<&str>| {
            name.map_or_else(|| "a resource".into(), |name| format!("`{name}`"))
        };
        Err(RouteError::NotCanaryBackend {
            route: self.name.clone(),
            canary: canary.into(),
            backends: names.into_iter().map(title).collect(),
        })
    }

    /// Checks that only the weight sends requests to the canary.
    fn check_precedence(&self) -> Result<(), RouteError> {
        let mut found = BEFORE_WEIGHT.into_iter();
        match found.find(|key| annotation(self.route, key).is_some()) {
            None => Ok(()),
            Some(key) => Err(RouteError::CanaryRegardlessOfWeight {
                route: self.name.clone(),
                annotation: key.into(),
            }),
        }
    }

    /// The annotation for a canary weight.
    fn scaled(&self, weight: Weight) -> Result<u64, RouteError> {
        let thousandths = u64::from(weight.thousandths());
        let is_exact = |total: u64| (thousandths * total).is_multiple_of(THOUSANDTHS);
        if is_exact(self.total) {
            return Ok(thousandths * self.total / THOUSANDTHS);
        }
        let mut totals = [100, 1_000, 10_000].into_iter();
        Err(RouteError::CanaryWeightTooFine {
            route: self.name.clone(),
            weight,
            total: self.total,
            suggested_total: totals.find(|total| is_exact(*total)).unwrap_or(THOUSANDTHS),
        })
    }

    /// The patch that sets the annotation, or removes it if `None`.
    fn patch(&self, weight: Option<u64>) -> Result<Patch, RouteError> {
        let has_weight = annotation(self.route, WEIGHT).is_some();
        if weight == self.weight && weight.is_some() == has_weight {
            return Ok(Patch(Vec::new()));
        }
        let path = |key| PointerBuf::from_tokens(["metadata", "annotations", key]);
        let is_canary = PatchOperation::Test(TestOperation {
            path: path(CANARY),
            value: "true".into(),
        });
        let path = path(WEIGHT);
        let edit = match weight {
            None => PatchOperation::Remove(RemoveOperation { path }),
            Some(weight) if has_weight => PatchOperation::Replace(ReplaceOperation {
                path,
                value: weight.to_string().into(),
            }),
            Some(weight) => PatchOperation::Add(AddOperation {
                path,
                value: weight.to_string().into(),
            }),
        };
        Ok(Patch(vec![
            test_version(self.route, &self.name)?,
            is_canary,
            edit,
        ]))
    }
}

impl Router for CanaryIngress {
    fn route_kind(&self) -> RouteKind {
        RouteKind::Ingress
    }

    fn group(&self) -> &'static str {
        "networking.k8s.io"
    }

    fn versions(&self) -> &'static [&'static str] {
        &["v1"]
    }

    fn kind(&self) -> &'static str {
        "Ingress"
    }

    fn plural(&self) -> &'static str {
        "ingresses"
    }

    fn installed_by(&self) -> &'static str {
        "a version of Kubernetes with this API"
    }

    /// The rule of a canary Ingress. Other Ingresses are not split and have no rules.
    fn rules(&self, route: &Value) -> Result<Vec<RouteRule>, RouteError> {
        let Ok(annotations) = Annotations::parse(route) else {
            return Ok(Vec::new());
        };
        let backends = backends(route).filter_map(|backend| {
            let service = &backend["service"];
            Some(RouteBackend {
                namespace: annotations.name.namespace.to_string(),
                service: service["name"].as_str()?.to_owned(),
                port: service.pointer("/port/number").and_then(Value::as_u64),
                weight: annotations.weight.unwrap_or(0),
            })
        });
        Ok(vec![RouteRule {
            title: TITLE.into(),
            index: 0,
            name: None,
            backends: backends.collect(),
        }])
    }

    fn managed_rules(
        &self,
        route: &Value,
        _rule: Option<&str>,
        _stable: &str,
    ) -> Result<Vec<ManagedRule>, RouteError> {
        Annotations::parse(route)?.check_precedence()?;
        let services = backend_names(route).into_iter().flatten();
        Ok(vec![ManagedRule {
            title: TITLE.into(),
            services: services.map(Into::into).collect(),
        }])
    }

    fn canary_weight(
        &self,
        route: &Value,
        _rule: Option<&str>,
        Services { canary, .. }: Services<'_>,
    ) -> Result<Weight, RouteError> {
        let annotations = Annotations::parse(route)?;
        annotations.check_backends(canary)?;
        annotations.check_precedence()?;
        let weight = annotations.weight.unwrap_or(0).min(annotations.total);
        Ok(share(annotations.total - weight, weight))
    }

    /// An annotation that sends requests to the canary regardless of its weight is not an error at
    /// weight 0, so that an abort removes as much traffic as it can.
    fn set_weight(
        &self,
        route: &Value,
        _rule: Option<&str>,
        Services { canary, .. }: Services<'_>,
        weight: Weight,
        managed: &[ManagedRoute],
        original: Option<&OriginalWeights>,
    ) -> Result<Patch, RouteError> {
        let annotations = Annotations::parse(route)?;
        if let Some(first) = managed.first() {
            return Err(RouteError::NotExpressible {
                route: annotations.name,
                managed: first.name.clone(),
                problem: "an Ingress cannot hold it; use an HTTPRoute, a GRPCRoute or a \
                          VirtualService"
                    .into(),
            });
        }
        annotations.check_backends(canary)?;
        if !weight.is_zero() {
            annotations.check_precedence()?;
            return annotations.patch(Some(annotations.scaled(weight)?));
        }
        let original = recorded(original, canary).map_or(annotations.weight, |one| one.weight);
        let as_written = original.unwrap_or(0) == 0;
        annotations.patch(if as_written { original } else { Some(0) })
    }

    /// Annotations that send requests to the canary by header are refused, so there is none.
    fn managed_routes<'p>(
        &self,
        _route: &Value,
        _rule: Option<&str>,
        _services: Services<'_>,
        _candidates: &'p [Vec<ManagedRoute>],
    ) -> Option<&'p [ManagedRoute]> {
        Some(&[])
    }

    /// An Ingress is in effect when all replicas of ingress-nginx have read it, which none reports.
    fn programmed_status(&self, _route: &Value) -> ProgrammedStatus {
        ProgrammedStatus::UnknownGeneration
    }

    fn assignment_unit(&self, route: &Value, _rule: Option<&str>, _stable: &str) -> AssignmentUnit {
        if annotation(route, AFFINITY) != Some("cookie") {
            return AssignmentUnit::Request;
        }
        let name = RouteName::new(self.kind(), route).name;
        AssignmentUnit::Client {
            why: format!("Ingress {name}: annotation {AFFINITY} is cookie"),
        }
    }

    fn refresh_original(
        &self,
        route: &Value,
        _rule: Option<&str>,
        Services { canary, .. }: Services<'_>,
        original: Option<&OriginalWeights>,
    ) -> Result<OriginalWeights, RouteError> {
        let annotations = Annotations::parse(route)?;
        annotations.check_backends(canary)?;
        let current = OriginalBackend {
            group: None,
            kind: None,
            namespace: None,
            name: canary.into(),
            port: None,
            weight: annotations.weight,
        };
        let backend = recorded(original, canary).cloned().unwrap_or(current);
        Ok(OriginalWeights {
            rules: vec![OriginalRule {
                list: None,
                index: 0,
                name: None,
                backends: vec![backend],
            }],
        })
    }

    fn restore(
        &self,
        route: &Value,
        original: &OriginalWeights,
        Services { canary, .. }: Services<'_>,
    ) -> Result<Patch, RouteError> {
        let annotations = Annotations::parse(route).ok();
        let annotations = annotations.filter(|one| one.check_backends(canary).is_ok());
        match (annotations, recorded(Some(original), canary)) {
            (Some(annotations), Some(original)) => annotations.patch(original.weight),
            _ => Ok(Patch(Vec::new())),
        }
    }
}

fn annotation<'a>(route: &'a Value, key: &str) -> Option<&'a str> {
    let annotations = route.get("metadata")?.get("annotations")?;
    annotations.get(key)?.as_str()
}

/// The backends of an Ingress.
fn backends(route: &Value) -> impl Iterator<Item = &Value> {
    let rules = route.pointer("/spec/rules").and_then(Value::as_array);
    let rules = rules.into_iter().flatten();
    let paths = rules.flat_map(|rule| {
        let paths = rule.pointer("/http/paths").and_then(Value::as_array);
        paths.into_iter().flatten()
    });
    let of_paths = paths.map(|path| &path["backend"]);
    of_paths.chain(route.pointer("/spec/defaultBackend"))
}

/// The names of the Services behind an Ingress, each once. `None` for a backend of another kind.
fn backend_names(route: &Value) -> Vec<Option<&str>> {
    let mut names: Vec<_> = backends(route)
        .map(|backend| backend.pointer("/service/name").and_then(Value::as_str))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn recorded<'a>(
    original: Option<&'a OriginalWeights>,
    canary: &str,
) -> Option<&'a OriginalBackend> {
    original?.rules.first()?.service(canary)
}
