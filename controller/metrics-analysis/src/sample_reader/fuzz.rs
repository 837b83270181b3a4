//! Arbitrary labels, which tenants choose for the series of their pods: nothing panics, a series
//! counts for a side only if its name proves it, and different series are never confused.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::*;
use crate::fixtures::request;
use crate::target_deduplicator::TargetDeduplicator;

/// The counters of every kind of objective, by the label that distinguishes their sides.
static COUNTERS: LazyLock<Vec<(&'static str, CounterSelectors)>> = LazyLock::new(|| {
    let counters = |label, objective: Value| {
        let mut spec = json!({"name": "availability", "objective": 99.9});
        let fields = spec.as_object_mut().unwrap();
        fields.extend(objective.as_object().unwrap().clone());
        let spec = serde_json::from_value(spec).unwrap();
        (label, CounterSelectors::new(&spec, &request()).unwrap())
    };
    let latency = json!({"threshold": "250ms"});
    vec![
        counters("service", json!({"indicator": "traefik"})),
        counters("pod", json!({"indicator": "pod"})),
        counters("pod", json!({"indicator": "pod", "latency": latency})),
        counters(
            "pod",
            json!({"counters": {"total": "requests_total", "errors": "errors_total"}}),
        ),
        counters(
            "track",
            json!({"counters": {"total": "requests_total", "errors": "errors_total",
                "variants": {"label": "track", "canary": "canary", "stable": "stable|primary"}}}),
        ),
    ]
});

/// What may be a side: names of both sides, of others, and texts that resemble them.
fn side() -> impl Strategy<Value = String> {
    let known = select(vec![
        "checkout-bbb-11111",
        "checkout-aaa-x7k2p",
        "checkout-bbb-1111",
        "my-checkout-bbb-11111",
        "shop-checkout-80@kubernetesgateway",
        "shop-checkout-canary-80@kubernetesgateway",
        "shop-checkout-canary-80@kubernetescrd",
        "canary",
        "stable",
        "primary",
    ]);
    let edit = (any::<Index>(), 0_usize..2, text());
    (known, prop::collection::vec(edit, 0..2)).prop_map(|(known, edits)| {
        let mut characters: Vec<char> = known.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + removed).min(characters.len());
            characters.splice(at..end, inserted.chars());
        }
        characters.into_iter().collect()
    })
}

fn text() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        "|",
        ";",
        "=",
        "\\",
        "\"",
        "\n",
        "\r",
        "\0",
        "a=1;b",
        "1;b=2",
        "\u{202e}",
        "é",
        "{",
        "}",
        "0.25",
        "0.250",
        "2.5e-1",
        "+Inf",
        "NaN",
        "-1",
        "1e400",
        "10.0.0.1:8080",
        "[::1]:80",
        "200",
    ]);
    prop_oneof![
        6 => known.prop_map(str::to_owned),
        3 => ".{0,12}",
        1 => (0_usize..5_000).prop_map(|length| "x".repeat(length)),
    ]
}

