//! The series of an objective: which are read, and which side each counts for.

use std::collections::BTreeMap;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use regex::Regex;
use serin_analysis::{Arm, Kind};
use serin_crds::analysis::{CountersSpec, Indicator, LatencySpec, ObjectiveSpec, VariantsSpec};
use serin_crds::text::parse_duration;

use crate::histogram::{EDGE_LABEL, Histogram, at_edge, buckets_of, or_native};
use crate::indicator::BuiltIn;
use crate::matcher::{either, pod_name_base, pods_of};
use crate::prometheus::{Labels, QueryError};
use crate::request::JudgeRequest;

/// Why nothing can be judged until a person changes something, or the provider recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One CamelCase word, as a condition's reason.
    pub cause: &'static str,
    /// What an operator reads.
    pub message: String,
}

impl Trouble {
    pub(crate) fn spec(message: String) -> Self {
        Self {
            cause: "InvalidSpec",
            message,
        }
    }

    /// There is no Prometheus to ask.
    pub fn no_address() -> Self {
        let message = "No Prometheus is known: write spec.analysis.prometheus.address, or give the controller a default.";
        Self {
            cause: "NotConfigured",
            message: message.to_owned(),
        }
    }

    fn query(objective: &str, field: &str, message: impl std::fmt::Display) -> Self {
        Self {
            cause: "InvalidQuery",
            message: format!("spec.analysis.objectives[{objective}].{field}: {message}"),
        }
    }

    pub(crate) fn no_such_edge(objective: &str, message: &str) -> Self {
        let message = format!("spec.analysis.objectives[{objective}].latency.threshold: {message}");
        Self {
            cause: "NoSuchBucket",
            message,
        }
    }

    pub(crate) fn too_large(objective: &str, size: &str) -> Self {
        let message = format!(
            "The metrics of {objective} cannot be read. Even added up by scrape target the answer is too large: {size}. Count at the \
             gateway or in the mesh, where fewer targets count for all pods, or narrow the selector."
        );
        Self {
            cause: "TooLarge",
            message,
        }
    }

    pub(crate) fn unclear(objective: &str, why: &str) -> Self {
        let message =
            format!("The metrics of {objective} cannot be assigned to canary and stable: {why}.");
        Self {
            cause: "AmbiguousSeries",
            message,
        }
    }

    pub(crate) fn of_query(objective: &str, error: &QueryError) -> Self {
        Self {
            cause: error.kind(),
            message: error.told(&format!("The metrics of {objective} cannot be read")),
        }
    }
}

/// The two counters of an objective, and how their series tell canary from stable.
#[derive(Clone, Debug)]
pub struct Counters {
    /// All requests of the whole service, every version: a series selector.
    pub total: String,
    /// The bad ones among them; with a latency objective those that were fast enough.
    pub errors: String,
    /// The same two, of the two sides only.
    pub total_of_sides: String,
    /// The bad ones of the two sides only; with a latency objective those that were fast enough.
    pub errors_of_sides: String,
    /// The same two where Prometheus is to add their series up: of a histogram the classic form
    /// alone, since the native one is a single series. The third are all of its buckets, where a
    /// latency guard compares them.
    pub(crate) summable: [String; 2],
    pub(crate) summable_buckets: Option<String>,
    /// Whether the selector of errors is known to be right, because it is built in.
    pub verified: bool,
    /// The histogram of a latency objective.
    pub histogram: Option<Histogram>,
    /// All of its buckets of the two sides, where a latency guard compares them.
    pub(crate) buckets: Option<String>,
    sides: Sides,
    /// Which labels come from the scrape.
    pub(crate) exporter: Exporter,
    /// The same counters, once for each way in which Prometheus can have renamed their labels;
    /// empty if there is only one.
    layouts: Vec<Self>,
    /// The one of them in use.
    layout: usize,
}

