//! Cost of the evaluation of one tick of one objective.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::{Counts, EvidenceConfig, Tick};

const CONTEXT: TickContext = TickContext {
    warm_up_ends_ms: 0,
    weight_changed_at_ms: 0,
};

fn tick(index: i64) -> Tick {
    let errors = if index % 13 == 0 { 1.0 } else { 0.0 };
    Tick {
        started_ms: index * 15_000,
        at_ms: (index + 1) * 15_000,
        counts: Counts::new(750.0, errors, 750.0, 1.0 - errors),
        stable_pods: vec![],
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