/// Names that have a meaning, and others. Prometheus permits any UTF-8.
fn name() -> impl Strategy<Value = String> {
    let known = select(vec![
        "__name__",
        "le",
        "job",
        "instance",
        "pod",
        "exported_pod",
        "namespace",
        "service",
        "exported_service",
        "track",
        "container",
        "endpoint",
        "node",
        "cluster",
        "k8s_cluster",
        "prometheus",
        "replica",
        "x_replica",
        "__replica__",
        "code",
        "a",
        "b",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => text()]
}

fn labels() -> impl Strategy<Value = Labels> {
    let others = prop::collection::btree_map(name(), text(), 0..8);
    let sides = (
        side(),
        any::<bool>(),
        select(vec!["pod", "service", "track"]),
    );
    (others, sides).prop_map(|(mut labels, (side, has_side, label))| {
        if has_side {
            labels.insert(label.to_owned(), side);
        }
        labels
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let sample = (0..10_000_i64, prop_oneof![0.0..1e6_f64, any::<f64>()]);
    let samples = prop::collection::vec(sample, 0..4);
    let series = (labels(), samples).prop_map(|(labels, samples)| Series { labels, samples });
    prop::collection::vec(series, 0..6)
}

/// The side that the names in [`request`] prove, written without regular expressions.
fn expected_arm(label: &str, labels: &Labels) -> Option<Arm> {
    let value = labels.get(label).map_or("", String::as_str);
    let is_pod_of = |set: &str| {
        let suffix = value.strip_prefix(set);
        suffix.is_some_and(|suffix| {
            let is_usual = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            suffix.len() == 5 && suffix.bytes().all(is_usual)
        })
    };
    match (label, value) {
        ("track", "canary") => Some(Arm::Canary),
        ("track", "stable" | "primary") => Some(Arm::Stable),
        ("pod", _) if is_pod_of("checkout-bbb-") => Some(Arm::Canary),
        ("pod", _) if is_pod_of("checkout-aaa-") => Some(Arm::Stable),
        _ => None,
    }
}

fn check_side(
    label: &str,
    counters: &CounterSelectors,
    labels: &Labels,
) -> Result<(), TestCaseError> {
    let arm = counters.arm(labels);
    if label != "service" {
        prop_assert_eq!(arm, expected_arm(label, labels), "{:?}", labels);
    } else if let Some(arm) = arm {
        let value = labels.get(label).map_or("", String::as_str);
        prop_assert!(
            value.contains("checkout") && value.ends_with("@kubernetesgateway"),
            "{value:?}"
        );
        prop_assert_eq!(
            value.contains("-checkout-canary-"),
            arm == Arm::Canary,
            "{:?}",
            value
        );
    }
    prop_assert!(arm.is_none() || counters.ambiguity(labels).is_none());
    Ok(())
}

/// Removes duplicate targets. What remains was in the answer, and nothing of neither side is lost.
fn check_deduplicated(counters: &CounterSelectors, answer: &Answer) -> Result<(), TestCaseError> {
    let mut deduplicator = TargetDeduplicator::default();
    match deduplicator.deduplicate(counters, [answer]) {
        Err(why) => prop_assert!(!why.is_empty()),
        Ok([kept]) => {
            let mut all = answer.iter();
            let same = |one: &Series, other: &Series| format!("{one:?}") == format!("{other:?}");
            prop_assert!(
                kept.iter()
                    .all(|series| all.any(|other| same(series, other)))
            );
            let others = |answer: &Answer| {
                let of_neither = answer
                    .iter()
                    .filter(|series| counters.arm(&series.labels).is_none());
                of_neither.count()
            };
            prop_assert_eq!(others(&kept), others(answer));
        }
    }
    Ok(())
}

/// Reads the samples of one answer as both counters.
fn check_samples(counters: &CounterSelectors, answer: &Answer) -> Result<(), TestCaseError> {
    let created = BTreeMap::from([("checkout-bbb-11111".to_owned(), Timestamp::UNIX_EPOCH)]);
    let reader = SampleReader::new(counters, answer, answer, &created, 400);
    let counted = |arm: Arm| {
        let of_arm = answer
            .iter()
            .filter(|series| counters.arm(&series.labels) == Some(arm));
        2 * of_arm.map(|series| series.samples.len()).sum::<usize>()
    };
    for arm in [Arm::Canary, Arm::Stable] {
        let samples = reader.samples();
        let read = samples.iter().filter(|sample| sample.arm == arm).count();
        if counters.histogram.is_none() {
            prop_assert_eq!(read, counted(arm));
        } else {
            prop_assert!(read <= counted(arm));
        }
    }
    let edges = edges_of(
        counters,
        answer.iter().map(|series| &series.labels),
        &[Arm::Canary, Arm::Stable],
    );
    prop_assert!(edges.is_sorted(), "{edges:?}");
    let readers = SampleReader::for_edges(counters, [answer, answer], &edges, &created, 400);
    prop_assert_eq!(readers.len(), edges.len());
    Ok(())
}

proptest! {
    #[test]
    fn fuzz_labels_of_an_answer(answer in answer()) {
        for (label, counters) in COUNTERS.iter() {
            for series in &answer {
                check_side(label, counters, &series.labels)?;
            }
            check_deduplicated(counters, &answer)?;
            check_samples(counters, &answer)?;
        }
    }

    #[test]
    fn fuzz_labels_of_two_series_have_different_keys(one in labels(), other in labels()) {
        let keys = |labels: &Labels| series_key(labels, CounterKind::Errors);
        prop_assert_eq!(keys(&one) == keys(&other), one == other);
    }

    #[test]
    fn fuzz_labels_that_contain_others_have_different_keys(
        first in text(), second in text(), name in "[b-z]{1,3}",
    ) {
        let both = Labels::from([("a".to_owned(), first.clone()), (name.clone(), second.clone())]);
        let contained = Labels::from([("a".to_owned(), format!("{first};{name}={second}"))]);
        let keys = |labels: &Labels| series_key(labels, CounterKind::Errors);
        prop_assert_ne!(keys(&both), keys(&contained));
        let source = |job: &str, instance: &str| {
            let labels = [("job", job), ("instance", instance)];
            source_key(&labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), None)
        };
        let joined = format!("{first}|{second}");
        prop_assert_ne!(source(&joined, "x"), source(&first, &format!("{second}|x")));
    }
}
