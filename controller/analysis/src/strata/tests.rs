use super::*;
use crate::counters::{Arm, CounterKind, Sample};
use proptest::prelude::*;

fn bets() -> Bets {
    Bets::new(EvidenceConfig {
        warm_up_seconds: 0.0,
        ..EvidenceConfig::default()
    })
    .unwrap()
}

fn requests(count: usize) -> BTreeMap<String, f64> {
    let endpoint = |index: usize| {
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let requests = 1_000.0 - index as f64;
        (format!("/endpoint-{index:02}"), requests)
    };
    (0..count).map(endpoint).collect()
}

fn strata(endpoints: usize) -> (Strata, StrataState, Bets) {
    let bets = bets();
    let mut state = StrataState::default();
    let mut strata = Strata::resume(CounterConfig::default(), 0, &state);
    strata.set_endpoints(&mut state, &requests(endpoints), 0, &bets);
    (strata, state, bets)
}

fn add(state: &mut StrataState, bets: &Bets, stratum: usize, index: i64, counts: Counts) {
    let tick = Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts,
        ..Tick::default()
    };
    let terms = StrataTerms {
        k: 1.0,
        context: &RoundContext::default(),
    };
    state.strata[stratum].add(bets.config(), 0, &tick, &terms);
}

#[test]
fn the_busiest_endpoints_have_strata_and_the_others_share_one() {
    let (_, state, _) = strata(30);
    assert_eq!(state.strata.len(), MAX_STRATA);
    assert_eq!(state.index_of("/endpoint-00"), 0);
    assert_eq!(state.index_of("/endpoint-18"), 18);
    assert_eq!(state.index_of("/endpoint-19"), 19);
    assert_eq!(state.index_of("/new"), 19);
    assert_eq!(
        strata(1).1,
        StrataState::default(),
        "one endpoint is all requests"
    );
}

#[test]
fn a_broken_rare_endpoint_is_found_sooner_than_in_the_sum() {
    // 1 % of the requests fail at 10 %; the others at 0.05 % on both sides.
    let found = |has_strata: bool| {
        let (_, mut state, bets) = strata(if has_strata { 20 } else { 0 });
        let mut all = crate::Evidence::new(&bets, 0);
        for index in 0..240 {
            let has = |every: i64| f64::from(u8::from(index % every == 0));
            // 3 canary requests of the endpoint per scrape, one failure in three scrapes.
            let endpoint = Counts::new(3.0, has(3), 12.0, 0.0);
            let others = Counts::new(297.0, has(7), 1_188.0, has(2));
            let mut sum = endpoint;
            sum.add(&others);
            let tick = Tick {
                started_ms: index * 15_000,
                at_ms: (index + 1) * 15_000,
                counts: sum,
                ..Tick::default()
            };
            all.add(&bets, &tick, &RoundContext::default().of_tick(&tick));
            if has_strata {
                add(&mut state, &bets, 5, index, endpoint);
            }
            let ln_e = all.ln_e(&bets);
            let ln_e = if has_strata {
                state.ln_mean_with(ln_e, &bets)
            } else {
                ln_e
            };
            if ln_e >= 100_f64.ln() {
                return index;
            }
        }
        240
    };
    let (with, without) = (found(true), found(false));
    println!("rare endpoint: found after {with} scrapes with strata, {without} without");
    assert!(with * 3 < without * 2, "{with} {without}");
}

#[test]
fn the_endpoint_with_the_excess_is_named() {
    let (_, mut state, bets) = strata(3);
    assert_eq!(state.worst(&bets), None);
    for index in 0..10 {
        add(
            &mut state,
            &bets,
            0,
            index,
            Counts::new(100.0, 0.0, 100.0, 0.0),
        );
        add(
            &mut state,
            &bets,
            1,
            index,
            Counts::new(10.0, 3.0, 10.0, 0.0),
        );
    }
    let worst = state.worst(&bets).unwrap();
    assert_eq!(worst.name, "/endpoint-01");
    assert_eq!(worst.counts, Counts::new(100.0, 30.0, 100.0, 0.0));
}

#[test]
fn the_state_stays_small_and_survives_json_and_restarts_exactly() {
    let (mut strata, mut state, bets) = strata(30);
    let terms = StrataTerms {
        k: 1.5,
        context: &RoundContext::default(),
    };
    for index in 1..40_i64 {
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let value = |per_scrape: f64| (index as f64 * per_scrape).floor();
        let samples: Vec<Sample<'_>> = [
            (Arm::Canary, CounterKind::Total, 7.0),
            (Arm::Canary, CounterKind::Errors, 0.3),
            (Arm::Stable, CounterKind::Total, 70.0),
            (Arm::Stable, CounterKind::Errors, 0.2),
        ]
        .into_iter()
        .map(|(arm, kind, per_scrape)| Sample {
            source: "gateway",
            series: if arm == Arm::Canary {
                "canary"
            } else {
                "stable"
            },
            arm,
            kind,
            at_ms: index * 15_000,
            value: value(per_scrape),
        })
        .collect();
        let created = BTreeMap::new();
        let batch = SampleBatch {
            samples: &samples,
            source_created_ms: &created,
            settled_ms: index * 15_000,
            now_ms: index * 15_000,
        };
        strata.observe(&mut state, &bets, &[batch; MAX_STRATA], &terms);
    }
    assert!(state.strata[3].totals.canary_requests > 200.0);
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 600 * MAX_STRATA, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<StrataState>(&json).unwrap(), state);
    assert!(state.is_compatible(&bets));
}

proptest! {
    /// The condition of Ville's inequality: if each bad request is the canary's with at most its
    /// share of the requests times the tolerance, the expectation of the mean does not increase with
    /// the next tick.
    #[test]
    fn no_tick_on_the_null_raises_the_expectation(
        n_c in 1_u32..50, n_s in 1_u32..90, errors in 0_u32..12, below in 0.0_f64..=1.0, stratum in 0_usize..3,
    ) {
        let (_, mut state, bets) = strata(2);
        add(&mut state, &bets, stratum, 0, Counts::new(10.0, 1.0, 90.0, 2.0));
        let weighted = bets.config().rho0 * f64::from(n_c);
        let share = below * weighted / (weighted + f64::from(n_s));
        let before = state.ln_mean_with(0.0, &bets).exp();
        let mut expected = 0.0;
        for e_c in 0..=errors {
            let mut after = state.clone();
            let e_s = errors - e_c;
            add(&mut after, &bets, stratum, 1, Counts::new(n_c.into(), e_c.into(), n_s.into(), e_s.into()));
            let ways: f64 = (0..e_c).map(|i| f64::from(errors - i) / f64::from(i + 1)).product();
            let chance = ways * share.powf(f64::from(e_c)) * (1.0 - share).powf(f64::from(e_s));
            expected += chance * after.ln_mean_with(0.0, &bets).exp();
        }
        prop_assert!(expected <= before * (1.0 + 1e-9), "from {before} to {expected}");
    }
}
