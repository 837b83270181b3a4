//! Counts each request once, even if several scrapes report it.
//!
//! A ServiceMonitor, a PodMonitor and annotations can all scrape the same process, and a pair of
//! Prometheus servers stores each scrape twice. Each of these scrapes has all counters of the
//! process, so a process is read from only one of its *targets*. A target is identified by the
//! labels that the scrape adds. Two targets belong to the same process if they have the same
//! instance or, if each pod is one process, the same pod. Targets of one job with different
//! instances are different processes. Targets of different jobs are different processes only if
//! their pods or addresses prove it. Otherwise nothing is counted, and the error names both.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::counter_selectors::CounterSelectors;
use crate::prometheus::{Answer, Labels, Series, push_key_part};

/// Labels that distinguish several clusters behind one server.
const CLUSTER_LABELS: [&str; 5] = [
    "cluster",
    "cluster_id",
    "cluster_name",
    "k8s_cluster",
    "kubernetes_cluster",
];

/// Other labels that service discovery usually adds to a series.
const DISCOVERY_LABELS: [&str; 3] = ["container", "endpoint", "node"];

/// Whether a label names the Prometheus replica that has stored a series.
pub(crate) fn is_replica_label(label: &str) -> bool {
    label == "prometheus"
        || label == "replica"
        || label == "__replica__"
        || label.ends_with("_replica")
}

/// A scrape target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ScrapeTarget {
    job: String,
    instance: String,
    container: Option<String>,
    /// Namespace and name of the exporter's pod, if each pod is one process.
    exporter: Option<(String, String)>,
    /// Pod of the series, if the sides are distinguished by pod.
    pod: String,
    oldest_ms: i64,
    newest_ms: i64,
}

/// Selects one target per process.
#[derive(Clone, Debug, Default)]
pub struct TargetDeduplicator {
    used: BTreeSet<String>,
    known_pods: BTreeSet<String>,
    /// Pods that are now read from another target. The series of that target may have begun later
    /// than the pod.
    changed_pods: BTreeSet<String>,
}

impl TargetDeduplicator {
    /// Removes the series of duplicate targets.
    ///
    /// # Errors
    /// Why duplicates cannot be identified, and how to fix it.
    pub fn deduplicate<'a, const N: usize>(
        &mut self,
        counters: &CounterSelectors,
        answers: [&'a Answer; N],
    ) -> Result<[Cow<'a, Answer>; N], String> {
        let all = || answers.iter().flat_map(|answer| answer.iter());
        if let Some(why) = all().find_map(|series| counters.ambiguity(&series.labels)) {
            return Err(why.to_owned());
        }
        let counted = || all().filter(|series| counters.arm(&series.labels).is_some());
        check_single_cluster(counters, counted())?;
        let mut targets: BTreeMap<String, ScrapeTarget> = BTreeMap::new();
        for series in counted() {
            add_target(&mut targets, counters, series);
        }
        let processes = group_by_process(&targets);
        check_distinguishable(&targets, &processes)?;
        let mut dropped: BTreeSet<String> = BTreeSet::new();
        for process in processes {
            dropped.extend(self.choose_target(&targets, &process));
        }
        let counts = |series: &&Series| {
            counters.arm(&series.labels).is_none()
                || !dropped.contains(&target_key(counters, &series.labels))
        };
        Ok(answers.map(|answer| {
            if dropped.is_empty() {
                Cow::Borrowed(answer)
            } else {
                Cow::Owned(answer.iter().filter(counts).cloned().collect())
            }
        }))
    }

