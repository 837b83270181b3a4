//! Rounds of one and of several sources, with missed scrapes, replays and restarts.

use super::*;
use proptest::prelude::*;

const INTERVAL_MS: i64 = 15_000;

fn config() -> CounterConfig {
    CounterConfig::default()
}

#[derive(Debug, Clone, PartialEq)]
struct OwnedSample {
    source: String,
    series: String,
    arm: Arm,
    kind: CounterKind,
    at_ms: i64,
    value: f64,
}

impl OwnedSample {
    fn new(source: &str, arm: Arm, kind: CounterKind, at_ms: i64, value: f64) -> Self {
        Self {
            source: source.into(),
            series: format!("{kind:?}"),
            arm,
            kind,
            at_ms,
            value,
        }
    }

    fn sample(&self) -> Sample<'_> {
        let Self {
            source,
            series,
            arm,
            kind,
            at_ms,
            value,
        } = self;
        Sample {
            source,
            series,
            arm: *arm,
            kind: *kind,
            at_ms: *at_ms,
            value: *value,
        }
    }
}

fn add_samples(
    counters: &mut RoundBuilder,
    samples: &[OwnedSample],
    source_created_ms: &BTreeMap<String, i64>,
    settled_ms: i64,
) -> Rounds {
    let samples: Vec<_> = samples.iter().map(OwnedSample::sample).collect();
    counters.add_samples(&SampleBatch {
        samples: &samples,
        source_created_ms,
        settled_ms,
        now_ms: settled_ms.saturating_add(20_000),
    })
}

fn gateway(at_ms: i64, canary: f64, stable: f64, errors: f64) -> [OwnedSample; 3] {
    [
        OwnedSample::new("gw", Arm::Canary, CounterKind::Total, at_ms, canary),
        OwnedSample::new("gw", Arm::Stable, CounterKind::Total, at_ms, stable),
        OwnedSample::new("gw", Arm::Stable, CounterKind::Errors, at_ms, errors),
    ]
}

#[test]
fn every_scrape_of_a_gateway_closes_a_round_immediately() {
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    let samples = [
        gateway(-1000, 0.0, 100.0, 1.0),
        gateway(14_000, 10.0, 190.0, 2.0),
        gateway(29_000, 22.0, 270.0, 2.0),
    ]
    .concat();
    let rounds = add_samples(&mut counters, &samples, &BTreeMap::new(), 0);
    let counts: Vec<_> = rounds
        .ticks
        .iter()
        .map(|tick| (tick.started_ms, tick.at_ms, tick.counts))
        .collect();
    assert_eq!(
        counts,
        [
            (0, 14_000, Counts::new(10.0, 0.0, 90.0, 1.0)),
            (14_000, 29_000, Counts::new(12.0, 0.0, 80.0, 0.0))
        ]
    );
    assert!(rounds.selector_matched_stable);
    assert_eq!(
        (
            rounds.canary_at_ms,
            rounds.stable_at_ms,
            rounds.canary_requests_at_ms
        ),
        (Some(29_000), Some(29_000), Some(29_000))
    );
    assert!(rounds.ticks[0].stable_pods.is_empty());
    assert_eq!(
        add_samples(&mut counters, &samples, &BTreeMap::new(), 60_000).ticks,
        [],
        "a replay changes nothing"
    );
}

#[test]
fn a_round_of_pods_waits_for_all_of_them() {
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    let pod = |name: &str, at_ms, value| {
        OwnedSample::new(name, Arm::Stable, CounterKind::Total, at_ms, value)
    };
    let mut samples = vec![
        pod("a", -10_000, 5.0),
        pod("b", -5000, 5.0),
        pod("a", 5000, 10.0),
        pod("b", 10_000, 20.0),
    ];
    assert_eq!(
        add_samples(&mut counters, &samples[..3], &BTreeMap::new(), 9000).ticks,
        []
    );
    let rounds = add_samples(&mut counters, &samples, &BTreeMap::new(), 10_000);
    assert_eq!(rounds.ticks.len(), 1);
    assert_eq!(rounds.ticks[0].at_ms, 10_000);
    assert_eq!(rounds.ticks[0].counts.stable_requests, 20.0);
    assert_eq!(rounds.ticks[0].stable_pods.len(), 2);

    // b misses two scrapes: the round closes without it, and its increment follows later.
    samples.extend([
        pod("a", 20_000, 11.0),
        pod("a", 35_000, 12.0),
        pod("b", 55_000, 50.0),
        pod("a", 50_000, 13.0),
    ]);
    let rounds = add_samples(&mut counters, &samples, &BTreeMap::new(), 60_000);
    let counts: Vec<_> = rounds
        .ticks
        .iter()
        .map(|tick| (tick.at_ms, tick.counts.stable_requests))
        .collect();
    assert_eq!(
        counts,
        [(42_500, 2.0), (50_000, 1.0)],
        "a may still be late to the third"
    );
    let rounds = add_samples(&mut counters, &samples, &BTreeMap::new(), 77_500);
    assert_eq!(
        (
            rounds.ticks[0].at_ms,
            rounds.ticks[0].counts.stable_requests
        ),
        (77_500, 30.0)
    );
}