/// How a series tells which side it counts for.
#[derive(Clone, Debug)]
struct Sides {
    label: String,
    canary: Regex,
    stable: Regex,
    by_pod: bool,
    /// The pods by their owner, if a ReplicaSet's name is too long to be in its pods' names.
    pods: Option<BTreeMap<String, Arm>>,
    /// The values that can be of the Rollout or of somebody else, and why.
    unclear: Option<(Regex, String)>,
}

/// Which labels of a series come from the scrape, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exporter {
    /// The labels with the namespace and the name of the pod that counts, where each pod is one
    /// process.
    pub(crate) pod: Option<[&'static str; 2]>,
    /// Whether the exporter's own labels are known, so that the usual labels of a scrape target are
    /// none of them.
    pub(crate) is_known: bool,
}

/// More pods than this in one release are not remembered by name.
const MOST_PODS: usize = 20_000;

impl Counters {
    /// The counters that an objective names, checked.
    ///
    /// # Errors
    /// The field that is no series selector, or what the indicator lacks.
    pub fn new(objective: &ObjectiveSpec, request: &JudgeRequest) -> Result<Self, Trouble> {
        match (objective.indicator, &objective.counters) {
            (Some(indicator), None) => Self::built_in(indicator, objective, request),
            (None, Some(counters)) => Self::written(objective, counters, request),
            _ => Err(Trouble::spec(format!(
                "spec.analysis.objectives[{}]: write either indicator or counters",
                objective.name
            ))),
        }
    }

    fn built_in(
        indicator: Indicator,
        objective: &ObjectiveSpec,
        request: &JudgeRequest,
    ) -> Result<Self, Trouble> {
        let trouble = |message: String| Trouble::query(&objective.name, "indicator", message);
        let layouts = BuiltIn::layouts(indicator, request).map_err(trouble)?;
        let layouts = layouts
            .into_iter()
            .map(|layout| Self::of_layout(layout, objective, request));
        let layouts = layouts.collect::<Result<Vec<_>, _>>()?;
        let first = layouts
            .first()
            .cloned()
            .ok_or_else(|| trouble("it has no counters".to_owned()))?;
        Ok(if layouts.len() > 1 {
            Self { layouts, ..first }
        } else {
            first
        })
    }

    fn of_layout(
        layout: BuiltIn,
        objective: &ObjectiveSpec,
        request: &JudgeRequest,
    ) -> Result<Self, Trouble> {
        let trouble = |message: String| Trouble::query(&objective.name, "indicator", message);
        let BuiltIn {
            requests,
            service,
            sides,
            bad,
            durations,
            label,
            canary,
            stable,
            unclear,
            by_pod,
            exporter,
        } = layout;
        let unclear = unclear
            .map(|(pattern, why)| Ok((whole(&pattern)?, why)))
            .transpose()
            .map_err(trouble)?;
        let arms = Sides {
            label: label.to_owned(),
            canary: whole(&canary).map_err(trouble)?,
            stable: whole(&stable).map_err(trouble)?,
            by_pod,
            pods: pods_by_owner(by_pod, request),
            unclear,
        };
        let exporter = Exporter {
            pod: exporter,
            is_known: true,
        };
        if let Some(latency) = &objective.latency {
            let count = |matchers: &str| {
                selector(&format!("{durations}_count{{{matchers}}}")).map_err(trouble)
            };
            return Ok(Self {
                exporter,
                ..Self::timed(objective, latency, &count(&service)?, &count(&sides)?, arms)?
            });
        }
        let [total_of_sides, errors_of_sides] = [
            format!("{requests}{{{sides}}}"),
            format!("{requests}{{{sides},{bad}}}"),
        ];
        Ok(Self {
            total: format!("{requests}{{{service}}}"),
            errors: format!("{requests}{{{service},{bad}}}"),
            summable: [total_of_sides.clone(), errors_of_sides.clone()],
            summable_buckets: None,
            total_of_sides,
            errors_of_sides,
            verified: true,
            histogram: None,
            buckets: None,
            sides: arms,
            exporter,
            layouts: Vec::new(),
            layout: 0,
        })
    }