    /// Chooses one target of a process and returns the others.
    fn choose_target(
        &mut self,
        targets: &BTreeMap<String, ScrapeTarget>,
        process: &[&String],
    ) -> Vec<String> {
        let target = |key: &&String| targets.get(*key);
        let newest_ms = process
            .iter()
            .filter_map(target)
            .map(|target| target.newest_ms)
            .max()
            .unwrap_or(0);
        let oldest_ms = process
            .iter()
            .filter_map(target)
            .map(|target| target.oldest_ms)
            .min()
            .unwrap_or(0);
        let silent_ms = newest_ms.saturating_sub(newest_ms.saturating_sub(oldest_ms) / 2);
        let is_scraped =
            |key: &&&String| target(key).is_some_and(|target| target.newest_ms >= silent_ms);
        let living: Vec<&String> = process.iter().filter(is_scraped).copied().collect();
        let used = living.iter().find(|key| self.used.contains(**key)).copied();
        let Some(chosen) = used.or_else(|| living.first().copied()) else {
            return Vec::new();
        };
        let pod = target(&chosen)
            .map(|target| target.pod.clone())
            .unwrap_or_default();
        if used.is_none() && !self.known_pods.insert(pod.clone()) {
            self.changed_pods.insert(pod);
        }
        self.used.insert(chosen.clone());
        process
            .iter()
            .filter(|key| **key != chosen)
            .map(|key| (*key).clone())
            .collect()
    }

    /// Creation times of pods, without those that are now read from another target.
    pub(crate) fn without_changed_pods<'a>(
        &self,
        created_at: &'a BTreeMap<String, Timestamp>,
    ) -> Cow<'a, BTreeMap<String, Timestamp>> {
        if !created_at.keys().any(|pod| self.changed_pods.contains(pod)) {
            return Cow::Borrowed(created_at);
        }
        let unchanged = created_at
            .iter()
            .filter(|(pod, _)| !self.changed_pods.contains(*pod));
        Cow::Owned(unchanged.map(|(pod, at)| (pod.clone(), *at)).collect())
    }
}

/// Rejects series of several clusters, whose namespaces and Services can have the same names.
fn check_single_cluster<'a>(
    counters: &CounterSelectors,
    series: impl Iterator<Item = &'a Series>,
) -> Result<(), String> {
    if !counters.exporter.is_known {
        return Ok(());
    }
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for Series { labels, .. } in series {
        for label in CLUSTER_LABELS {
            let Some(value) = labels.get(label).filter(|value| !value.is_empty()) else {
                continue;
            };
            let first = *seen.entry(label).or_insert(value);
            if first != value {
                return Err(format!(
                    "the series belong to several clusters, {label}={first:?} and \
                     {label}={value:?}: query the Prometheus of this cluster, or write counters \
                     that select one cluster"
                ));
            }
        }
    }
    Ok(())
}

fn is_scrape_label(counters: &CounterSelectors, label: &str) -> bool {
    let is_usual = || {
        DISCOVERY_LABELS.contains(&label)
            || CLUSTER_LABELS.contains(&label)
            || counters
                .exporter
                .pod
                .is_some_and(|labels| labels.contains(&label))
            || (label == "service" && counters.is_scraped_service())
    };
    label == "job"
        || label == "instance"
        || is_replica_label(label)
        || (counters.exporter.is_known && is_usual())
}

fn target_key(counters: &CounterSelectors, labels: &Labels) -> String {
    let mut key = String::new();
    push_key_part(&mut key, counters.pod(labels).unwrap_or_default());
    for (label, value) in labels
        .iter()
        .filter(|(label, _)| is_scrape_label(counters, label))
    {
        key.push(';');
        push_key_part(&mut key, label);
        key.push('=');
        push_key_part(&mut key, value);
    }
    key
}

fn add_target(
    targets: &mut BTreeMap<String, ScrapeTarget>,
    counters: &CounterSelectors,
    Series { labels, samples }: &Series,
) {
    let (Some((oldest_ms, _)), Some((newest_ms, _))) = (samples.first(), samples.last()) else {
        return;
    };
    let text = |label: &str| labels.get(label).filter(|value| !value.is_empty()).cloned();
    let exporter = counters
        .exporter
        .pod
        .and_then(|[namespace, pod]| Some((text(namespace)?, text(pod)?)));
    let target = targets
        .entry(target_key(counters, labels))
        .or_insert_with(|| ScrapeTarget {
            job: text("job").unwrap_or_default(),
            instance: text("instance").unwrap_or_default(),
            container: text("container"),
            exporter,
            pod: counters.pod(labels).unwrap_or_default().to_owned(),
            oldest_ms: *oldest_ms,
            newest_ms: *newest_ms,
        });
    target.oldest_ms = target.oldest_ms.min(*oldest_ms);
    target.newest_ms = target.newest_ms.max(*newest_ms);
}

