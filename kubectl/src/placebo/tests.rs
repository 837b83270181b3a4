//! Placebo releases on logs. Those from a Prometheus are tested in `tests/placebo.rs`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::*;
use crate::cli::{Task, parse};

fn arguments(line: &str) -> Result<PlaceboArgs, String> {
    let arguments = format!("kubectl-serin placebo {line}");
    let arguments: Vec<OsString> = arguments.split_whitespace().map(OsString::from).collect();
    match parse("kubectl-serin", arguments)
        .map_err(|error| error.to_string())?
        .task
    {
        Task::Placebo(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

fn printed(line: &str) -> Result<String, String> {
    let args = arguments(line)?;
    let display = DisplayContext {
        now: Timestamp::UNIX_EPOCH,
        zone: TimeZone::UTC,
        width: 80,
    };
    let file = args.data.clone().unwrap();
    let text = logged::run(&args, &file, &display).map_err(|error| error.to_string())?;
    Ok(anstream::adapter::strip_str(&text).to_string())
}

/// A log of 20 minutes in which one of 20 clients fails in the second half of the time.
fn write_log(path: &Path, bad: bool) {
    let mut text = String::from("seconds,client,endpoint,bad\n");
    for index in 0..24_000_u32 {
        let client = index % 20;
        let is_rare = index % 997 == 0;
        let is_bad = bad && (is_rare || (client == 3 && index > 14_000));
        let seconds = f64::from(index) / 20.0;
        let _ = writeln!(text, "{seconds:.3},{client},1,{}", u8::from(is_bad));
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_client_that_begins_to_fail_rolls_its_pod_back_only_if_it_sticks_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("requests.csv");
    write_log(&path, true);
    let line = format!("--data {} --draws 10 -o json", path.display());
    let output: serde_json::Value = serde_json::from_str(&printed(&line).unwrap()).unwrap();
    let of = |unit: usize| {
        let unit = &output["routing"][unit];
        (
            unit["routerDecides"].as_str().unwrap().to_owned(),
            unit["releases"].as_u64().unwrap(),
            unit["rolledBack"].as_u64().unwrap(),
        )
    };
    assert_eq!(of(0), ("per request".to_owned(), 40, 0));
    let (name, releases, rolled_back) = of(1);
    assert_eq!((name.as_str(), releases), ("by client", 40));
    // The client sticks to one of four pods, which is the canary once in each draw.
    assert_eq!(rolled_back, 10);
}

#[test]
fn the_table_has_a_line_for_each_way_to_assign_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("requests.csv");
    write_log(&path, true);
    let line = format!("--data {} --draws 2 --objective 99", path.display());
    let text = printed(&line).unwrap();
    for expected in [
        "24,000 requests in 20 min",
        "objective 99 %, scrapes of 15 s, 4 pods, 2 draws",
        "per request     0.0 [0.0,",
        "by client       25.0 [",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

#[test]
fn invalid_input_is_refused_with_a_fix() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.csv");
    write_log(&good, false);
    let other = folder.path().join("other.csv");
    std::fs::write(&other, "a,b\n1,2\n").unwrap();
    for (line, expected) in [
        (format!("--data {}", good.display()), "no request is bad"),
        (format!("--data {}", other.display()), "has no column"),
        ("--data /nonexistent.csv".to_owned(), "cannot be read"),
        ("--data x --hours 3".to_owned(), "cannot be used with"),
        ("--data x --draws 0".to_owned(), "--draws"),
        ("checkout".to_owned(), "--prometheus"),
        (
            "--prometheus http://localhost:9090".to_owned(),
            "required arguments",
        ),
        (
            "checkout --prometheus http://localhost:9090 --hours 400".to_owned(),
            "--hours",
        ),
        (
            "checkout --prometheus http://localhost:9090 --draws 5".to_owned(),
            "cannot be used with",
        ),
    ] {
        let error = printed(&line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
    write_log(&good, true);
    let line = format!("--data {} --objective 100", good.display());
    assert!(printed(&line).unwrap_err().contains("99.9"));
}