    /// The counters of a latency objective, from the count of its histogram. Its bucket is what may
    /// be missing, so that it is not known to be right.
    fn timed(
        objective: &ObjectiveSpec,
        latency: &LatencySpec,
        total: &VectorSelector,
        total_of_sides: &VectorSelector,
        sides: Sides,
    ) -> Result<Self, Trouble> {
        let trouble = |message: String| Trouble::query(&objective.name, "latency", message);
        let threshold = parse_duration(&latency.threshold)
            .map_err(|error| trouble(format!("threshold {:?}: {error}", latency.threshold)))?;
        let (base, buckets) = buckets_of(total).map_err(trouble)?;
        let (_, buckets_of_sides) = buckets_of(total_of_sides).map_err(trouble)?;
        let histogram =
            Histogram::new(&base, &buckets, &latency.threshold, threshold).map_err(trouble)?;
        let edge = histogram.edge();
        let of_both_forms =
            |selector| or_native(&base, selector).and_then(|selector| checked(&selector));
        let classic =
            at_edge(buckets_of_sides.clone(), &edge).and_then(|selector| checked(&selector));
        let summable = [
            checked(total_of_sides).map_err(trouble)?,
            classic.map_err(trouble)?,
        ];
        let summable_buckets = latency
            .guard
            .map(|_| checked(&buckets_of_sides))
            .transpose()
            .map_err(trouble)?;
        let all = latency
            .guard
            .map(|_| or_native(&base, buckets_of_sides.clone()).and_then(|all| checked(&all)));
        // A native histogram has no edge among its labels.
        let good_of_sides =
            at_edge(buckets_of_sides, &format!("(?:{edge})?")).and_then(of_both_forms);
        Ok(Self {
            total: checked(total).map_err(trouble)?,
            errors: at_edge(buckets, &edge)
                .and_then(|selector| checked(&selector))
                .map_err(trouble)?,
            total_of_sides: of_both_forms(total_of_sides.clone()).map_err(trouble)?,
            errors_of_sides: good_of_sides.map_err(trouble)?,
            summable,
            summable_buckets,
            verified: false,
            histogram: Some(histogram),
            buckets: all.transpose().map_err(trouble)?,
            sides,
            exporter: Exporter::default(),
            layouts: Vec::new(),
            layout: 0,
        })
    }

    fn written(
        objective: &ObjectiveSpec,
        counters: &CountersSpec,
        request: &JudgeRequest,
    ) -> Result<Self, Trouble> {
        let trouble = |field: &str, message: String| {
            Trouble::query(&objective.name, &format!("counters.{field}"), message)
        };
        let (label, canary, stable, by_pod) = sides_of(counters.variants.as_ref(), request)
            .map_err(|message| trouble("variants", message))?;
        let sides = Sides {
            canary: whole(&canary).map_err(|error| trouble("arms.canary", error))?,
            stable: whole(&stable).map_err(|error| trouble("arms.stable", error))?,
            label,
            by_pod,
            pods: pods_by_owner(by_pod, request),
            unclear: None,
        };
        let both = either(&canary, &stable);
        let total = selector(&counters.total).map_err(|error| trouble("total", error))?;
        let narrowed = |selector: &VectorSelector| {
            narrow(selector, &sides.label, &both).map_err(|error| trouble("variants", error))
        };
        let errors = match (&counters.errors, &objective.latency) {
            (Some(errors), None) => selector(errors).map_err(|error| trouble("errors", error))?,
            (None, Some(latency)) => {
                let total_of_sides = narrowed(&total)?;
                return Self::timed(objective, latency, &total, &total_of_sides, sides);
            }
            (None, None) => {
                return Err(trouble(
                    "errors",
                    "write the selector of the bad ones, or latency".to_owned(),
                ));
            }
            (Some(_), Some(_)) => {
                return Err(trouble(
                    "errors",
                    "latency says which are bad: keep one of the two".to_owned(),
                ));
            }
        };
        let total_of_sides =
            checked(&narrowed(&total)?).map_err(|error| trouble("variants", error))?;
        let errors_of_sides =
            checked(&narrowed(&errors)?).map_err(|error| trouble("variants", error))?;
        Ok(Self {
            summable: [total_of_sides.clone(), errors_of_sides.clone()],
            summable_buckets: None,
            total_of_sides,
            errors_of_sides,
            total: total.to_string(),
            errors: errors.to_string(),
            verified: false,
            histogram: None,
            buckets: None,
            sides,
            exporter: Exporter::default(),
            layouts: Vec::new(),
            layout: 0,
        })
    }

