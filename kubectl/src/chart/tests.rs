//! Charts of an evidence series, in both output formats.

use super::*;

/// A canary that starts to fail after five minutes.
fn series() -> EvidenceSeries {
    let point = |tick: u32| {
        let after = f64::from(tick.saturating_sub(20));
        EvidencePoint {
            at_seconds: f64::from(tick) * 15.0,
            ln_e: -0.2 + 0.35 * after,
            excess: Some(0.0001 + 0.0004 * after),
            budget_used: Some(0.002 * f64::from(tick) + 0.01 * after),
            ..EvidencePoint::default()
        }
        .with_bounds(Some(-0.5 / f64::from(tick)), Some(1.0 / f64::from(tick)))
    };
    EvidenceSeries {
        title: "checkout: availability".into(),
        threshold: 100.0,
        margin: Some(0.0005),
        points: (1..=36).map(point).collect(),
        markers: vec![510.0],
    }
}

#[test]
fn terminal_chart() {
    let output = series().chart().unwrap().for_terminal(80);
    insta::assert_snapshot!(anstream::adapter::strip_str(&output).to_string());
}

#[test]
fn the_svg_contains_lines_and_names_and_only_finite_numbers() {
    let output = series().chart().unwrap().to_svg().unwrap();
    assert!(output.starts_with("<svg") && output.trim_end().ends_with("</svg>"));
    assert!(
        output.matches("<polyline").count() > 10,
        "{}",
        output.matches("<polyline").count()
    );
    for words in [
        "checkout: availability",
        "rolls back at 100",
        "upper bound",
        "Budget used",
        "10m",
        "2m",
    ] {
        assert!(output.contains(words), "{words}");
    }
    assert!(!output.contains("NaN") && !output.contains("inf"));
}

#[test]
fn gaps_and_unknown_values_interrupt_a_line() {
    let mut series = series();
    series
        .points
        .retain(|point| !(150.0..300.0).contains(&point.at_seconds));
    series.points[0] = EvidencePoint {
        excess: None,
        ..series.points[0]
    }
    .with_bounds(Some(-1.0), Some(1.0));
    let chart = series.chart().unwrap();
    let line = |panel: usize, name: &str| {
        chart.panels[panel]
            .lines
            .iter()
            .find(|line| line.name == name)
            .unwrap()
    };
    assert_eq!(line(0, "E").pieces.len(), 2);
    assert_eq!(line(0, "E").pieces[0].len(), 9);
    assert_eq!(
        line(1, "excess").pieces[0].len(),
        8,
        "the first point has none"
    );
    assert_eq!(
        line(1, "upper bound").pieces[0].len(),
        8,
        "a bound of 1 is none"
    );
}

#[test]
fn panels_without_data_are_omitted() {
    let mut series = series();
    for point in &mut series.points {
        point.budget_used = None;
    }
    assert_eq!(series.chart().unwrap().panels.len(), 2);
    series.points.clear();
    assert_eq!(series.chart(), None);
}

#[test]
fn extreme_evidence_is_clamped_to_the_axis() {
    let mut series = series();
    series.points.push(EvidencePoint {
        at_seconds: 600.0,
        ln_e: 900.0,
        excess: Some(0.9),
        ..EvidencePoint::default()
    });
    let chart = series.chart().unwrap();
    assert!((chart.panels[0].range.1 - 1e9).abs() < 1.0);
    assert!(chart.panels[1].range.1 < 5.0, "{:?}", chart.panels[1].range);
    assert!(!chart.to_svg().unwrap().contains("NaN"));
    chart.for_terminal(20);
}

#[test]
fn ticks_are_round_and_cover_the_range() {
    assert_eq!(
        time_ticks((0.0, 345.0)),
        [0.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0]
    );
    assert_eq!(time_ticks((-15.0, 20.0)), [-20.0, -10.0, 0.0, 10.0, 20.0]);
    assert_eq!(time_ticks((0.0, 0.0)), [0.0, 1.0]);
    assert_eq!(
        axis_range(&time_ticks((0.0, 40.0 * 86_400.0))),
        (0.0, 42.0 * 86_400.0)
    );
    assert_eq!(
        linear_ticks((0.0, 100.0)),
        [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    );
    assert_eq!(linear_ticks((-0.71, 1.2)), [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5]);
    assert_eq!(axis_range(&linear_ticks((0.0, 0.0037))), (0.0, 0.004));
    assert_eq!(logarithmic_ticks((1e-2, 1e9)).len(), 12);
    assert_eq!(
        logarithmic_ticks((0.1, 1e3)),
        [0.1, 1.0, 10.0, 100.0, 1_000.0]
    );
}

#[test]
fn tick_labels_are_short() {
    let times = [
        (0.0, "0"),
        (45.0, "45s"),
        (90.0, "1m30s"),
        (600.0, "10m"),
        (3_600.0, "1h"),
        (5_400.0, "1h30m"),
        (-15.0, "-15s"),
    ];
    for (seconds, text) in times {
        assert_eq!(time_label(seconds), text);
    }
    for (number, text) in [
        (0.0, "0"),
        (0.05, "0.05"),
        (100.0, "100"),
        (1e9, "1e9"),
        (-0.25, "-0.25"),
        (1.5, "1.5"),
    ] {
        assert_eq!(value_label(number), text);
    }
}

#[test]
fn an_existing_file_is_overwritten_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chart.svg");
    let chart = series().chart().unwrap();
    let mut target = SvgArgs {
        file: Some(file.clone()),
        force: false,
    };
    chart.write_svg(&target).unwrap();
    std::fs::write(&file, "somebody's work").unwrap();
    let refused = chart.write_svg(&target).unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's work");
    target.force = true;
    chart.write_svg(&target).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("<svg"));
}
