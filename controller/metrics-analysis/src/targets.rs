//! Each request once, however many scrapes see it.
//!
//! A ServiceMonitor, a PodMonitor and annotations can all scrape the same process, and a pair of
//! Prometheus servers stores each scrape twice. Every such scrape has all counters of the process,
//! so that a process is read from one of its *targets*: what the labels of the scrape tell apart,
//! and nothing else. Two targets are one process if they have the same instance or, where each pod
//! is one process, the same pod. Targets of one job with different instances are different
//! processes. Targets of different jobs are only if their pods or addresses say so; otherwise
//! nothing is counted, and the reason names both.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::prometheus::{Answer, Labels, Series};
use crate::selector::Counters;

/// The labels that tell several clusters behind one server apart.
const CLUSTER: [&str; 5] = [
    "cluster",
    "cluster_id",
    "cluster_name",
    "k8s_cluster",
    "kubernetes_cluster",
];

/// The labels that service discovery usually adds to a series, beside those with a meaning here.
const USUAL: [&str; 3] = ["container", "endpoint", "node"];

/// Whether a label tells which server of several with the same configuration has stored a series.
pub(crate) fn is_of_prometheus(label: &str) -> bool {
    label == "prometheus"
        || label == "replica"
        || label == "__replica__"
        || label.ends_with("_replica")
}

/// What one scrape of one process is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    job: String,
    instance: String,
    container: Option<String>,
    /// The pod of the process, where each pod is one process.
    exporter: Option<(String, String)>,
    /// The pod that the series count for, where the sides are told by pod.
    pod: String,
    oldest_ms: i64,
    newest_ms: i64,
}

/// Of each process the target that counts.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    used: BTreeSet<String>,
    known_pods: BTreeSet<String>,
    /// Pods that are read from another target than before: it says nothing that it began with the
    /// pod.
    changed: BTreeSet<String>,
}

impl Targets {
    /// The series of the targets that count.
    ///
    /// # Errors
    /// Why it cannot be told what counts, and what to do.
    pub fn select<'a, const N: usize>(
        &mut self,
        counters: &Counters,
        answers: [&'a Answer; N],
    ) -> Result<[Cow<'a, Answer>; N], String> {
        let all = || answers.iter().flat_map(|answer| answer.iter());
        if let Some(why) = all().find_map(|series| counters.unclear(&series.labels)) {
            return Err(why.to_owned());
        }
        let counted = || all().filter(|series| counters.arm(&series.labels).is_some());
        one_cluster(counters, counted())?;
        let mut targets: BTreeMap<String, Target> = BTreeMap::new();
        for series in counted() {
            add(&mut targets, counters, series);
        }
        let processes = processes(&targets);
        tell_apart(&targets, &processes)?;
        let mut dropped: BTreeSet<String> = BTreeSet::new();
        for process in processes {
            dropped.extend(self.choose(&targets, &process));
        }
        let counts = |series: &&Series| {
            counters.arm(&series.labels).is_none()
                || !dropped.contains(&key_of(counters, &series.labels))
        };
        Ok(answers.map(|answer| {
            if dropped.is_empty() {
                Cow::Borrowed(answer)
            } else {
                Cow::Owned(answer.iter().filter(counts).cloned().collect())
            }
        }))
    }

    /// Chooses one target of a process; the others.
    fn choose(&mut self, targets: &BTreeMap<String, Target>, process: &[&String]) -> Vec<String> {
        let of = |key: &&String| targets.get(*key);
        let newest_ms = process
            .iter()
            .filter_map(of)
            .map(|target| target.newest_ms)
            .max()
            .unwrap_or(0);
        let oldest_ms = process
            .iter()
            .filter_map(of)
            .map(|target| target.oldest_ms)
            .min()
            .unwrap_or(0);
        let silent_ms = newest_ms.saturating_sub(newest_ms.saturating_sub(oldest_ms) / 2);
        let lives = |key: &&&String| of(key).is_some_and(|target| target.newest_ms >= silent_ms);
        let living: Vec<&String> = process.iter().filter(lives).copied().collect();
        let used = living.iter().find(|key| self.used.contains(**key)).copied();
        let Some(chosen) = used.or_else(|| living.first().copied()) else {
            return Vec::new();
        };
        let pod = of(&chosen)
            .map(|target| target.pod.clone())
            .unwrap_or_default();
        if used.is_none() && !self.known_pods.insert(pod.clone()) {
            self.changed.insert(pod);
        }
        self.used.insert(chosen.clone());
        process
            .iter()
            .filter(|key| **key != chosen)
            .map(|key| (*key).clone())
            .collect()
    }

