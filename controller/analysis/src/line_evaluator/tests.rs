//! The line-oriented interface: golden vectors as JSON, invalid input, replays, arbitrary input.

use super::fuzz::any_line;
use super::lines::MAX_COUNT;
use super::*;
use crate::counts::PodCounts;
use crate::golden::assert_nine_digits;
use proptest::prelude::*;

fn evaluator(config: &str) -> LineEvaluator {
    LineEvaluator::new(&serde_json::from_str(config).unwrap()).unwrap()
}

fn tick(t: f64, (n_c, e_c, n_s, e_s): (u32, u32, u32, u32)) -> TickLine {
    TickLine {
        t,
        canary: ArmLine {
            requests: n_c.into(),
            errors: e_c.into(),
        },
        stable: StableLine {
            requests: n_s.into(),
            errors: e_s.into(),
            pods: vec![],
        },
        weight: None,
    }
}

#[test]
fn golden_g3_as_lines() {
    let mut evaluator = evaluator(
        r#"{"delta0": 5e-5, "k": 1, "clip": 4.605170185988092, "restarts": [[1, 0.6], [3, 0.1], [5, 0.1]], "warmUpSeconds": 0}"#,
    );
    let lines = [
        r#"{"t": 15, "canary": {"requests": 150, "errors": 0}, "stable": {"requests": 1350, "errors": 1}}"#,
        r#"{"t": 30, "canary": {"requests": 148, "errors": 1}, "stable": {"requests": 1352, "errors": 0}}"#,
        r#"{"t": 45, "canary": {"requests": 151, "errors": 0}, "stable": {"requests": 1349, "errors": 1}}"#,
        r#"{"t": 60, "canary": {"requests": 300, "errors": 2}, "stable": {"requests": 1200, "errors": 0}}"#,
        r#"{"t": 75, "canary": {"requests": 305, "errors": 6}, "stable": {"requests": 1195, "errors": 1}}"#,
        r#"{"t": 90, "canary": {"requests": 298, "errors": 9}, "stable": {"requests": 1202, "errors": 0}}"#,
    ];
    let ln_e = [
        -0.222_401_426,
        0.361_508_127,
        0.090_734_886_2,
        1.481_768_57,
        5.740_377_37,
        10.338_027_5,
    ];
    for (line, expected) in lines.iter().zip(ln_e) {
        let out = evaluator
            .evaluate(&serde_json::from_str(line).unwrap())
            .unwrap();
        assert_nine_digits(out.ln_e, expected);
        assert_eq!(
            out.verdict == LineVerdict::RollBack,
            expected >= 100_f64.ln()
        );
    }
}

#[test]
fn golden_g7_as_a_line() {
    let mut evaluator = evaluator(
        r#"{"rho0": 1, "delta0": 0, "clip": "off", "restarts": [[1, 1]], "warmUpSeconds": 0, "allotment": 5184}"#,
    );
    let out = evaluator
        .evaluate(&tick(300.0, (3000, 24, 27_000, 14)))
        .unwrap();
    assert_nine_digits(out.ln_e, 28.985_184_9);
    assert_nine_digits(out.lower, 0.003_103_633_25);
    assert_nine_digits(out.excess.unwrap(), 22.444_444_444_444_443 / 3000.0);
    assert_nine_digits(out.budget_used.unwrap(), 22.444_444_444_444_443 / 5184.0);
    assert_eq!(
        out.why,
        "Rolled back at 10 %: the canary failed 24 of 3,000 requests; stable failed 14 of 27,000 (about 1.6 expected). The canary adds at \
         least 0.31 points of errors. Evidence this strong rolls back a good release at most 1 time in 100, if each request is \
         routed by chance to pods that are alike, and errors cluster no more than stable's so far (k = 1, \
         estimated). The metrics do not distinguish pods, so neither clients that stick to one side nor pods that \
         differ are seen. \
         This rollout has used 22 of its 5,184 allotted errors (0.4 %)."
    );
}

