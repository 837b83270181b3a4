use super::*;

fn tick(index: i64, counts: Counts) -> Tick {
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts,
        ..Tick::default()
    }
}

const NO_WARM_UP: TickContext = TickContext {
    warm_up_ends_ms: 0,
    weight_changed_at_ms: 0,
    young_share: None,
};

fn run(bets: &Bets, context: &TickContext, ticks: impl IntoIterator<Item = Counts>) -> Evidence {
    let mut evidence = Evidence::new(bets, 0);
    for (index, counts) in ticks.into_iter().enumerate() {
        evidence.add(bets, &tick(i64::try_from(index).unwrap(), counts), context);
    }
    evidence
}

#[test]
fn a_bad_release_and_a_fix_are_both_evident() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let bad = Counts::new(150.0, 5.0, 1350.0, 1.0);
    let worse = run(&bets, &NO_WARM_UP, [bad; 12]);
    assert!(worse.ln_e(&bets) > 100_f64.ln());
    assert!(worse.ln_e_reversed(&bets) < 0.0);
    let fix = run(&bets, &NO_WARM_UP, [bad.exchanged(); 12]);
    assert!(fix.ln_e(&bets) < 0.0);
    assert!(fix.ln_e_reversed(&bets) > 100_f64.ln());
}

#[test]
fn the_warm_up_tolerates_spikes_but_not_outages() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let warming_up = TickContext {
        warm_up_ends_ms: 60_000,
        ..NO_WARM_UP
    };
    let spike = run(
        &bets,
        &warming_up,
        [Counts::new(150.0, 5.0, 1350.0, 1.0); 4],
    );
    assert!(
        spike.ln_e(&bets) < 1.0,
        "a spike of 3 % is tolerated: {}",
        spike.ln_e(&bets)
    );
    let broken = run(
        &bets,
        &warming_up,
        [Counts::new(150.0, 75.0, 1350.0, 1.0); 2],
    );
    assert!(
        broken.ln_e(&bets) > 100_f64.ln(),
        "half of the requests failing is not tolerated: {}",
        broken.ln_e(&bets)
    );
    assert!(
        spike.excess_errors(bets.config()) > 19.0,
        "errors of the warm-up are charged"
    );
    assert_eq!(
        spike.upper(&bets, 0.05),
        1.0,
        "the warm-up does not count toward promotion"
    );
}

#[test]
fn the_state_is_small_and_survives_json_exactly() {
    let config = EvidenceConfig::default().with_history(5e-4);
    let bets = Bets::new(config).unwrap();
    let evidence = run(
        &bets,
        &NO_WARM_UP,
        (0..500).map(|i| Counts::new(151.0, f64::from(i % 3), 1349.0, f64::from(i % 2))),
    );
    let json = serde_json::to_string(&evidence).unwrap();
    assert!(json.len() < 4096, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    assert!(evidence.is_compatible(&bets));
    assert!(!evidence.is_compatible(&Bets::new(EvidenceConfig::default()).unwrap()));
}

#[test]
fn the_share_is_counted_separately_at_every_weight() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let counts = Counts::new(5.0, 0.0, 95.0, 0.0);
    evidence.add(&bets, &tick(0, counts), &NO_WARM_UP);
    let changed = TickContext {
        weight_changed_at_ms: 20_000,
        ..NO_WARM_UP
    };
    evidence.add(&bets, &tick(1, counts), &changed);
    assert_eq!(
        evidence.at_weight,
        Counts::default(),
        "the tick with the weight change counts for neither weight"
    );
    evidence.add(&bets, &tick(2, counts), &changed);
    assert_eq!(evidence.at_weight, counts);
}

#[test]
fn the_scrape_of_a_weight_change_is_charged_but_not_bet_on() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = run(
        &bets,
        &NO_WARM_UP,
        [Counts::new(150.0, 0.0, 1350.0, 1.0); 4],
    );
    let (ln_e, lower) = (evidence.ln_e(&bets), evidence.lower(&bets, 0.01));
    let spent = evidence.excess_errors(bets.config());
    let changed = TickContext {
        weight_changed_at_ms: 70_000,
        ..NO_WARM_UP
    };
    evidence.add(
        &bets,
        &tick(4, Counts::new(150.0, 60.0, 1350.0, 60.0)),
        &changed,
    );
    assert!((evidence.ln_e(&bets) - ln_e).abs() < 1e-12);
    assert_eq!(evidence.lower(&bets, 0.01), lower);
    assert!(evidence.excess_errors(bets.config()) > spent + 50.0);
    evidence.add(
        &bets,
        &tick(5, Counts::new(150.0, 6.0, 1350.0, 1.0)),
        &changed,
    );
    assert!(evidence.ln_e(&bets) > ln_e, "the next one is bet on");
}

#[test]
fn a_scrape_that_reaches_back_to_the_weight_change_is_not_bet_on() {
    let changed = TickContext {
        weight_changed_at_ms: 14_000,
        ..NO_WARM_UP
    };
    let second = tick(1, Counts::default());
    assert!(!changed.changes_weight(&second));
    let reaching_back = Tick {
        counts_since_ms: Some(13_000),
        ..second
    };
    assert!(changed.changes_weight(&reaching_back));
    assert!(changed.changes_weight(&tick(0, Counts::default())));
}

