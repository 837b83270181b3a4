//! Cost of the evaluation of one tick of one objective.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::{Counts, EvidenceConfig, PodCounts, PodId, Tick};

const CONTEXT: TickContext = TickContext {
    warm_up_ends_ms: 0,
    weight_changed_at_ms: 0,
    young_share: None,
};

fn tick(index: i64) -> Tick {
    let errors = if index % 13 == 0 { 1.0 } else { 0.0 };
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: Counts::new(750.0, errors, 750.0, 1.0 - errors),
        ..Tick::default()
    }
}

/// A tick of 24 stable pods and two of the canary.
fn tick_of_pods(index: i64) -> Tick {
    let pod = |number: i64| PodCounts {
        pod: PodId::from_name(&number.to_string()),
        requests: 31.0,
        errors: if (index + number) % 37 == 0 { 1.0 } else { 0.0 },
    };
    Tick {
        stable_pods: (0..24).map(pod).collect(),
        canary_pods: (24..26).map(pod).collect(),
        ..tick(index)
    }
}

fn evaluate(criterion: &mut Criterion) {
    let bets = Bets::new(EvidenceConfig::default().with_history(5e-4))
        .unwrap_or_else(|error| unreachable!("the defaults: {error}"));
    let mut evidence = Evidence::new(&bets, 0);
    let mut index = 0;
    criterion.bench_function("evidence", |bencher| {
        bencher.iter(|| {
            evidence.add(&bets, black_box(&tick(index)), &CONTEXT);
            index += 1;
            (
                evidence.ln_e(&bets),
                evidence.ln_e_reversed(&bets),
                evidence.ln_m_good(&bets, 5e-4),
            )
        });
    });
    let mut evidence = Evidence::new(&bets, 0);
    let ticks: Vec<_> = (0..4_096).map(tick_of_pods).collect();
    let mut ticks = ticks.iter().cycle();
    criterion.bench_function("evidence of pods", |bencher| {
        bencher.iter(|| {
            if let Some(tick) = ticks.next() {
                evidence.add(&bets, black_box(tick), &CONTEXT);
            }
            (evidence.ln_e(&bets), evidence.ln_m_good(&bets, 5e-4))
        });
    });
    criterion.bench_function("bounds", |bencher| {
        bencher.iter(|| {
            (
                black_box(&evidence).upper(&bets, 0.05),
                black_box(&evidence).lower(&bets, 0.01),
            )
        });
    });
}

criterion_group!(benches, evaluate);
criterion_main!(benches);
