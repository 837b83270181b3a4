//! Arbitrary input to the evaluator: it returns an error or a valid line and never panics.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::lines::MAX_COUNT;
use super::*;
use crate::counts::PodCounts;

fn count() -> impl Strategy<Value = f64> {
    prop_oneof![0.0..1e4_f64, Just(0.0), Just(MAX_COUNT), any::<f64>()].prop_map(f64::floor)
}

pub(super) fn any_line() -> impl Strategy<Value = TickLine> {
    let arms = (count(), 0.0..=1.0_f64, count(), 0.0..=1.0_f64);
    let pods = prop::collection::vec((count(), 0.0..=1.0_f64), 0..4);
    // Time advances, jumps, stands still and goes backwards.
    let t = prop_oneof![0.0..1e4_f64, 0.0..1e7_f64, any::<f64>()];
    (t, arms, pods, prop::option::of(0.0..=1.0_f64)).prop_map(
        |(t, (n_c, p_c, n_s, p_s), pods, weight)| {
            let pod = |(requests, rate): (f64, f64)| PodCounts {
                requests,
                errors: (requests * rate).floor(),
                ..PodCounts::default()
            };
            TickLine {
                t,
                canary: ArmLine {
                    requests: n_c,
                    errors: (n_c * p_c).floor(),
                },
                stable: StableLine {
                    requests: n_s,
                    errors: (n_s * p_s).floor(),
                    pods: pods.into_iter().map(pod).collect(),
                },
                weight,
            }
        },
    )
}

/// Typical numbers, limits, and arbitrary ones.
fn number() -> impl Strategy<Value = Value> {
    let usual = prop_oneof![
        0.0..=1.0_f64,
        1.0..=20.0_f64,
        Just(0.0),
        Just(1.0),
        Just(1e-12),
        Just(1e9),
        any::<f64>()
    ];
    usual.prop_map(|number| json!(number))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        number(),
        "[a-z0-9.\\-]{0,8}".prop_map(Value::from),
        Just(json!("auto")),
        Just(json!("off")),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The numeric keys of a configuration.
const NUMBERS: [&str; 11] = [
    "alpha",
    "beta",
    "rho0",
    "delta0",
    "delta1",
    "k",
    "clip",
    "warmUpSeconds",
    "warmUpDelta",
    "slo",
    "allotment",
];

/// Known and unknown keys.
fn key() -> impl Strategy<Value = String> {
    let known = [
        "t",
        "canary",
        "stable",
        "requests",
        "errors",
        "pods",
        "weight",
        "rollback",
        "rho",
        "weights",
        "promotion",
        "plugin",
        "restarts",
    ];
    let known = [known.as_slice(), &NUMBERS].concat();
    prop_oneof![9 => prop::sample::select(known).prop_map(str::to_owned), 1 => "[a-zA-Z]{0,6}"]
}

/// A configuration with fields of the right type and arbitrary values.
fn any_config() -> impl Strategy<Value = Value> {
    let ratios = prop::collection::vec(prop_oneof![0.0..=30.0_f64, any::<f64>()], 0..9);
    let mixture = (1_usize..6, prop::collection::vec(1.0..=1e3_f64, 6)).prop_map(|(bets, rho)| {
        #[expect(clippy::cast_precision_loss, reason = "at most five")]
        let weights = vec![1.0 / bets as f64; bets];
        json!({"rho": rho[..bets], "weights": weights})
    });
    let restarts = prop::collection::vec((0_u64..60, 0.0..=0.4_f64), 0..5);
    let field = prop_oneof![
        (prop::sample::select(NUMBERS.to_vec()), number())
            .prop_map(|(key, value)| (key.to_owned(), value)),
        ratios.prop_map(|rho| ("promotion".to_owned(), json!({"rho": rho}))),
        (0.0..=1.0_f64).prop_map(|rate| ("promotion".to_owned(), json!({"plugin": rate}))),
        mixture.prop_map(|mixture| ("rollback".to_owned(), mixture)),
        restarts.prop_map(|restarts| ("restarts".to_owned(), json!(restarts))),
        prop::sample::select(vec![("k", "auto"), ("clip", "off")])
            .prop_map(|(key, word)| (key.to_owned(), json!(word))),
    ];
    prop::collection::vec(field, 0..5)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

fn assert_valid(out: &OutputLine) -> Result<(), TestCaseError> {
    prop_assert!(
        out.ln_e.is_finite() && (0.0..=1.0).contains(&out.cash),
        "{out:?}"
    );
    prop_assert!(
        (-1.0..=1.0).contains(&out.lower) && (-1.0..=1.0).contains(&out.upper),
        "{out:?}"
    );
    prop_assert!(out.ln_m_good.is_finite(), "{out:?}");
    prop_assert!(
        out.excess.is_none_or(f64::is_finite) && out.phi.is_none_or(f64::is_finite),
        "{out:?}"
    );
    prop_assert!(out.budget_used.is_none_or(f64::is_finite), "{out:?}");
    prop_assert!(
        !out.why.contains("NaN") && !out.why.contains("inf"),
        "{}",
        out.why
    );
    // JSON has no infinities: an infinite `ln_e` would be null.
    let text =
        serde_json::to_string(out).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert!(!text.contains("null,\"cash\""), "{text}");
    Ok(())
}

proptest! {
    #[test]
    fn fuzz_any_lines_under_any_configuration(
        config in any_config(), lines in prop::collection::vec(any_line(), 1..12),
    ) {
        let Ok(config) = serde_json::from_value::<LineEvaluatorConfig>(config) else { return Ok(()) };
        let Ok(mut evaluator) = LineEvaluator::new(&config) else { return Ok(()) };
        for line in &lines {
            let Ok(out) = evaluator.evaluate(line) else { continue };
            assert_valid(&out)?;
        }
    }

    #[test]
    fn fuzz_any_json_for_a_line(line in any_json()) {
        let Ok(line) = serde_json::from_value::<TickLine>(line) else { return Ok(()) };
        let mut evaluator = LineEvaluator::new(&LineEvaluatorConfig::default()).unwrap();
        if let Ok(out) = evaluator.evaluate(&line) {
            assert_valid(&out)?;
        }
    }

    #[test]
    fn fuzz_any_json_for_a_configuration(config in any_json()) {
        let Ok(config) = serde_json::from_value::<LineEvaluatorConfig>(config) else { return Ok(()) };
        if let Err(refused) = LineEvaluator::new(&config) {
            prop_assert!(!refused.field.is_empty() && !refused.message.is_empty());
        }
    }

    #[test]
    fn fuzz_a_line_with_some_bytes_changed(
        line in any_line(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let TickLine { t, canary, stable, .. } = &line;
        let mut text = json!({
            "t": t,
            "canary": {"requests": canary.requests, "errors": canary.errors},
            "stable": {"requests": stable.requests, "errors": stable.errors},
        }).to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let Ok(line) = serde_json::from_slice::<TickLine>(&text) else { return Ok(()) };
        let mut evaluator = LineEvaluator::new(&LineEvaluatorConfig::default()).unwrap();
        if let Ok(out) = evaluator.evaluate(&line) {
            assert_valid(&out)?;
        }
    }
}