#[test]
fn evidence_of_an_earlier_version_is_read_and_continues() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let old = r#"{"beganMs":0,"ticks":2,
        "totals":{"canaryRequests":300.0,"canaryErrors":4.0,"stableRequests":2700.0,"stableErrors":2.0},
        "atWeight":{"canaryRequests":300.0,"canaryErrors":4.0,"stableRequests":2700.0,"stableErrors":2.0},
        "atWeightSinceMs":0,
        "rollback":{"lnValues":[1.0,1.5,2.0,2.5,3.0,2.0,1.0,-4.0],"cash":0.4},
        "cure":{"lnValues":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,null],"cash":0.4},
        "funding":{"started":true,"warmedUp":true,"restartsPaid":0},
        "worse":{"atZero":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],"slopes":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0]},
        "better":{"atZero":[0.0,0.0,0.0,0.0,0.0,0.0,0.0],"slopes":[0.0,0.0,0.0,0.0,0.0,0.0,0.0]},
        "dispersion":{"numerator":26.0,"denominator":11.0},
        "spent":{"closed":1.0,"openedMs":0,"block":{"canaryRequests":300.0,"canaryErrors":4.0,"stableRequests":2700.0,"stableErrors":2.0}}}"#;
    let mut evidence: Evidence = serde_json::from_str(old).unwrap();
    assert!(evidence.is_compatible(&bets));
    assert!((evidence.k(bets.config()) - 26.0 / 11.0).abs() < 1e-12);
    let before = evidence.ln_e(&bets);
    evidence.add(&bets, &tick(2, Counts::default()), &NO_WARM_UP);
    assert!(
        (evidence.ln_e(&bets) - before).abs() < 1e-12,
        "it continues where it was"
    );
    for index in 3..40 {
        let counts = Counts::new(150.0, 5.0, 1350.0, 1.0);
        evidence.add(&bets, &tick(index, counts), &NO_WARM_UP);
    }
    assert!(evidence.ln_e(&bets) > 100_f64.ln());
    let json = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
}

#[test]
fn bursts_within_a_scrape_do_not_convince_the_share_bets() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    // Every fifth burst of 20 errors hits the canary, which has a fifth of the requests.
    let burst = |index: u32| {
        if index.is_multiple_of(5) {
            Counts::new(300.0, 20.0, 1200.0, 0.0)
        } else {
            Counts::new(300.0, 0.0, 1200.0, 20.0)
        }
    };
    let evidence = run(&bets, &NO_WARM_UP, (0..60).map(burst));
    assert!(evidence.ln_e_of_shares(&bets).unwrap() < 2.0);
}

#[test]
fn clustered_errors_of_stable_pods_temper_the_next_ticks() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let pods = vec![
        PodCounts {
            requests: 500.0,
            errors: 9.0,
            ..Default::default()
        },
        PodCounts {
            requests: 500.0,
            ..Default::default()
        },
    ];
    let clustered = Tick {
        stable_pods: pods,
        ..tick(0, Counts::new(150.0, 9.0, 1000.0, 9.0))
    };
    evidence.add(&bets, &clustered, &NO_WARM_UP);
    let untempered = run(&bets, &NO_WARM_UP, [clustered.counts]);
    assert_eq!(evidence.ln_e(&bets), untempered.ln_e(&bets));
    assert!(evidence.k(bets.config()) > 9.0);
}

#[test]
fn bursts_that_both_arms_share_cost_a_gateway_no_power() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    // Stable's errors come in bursts of a scrape, before the release and during it.
    let errors = |index: i64| if index % 3 == 0 { 60.0 } else { 4.0 };
    let history: Vec<_> = (0..240)
        .map(|index| tick(index, Counts::new(0.0, 0.0, 1_000.0, errors(index))))
        .collect();
    let mut evidence = Evidence::new(&bets, 0);
    evidence.learn_dispersion(&history);
    assert!(
        evidence.k(bets.config()) > 10.0,
        "they might reach one arm as a whole"
    );
    for index in 0..16 {
        let counts = Counts::new(250.0, errors(index) / 4.0, 1_000.0, errors(index));
        evidence.add(&bets, &tick(index, counts), &NO_WARM_UP);
    }
    assert_eq!(
        evidence.k(bets.config()),
        1.0,
        "the release shows that they do not"
    );
    assert!(!evidence.clusters_last());
    let json = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
}

#[test]
fn a_weight_change_between_two_ticks_is_no_cluster_of_requests() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let mut changed_at_ms = 0;
    for index in 0..40_i64 {
        let started_ms = index * 15_000;
        // The weight rises from 5 % to 50 % exactly between two ticks, in steps.
        let percent = [5.0, 10.0, 20.0, 50.0][usize::try_from(index / 10).unwrap()];
        if index % 10 == 0 {
            changed_at_ms = started_ms;
        }
        // Both arms fail ten times as often in the ticks of a burst.
        let rate = if (5..9).contains(&(index % 20)) {
            5e-3
        } else {
            5e-4
        };
        let canary = 15_000.0 * percent / 100.0;
        let stable = 15_000.0 - canary;
        let errors = |requests: f64| (requests * rate).round();
        let tick = Tick {
            started_ms,
            at_ms: started_ms + 15_000,
            counts: Counts::new(canary, errors(canary), stable, errors(stable)),
            ..Tick::default()
        };
        let context = TickContext {
            warm_up_ends_ms: 0,
            weight_changed_at_ms: changed_at_ms,
            young_share: None,
        };
        evidence.add(&bets, &tick, &context);
    }
    assert!(!evidence.clusters_last());
    // The bursts reach both arms alike, which the release shows.
    assert_eq!(evidence.k(bets.config()), 1.0);
}