/// The tick in which the weight changed describes two weights at once: it is charged, not bet on.
#[test]
fn the_line_of_a_weight_change_is_charged_but_not_bet_on() {
    let mut evaluator = evaluator(r#"{"warmUpSeconds": 0, "allotment": 100}"#);
    let mut line = |t: f64, weight: f64, counts| {
        let mut line = tick(t, counts);
        line.weight = Some(weight);
        evaluator.evaluate(&line).unwrap()
    };
    line(15.0, 0.05, (75, 0, 1425, 1));
    let before = line(30.0, 0.05, (75, 0, 1425, 1));
    let changed = line(45.0, 0.2, (200, 30, 1300, 30));
    assert!((changed.ln_e - before.ln_e).abs() < 1e-12);
    assert_eq!(changed.lower, before.lower);
    assert!(changed.budget_used > before.budget_used);
    let after = line(60.0, 0.2, (300, 9, 1200, 1));
    assert!(after.ln_e > changed.ln_e + 1.0);
}

#[test]
fn the_share_bets_are_part_of_a_line_if_they_have_weight() {
    let burst = tick(15.0, (300, 40, 1200, 0));
    let ln_e = |config: &str| evaluator(config).evaluate(&burst).unwrap().ln_e;
    let published = ln_e(r#"{"warmUpSeconds": 0}"#);
    let mixed = ln_e(r#"{"warmUpSeconds": 0, "shareWeight": 0.25}"#);
    let shares = ln_e(r#"{"warmUpSeconds": 0, "shareWeight": 1}"#);
    assert!(shares < 5_f64.ln() && mixed < published && mixed > shares);
    let expected = (0.75 * published.exp() + 0.25 * shares.exp()).ln();
    assert!((mixed - expected).abs() < 1e-12);
}

#[test]
fn golden_g5_as_a_line() {
    let mut evaluator = evaluator(r#"{"promotion": {"plugin": 5e-4}, "warmUpSeconds": 0}"#);
    let out = evaluator.evaluate(&tick(15.0, (4500, 2, 4500, 3))).unwrap();
    assert_nine_digits(out.ln_m_good, 0.715_526_455);
    assert_nine_digits(out.upper, 0.001_569_026_98);
    assert_eq!(out.verdict, LineVerdict::Continue);
    assert!(
        out.why
            .starts_with("Undecided: worst case still +1.6x budget burn, limit 0.5x. About "),
        "{}",
        out.why
    );
}

#[test]
fn the_line_is_the_documented_one() {
    let mut evaluator = evaluator("{}");
    let out = evaluator.evaluate(&tick(15.0, (0, 0, 0, 0))).unwrap();
    let json: serde_json::Value = serde_json::to_value(&out).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    let documented = [
        "t",
        "ln_e",
        "cash",
        "excess",
        "lower",
        "upper",
        "ln_m_good",
        "phi",
        "budget_used",
        "verdict",
        "why",
    ];
    assert_eq!(keys.len(), documented.len());
    assert!(documented.iter().all(|key| json.get(key).is_some()));
    assert_eq!(json["verdict"], "hold");
    assert!(json["excess"].is_null() && json["phi"].is_null() && json["budget_used"].is_null());
    assert_eq!(
        out.why,
        "No requests reached the canary for 15 s. This is not success. Holding at 0 %."
    );
    evaluator.evaluate(&tick(30.0, (5, 0, 5, 0))).unwrap();
    let out = evaluator.evaluate(&tick(150.0, (5, 0, 0, 0))).unwrap();
    assert_eq!(
        out.why,
        "Stable has had no data for 2 min. This is not success. Holding at 100 %."
    );
}

#[test]
fn malformed_input_is_reported_by_field() {
    let config = |text: &str| {
        LineEvaluator::new(&serde_json::from_str(text).unwrap())
            .unwrap_err()
            .field
    };
    assert_eq!(config(r#"{"alpha": 0}"#), "alpha");
    assert_eq!(config(r#"{"slo": 99.9}"#), "slo");
    assert_eq!(config(r#"{"k": 0.5}"#), "k");
    assert_eq!(config(r#"{"allotment": -1}"#), "allotment");
    assert!(
        serde_json::from_str::<LineEvaluatorConfig>(r#"{"alfa": 0.01}"#)
            .unwrap_err()
            .to_string()
            .contains("unknown field `alfa`")
    );
    assert!(serde_json::from_str::<LineEvaluatorConfig>(r#"{"promotion": {"plug": 1}}"#).is_err());
    assert!(serde_json::from_str::<LineEvaluatorConfig>(r#"{"k": "automatic"}"#).is_err());
    assert_eq!(
        serde_json::from_str::<LineEvaluatorConfig>(r#"{"k": "auto"}"#)
            .unwrap()
            .k,
        Some(TemperSetting::Word(AutoKeyword::Auto))
    );

    let line = |change: fn(&mut TickLine)| {
        let mut line = tick(15.0, (10, 1, 10, 1));
        change(&mut line);
        evaluator("{}").evaluate(&line).unwrap_err().field
    };
    assert_eq!(line(|line| line.t = f64::NAN), "t");
    assert_eq!(line(|line| line.t = -1.0), "t");
    assert_eq!(line(|line| line.canary.requests = 10.5), "canary.requests");
    assert_eq!(line(|line| line.canary.errors = 11.0), "canary.errors");
    assert_eq!(
        line(|line| line.stable.requests = f64::INFINITY),
        "stable.requests"
    );
    assert_eq!(line(|line| line.stable.errors = 11.0), "stable.errors");
    assert_eq!(
        line(|line| line.stable.pods.push(PodCounts {
            requests: 1.0,
            errors: 2.0,
            ..PodCounts::default()
        })),
        "stable.pods"
    );
    assert_eq!(line(|line| line.weight = Some(20.0)), "weight");
}

#[test]
fn a_good_release_is_eventually_promoted() {
    let mut evaluator = evaluator(r#"{"promotion": {"plugin": 5e-4}}"#);
    let lines = (1..400).map(|i| {
        evaluator
            .evaluate(&tick(
                f64::from(i) * 15.0,
                (750, u32::from(i % 3 == 0), 750, u32::from(i % 3 == 1)),
            ))
            .unwrap()
    });
    let first = lines
        .into_iter()
        .find(|line| line.verdict != LineVerdict::Continue)
        .unwrap();
    assert_eq!(first.verdict, LineVerdict::Promote);
    assert!(first.why.contains(
        "The canary adds less than 0.05 points of errors. A release that adds as much is promoted at most 1 time in 20."
    ));
}

proptest! {
    #[test]
    fn replaying_lines_has_no_effect(lines in prop::collection::vec(any_line(), 1..30), again in 0_usize..30) {
        let mut evaluator = evaluator("{}");
        let mut valid = lines.iter().filter(|line| line.validate().is_ok()).cloned().collect::<Vec<_>>();
        valid.sort_by(|one, other| one.t.total_cmp(&other.t));
        for line in &valid {
            evaluator.evaluate(line).unwrap();
        }
        let before = evaluator.evidence.clone();
        for line in valid.iter().skip(again) {
            evaluator.evaluate(line).unwrap();
        }
        prop_assert_eq!(&evaluator.evidence, &before);
    }
}

#[test]
fn a_week_of_ticks_with_everything_failing() {
    let mut evaluator = evaluator("{}");
    for i in 1..=40_320_u32 {
        let out = evaluator
            .evaluate(&tick(f64::from(i) * 15.0, (1500, 1500, 1500, 1500)))
            .unwrap();
        assert!(out.ln_e.is_finite() && out.upper <= 1.0 && out.lower >= -1.0);
        assert_ne!(out.verdict, LineVerdict::RollBack);
    }
}

#[test]
fn a_week_of_ticks_at_the_largest_counts_and_one_of_none() {
    for counts in [(MAX_COUNT, MAX_COUNT), (MAX_COUNT, 0.0), (0.0, 0.0)] {
        let mut evaluator = evaluator("{}");
        for i in 1..=40_320_u32 {
            let (requests, errors) = counts;
            let line = TickLine {
                t: f64::from(i) * 15.0,
                canary: ArmLine { requests, errors },
                stable: StableLine {
                    requests,
                    errors,
                    pods: vec![],
                },
                weight: None,
            };
            let out = evaluator.evaluate(&line).unwrap();
            assert!(
                out.ln_e.is_finite()
                    && out.ln_m_good.is_finite()
                    && out.upper <= 1.0
                    && out.lower >= -1.0,
                "{out:?}"
            );
            assert_ne!(out.verdict, LineVerdict::RollBack);
            assert!(
                requests > 0.0 || out.verdict == LineVerdict::Hold,
                "{out:?}"
            );
        }
    }
}

#[test]
fn ticks_that_are_not_later_are_ignored() {
    let mut evaluator = evaluator("{}");
    let first = evaluator.evaluate(&tick(60.0, (100, 0, 100, 0))).unwrap();
    for t in [60.0, 45.0, 0.0, 59.999] {
        let again = evaluator.evaluate(&tick(t, (100, 100, 100, 0))).unwrap();
        assert_eq!(
            (again.ln_e, again.cash, again.excess),
            (first.ln_e, first.cash, first.excess),
            "at {t}"
        );
    }
    assert_ne!(
        evaluator
            .evaluate(&tick(75.0, (100, 100, 100, 0)))
            .unwrap()
            .ln_e,
        first.ln_e
    );
}
