//! Claims after a history and a release with given errors.

use super::*;
use crate::counts::{Counts, PodCounts, Tick};
use crate::evidence::{Bets, TickContext};

const ALPHA: f64 = 0.01;
const GATEWAY: Claim = Claim::Gateway {
    k: 1.0,
    unit: RoutedUnit::Request,
};

fn pods(errors: &[f64]) -> Vec<PodCounts> {
    let pod = |errors: &f64| PodCounts {
        requests: 500.0,
        errors: *errors,
        ..PodCounts::default()
    };
    errors.iter().map(pod).collect()
}

fn tick(index: i64, stable: &[f64], canary: &[f64]) -> Tick {
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: Counts::new(100.0, canary.iter().sum(), 2_000.0, stable.iter().sum()),
        stable_pods: pods(stable),
        canary_pods: pods(canary),
        ..Tick::default()
    }
}

/// The claim after a history and a release with these errors of stable's pods in each scrape.
fn claim_after(
    history: impl Fn(i64) -> Vec<f64>,
    release: impl Fn(i64) -> Vec<f64>,
    canary: &[f64],
) -> Claim {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let ticks: Vec<_> = (0..240)
        .map(|index| tick(index, &history(index), &[]))
        .collect();
    evidence.learn_dispersion(&ticks);
    for index in 0..64 {
        let tick = tick(index, &release(index), canary);
        evidence.add(&bets, &tick, &TickContext::default());
    }
    claim(&evidence, bets.config(), ALPHA)
}

fn rotating(size: f64) -> impl Fn(i64) -> Vec<f64> {
    move |index| {
        (0..4)
            .map(|pod| if index % 4 == pod { size } else { 0.0 })
            .collect()
    }
}

#[test]
fn independent_errors_support_the_bound_per_request() {
    let claim = claim_after(rotating(1.0), rotating(1.0), &[0.0]);
    assert_eq!(claim, Claim::PerRequest);
    assert_eq!(
        claim.sentence("Evidence this strong rolls back a good release", 100.0),
        "Evidence this strong rolls back a good release at most 1 time in 100, if requests fail \
         independently of each other."
    );
}

#[test]
fn clusters_before_the_release_are_part_of_the_condition() {
    let claim = claim_after(rotating(8.0), rotating(8.0), &[0.0]);
    let Claim::Clustered { k, learned } = claim else {
        panic!("{claim:?}");
    };
    assert!((k - 8.0).abs() < 0.2 && learned == TemperSource::StablePods);
    assert!(
        claim
            .sentence("It", 100.0)
            .contains("at most 1 time in 100, if errors cluster")
    );
}

#[test]
fn clusters_that_begin_during_the_release_withdraw_the_claim() {
    let claim = claim_after(rotating(1.0), rotating(40.0), &[0.0]);
    assert!(claim.is_broken(), "{claim:?}");
    let sentence = claim.sentence("It", 100.0);
    assert!(sentence.starts_with("No bound on false rollbacks is claimed"));
    assert!(!sentence.contains("at most"));
}

/// `errors` in each scrape, on the same pod for four minutes.
fn lasting(errors: f64) -> impl Fn(i64) -> Vec<f64> {
    move |index| {
        let pod = (index / 16 * 7 + index / 64) % 4;
        (0..4)
            .map(|number| if number == pod { errors } else { 0.0 })
            .collect()
    }
}

#[test]
fn clusters_that_outlast_a_scrape_are_part_of_the_condition_if_the_history_has_them() {
    let claim = claim_after(lasting(1.0), lasting(1.0), &[0.0]);
    assert!(
        matches!(claim, Claim::Clustered { k, .. } if k > 10.0),
        "{claim:?}"
    );
    assert!(claim.sentence("It", 100.0).contains("at most"));
}

#[test]
fn clusters_that_grow_within_the_margin_are_part_of_the_condition() {
    let claim = claim_after(lasting(1.0), lasting(1.5), &[0.0]);
    assert!(matches!(claim, Claim::Clustered { .. }), "{claim:?}");
    let claim = claim_after(lasting(1.0), lasting(20.0), &[0.0]);
    assert!(claim.is_broken(), "{claim:?}");
    assert!(!claim.sentence("It", 100.0).contains("at most"));
}

#[test]
fn own_pods_that_would_have_been_rolled_back_withdraw_the_claim() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let summary = PlaceboSummary {
        hours: 22,
        hours_with_rollback: 1,
        refutes_bound: false,
    };
    evidence.record_placebo(summary);
    assert_eq!(claim(&evidence, bets.config(), ALPHA), GATEWAY);
    evidence.record_placebo(PlaceboSummary {
        hours_with_rollback: 6,
        refutes_bound: true,
        ..summary
    });
    let sentence = claim(&evidence, bets.config(), ALPHA).sentence("It", 100.0);
    assert!(
        sentence.contains("in 6 of the 22 hours before the release"),
        "{sentence}"
    );
    assert!(!sentence.contains("at most"));
}

