use proptest::prelude::*;

use super::*;
use crate::bet::{BetLine, poisson};
use crate::config::EvidenceConfig;

/// The exact expectation of the share bet if each cluster of errors goes to the canary as a whole
/// with probability `chance`: all assignments of all clusters.
fn expectation(clusters: &[u16], counts: &Counts, rho: f64, rho0: f64, k: f64, chance: f64) -> f64 {
    let all: f64 = clusters.iter().map(|size| f64::from(*size)).sum();
    let assignments = 0..1_u32 << clusters.len();
    let outcome = |assignment: u32| {
        let (mut probability, mut canary) = (1.0, 0.0);
        for (index, size) in clusters.iter().enumerate() {
            let is_canary = assignment >> index & 1 == 1;
            probability *= if is_canary { chance } else { 1.0 - chance };
            canary += if is_canary { f64::from(*size) } else { 0.0 };
        }
        let counts = Counts {
            canary_errors: canary,
            stable_errors: all - canary,
            ..*counts
        };
        probability * share(&counts, rho, rho0).tempered(k).at(0.0).exp()
    };
    assignments.map(outcome).sum()
}

fn weighted_share(counts: &Counts, rho0: f64) -> f64 {
    let weighted = rho0 * counts.canary_requests;
    weighted / (weighted + counts.stable_requests)
}

proptest! {
    /// The theorem of the share bet: the expectation is at most 1 for clusters of any size.
    #[test]
    fn the_share_bet_is_an_e_value_for_clusters_of_any_size(
        clusters in prop::collection::vec(1_u16..2_000, 0..8), n_c in 1_u32..50_000, n_s in 1_u32..500_000,
        rho in 1.01_f64..1000.0, rho0 in 1.0_f64..2.0, k in prop_oneof![Just(1.0), 1.0_f64..9.0],
        below in 0.0_f64..=1.0,
    ) {
        let counts = Counts::new(n_c.into(), 0.0, n_s.into(), 0.0);
        let chance = below * weighted_share(&counts, rho0);
        let expected = expectation(&clusters, &counts, rho, rho0, k, chance);
        prop_assert!(expected <= 1.0 + 1e-9, "{expected}");
    }

    /// With independent errors, the tolerances are the same as those of the counting bet. By
    /// enumeration of Poisson errors.
    #[test]
    fn the_share_bet_is_an_e_value_for_independent_errors_within_the_tolerances(
        mean_s in 0.0_f64..3.0, n_c in 1_u32..5_000, n_s in 1_u32..50_000, rho in 1.01_f64..1000.0,
        rho0 in 1.0_f64..1.5, extra in 0.0_f64..2.0, below in 0.0_f64..=1.0,
    ) {
        let (n_c, n_s) = (f64::from(n_c), f64::from(n_s));
        let delta = extra / n_c;
        let mean_c = below * (n_c * rho0 * mean_s / n_s + extra);
        prop_assume!(mean_c < 20.0);
        let poisson_of = |mean: f64| {
            let mut probability = (-mean).exp();
            (1..=60_u32)
                .map(|count| {
                    let now = probability;
                    probability *= mean / f64::from(count);
                    now
                })
                .collect::<Vec<_>>()
        };
        let (of_canary, of_stable) = (poisson_of(mean_c), poisson_of(mean_s));
        let mut expected = 0.0;
        for (e_c, p_c) in (0_u32..).zip(&of_canary) {
            for (e_s, p_s) in (0_u32..).zip(&of_stable) {
                let counts = Counts::new(n_c, e_c.into(), n_s, e_s.into());
                expected += p_c * p_s * share(&counts, rho, rho0).at(delta).exp();
            }
        }
        prop_assert!(expected <= 1.0 + 1e-9, "{expected}");
    }
}

/// What the share bet is for: the counting bet overstates a cluster.
#[test]
fn the_counting_bet_is_no_e_value_for_clusters() {
    let counts = Counts::new(1_000.0, 0.0, 4_000.0, 0.0);
    let (rho, rho0, cluster) = (10.0, 1.0, 10.0);
    let chance = weighted_share(&counts, rho0);
    let at = |e_c: f64| {
        let counts = Counts::new(1_000.0, e_c, 4_000.0, cluster - e_c);
        poisson(&counts, rho, rho0).at(0.0).exp()
    };
    assert!(chance * at(cluster) + (1.0 - chance) * at(0.0) > 1e4);
    assert!((expectation(&[10], &counts, rho, rho0, 1.0, chance) - 1.0).abs() < 1e-12);
}

#[test]
fn with_one_error_both_bets_are_the_same() {
    for counts in [
        Counts::new(150.0, 1.0, 1350.0, 0.0),
        Counts::new(150.0, 0.0, 1350.0, 1.0),
        Counts::new(150.0, 0.0, 1350.0, 0.0),
    ] {
        for delta in [0.0, 5e-5] {
            let (one, other) = (share(&counts, 5.0, 1.1), poisson(&counts, 5.0, 1.1));
            assert!((one.at(delta) - other.at(delta)).abs() < 1e-12);
        }
    }
}

#[test]
fn a_scrape_is_worth_at_most_the_inverse_of_the_weight() {
    let counts = Counts::new(1_000.0, 1_000.0, 4_000.0, 0.0);
    assert!(share(&counts, 1e9, 1.0).at(0.0) <= 5_f64.ln() + 1e-9);
    assert_eq!(share(&Counts::default(), 5.0, 1.1), BetLine::default());
}

fn tick(index: i64, counts: Counts) -> Tick {
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts,
        ..Tick::default()
    }
}

fn funded(bets: &Bets) -> ShareEvidence {
    let mut evidence = ShareEvidence::new(Mixture::new(bets.config().rollback.rho.len()));
    evidence.fund(1.0);
    evidence
}

#[test]
fn a_block_is_one_bet_on_all_of_its_ticks() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let minute = BlockShape {
        k: 1.0,
        length_ms: 60_000,
    };
    let counts = Counts::new(100.0, 2.0, 400.0, 0.0);
    let mut blocks = funded(&bets);
    for index in 0..3 {
        blocks.add(&bets, &tick(index, counts), 5e-5, minute);
    }
    let ln_weights = bets.rollback_ln_weights();
    assert!(blocks.ln_value(ln_weights).abs() < 1e-12, "still open");
    blocks.add(&bets, &tick(3, counts), 5e-5, minute);
    let mut whole = funded(&bets);
    let all = Tick {
        at_ms: 60_000,
        ..tick(0, Counts::new(400.0, 8.0, 1_600.0, 0.0))
    };
    whole.add(&bets, &all, 5e-5, BlockShape::default());
    let (of_blocks, of_whole) = (blocks.ln_value(ln_weights), whole.ln_value(ln_weights));
    assert!((of_blocks - of_whole).abs() < 1e-12 && of_whole > 1.0);
}

#[test]
fn the_shape_of_a_block_is_fixed_when_it_opens() {
    let bets = Bets::new(EvidenceConfig::default()).unwrap();
    let shape = |k, length_ms| BlockShape { k, length_ms };
    let counts = Counts::new(100.0, 2.0, 400.0, 0.0);
    let run = |shapes: [BlockShape; 2]| {
        let mut evidence = funded(&bets);
        for (index, shape) in (0_i64..).zip(shapes) {
            evidence.add(&bets, &tick(index, counts), 5e-5, shape);
        }
        evidence.ln_value(bets.rollback_ln_weights())
    };
    assert_eq!(
        run([shape(2.0, 30_000), shape(9.0, 0)]),
        run([shape(2.0, 30_000); 2])
    );
}