    /// The selectors of the two sides' single series: of all requests, of the bad or the good ones,
    /// and where a guard needs them of all buckets.
    pub(crate) fn selectors(&self) -> impl Iterator<Item = &String> {
        [&self.total_of_sides, &self.errors_of_sides]
            .into_iter()
            .chain(&self.buckets)
    }

    /// What the second selector counts.
    pub fn kind(&self) -> Kind {
        if self.histogram.is_some() {
            Kind::Good
        } else {
            Kind::Errors
        }
    }

    /// Whether a series is one of those that are counted as this kind. A histogram's answers may
    /// have more: all of its edges, where it is a native one.
    pub(crate) fn takes(&self, kind: Kind, labels: &Labels) -> bool {
        let edge = labels.get(EDGE_LABEL);
        match &self.histogram {
            None => true,
            Some(_) if kind == Kind::Total => edge.is_none(),
            Some(histogram) => edge.is_some_and(|edge| histogram.is_edge(edge)),
        }
    }

    /// Which side a series counts for; nothing where it is of neither, or of both.
    pub fn arm(&self, labels: &Labels) -> Option<Arm> {
        // As in PromQL, a label that is not there is an empty one.
        let value = labels.get(&self.sides.label).map_or("", String::as_str);
        if let Some(pods) = &self.sides.pods {
            return pods.get(value).copied();
        }
        match (
            self.sides.canary.is_match(value),
            self.sides.stable.is_match(value),
        ) {
            (true, false) => Some(Arm::Canary),
            (false, true) => Some(Arm::Stable),
            _ => None,
        }
    }