#[test]
fn a_pod_created_during_the_rollout_counts_from_zero() {
    let source_created_ms = BTreeMap::from([("new".to_owned(), 3000), ("old".to_owned(), -90_000)]);
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    let samples = [
        OwnedSample::new("new", Arm::Canary, CounterKind::Total, 9000, 40.0),
        OwnedSample::new("new", Arm::Canary, CounterKind::Errors, 9000, 4.0),
        OwnedSample::new("old", Arm::Stable, CounterKind::Total, 9000, 5000.0),
    ];
    let rounds = add_samples(&mut counters, &samples, &source_created_ms, 9000);
    assert_eq!(rounds.ticks[0].counts, Counts::new(40.0, 4.0, 0.0, 0.0));
}

#[test]
fn a_pod_that_reappears_after_expiry_is_not_counted_twice() {
    let source_created_ms = BTreeMap::from([("canary".to_owned(), 1000)]);
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    let at = |at_ms, value| {
        [OwnedSample::new(
            "canary",
            Arm::Canary,
            CounterKind::Total,
            at_ms,
            value,
        )]
    };
    assert_eq!(
        add_samples(
            &mut counters,
            &at(10_000, 100.0),
            &source_created_ms,
            10_000
        )
        .ticks[0]
            .counts
            .canary_requests,
        100.0
    );
    let back = add_samples(
        &mut counters,
        &at(10_000 + config().forget_ms, 900.0),
        &source_created_ms,
        400_000,
    );
    assert_eq!(back.ticks[0].counts.canary_requests, 0.0);
}

#[test]
fn errors_without_requests_are_deferred() {
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    add_samples(
        &mut counters,
        &gateway(10_000, 0.0, 100.0, 1.0),
        &BTreeMap::new(),
        10_000,
    );
    let incomplete = [OwnedSample::new(
        "gw",
        Arm::Stable,
        CounterKind::Errors,
        25_000,
        9.0,
    )];
    assert_eq!(
        add_samples(&mut counters, &incomplete, &BTreeMap::new(), 30_000).ticks,
        []
    );
    let complete = add_samples(
        &mut counters,
        &gateway(40_000, 0.0, 200.0, 12.0),
        &BTreeMap::new(),
        40_000,
    );
    assert_eq!(complete.ticks[0].counts, Counts::new(0.0, 0.0, 100.0, 11.0));
}

#[test]
fn invalid_samples_are_ignored_and_reported() {
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    let mut samples = gateway(10_000, f64::NAN, 100.0, -1.0).to_vec();
    samples.extend(gateway(900_000, 1.0, 1.0, 1.0));
    let rounds = add_samples(&mut counters, &samples, &BTreeMap::new(), 10_000);
    assert_eq!(rounds.not_a_number_at_ms, Some(10_000));
    assert_eq!(rounds.future_samples, 3);
    assert_eq!(rounds.ticks.len(), 1);
    assert!(!rounds.selector_matched_stable);
}

/// Generated samples of sources that start, miss scrapes, restart and end.
#[derive(Debug, Clone)]
struct GeneratedSamples {
    samples: Vec<OwnedSample>,
    source_created_ms: BTreeMap<String, i64>,
    ends_ms: i64,
}

/// One scrape: missed if low, requests since the last one, error rate in 1/255, restarted if low.
type Step = (u8, u16, u8, u8);

fn source_samples(
    name: &str,
    arm: Arm,
    from_ms: i64,
    steps: &[Step],
    samples: &mut Vec<OwnedSample>,
) {
    let (mut total, mut errors) = (0.0, 0.0);
    for (index, (miss, requests, percent, restart)) in steps.iter().enumerate() {
        let at_ms = from_ms + i64::try_from(index).unwrap() * INTERVAL_MS;
        if *restart < 8 {
            (total, errors) = (0.0, 0.0);
        }
        total += f64::from(*requests);
        errors += (f64::from(*requests) * f64::from(*percent) / 255.0).floor();
        if *miss < 40 {
            continue;
        }
        samples.push(OwnedSample::new(
            name,
            arm,
            CounterKind::Total,
            at_ms,
            total,
        ));
        if errors > 0.0 {
            samples.push(OwnedSample::new(
                name,
                arm,
                CounterKind::Errors,
                at_ms,
                errors,
            ));
        }
    }
}