    /// When pods were created, without those that are read from another target by now.
    pub(crate) fn without_changed<'a>(
        &self,
        created_at: &'a BTreeMap<String, Timestamp>,
    ) -> Cow<'a, BTreeMap<String, Timestamp>> {
        if !created_at.keys().any(|pod| self.changed.contains(pod)) {
            return Cow::Borrowed(created_at);
        }
        let unchanged = created_at
            .iter()
            .filter(|(pod, _)| !self.changed.contains(*pod));
        Cow::Owned(unchanged.map(|(pod, at)| (pod.clone(), *at)).collect())
    }
}

/// Refuses series of several clusters: their namespaces and Services have the same names.
fn one_cluster<'a>(
    counters: &Counters,
    series: impl Iterator<Item = &'a Series>,
) -> Result<(), String> {
    if !counters.exporter.is_known {
        return Ok(());
    }
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for Series { labels, .. } in series {
        for label in CLUSTER {
            let Some(value) = labels.get(label).filter(|value| !value.is_empty()) else {
                continue;
            };
            let first = *seen.entry(label).or_insert(value);
            if first != value {
                return Err(format!(
                    "they are of several clusters, {label}={first:?} and {label}={value:?}: query the Prometheus of this cluster, or \
                     write counters with one of them"
                ));
            }
        }
    }
    Ok(())
}

fn is_of_scrape(counters: &Counters, label: &str) -> bool {
    let is_usual = || {
        USUAL.contains(&label)
            || CLUSTER.contains(&label)
            || counters
                .exporter
                .pod
                .is_some_and(|labels| labels.contains(&label))
            || (label == "service" && counters.is_scraped_service())
    };
    label == "job"
        || label == "instance"
        || is_of_prometheus(label)
        || (counters.exporter.is_known && is_usual())
}

fn key_of(counters: &Counters, labels: &Labels) -> String {
    let mut key = counters.pod(labels).unwrap_or_default().to_owned();
    for (label, value) in labels
        .iter()
        .filter(|(label, _)| is_of_scrape(counters, label))
    {
        for part in [";", label, "=", value] {
            key.push_str(part);
        }
    }
    key
}