    /// The pod that a series counts for, where the sides are told by pod.
    pub fn pod<'a>(&self, labels: &'a Labels) -> Option<&'a str> {
        let value = labels
            .get(&self.sides.label)
            .filter(|_| self.sides.by_pod)?;
        Some(value)
    }

    /// Why it is not known whether a series counts for the Rollout.
    pub fn unclear(&self, labels: &Labels) -> Option<&str> {
        let (pattern, why) = self.sides.unclear.as_ref()?;
        let value = labels.get(&self.sides.label).map_or("", String::as_str);
        (self.arm(labels).is_none() && pattern.is_match(value)).then_some(why.as_str())
    }

    /// Remembers which pods are on which side.
    pub(crate) fn note_pods(&mut self, sides: &BTreeMap<String, Arm>) {
        let Some(pods) = &mut self.sides.pods else {
            return;
        };
        for (pod, arm) in sides {
            if pods.len() < MOST_PODS || pods.contains_key(pod) {
                pods.insert(pod.clone(), *arm);
            }
        }
    }

    /// The counters, once for each way in which Prometheus can have renamed their labels.
    pub fn layouts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self)
            .filter(|this| this.layouts.is_empty())
            .chain(&self.layouts)
    }

    /// Reads the labels as they are found. What is in use stays, as long as it is there: two
    /// scrapes can rename them differently.
    pub(crate) fn choose_layout(&mut self, found: &[bool]) {
        if found.get(self.layout).copied().unwrap_or(false) {
            return;
        }
        let Some(index) = found.iter().position(|found| *found) else {
            return;
        };
        let Some(mut chosen) = self.layouts.get(index).cloned() else {
            return;
        };
        chosen.sides.pods = self.sides.pods.take();
        chosen.layouts = std::mem::take(&mut self.layouts);
        chosen.layout = index;
        *self = chosen;
    }

    /// The labels that tell the scrape targets apart, and with them those that tell the sides.
    pub(crate) fn labels_of_source(&self) -> (Vec<&str>, Vec<&str>) {
        let mut source = vec![
            "cluster",
            "instance",
            "job",
            "prometheus",
            "prometheus_replica",
            "replica",
        ];
        source.extend(self.exporter.pod.into_iter().flatten());
        source.retain(|label| *label != self.sides.label);
        let mut sides = source.clone();
        sides.push(&self.sides.label);
        (
            if self.sides.by_pod {
                sides.clone()
            } else {
                source
            },
            sides,
        )
    }

    /// The increase of each series of a selector, once for all scrapes of one process as far as
    /// their usual labels tell.
    pub(crate) fn increase_once(&self, selector: &str, seconds: u64) -> String {
        let mut scrape = vec!["job", "prometheus", "prometheus_replica", "replica"];
        if self.exporter.is_known {
            scrape.extend(["container", "endpoint", "node"]);
        }
        if self.is_scraped_service() {
            scrape.push("service");
        }
        if self.exporter.pod == Some(["namespace", "pod"]) {
            scrape.extend(["namespace", "pod"]);
        }
        format!(
            "max without ({}) (increase({selector}[{seconds}s]))",
            scrape.join(", ")
        )
    }

    /// Whether the label `service` names what was scraped, and is not one of the exporter's own.
    pub(crate) fn is_scraped_service(&self) -> bool {
        self.exporter.is_known && !["service", "canary"].contains(&self.sides.label.as_str())
    }

    /// Whether the sides are told by pod, so that it can be seen how their errors cluster.
    pub fn tells_pods(&self) -> bool {
        self.sides.by_pod
    }
}

/// The known pods by their owner, if that is needed: of a ReplicaSet with a long name only the
/// beginning is in its pods' names.
fn pods_by_owner(by_pod: bool, request: &JudgeRequest) -> Option<BTreeMap<String, Arm>> {
    let sets = [
        Some(&request.canary_replica_set),
        request.stable_replica_set.as_ref(),
    ];
    let is_cut = sets.into_iter().flatten().any(|set| pod_name_base(set).1);
    (by_pod && is_cut).then(|| request.pod_sides.clone())
}

/// The label that tells the sides, the canary's values and stable's, and whether it names pods.
fn sides_of(
    arms: Option<&VariantsSpec>,
    request: &JudgeRequest,
) -> Result<(String, String, String, bool), String> {
    let pod_label = match arms {
        None => None,
        Some(VariantsSpec {
            pod_label,
            label: None,
            canary: None,
            stable: None,
        }) => pod_label.clone(),
        Some(VariantsSpec {
            pod_label: None,
            label: Some(label),
            canary: Some(canary),
            stable: Some(stable),
        }) => {
            return Ok((label.clone(), canary.clone(), stable.clone(), false));
        }
        Some(_) => return Err("write either podLabel, or label with canary and stable".to_owned()),
    };
    let Some(stable) = &request.stable_replica_set else {
        return Err("there is no stable revision to compare with".to_owned());
    };
    let label = pod_label.unwrap_or_else(|| "pod".to_owned());
    Ok((
        label,
        pods_of(&request.canary_replica_set),
        pods_of(stable),
        true,
    ))
}

