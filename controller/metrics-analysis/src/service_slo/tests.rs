use serin_analysis::budget::AllotmentShare;

use super::*;
use crate::fixtures::request;
use crate::prometheus::Series;

fn slo_queries() -> SloQueries {
    let objective = serde_json::from_value(
        serde_json::json!({"name": "availability", "objective": 99.9, "indicator": "traefik"}),
    )
    .unwrap();
    SloQueries::new(
        &CounterSelectors::new(&objective, &request()).unwrap(),
        Duration::from_secs(2_592_000),
    )
}

fn answer(numbers: &[(&str, f64)]) -> Answer {
    let series = |(name, value): &(&str, f64)| Series {
        labels: [(LABEL.to_owned(), (*name).to_owned())].into(),
        samples: vec![(0, *value)],
    };
    numbers.iter().map(series).collect()
}

fn is_near(value: f64, expected: f64) -> bool {
    (value / expected - 1.0).abs() < 1e-9
}

#[test]
fn the_slo_queries_are_valid_promql() {
    let slo_queries = slo_queries();
    assert!(
        promql_parser::parser::parse(&slo_queries.budget).is_ok(),
        "{}",
        slo_queries.budget
    );
    assert!(
        promql_parser::parser::parse(&slo_queries.guard).is_ok(),
        "{}",
        slo_queries.guard
    );
    assert!(
        slo_queries.budget.contains("[43200s:720s]"),
        "{}",
        slo_queries.budget
    );
}

#[test]
fn a_histogram_is_queried_for_its_bounds_and_slow_requests() {
    let objective = serde_json::from_value(serde_json::json!({
        "name": "latency", "objective": 99, "indicator": "traefik", "latency": {"threshold": "300ms"}
    }))
    .unwrap();
    let slo_queries = SloQueries::new(
        &CounterSelectors::new(&objective, &request()).unwrap(),
        Duration::from_secs(3_600),
    );
    for query in [&slo_queries.budget, &slo_queries.guard] {
        assert!(promql_parser::parser::parse(query).is_ok(), "{query}");
        assert!(
            query.contains("(increase(traefik_service_request_duration_seconds_count{"),
            "{query}"
        );
        assert!(
            query.contains(
                "(1 - histogram_fraction(-Inf, 0.3, sum(increase(traefik_service_request_duration_seconds{"
            ),
            "{query}"
        );
    }
    let edge = |le: &str| Series {
        labels: [(LABEL, EDGE), (EDGE_LABEL, le)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        samples: vec![(0, 3.0)],
    };
    let mut service = ServiceSlo::default();
    apply_budget(
        &mut service,
        &slo_queries,
        &vec![edge("0.1"), edge("1.2"), edge("+Inf")],
    );
    assert_eq!(service.edges, [0.1, 1.2, f64::INFINITY]);
}

#[test]
fn a_complete_window_is_not_extrapolated() {
    let mut service = ServiceSlo::default();
    let month = 30.0 * 86_400.0;
    apply_budget(
        &mut service,
        &slo_queries(),
        &answer(&[
            ("total", 259_200_000.0),
            ("errors", 120_000.0),
            ("age0", month),
            ("age1", 43_000.0),
        ]),
    );
    let budget = service.budget(0.001).unwrap();
    assert!(is_near(
        budget.allotment(&AllotmentShare::default()),
        5_184.0
    ));
    assert!(!service.errors_seen);
}

#[test]
fn a_young_service_is_extrapolated_to_the_window() {
    let mut service = ServiceSlo::default();
    apply_budget(
        &mut service,
        &slo_queries(),
        &answer(&[
            ("total", 30_000.0),
            ("errors", 15.0),
            ("age2", 100.0),
            ("seen", 1.0),
        ]),
    );
    let budget = service.budget(0.001).unwrap();
    assert!(is_near(budget.total, 777_600.0));
    assert!(is_near(budget.remaining, 777_585.0));
    assert!(is_near(service.usual_rate().unwrap(), 15.5 / 30_001.0));
    assert!(service.errors_seen);
}

#[test]
fn a_service_without_a_known_age_has_a_budget() {
    let mut service = ServiceSlo::default();
    apply_budget(
        &mut service,
        &slo_queries(),
        &answer(&[("total", 3_000.0), ("errors", 3.0)]),
    );
    // 12 s, the finest resolution of a month, is the maximum age.
    assert!(is_near(
        service.budget(0.001).unwrap().total,
        3_000.0 / 12.0 * 2_592_000.0 * 0.001
    ));
}

#[test]
fn the_budget_is_complete_without_errors_and_unknown_without_data() {
    let mut service = ServiceSlo::default();
    apply_budget(&mut service, &slo_queries(), &answer(&[]));
    assert_eq!(service.budget(0.001), None);
    apply_budget(
        &mut service,
        &slo_queries(),
        &answer(&[("total", 100.0), ("age0", f64::NAN), ("age1", 10.0)]),
    );
    assert!(is_near(service.budget(0.001).unwrap().remaining, 25_920.0));
    assert_eq!(service.usual_rate(), None);
}

#[test]
fn burning_requires_both_windows_and_a_young_service_is_extrapolated() {
    let mut service = ServiceSlo::default();
    let guard = answer(&[
        ("total3600", 30_000.0),
        ("errors3600", 900.0),
        ("total300", 30_000.0),
        ("errors300", 900.0),
        ("total21600", 30_000.0),
        ("errors21600", 900.0),
        ("total1800", 30_000.0),
        ("errors1800", 900.0),
        ("total900", 30_000.0),
        ("errors900", 900.0),
        ("total120", 30_000.0),
        ("errors120", 900.0),
    ]);
    apply_burn_windows(&mut service, &guard);
    assert!(is_near(service.requests_per_second, 250.0));
    assert_eq!(
        service.burning(0.001),
        None,
        "nothing is reported before the age of the data is known"
    );
    apply_budget(
        &mut service,
        &slo_queries(),
        &answer(&[("total", 30_000.0), ("errors", 900.0), ("age2", 100.0)]),
    );
    // 30 times the budget in 100 s is less than one hour's budget.
    assert_eq!(service.burning(0.001), None);
    apply_budget(
        &mut service,
        &slo_queries(),
        &answer(&[("total", 30_000.0), ("errors", 900.0), ("age2", 7_200.0)]),
    );
    assert_eq!(service.burning(0.001).unwrap().pair, WINDOW_PAIRS[0]);
}
