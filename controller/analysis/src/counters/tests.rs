//! Rounds: of one source, of many, with misses, replays, restarts.

use super::*;
use proptest::prelude::*;

const INTERVAL_MS: i64 = 15_000;

fn config() -> CounterConfig {
    CounterConfig::default()
}

#[derive(Debug, Clone, PartialEq)]
struct Owned {
    source: String,
    series: String,
    arm: Arm,
    kind: Kind,
    at_ms: i64,
    value: f64,
}

impl Owned {
    fn new(source: &str, arm: Arm, kind: Kind, at_ms: i64, value: f64) -> Self {
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

fn feed(
    counters: &mut Counters,
    samples: &[Owned],
    births: &BTreeMap<String, i64>,
    settled_ms: i64,
) -> Rounds {
    let samples: Vec<_> = samples.iter().map(Owned::sample).collect();
    counters.feed(&Feed {
        samples: &samples,
        births,
        settled_ms,
        now_ms: settled_ms.saturating_add(20_000),
    })
}

fn gateway(at_ms: i64, canary: f64, stable: f64, errors: f64) -> [Owned; 3] {
    [
        Owned::new("gw", Arm::Canary, Kind::Total, at_ms, canary),
        Owned::new("gw", Arm::Stable, Kind::Total, at_ms, stable),
        Owned::new("gw", Arm::Stable, Kind::Errors, at_ms, errors),
    ]
}

#[test]
fn every_scrape_of_a_gateway_is_a_round_at_once() {
    let mut counters = Counters::resume(config(), 0, 0);
    let samples = [
        gateway(-1000, 0.0, 100.0, 1.0),
        gateway(14_000, 10.0, 190.0, 2.0),
        gateway(29_000, 22.0, 270.0, 2.0),
    ]
    .concat();
    let rounds = feed(&mut counters, &samples, &BTreeMap::new(), 0);
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
        feed(&mut counters, &samples, &BTreeMap::new(), 60_000).ticks,
        [],
        "a replay changes nothing"
    );
}

#[test]
fn a_round_of_pods_waits_for_all_of_them() {
    let mut counters = Counters::resume(config(), 0, 0);
    let pod = |name: &str, at_ms, value| Owned::new(name, Arm::Stable, Kind::Total, at_ms, value);
    let mut samples = vec![
        pod("a", -10_000, 5.0),
        pod("b", -5000, 5.0),
        pod("a", 5000, 10.0),
        pod("b", 10_000, 20.0),
    ];
    assert_eq!(
        feed(&mut counters, &samples[..3], &BTreeMap::new(), 9000).ticks,
        []
    );
    let rounds = feed(&mut counters, &samples, &BTreeMap::new(), 10_000);
    assert_eq!(rounds.ticks.len(), 1);
    assert_eq!(rounds.ticks[0].at_ms, 10_000);
    assert_eq!(rounds.ticks[0].counts.stable_requests, 20.0);
    assert_eq!(rounds.ticks[0].stable_pods.len(), 2);

    // b misses two scrapes: the round closes without it, and what it counted comes later.
    samples.extend([
        pod("a", 20_000, 11.0),
        pod("a", 35_000, 12.0),
        pod("b", 55_000, 50.0),
        pod("a", 50_000, 13.0),
    ]);
    let rounds = feed(&mut counters, &samples, &BTreeMap::new(), 60_000);
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
    let rounds = feed(&mut counters, &samples, &BTreeMap::new(), 77_500);
    assert_eq!(
        (
            rounds.ticks[0].at_ms,
            rounds.ticks[0].counts.stable_requests
        ),
        (77_500, 30.0)
    );
}

#[test]
fn a_pod_born_in_the_rollout_counts_from_nothing() {
    let births = BTreeMap::from([("new".to_owned(), 3000), ("old".to_owned(), -90_000)]);
    let mut counters = Counters::resume(config(), 0, 0);
    let samples = [
        Owned::new("new", Arm::Canary, Kind::Total, 9000, 40.0),
        Owned::new("new", Arm::Canary, Kind::Errors, 9000, 4.0),
        Owned::new("old", Arm::Stable, Kind::Total, 9000, 5000.0),
    ];
    let rounds = feed(&mut counters, &samples, &births, 9000);
    assert_eq!(rounds.ticks[0].counts, Counts::new(40.0, 4.0, 0.0, 0.0));
}

#[test]
fn a_pod_that_comes_back_after_it_was_forgotten_is_not_counted_twice() {
    let births = BTreeMap::from([("canary".to_owned(), 1000)]);
    let mut counters = Counters::resume(config(), 0, 0);
    let at = |at_ms, value| [Owned::new("canary", Arm::Canary, Kind::Total, at_ms, value)];
    assert_eq!(
        feed(&mut counters, &at(10_000, 100.0), &births, 10_000).ticks[0]
            .counts
            .canary_requests,
        100.0
    );
    let back = feed(
        &mut counters,
        &at(10_000 + config().forget_ms, 900.0),
        &births,
        400_000,
    );
    assert_eq!(back.ticks[0].counts.canary_requests, 0.0);
}

#[test]
fn errors_without_their_requests_wait() {
    let mut counters = Counters::resume(config(), 0, 0);
    feed(
        &mut counters,
        &gateway(10_000, 0.0, 100.0, 1.0),
        &BTreeMap::new(),
        10_000,
    );
    let torn = [Owned::new("gw", Arm::Stable, Kind::Errors, 25_000, 9.0)];
    assert_eq!(
        feed(&mut counters, &torn, &BTreeMap::new(), 30_000).ticks,
        []
    );
    let healed = feed(
        &mut counters,
        &gateway(40_000, 0.0, 200.0, 12.0),
        &BTreeMap::new(),
        40_000,
    );
    assert_eq!(healed.ticks[0].counts, Counts::new(0.0, 0.0, 100.0, 11.0));
}

#[test]
fn what_is_not_a_count_is_left_out_and_told() {
    let mut counters = Counters::resume(config(), 0, 0);
    let mut samples = gateway(10_000, f64::NAN, 100.0, -1.0).to_vec();
    samples.extend(gateway(900_000, 1.0, 1.0, 1.0));
    let rounds = feed(&mut counters, &samples, &BTreeMap::new(), 10_000);
    assert_eq!(rounds.not_a_number_at_ms, Some(10_000));
    assert_eq!(rounds.from_the_future, 3);
    assert_eq!(rounds.ticks.len(), 1);
    assert!(!rounds.selector_matched_stable);
}

/// A world of sources that are born, miss scrapes, restart and die, as the samples that Prometheus
/// would have.
#[derive(Debug, Clone)]
struct World {
    samples: Vec<Owned>,
    births: BTreeMap<String, i64>,
    ends_ms: i64,
}

/// One scrape: whether it is missed, the requests since the last one, which of them fail, whether
/// the process restarted.
type Step = (u8, u16, u8, u8);

fn source_samples(name: &str, arm: Arm, from_ms: i64, steps: &[Step], samples: &mut Vec<Owned>) {
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
        samples.push(Owned::new(name, arm, Kind::Total, at_ms, total));
        if errors > 0.0 {
            samples.push(Owned::new(name, arm, Kind::Errors, at_ms, errors));
        }
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let step = (any::<u8>(), any::<u16>(), any::<u8>(), any::<u8>());
    let source = (
        any::<bool>(),
        -120_000_i64..200_000,
        prop::collection::vec(step, 1..40),
    );
    prop::collection::vec(source, 1..6).prop_map(|sources| {
        let (mut samples, mut births) = (Vec::new(), BTreeMap::new());
        for (index, (canary, from_ms, steps)) in sources.iter().enumerate() {
            let name = format!("pod-{index}");
            births.insert(name.clone(), from_ms - 3000);
            let arm = if *canary { Arm::Canary } else { Arm::Stable };
            source_samples(&name, arm, *from_ms, steps, &mut samples);
        }
        samples.sort_by_key(|sample| sample.at_ms);
        let ends_ms = samples.last().map_or(0, |sample| sample.at_ms) + 100_000;
        World {
            samples,
            births,
            ends_ms,
        }
    })
}

fn whole(world: &World) -> (Vec<Tick>, Counters) {
    let mut counters = Counters::resume(config(), 0, 0);
    let ticks = feed(&mut counters, &world.samples, &world.births, world.ends_ms).ticks;
    (ticks, counters)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn rounds_do_not_depend_on_how_they_are_read(
        world in worlds(), polls in prop::collection::vec((0_i64..700_000, any::<bool>(), any::<u64>()), 1..12),
    ) {
        let (expected, _) = whole(&world);
        let mut polls = polls;
        polls.sort_unstable();
        polls.push((world.ends_ms, false, 0));
        let mut counters = Counters::resume(config(), 0, 0);
        let mut ticks = Vec::new();
        for (settled_ms, restart, shuffle) in polls {
            if restart {
                // The process dies: all that is left is when the last round closed.
                counters = Counters::resume(config(), 0, counters.round_at_ms());
            }
            // What a query at this moment shows, with an overlap, duplicates, in no order.
            let from_ms = counters.read_from_ms() - 30_000;
            let mut seen: Vec<_> = world.samples.iter().filter(|s| s.at_ms > from_ms && s.at_ms <= settled_ms).cloned().collect();
            if let Some(first) = seen.first().cloned() {
                seen.push(first);
            }
            let length = seen.len().max(1);
            seen.rotate_left(usize::try_from(shuffle % u64::try_from(length).unwrap()).unwrap());
            ticks.extend(feed(&mut counters, &seen, &world.births, settled_ms).ticks);
        }
        prop_assert_eq!(ticks, expected);
    }

    #[test]
    fn nothing_is_counted_twice_and_errors_are_requests(world in worlds()) {
        let (ticks, _) = whole(&world);
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
        let samples: Vec<_> = samples.into_iter().map(|(source, series, canary, kind, at_ms, value)| Owned {
            source: source.to_string(),
            series: series.to_string(),
            arm: if canary { Arm::Canary } else { Arm::Stable },
            kind: [Kind::Total, Kind::Errors, Kind::Good][usize::from(kind)],
            at_ms,
            value,
        }).collect();
        let births = BTreeMap::from([("0".to_owned(), began_ms), ("1".to_owned(), i64::MAX), ("2".to_owned(), i64::MIN)]);
        let mut counters = Counters::resume(config(), began_ms, began_ms);
        for (now_ms, settled_ms) in clocks {
            let samples: Vec<_> = samples.iter().map(Owned::sample).collect();
            let rounds = counters.feed(&Feed { samples: &samples, births: &births, settled_ms, now_ms });
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