/// A regular expression that matches all of a text, as PromQL's do.
fn whole(pattern: &str) -> Result<Regex, String> {
    // By itself first: an unbalanced group must not become valid by the one around it.
    Regex::new(pattern).map_err(|error| error.to_string())?;
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())
}

/// A plain series selector: no rate, no range, no offset, because the raw samples of a time of our
/// own choice are read.
fn selector(text: &str) -> Result<VectorSelector, String> {
    let selector = match parser::parse(text) {
        Ok(Expr::VectorSelector(selector)) => selector,
        Ok(Expr::MatrixSelector(_)) => {
            return Err("leave out the range in brackets: the raw counter is read".to_owned());
        }
        Ok(Expr::Call(_) | Expr::Aggregate(_)) => {
            return Err("write the counter itself, without rate(), increase() or sum()".to_owned());
        }
        Ok(_) => {
            return Err(
                "write a series selector such as http_requests_total{job=\"shop\"}".to_owned(),
            );
        }
        Err(error) => return Err(format!("not PromQL: {error}")),
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err(
            "leave out offset and @: the counter is read at times of the judge's choice".to_owned(),
        );
    }
    if !selector.matchers.or_matchers.is_empty() {
        return Err(
            "write the alternatives as one regular expression: `or` between matchers is not supported".to_owned()
        );
    }
    Ok(selector)
}

/// The selector, of those series only whose label matches.
fn narrow(selector: &VectorSelector, label: &str, pattern: &str) -> Result<VectorSelector, String> {
    let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
    let mut narrowed = selector.clone();
    narrowed
        .matchers
        .matchers
        .push(Matcher::new(MatchOp::Re(regex), label, pattern));
    Ok(narrowed)
}