#[test]
fn too_few_errors_before_the_release_are_part_of_the_condition() {
    let claim = claim_after(|_| vec![0.0; 4], rotating(1.0), &[0.0]);
    assert!(matches!(claim, Claim::Unlearned { errors: 0.0, .. }));
    let sentence = claim.sentence("It", 100.0);
    assert!(sentence.contains("if requests fail independently"));
    assert!(sentence.contains("only 0 times"), "{sentence}");
    let unit = RoutedUnit::Client;
    let claim = claim.for_unit(unit, RoutedUnit::Request);
    assert_eq!(claim, Claim::PerUnit { unit });
}

/// The claim at a gateway that is routed in units of `size` requests.
fn gateway_claim(size: f64) -> Claim {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    for index in 0..60_i64 {
        // Four of twenty units on average.
        let canary = [3.0, 5.0, 4.0, 2.0, 6.0][usize::try_from(index * 7 % 5).unwrap()] * size;
        let errors = f64::from(u8::from(index % 5 == 0));
        let tick = Tick {
            started_ms: index * 15_000,
            at_ms: (index + 1) * 15_000,
            counts: Counts::new(canary, errors, 20.0 * size - canary, 4.0),
            ..Tick::default()
        };
        evidence.add(&bets, &tick, &TickContext::default());
    }
    claim(&evidence, bets.config(), ALPHA)
}

#[test]
fn a_gateway_that_assigns_clients_is_seen_in_its_requests_and_supports_no_claim() {
    assert!(matches!(gateway_claim(1.0), Claim::Gateway { .. }));
    assert!(matches!(gateway_claim(50.0), Claim::NotClaimed { .. }));
}

#[test]
fn pods_that_differ_limit_the_claim_by_their_arrangements() {
    let one_bad = |_| vec![2.0, 0.0, 0.0, 0.0];
    let claim = claim_after(one_bad, one_bad, &[0.0]);
    assert_eq!(
        claim,
        Claim::LimitedByPods {
            arrangements: 5.0,
            canary_pods: 1,
            stable_pods: 4
        }
    );
    assert!(claim.sentence("It", 100.0).contains("5 to 1"));
}

#[test]
fn a_source_without_pods_says_so() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let claim = claim(&evidence, bets.config(), ALPHA);
    assert_eq!(claim, GATEWAY);
    assert!(
        claim
            .sentence("It", 100.0)
            .contains("do not distinguish pods")
    );
    evidence.add(&bets, &tick(0, &[1.0, 0.0], &[]), &TickContext::default());
    assert!(evidence.distinguishes_pods());
}

#[test]
fn a_bound_for_requests_becomes_one_for_the_unit_that_is_assigned() {
    let bound = Claim::PerRequest;
    assert_eq!(
        bound.for_unit(RoutedUnit::Request, RoutedUnit::Request),
        bound
    );
    for (unit, counted) in [
        (RoutedUnit::Client, "count clients"),
        (RoutedUnit::Connection, "count connections"),
    ] {
        for bound in [bound, GATEWAY] {
            let claim = bound.for_unit(unit, RoutedUnit::Request);
            assert_eq!(claim, Claim::PerUnit { unit });
            let sentence = claim.sentence("It", 100.0);
            assert!(sentence.contains(counted), "{sentence}");
            assert!(sentence.contains("For counted requests no bound is claimed"));
        }
    }
}

const UNLEARNED: Claim = Claim::Unlearned {
    errors: 3.0,
    unit: RoutedUnit::Request,
};

#[test]
fn the_bound_is_claimed_for_the_unit_that_is_assigned_and_counted() {
    let client = RoutedUnit::Client;
    for (bound, condition) in [
        (Claim::PerRequest, "if clients fail independently"),
        (UNLEARNED, "if clients fail independently"),
        (GATEWAY, "if each client is routed by chance"),
    ] {
        let claim = bound.for_unit(client, client);
        let sentence = claim.sentence("It", 100.0);
        assert!(
            sentence.starts_with("It at most 1 time in 100, ") && sentence.contains(condition),
            "{sentence}"
        );
        // Counted clients do not help if connections are assigned.
        let unit = RoutedUnit::Connection;
        assert_eq!(bound.for_unit(unit, client), Claim::PerUnit { unit });
    }
}

