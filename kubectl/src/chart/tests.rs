//! What is drawn of a course, and that both ways of drawing show it.

use super::*;

/// A canary that begins to fail after five minutes.
fn course() -> Course {
    let point = |tick: u32| {
        let after = f64::from(tick.saturating_sub(20));
        Point {
            at_seconds: f64::from(tick) * 15.0,
            ln_e: -0.2 + 0.35 * after,
            excess: Some(0.0001 + 0.0004 * after),
            budget_used: Some(0.002 * f64::from(tick) + 0.01 * after),
            ..Point::default()
        }
        .bounded(Some(-0.5 / f64::from(tick)), Some(1.0 / f64::from(tick)))
    };
    Course {
        title: "checkout: availability".into(),
        threshold: 100.0,
        margin: Some(0.0005),
        points: (1..=36).map(point).collect(),
        moments: vec![510.0],
    }
}

#[test]
fn the_three_panels_are_drawn_in_a_terminal() {
    let drawn = course().chart().unwrap().for_terminal(80);
    insta::assert_snapshot!(anstream::adapter::strip_str(&drawn).to_string());
}

#[test]
fn the_svg_holds_the_lines_the_names_and_nothing_that_is_not_a_number() {
    let drawn = course().chart().unwrap().to_svg().unwrap();
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
    assert!(
        drawn.matches("<polyline").count() > 10,
        "{}",
        drawn.matches("<polyline").count()
    );
    for words in [
        "checkout: availability",
        "rolls back at 100",
        "upper bound",
        "Budget used",
        "10m",
        "2m",
    ] {
        assert!(drawn.contains(words), "{words}");
    }
    assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
}

#[test]
fn a_gap_is_not_joined_and_what_is_unknown_is_not_drawn() {
    let mut course = course();
    course
        .points
        .retain(|point| !(150.0..300.0).contains(&point.at_seconds));
    course.points[0] = Point {
        excess: None,
        ..course.points[0]
    }
    .bounded(Some(-1.0), Some(1.0));
    let chart = course.chart().unwrap();
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
fn without_an_allotment_there_is_no_panel_of_it_and_without_points_no_chart() {
    let mut course = course();
    for point in &mut course.points {
        point.budget_used = None;
    }
    assert_eq!(course.chart().unwrap().panels.len(), 2);
    course.points.clear();
    assert_eq!(course.chart(), None);
}

#[test]
fn evidence_beyond_all_measure_is_drawn_at_the_edge() {
    let mut course = course();
    course.points.push(Point {
        at_seconds: 600.0,
        ln_e: 900.0,
        excess: Some(0.9),
        ..Point::default()
    });
    let chart = course.chart().unwrap();
    assert!((chart.panels[0].range.1 - 1e9).abs() < 1.0);
    assert!(chart.panels[1].range.1 < 5.0, "{:?}", chart.panels[1].range);
    assert!(!chart.to_svg().unwrap().contains("NaN"));
    chart.for_terminal(20);
}

#[test]
fn an_axis_has_round_numbers_and_holds_all_of_its_data() {
    assert_eq!(
        times((0.0, 345.0)),
        [0.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0]
    );
    assert_eq!(times((-15.0, 20.0)), [-20.0, -10.0, 0.0, 10.0, 20.0]);
    assert_eq!(times((0.0, 0.0)), [0.0, 1.0]);
    assert_eq!(ends(&times((0.0, 40.0 * 86_400.0))), (0.0, 42.0 * 86_400.0));
    assert_eq!(values((0.0, 100.0)), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    assert_eq!(values((-0.71, 1.2)), [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5]);
    assert_eq!(ends(&values((0.0, 0.0037))), (0.0, 0.004));
    assert_eq!(powers((1e-2, 1e9)).len(), 12);
    assert_eq!(powers((0.1, 1e3)), [0.1, 1.0, 10.0, 100.0, 1_000.0]);
}

#[test]
fn an_axis_reads_as_people_write() {
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
        assert_eq!(clock(seconds), text);
    }
    for (number, text) in [
        (0.0, "0"),
        (0.05, "0.05"),
        (100.0, "100"),
        (1e9, "1e9"),
        (-0.25, "-0.25"),
        (1.5, "1.5"),
    ] {
        assert_eq!(value(number), text);
    }
}