/// Groups the targets by process.
fn group_by_process(targets: &BTreeMap<String, ScrapeTarget>) -> Vec<Vec<&String>> {
    let mut of_target: Vec<usize> = (0..targets.len()).collect();
    let mut by_instance: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut by_exporter: BTreeMap<&(String, String), usize> = BTreeMap::new();
    for (index, target) in targets.values().enumerate() {
        let instance = (!target.instance.is_empty())
            .then_some((target.pod.as_str(), target.instance.as_str()));
        let same_instance = instance.map(|instance| *by_instance.entry(instance).or_insert(index));
        let same_pod = target
            .exporter
            .as_ref()
            .map(|exporter| *by_exporter.entry(exporter).or_insert(index));
        for same in [same_instance, same_pod].into_iter().flatten() {
            let (one, other) = (root(&of_target, index), root(&of_target, same));
            of_target[one.max(other)] = one.min(other);
        }
    }
    let mut processes: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for (index, key) in targets.keys().enumerate() {
        processes
            .entry(root(&of_target, index))
            .or_default()
            .push(key);
    }
    processes.into_values().collect()
}

fn root(of_target: &[usize], mut index: usize) -> usize {
    while of_target[index] != index {
        index = of_target[index];
    }
    index
}

/// Whether an instance is an IP address, and its host.
fn host(instance: &str) -> (bool, &str) {
    let host = instance.rsplit_once(':').map_or(instance, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    (bare.parse::<IpAddr>().is_ok(), host)
}

/// Rejects targets of different jobs that may belong to the same process.
fn check_distinguishable(
    targets: &BTreeMap<String, ScrapeTarget>,
    processes: &[Vec<&String>],
) -> Result<(), String> {
    // The first target by pod and host with its process, and by pod alone.
    let mut by_host: BTreeMap<(&str, &str), (usize, &ScrapeTarget)> = BTreeMap::new();
    let mut by_pod: BTreeMap<&str, &ScrapeTarget> = BTreeMap::new();
    for (process, keys) in processes.iter().enumerate() {
        for target in keys.iter().filter_map(|key| targets.get(*key)) {
            let first = *by_pod.entry(&target.pod).or_insert(target);
            let (is_address, host) = host(&target.instance);
            let (known, neighbor) = *by_host
                .entry((&target.pod, host))
                .or_insert((process, target));
            let has_pods =
                |other: &ScrapeTarget| target.exporter.is_some() && other.exporter.is_some();
            let has_containers = |other: &ScrapeTarget| {
                target.container.is_some()
                    && other.container.is_some()
                    && target.container != other.container
            };
            let may_be_same = |other: &ScrapeTarget| {
                target.job != other.job && !has_pods(other) && !has_containers(other)
            };
            if known != process && may_be_same(neighbor) {
                return Err(ambiguous_targets(neighbor, target));
            }
            let is_comparable =
                is_address == self::host(&first.instance).0 && !target.instance.is_empty();
            if !is_comparable
                && may_be_same(first)
                && !keys.iter().any(|key| targets.get(*key) == Some(first))
            {
                return Err(ambiguous_targets(first, target));
            }
        }
    }
    Ok(())
}

fn ambiguous_targets(one: &ScrapeTarget, other: &ScrapeTarget) -> String {
    format!(
        "the scrapes job={:?}, instance={:?} and job={:?}, instance={:?} may belong to one \
         process, whose requests would count twice: remove one of the two jobs, or add the labels \
         namespace and pod to both",
        one.job, one.instance, other.job, other.instance
    )
}

#[cfg(test)]
mod tests;