/// A selector as it is sent. What was put together is parsed again, so that no quoting mistake of
/// ours reaches the server.
fn checked(selector: &VectorSelector) -> Result<String, String> {
    let text = selector.to_string();
    parser::parse(&text).map_err(|error| format!("{text}: {error}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::request;

    fn counters(objective: serde_json::Value) -> Result<Counters, Trouble> {
        let objective: ObjectiveSpec = serde_json::from_value(objective).unwrap();
        Counters::new(&objective, &request())
    }

    fn written(total: &str, errors: &str) -> Result<Counters, Trouble> {
        counters(
            json!({"name": "availability", "objective": 99.9, "counters": {"total": total, "errors": errors}}),
        )
    }

    fn labels(label: &str, value: &str) -> Labels {
        Labels::from([(label.to_owned(), value.to_owned())])
    }

    #[test]
    fn traefik_tells_the_two_services_apart_in_every_form() {
        let counters =
            counters(json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}))
                .unwrap();
        let prefix =
            "httproute-shop-checkout-gw-infra-public-ep-web-0-8bd93a10a1ba373c380d-svc-shop-";
        let arm = |service: &str| counters.arm(&labels("service", service));
        assert_eq!(
            arm(&format!("{prefix}checkout-canary-1@kubernetesgateway")),
            Some(Arm::Canary)
        );
        assert_eq!(
            arm(&format!("{prefix}checkout-0@kubernetesgateway")),
            Some(Arm::Stable)
        );
        assert_eq!(
            arm("shop-checkout-canary-80@kubernetesgateway"),
            Some(Arm::Canary)
        );
        assert_eq!(arm("shop-checkout-80@kubernetesgateway"), Some(Arm::Stable));
        assert_eq!(arm("shop-checkout-other-80@kubernetesgateway"), None);
        assert_eq!(arm("othershop-checkout-80@kubernetesgateway"), None);
        assert_eq!(
            arm(&format!("{prefix}checkout-0@kubernetesgateway").replace("-0-8bd", "-1-8bd")),
            None,
            "another rule"
        );
        assert_eq!(
            arm(&format!("{prefix}checkout-0@kubernetesgateway").replace("infra", "other")),
            None
        );
        assert_eq!(arm("shop-checkout-80@kubernetescrd"), None);
        assert!(parser::parse(&counters.total).is_ok(), "{}", counters.total);
        assert!(
            parser::parse(&counters.errors).is_ok(),
            "{}",
            counters.errors
        );
        assert!(counters.verified);
    }

    #[test]
    fn pods_are_told_apart_by_their_replica_set() {
        let counters = written(
            "http_requests_total{namespace=\"shop\"}",
            "http_requests_total{code=~\"5..\"}",
        )
        .unwrap();
        let arm = |pod: &str| counters.arm(&labels("pod", pod));
        assert_eq!(arm("checkout-bbb-x7k2p"), Some(Arm::Canary));
        assert_eq!(arm("checkout-aaa-x7k2p"), Some(Arm::Stable));
        assert_eq!(arm("checkout-aaa"), None);
        assert_eq!(arm("my-checkout-aaa-x7k2p"), None);
        assert_eq!(
            counters.pod(&labels("pod", "checkout-bbb-x7k2p")),
            Some("checkout-bbb-x7k2p")
        );
        assert_eq!(counters.total, "http_requests_total{namespace=\"shop\"}");
        assert_eq!(
            counters.total_of_sides,
            "http_requests_total{namespace=\"shop\",pod=~\"(?:checkout\\\\-bbb\\\\-[a-z0-9]{5})|(?:checkout\\\\-aaa\\\\-[a-z0-9]{5})\"}"
        );
    }

    #[test]
    fn a_label_can_tell_the_sides() {
        let counters = counters(
            json!({"name": "availability", "objective": 99.9, "counters": {
            "total": "requests_total", "errors": "errors_total",
            "variants": {"label": "version", "canary": "v2.*", "stable": "v1.*"}}}),
        )
        .unwrap();
        assert_eq!(
            counters.arm(&labels("version", "v2-abc")),
            Some(Arm::Canary)
        );
        assert_eq!(
            counters.arm(&labels("version", "v1-abc")),
            Some(Arm::Stable)
        );
        assert_eq!(counters.arm(&labels("version", "xv1")), None);
        assert_eq!(counters.pod(&labels("version", "v2-abc")), None);
    }

    #[test]
    fn a_series_of_both_sides_counts_for_neither() {
        let counters = counters(
            json!({"name": "availability", "objective": 99.9, "counters": {
            "total": "requests_total", "errors": "errors_total",
            "variants": {"label": "version", "canary": "v.*", "stable": "v1.*"}}}),
        )
        .unwrap();
        assert_eq!(counters.arm(&labels("version", "v1-abc")), None);
    }

    #[test]
    fn what_is_not_a_plain_selector_is_refused_with_the_fix() {
        let message = |total: &str| {
            let trouble = written(total, "errors_total").unwrap_err();
            assert_eq!(trouble.cause, "InvalidQuery");
            assert!(
                trouble
                    .message
                    .starts_with("spec.analysis.objectives[availability].counters.total: "),
                "{}",
                trouble.message
            );
            trouble.message
        };
        assert!(message("rate(http_requests_total[5m])").contains("without rate()"));
        assert!(message("http_requests_total[5m]").contains("range in brackets"));
        assert!(message("http_requests_total offset 5m").contains("offset"));
        assert!(message("http_requests_total{code=").contains("not PromQL"));
        assert!(message("1 + 1").contains("series selector"));
        assert!(message("requests_total{a=\"1\" or b=\"2\"}").contains("regular expression"));
    }

    #[test]
    fn a_regular_expression_that_is_none_is_refused() {
        let trouble = counters(
            json!({"name": "availability", "objective": 99.9, "counters": {
            "total": "requests_total", "errors": "errors_total",
            "variants": {"label": "version", "canary": "v2)|(", "stable": "v1"}}}),
        )
        .unwrap_err();
        assert!(
            trouble.message.contains("counters.arms.canary"),
            "{}",
            trouble.message
        );
    }
}
