use super::*;
use crate::audit::Requests;
use crate::results::{AbortResult, StartResult, Usage};

fn update(rollouts: u32, wall: f64, cpu: f64) -> PhaseResult {
    PhaseResult {
        phase: Phase::Update,
        rollouts,
        changed: rollouts,
        limit_seconds: 100.0,
        wall_seconds: wall,
        done: Summary::from_values(vec![wall]),
        first_write: Summary::from_values(vec![1.0, 2.0, 3.0]),
        usage: Usage {
            cpu_seconds: [("controller".to_owned(), cpu)].into(),
            rss_mib: 10.0,
            peak_rss_mib: 20.0,
        },
        requests: Requests {
            writes: [
                ("update rollouts/status".to_owned(), 2 * u64::from(rollouts)),
                ("create events".to_owned(), u64::from(rollouts)),
            ]
            .into(),
            ..Requests::default()
        },
        ..PhaseResult::default()
    }
}

fn results_of(product: Product, phases: Vec<PhaseResult>) -> ProductResults {
    ProductResults {
        product,
        environment: "a machine".into(),
        phases,
        stopped: None,
    }
}

fn two_products() -> Results {
    let serin = vec![update(1000, 50.0, 10.0), update(3000, 150.0, 30.0)];
    let mut late = update(3000, 100.0, 200.0);
    late.unfinished = 1200;
    Results {
        products: vec![
            results_of(Product::Serin, serin),
            results_of(Product::ArgoRaised, vec![update(1000, 100.0, 25.0), late]),
        ],
    }
}

#[test]
fn each_size_of_each_product_has_a_column() {
    let text = markdown(&two_products());
    assert!(text.contains("### Update all"), "{text}");
    assert!(text.contains("| Serin: 1000 | Serin: 3000 | Argo Rollouts, raised limits: 1000 |"));
    assert!(
        text.contains("| controller CPU for each, ms | 10.0 | 10.0 | 25.0 |"),
        "{text}"
    );
    assert!(
        text.contains("| writes for each (of these Events) | 3.0 (1.0) |"),
        "{text}"
    );
    assert!(
        text.contains("| the longest of these waits / their mean | 1.5 |"),
        "{text}"
    );
    assert!(!text.contains("### Create") && !text.contains("### Idle"));
}

#[test]
fn a_product_that_does_not_complete_is_reported() {
    let text = markdown(&two_products());
    assert!(
        text.contains("not within 100 s: 1800 of 3000 done"),
        "{text}"
    );
}

#[test]
fn ratios_and_exponents_leave_out_incomplete_times() {
    let text = markdown(&two_products());
    let ratios =
        "| Argo Rollouts, raised limits, update: 1000 | 2.00 | 2.00 | 2.50 | 1.00 | 1.00 | - |";
    assert!(text.contains(ratios), "{text}");
    let late = "| Argo Rollouts, raised limits, update: 3000 | - | - | 6.67 |";
    assert!(text.contains(late), "{text}");
    let growth = "| Serin, update: 1000 to 3000 | 1.00 | 1.00 | 1.00 | 0.00 | 1.00 | - |";
    assert!(text.contains(growth), "{text}");
}

#[test]
fn single_figures_have_their_own_tables() {
    let mut abort = update(1000, 50.0, 10.0);
    abort.phase = Phase::AbortFlood;
    abort.aborts = Some(AbortResult {
        quiet_reported: Summary::from_values(vec![0.01]),
        quiet_removed: Summary::from_values(vec![0.02]),
        flood_reported: Summary::from_values(vec![0.5]),
        flood_removed: Summary::from_values(vec![1.5]),
        unfinished: 2,
    });
    let mut failover = update(1000, 50.0, 10.0);
    failover.phase = Phase::Failover;
    failover.takeovers = vec![
        Takeover {
            ending: Ending::Killed,
            first_write: Some(4.0),
            observed: Some(4.25),
        },
        Takeover {
            ending: Ending::Killed,
            first_write: None,
            observed: None,
        },
    ];
    let mut start = update(1000, 50.0, 10.0);
    start.phase = Phase::Start;
    start.start = Some(StartResult {
        observed: Some(1.25),
        cpu_seconds: 0.9,
    });
    let phases = vec![abort, failover, start];
    let text = markdown(&Results {
        products: vec![results_of(Product::Serin, phases)],
    });
    for expected in [
        "| Serin, update of 1000, canary scaled to 0 | 1 | 1.50 / 1.50 / 1.50 / 1.50 |",
        "| Serin, not within 60 s | 2 | - |",
        "| Serin: 1000, killed (SIGKILL) | 4.00, not within 90 s | 4.25, not within 90 s |",
        "| Serin: 1000 | 1.25 | 0.90 | 10.00 | 20 | 3000 | 0 |",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