fn generated_samples() -> impl Strategy<Value = GeneratedSamples> {
    let step = (any::<u8>(), any::<u16>(), any::<u8>(), any::<u8>());
    let source = (
        any::<bool>(),
        -120_000_i64..200_000,
        prop::collection::vec(step, 1..40),
    );
    prop::collection::vec(source, 1..6).prop_map(|sources| {
        let (mut samples, mut source_created_ms) = (Vec::new(), BTreeMap::new());
        for (index, (canary, from_ms, steps)) in sources.iter().enumerate() {
            let name = format!("pod-{index}");
            source_created_ms.insert(name.clone(), from_ms - 3000);
            let arm = if *canary { Arm::Canary } else { Arm::Stable };
            source_samples(&name, arm, *from_ms, steps, &mut samples);
        }
        samples.sort_by_key(|sample| sample.at_ms);
        let ends_ms = samples.last().map_or(0, |sample| sample.at_ms) + 100_000;
        GeneratedSamples {
            samples,
            source_created_ms,
            ends_ms,
        }
    })
}

fn process_at_once(generated: &GeneratedSamples) -> (Vec<Tick>, RoundBuilder) {
    let mut counters = RoundBuilder::resume(config(), 0, 0);
    let ticks = add_samples(
        &mut counters,
        &generated.samples,
        &generated.source_created_ms,
        generated.ends_ms,
    )
    .ticks;
    (ticks, counters)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn rounds_do_not_depend_on_the_batches(
        generated in generated_samples(), polls in prop::collection::vec((0_i64..700_000, any::<bool>(), any::<u64>()), 1..12),
    ) {
        let (expected, _) = process_at_once(&generated);
        let mut polls = polls;
        polls.sort_unstable();
        polls.push((generated.ends_ms, false, 0));
        let mut counters = RoundBuilder::resume(config(), 0, 0);
        let mut ticks = Vec::new();
        for (settled_ms, restart, shuffle) in polls {
            if restart {
                // The process restarts: only the time at which the last round closed is kept.
                counters = RoundBuilder::resume(config(), 0, counters.round_at_ms());
            }
            // The result of a query at this time, with an overlap, duplicates and in arbitrary
            // order.
            let from_ms = counters.read_from_ms() - 30_000;
            let mut seen: Vec<_> = generated.samples.iter().filter(|s| s.at_ms > from_ms && s.at_ms <= settled_ms).cloned().collect();
            if let Some(first) = seen.first().cloned() {
                seen.push(first);
            }
            let length = seen.len().max(1);
            seen.rotate_left(usize::try_from(shuffle % u64::try_from(length).unwrap()).unwrap());
            ticks.extend(add_samples(&mut counters, &seen, &generated.source_created_ms, settled_ms).ticks);
        }
        prop_assert_eq!(ticks, expected);
    }

    #[test]
    fn nothing_is_counted_twice_and_errors_never_exceed_requests(generated in generated_samples()) {
        let (ticks, _) = process_at_once(&generated);
        let mut last_ms = 0;
        for tick in &ticks {
            prop_assert_eq!(tick.started_ms, last_ms);
            prop_assert!(tick.at_ms > tick.started_ms);
            prop_assert!(tick.counts.canary_errors <= tick.counts.canary_requests);
            prop_assert!(tick.counts.stable_errors <= tick.counts.stable_requests);
            last_ms = tick.at_ms;
        }
    }

}

proptest! {
    #[test]
    fn fuzz_any_samples_of_counters(
        samples in prop::collection::vec((0_u8..3, 0_u8..3, any::<bool>(), 0_u8..3, any::<i64>(), any::<f64>()), 0..60),
        clocks in prop::collection::vec((any::<i64>(), any::<i64>()), 1..5), began_ms: i64,
    ) {
        let samples: Vec<_> = samples.into_iter().map(|(source, series, canary, kind, at_ms, value)| OwnedSample {
            source: source.to_string(),
            series: series.to_string(),
            arm: if canary { Arm::Canary } else { Arm::Stable },
            kind: [CounterKind::Total, CounterKind::Errors, CounterKind::Good][usize::from(kind)],
            at_ms,
            value,
        }).collect();
        let source_created_ms = BTreeMap::from([("0".to_owned(), began_ms), ("1".to_owned(), i64::MAX), ("2".to_owned(), i64::MIN)]);
        let mut counters = RoundBuilder::resume(config(), began_ms, began_ms);
        for (now_ms, settled_ms) in clocks {
            let samples: Vec<_> = samples.iter().map(OwnedSample::sample).collect();
            let rounds = counters.add_samples(&SampleBatch { samples: &samples, source_created_ms: &source_created_ms, settled_ms, now_ms });
            for tick in rounds.ticks {
                let counts = tick.counts;
                prop_assert!(counts.canary_errors <= counts.canary_requests);
                prop_assert!(counts.stable_errors <= counts.stable_requests);
                prop_assert!(counts.canary_requests >= 0.0 && counts.stable_requests >= 0.0);
                prop_assert!(!counts.canary_errors.is_nan() && !counts.stable_errors.is_nan());
            }
        }
    }
}