fn add(
    targets: &mut BTreeMap<String, Target>,
    counters: &Counters,
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
        .entry(key_of(counters, labels))
        .or_insert_with(|| Target {
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

/// The targets of each process.
fn processes(targets: &BTreeMap<String, Target>) -> Vec<Vec<&String>> {
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

/// Whether an instance is an address, and its host.
fn host(instance: &str) -> (bool, &str) {
    let host = instance.rsplit_once(':').map_or(instance, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    (bare.parse::<IpAddr>().is_ok(), host)
}

/// Refuses targets of different jobs that may be of one process.
fn tell_apart(
    targets: &BTreeMap<String, Target>,
    processes: &[Vec<&String>],
) -> Result<(), String> {
    // By pod and host, and by pod alone: the first target there, with its process.
    let mut by_host: BTreeMap<(&str, &str), (usize, &Target)> = BTreeMap::new();
    let mut by_pod: BTreeMap<&str, &Target> = BTreeMap::new();
    for (process, keys) in processes.iter().enumerate() {
        for target in keys.iter().filter_map(|key| targets.get(*key)) {
            let first = *by_pod.entry(&target.pod).or_insert(target);
            let (is_address, host) = host(&target.instance);
            let (known, neighbor) = *by_host
                .entry((&target.pod, host))
                .or_insert((process, target));
            let has_pods = |other: &Target| target.exporter.is_some() && other.exporter.is_some();
            let has_containers = |other: &Target| {
                target.container.is_some()
                    && other.container.is_some()
                    && target.container != other.container
            };
            let may_be_same = |other: &Target| {
                target.job != other.job && !has_pods(other) && !has_containers(other)
            };
            if known != process && may_be_same(neighbor) {
                return Err(same_process(neighbor, target));
            }
            let is_comparable =
                is_address == self::host(&first.instance).0 && !target.instance.is_empty();
            if !is_comparable
                && may_be_same(first)
                && !keys.iter().any(|key| targets.get(*key) == Some(first))
            {
                return Err(same_process(first, target));
            }
        }
    }
    Ok(())
}

fn same_process(one: &Target, other: &Target) -> String {
    format!(
        "the scrapes job={:?}, instance={:?} and job={:?}, instance={:?} may be of one process, whose requests would count twice: keep \
         one of the two jobs, or give both the labels namespace and pod",
        one.job, one.instance, other.job, other.instance
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::request;

    fn counters(objective: &serde_json::Value) -> Counters {
        let mut written = json!({"name": "availability", "objective": 99.9});
        written
            .as_object_mut()
            .unwrap()
            .extend(objective.as_object().unwrap().clone());
        Counters::new(&serde_json::from_value(written).unwrap(), &request()).unwrap()
    }

    fn traefik() -> Counters {
        counters(&json!({"indicator": "traefik"}))
    }

    fn by_pod() -> Counters {
        counters(&json!({"counters": {"total": "requests_total", "errors": "errors_total"}}))
    }

    fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Series {
        let labels = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        Series {
            labels: labels.collect(),
            samples: samples.to_vec(),
        }
    }

    /// Stable's counter of one Traefik.
    fn of_traefik(scrape: &[(&str, &str)]) -> Series {
        let mut labels = vec![
            ("code", "200"),
            ("service", "shop-checkout-80@kubernetesgateway"),
        ];
        labels.extend_from_slice(scrape);
        series(&labels, &[(1_000, 5.0), (2_000, 9.0)])
    }

    fn kept(counters: &Counters, answer: &Answer) -> Result<Vec<Series>, String> {
        Targets::default()
            .select(counters, [answer])
            .map(|[kept]| kept.into_owned())
    }

    #[test]
    fn a_process_that_several_jobs_scrape_counts_once() {
        // A ServiceMonitor, a PodMonitor and annotations, as their usual relabeling writes them.
        let service_monitor = [
            ("job", "traefik"),
            ("instance", "10.0.0.1:9100"),
            ("namespace", "infra"),
            ("pod", "traefik-a"),
            ("container", "traefik"),
            ("endpoint", "metrics"),
        ];
        let pod_monitor = [
            ("job", "infra/traefik"),
            ("instance", "10.0.0.1:9100"),
            ("namespace", "infra"),
            ("pod", "traefik-a"),
            ("container", "traefik"),
            ("endpoint", "metrics"),
        ];
        let annotations = [
            ("job", "kubernetes-pods"),
            ("instance", "10.0.0.1:9100"),
            ("node", "worker-1"),
        ];
        let answer = vec![
            of_traefik(&service_monitor),
            of_traefik(&pod_monitor),
            of_traefik(&annotations),
        ];
        assert_eq!(kept(&traefik(), &answer).unwrap().len(), 1);
    }

    #[test]
    fn both_of_two_processes_count() {
        let of = |instance: &str, pod: &str| {
            of_traefik(&[
                ("job", "traefik"),
                ("instance", instance),
                ("namespace", "infra"),
                ("pod", pod),
            ])
        };
        let answer = vec![
            of("10.0.0.1:9100", "traefik-a"),
            of("10.0.0.2:9100", "traefik-b"),
        ];
        assert_eq!(kept(&traefik(), &answer).unwrap().len(), 2);
        // In two jobs, told apart by their addresses.
        let of = |job: &str, instance: &str| of_traefik(&[("job", job), ("instance", instance)]);
        let answer = vec![of("a", "10.0.0.1:9100"), of("b", "10.0.0.2:9100")];
        assert_eq!(kept(&traefik(), &answer).unwrap().len(), 2);
    }

    #[test]
    fn a_pair_of_prometheus_servers_counts_once() {
        // Thanos without deduplication: all labels are equal but for the replica's.
        let of = |replica: &str| {
            of_traefik(&[
                ("job", "traefik"),
                ("instance", "10.0.0.1:9100"),
                ("prometheus_replica", replica),
            ])
        };
        let kept = kept(&traefik(), &vec![of("prometheus-0"), of("prometheus-1")]).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].labels["prometheus_replica"], "prometheus-0");
    }

    #[test]
    fn one_proxy_on_two_ports_counts_once() {
        // Istio: the same counters at 15090 of Envoy and, merged with the application's, at 15020.
        let of = |job: &str, instance: &str| {
            of_traefik(&[
                ("job", job),
                ("instance", instance),
                ("namespace", "infra"),
                ("pod", "gateway-a"),
            ])
        };
        let answer = vec![
            of("annotations", "10.0.0.1:15020"),
            of("infra/envoy", "10.0.0.1:15090"),
        ];
        assert_eq!(kept(&traefik(), &answer).unwrap().len(), 1);
    }

    #[test]
    fn jobs_that_may_read_the_same_process_are_named() {
        let of = |job: &str, instance: &str| of_traefik(&[("job", job), ("instance", instance)]);
        for (one, other) in [
            ("10.0.0.1:9100", "10.0.0.1:9101"),
            ("10.0.0.1:9100", "worker-1"),
            ("10.0.0.1:9100", ""),
        ] {
            let why = kept(&traefik(), &vec![of("a", one), of("b", other)]).unwrap_err();
            assert!(
                why.contains("job=\"a\"") && why.contains("job=\"b\"") && why.contains("keep one"),
                "{why}"
            );
        }
    }

    #[test]
    fn series_of_several_clusters_are_named() {
        let of = |cluster: &str, instance: &str| {
            of_traefik(&[
                ("job", "traefik"),
                ("instance", instance),
                ("cluster", cluster),
            ])
        };
        let why = kept(
            &traefik(),
            &vec![of("east", "10.0.0.1:9100"), of("west", "10.1.0.1:9100")],
        )
        .unwrap_err();
        assert!(
            why.contains("cluster=\"east\"") && why.contains("cluster=\"west\""),
            "{why}"
        );
    }

    #[test]
    fn pods_that_one_collector_exposes_are_told_apart() {
        let of = |pod: &str, job: &str| {
            series(
                &[("job", job), ("instance", "10.0.0.9:8889"), ("pod", pod)],
                &[(1_000, 1.0)],
            )
        };
        let answer = vec![
            of("checkout-aaa-11111", "a"),
            of("checkout-aaa-22222", "a"),
            of("checkout-aaa-22222", "b"),
        ];
        assert_eq!(kept(&by_pod(), &answer).unwrap().len(), 2);
    }

    #[test]
    fn two_containers_of_a_pod_count_and_one_container_in_two_jobs_is_named() {
        let of = |job: &str, port: &str, endpoint: &str| {
            let instance = format!("10.0.0.9:{port}");
            series(
                &[
                    ("job", job),
                    ("instance", &instance),
                    ("endpoint", endpoint),
                    ("pod", "checkout-aaa-11111"),
                ],
                &[(1_000, 1.0)],
            )
        };
        assert_eq!(
            kept(
                &by_pod(),
                &vec![of("a", "80", "/x"), of("a", "80", "/y"), of("a", "81", "")]
            )
            .unwrap()
            .len(),
            3
        );
        assert!(kept(&by_pod(), &vec![of("a", "80", ""), of("b", "81", "")]).is_err());
    }

    #[test]
    fn a_target_stays_until_it_is_silent_and_the_next_one_counts_from_its_second_scrape() {
        let of = |job: &str, samples: &[(i64, f64)]| {
            series(
                &[
                    ("job", job),
                    ("instance", "10.0.0.9:80"),
                    ("pod", "checkout-bbb-11111"),
                ],
                samples,
            )
        };
        let jobs = |targets: &mut Targets, answer: &Answer| {
            let [kept] = targets.select(&by_pod(), [answer]).unwrap();
            kept.iter()
                .map(|series| series.labels["job"].clone())
                .collect::<Vec<_>>()
        };
        let born = BTreeMap::from([("checkout-bbb-11111".to_owned(), Timestamp::UNIX_EPOCH)]);
        let mut targets = Targets::default();
        assert_eq!(
            jobs(&mut targets, &vec![of("b", &[(1, 1.0), (2, 2.0)])]),
            ["b"]
        );
        assert_eq!(
            jobs(
                &mut targets,
                &vec![
                    of("a", &[(2, 2.0), (3, 3.0)]),
                    of("b", &[(1, 1.0), (3, 3.0)])
                ]
            ),
            ["b"]
        );
        assert_eq!(targets.without_changed(&born).len(), 1);
        assert_eq!(
            jobs(
                &mut targets,
                &vec![
                    of("a", &[(2, 2.0), (9, 9.0)]),
                    of("b", &[(1, 1.0), (3, 3.0)])
                ]
            ),
            ["a"]
        );
        assert_eq!(
            targets.without_changed(&born).len(),
            0,
            "it would count all of its requests again"
        );
    }
}