#[test]
fn a_weaker_claim_is_not_replaced_by_the_unit() {
    let differing = Claim::LimitedByPods {
        arrangements: 5.0,
        canary_pods: 1,
        stable_pods: 4,
    };
    let rose = Claim::NotClaimed {
        reason: UnclaimedReason::ClusteringRose { from: 1.0, to: 9.0 },
    };
    for weaker in [differing, rose] {
        for counted in [RoutedUnit::Request, RoutedUnit::Client] {
            assert_eq!(weaker.for_unit(RoutedUnit::Client, counted), weaker);
        }
    }
}

#[test]
fn nothing_is_claimed_if_the_two_sides_are_never_compared() {
    for counted in [RoutedUnit::Request, RoutedUnit::Client] {
        let claim = Claim::PerRequest.for_unit(RoutedUnit::AllTraffic, counted);
        let sentence = claim.sentence("It", 100.0);
        assert!(
            sentence.contains("never compared") && sentence.contains("heuristic"),
            "{sentence}"
        );
        assert!(!claim.is_broken());
    }
}

#[test]
fn requests_that_a_rule_chooses_are_not_a_random_sample() {
    for counted in [RoutedUnit::Request, RoutedUnit::Client] {
        let claim = Claim::PerRequest.for_unit(RoutedUnit::ChosenRequests, counted);
        let sentence = claim.sentence("Evidence this strong", 1_000.0);
        assert!(
            sentence.starts_with("No bound on false rollbacks is claimed"),
            "{sentence}"
        );
        assert!(sentence.contains("not a random sample"), "{sentence}");
    }
}

#[test]
fn a_configured_temper_is_the_condition() {
    let config = EvidenceConfig {
        temper: Temper::Fixed(4.0),
        ..EvidenceConfig::default()
    };
    let bets = Bets::new(config).unwrap();
    let claim = claim(&Evidence::new(&bets, 0), bets.config(), ALPHA);
    assert!(
        claim
            .sentence("It", 100.0)
            .ends_with("than k = 4 allows for.")
    );
}

#[test]
fn a_calibration_states_its_hours_and_only_its_bound() {
    let bets = Bets::new(EvidenceConfig {
        calibration: Some(Calibration {
            temper: 2.5,
            hours: 120,
        }),
        ..EvidenceConfig::default()
    })
    .unwrap();
    let mut evidence = Evidence::new(&bets, 0);
    let ticks: Vec<_> = (0..240)
        .map(|index| tick(index, &rotating(8.0)(index), &[]))
        .collect();
    evidence.learn_dispersion(&ticks);
    evidence.add(
        &bets,
        &tick(0, &[40.0, 0.0], &[0.0]),
        &TickContext::default(),
    );
    let claim = claim(&evidence, bets.config(), ALPHA);
    assert_eq!(
        claim.sentence("Evidence this strong rolls back a good release", 100.0),
        "Evidence this strong rolls back a good release at most 1 time in 100 within an hour, if this \
         hour is like the 120 placebo hours with which the evidence was calibrated (temper 2.5)."
    );
    let weaker = claim.sentence("It", 10.0);
    assert!(
        weaker.contains("1 time in 10, if requests fail independently"),
        "{weaker}"
    );
    let of_clients = claim.for_unit(RoutedUnit::Client, RoutedUnit::Request);
    assert_eq!(of_clients, claim);
    let switched = claim.for_unit(RoutedUnit::AllTraffic, RoutedUnit::Request);
    assert!(matches!(switched, Claim::NotClaimed { .. }));
}

#[test]
fn a_calibration_takes_the_place_of_the_estimated_temper() {
    let calibrated = |temper| {
        Bets::new(EvidenceConfig {
            calibration: Some(Calibration { temper, hours: 99 }),
            ..EvidenceConfig::default()
        })
        .unwrap()
    };
    let ln_e = |bets: &Bets, clusters: f64| {
        let mut evidence = Evidence::new(bets, 0);
        let ticks: Vec<_> = (0..240)
            .map(|index| tick(index, &rotating(clusters)(index), &[]))
            .collect();
        evidence.learn_dispersion(&ticks);
        for index in 0..20 {
            let tick = tick(index, &rotating(1.0)(index), &[1.0]);
            evidence.add(bets, &tick, &TickContext::default());
        }
        evidence.ln_e(bets)
    };
    let one = ln_e(&calibrated(1.0), 1.0);
    assert!(one > 5.0, "{one}");
    assert_eq!(
        one,
        ln_e(&calibrated(1.0), 40.0),
        "the history does not matter"
    );
    assert!((ln_e(&calibrated(2.5), 40.0) - one / 2.5).abs() < 1e-12);
}
