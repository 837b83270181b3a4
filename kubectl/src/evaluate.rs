//! `kubectl serin evaluate`: Serin's rule for anybody's counters, without a cluster.
//!
//! One JSON object a line in, one a line out, flushed line by line, so that it can stand in a pipe
//! that never ends.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use serin_analysis::evaluate::{Config, Engine, Line, LineVerdict, TickLine};
use serin_analysis::{EvidenceConfig, JudgeConfig};

use crate::chart::{Course, Point};
use crate::cli::EvaluateArgs;
use crate::exit::{Exit, Failure};
use crate::json_line;
use crate::look::Look;
use crate::manifest::yaml_trouble;

/// The longest line that is read: counts of some ten thousand pods.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

const EXAMPLE: &str = r#"{"t": 15, "canary": {"requests": 150, "errors": 3}, "stable": {"requests": 1350, "errors": 1}}"#;

/// Judges every tick of `input`, writes a line for each to `out`, and at the end draws them on
/// `aside` and to a file, where that is asked for. What came before a malformed line is drawn, too.
///
/// # Errors
/// The configuration or a line is malformed (with its line and field), or the output cannot be
/// written.
pub fn run(
    args: &EvaluateArgs,
    input: impl BufRead,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), Failure> {
    let (config, engine) = match args.config.as_deref() {
        Some(file) => read_config(file)?,
        None => (
            Config::default(),
            Engine::new(&Config::default()).map_err(|error| wrong(error.to_string()))?,
        ),
    };
    let usual = EvidenceConfig::for_budget_fraction(config.slo.map_or_else(
        || EvidenceConfig::default().budget_fraction,
        |slo| 1.0 - slo,
    ));
    let mut course = Course {
        title: "The evidence over the seconds of the ticks".to_owned(),
        threshold: 1.0 / config.alpha.unwrap_or(JudgeConfig::default().alpha),
        margin: Some(config.delta1.unwrap_or(usual.delta1)),
        ..Course::default()
    };
    let is_drawn = args.chart || args.svg.is_some();
    let ended = evaluate(engine, input, out, |line| {
        if is_drawn {
            course.points.push(point(line));
            if course.moments.is_empty()
                && matches!(line.verdict, LineVerdict::RollBack | LineVerdict::Promote)
            {
                course.moments.push(line.t);
            }
        }
    });
    let Some(chart) = course.chart() else {
        // A line that cannot be read is worse news than that nothing is drawn.
        ended?;
        return match &args.svg {
            Some(file) => Err(wrong(format!(
                "--svg {}: there is nothing to draw: the input has no tick",
                file.display()
            ))),
            None => Ok(()),
        };
    };
    if args.chart {
        aside.write_all(chart.for_terminal(Look::now().width).as_bytes())?;
    }
    if let Some(file) = &args.svg {
        chart.write_svg(file)?;
    }
    ended
}

fn point(line: &Line) -> Point {
    let Line {
        t,
        ln_e,
        excess,
        lower,
        upper,
        budget_used,
        ..
    } = *line;
    Point {
        at_seconds: t,
        ln_e,
        excess,
        budget_used,
        ..Point::default()
    }
    .bounded(Some(lower), Some(upper))
}

fn evaluate(
    mut engine: Engine,
    mut input: impl BufRead,
    out: &mut dyn Write,
    mut each: impl FnMut(&Line),
) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        bytes.clear();
        let read = input
            .by_ref()
            .take(LONGEST_LINE_BYTES + 1)
            .read_until(b'\n', &mut bytes);
        if read.map_err(|error| wrong(format!("line {number}: cannot be read: {error}")))? == 0 {
            break;
        }
        if bytes.len() as u64 > LONGEST_LINE_BYTES {
            return Err(wrong(format!(
                "line {number}: longer than {LONGEST_LINE_BYTES} bytes"
            )));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let tick: TickLine = json_line::parse(&bytes).map_err(|why| {
            wrong(format!("line {number}: {why}")).hint(format!("Write for example {EXAMPLE}"))
        })?;
        let line = engine
            .tick(&tick)
            .map_err(|error| wrong(format!("line {number}: {error}")))?;
        serde_json::to_writer(&mut *out, &line)
            .map_err(|error| Failure::from(std::io::Error::from(error)))?;
        out.write_all(b"\n")?;
        out.flush()?;
        each(&line);
    }
    Ok(())
}

fn wrong(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

/// Reads a configuration in YAML, of which JSON is a part. Its errors name the line and the field.
fn read_config(file: &Path) -> Result<(Config, Engine), Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| wrong(format!("cannot read {name}: {error}")))?;
    let written: Option<serde_json::Value> = serde_saphyr::from_str(&text).ok();
    // Nothing but comments is nothing that differs from the defaults. A list would be taken for the
    // keys in their order.
    if written
        .as_ref()
        .is_some_and(|written| !written.is_null() && !written.is_object())
    {
        return Err(wrong(format!(
            "{name}: line 1: there are no keys in it; write for example slo: 0.999"
        )));
    }
    let config: Option<Config> = serde_saphyr::from_str(&text).map_err(|error| {
        // The reader of YAML knows the line, the one of values the field: both are told.
        let field = written.and_then(|written| {
            serde_path_to_error::deserialize::<_, Option<Config>>(written).err()
        });
        let told = field.map_or_else(
            || yaml_trouble(&error),
            |field| {
                let at = error
                    .location()
                    .map_or_else(String::new, |at| format!("line {}: ", at.line()));
                format!("{at}{}", json_line::with_field(&field))
            },
        );
        wrong(format!("{name}: {told}"))
    })?;
    let config = config.unwrap_or_default();
    let engine = Engine::new(&config).map_err(|error| {
        let at =
            line_of(&text, error.field).map_or_else(String::new, |line| format!("line {line}: "));
        wrong(format!("{name}: {at}{error}"))
    })?;
    Ok((config, engine))
}

/// The line of a field, by its path: each key stands after the one that it belongs to.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut begins = 0;
    for key in path.split('.') {
        let found = text[begins..]
            .match_indices(key)
            .map(|(at, _)| begins + at)
            .find(|at| {
                let is_whole = !text[..*at].ends_with(|before: char| before.is_alphanumeric());
                is_whole
                    && text[at + key.len()..]
                        .trim_start_matches(['"', '\''])
                        .trim_start()
                        .starts_with(':')
            })?;
        begins = found + key.len();
    }
    Some(text[..begins].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &str) -> (Result<(), Failure>, Vec<serde_json::Value>) {
        let mut out = Vec::new();
        let engine = Engine::new(&Config::default()).unwrap();
        let ended = evaluate(engine, input.as_bytes(), &mut out, |_| {});
        let text = String::from_utf8(out).unwrap();
        (
            ended,
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        )
    }

    fn tick(t: u32, requests: u32, errors: u32) -> String {
        format!(
            r#"{{"t": {t}, "canary": {{"requests": {requests}, "errors": {errors}}}, "stable": {{"requests": 1350, "errors": 1}}}}"#
        )
    }

    #[test]
    fn each_tick_gives_a_line_and_a_bad_canary_is_rolled_back() {
        let input: Vec<String> = (1..=8)
            .map(|n| tick(n * 15, 150, if n > 4 { 30 } else { 0 }))
            .collect();
        let (ended, lines) = run(&input.join("\n"));
        assert_eq!(ended, Ok(()));
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[0]["verdict"], "continue");
        assert_eq!(lines[7]["verdict"], "rollBack");
        for key in [
            "t",
            "ln_e",
            "cash",
            "excess",
            "lower",
            "upper",
            "ln_m_good",
            "phi",
            "budget_used",
            "why",
        ] {
            assert!(lines[7].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_malformed_line_is_named_with_its_field_and_what_came_before_stands() {
        let cases = [
            (
                r#"{"t": 30, "canary": {"requests": "x", "errors": 0}}"#,
                "line 2: canary.requests: ",
            ),
            (
                r#"{"t": 30, "canary": {"requests": 1, "errors": 2}, "stable": {"requests": 1, "errors": 0}}"#,
                "line 2: canary.errors: ",
            ),
            (r#"{"t": 30, "canari": 1}"#, "line 2: canari: unknown field"),
            (r#"{"t": 30}"#, "line 2: missing field `canary` at column "),
            (
                &format!("{} 1", tick(30, 1, 0)),
                "line 2: one object a line",
            ),
            ("{", "line 2: "),
            ("[30, {}, {}, null]", "line 2: not a JSON object"),
            ("null", "line 2: not a JSON object"),
            ("t: 30", "line 2: not a JSON object"),
            (
                r#"{"t": -1, "canary": {"requests": 1, "errors": 0}, "stable": {"requests": 1, "errors": 0}}"#,
                "line 2: t: must be seconds since the beginning, from 0 to 1e12, not -1",
            ),
        ];
        for (line, expected) in cases {
            let (ended, lines) = run(&format!("{}\n{line}\n", tick(15, 150, 0)));
            let failure = ended.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(
                failure.message.starts_with(expected),
                "{} should begin with {expected}",
                failure.message
            );
            assert_eq!(lines.len(), 1);
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        assert_eq!(run(&format!("\u{feff}{}", tick(15, 150, 0))).1.len(), 1);
    }

    #[test]
    fn a_drawing_of_nothing_is_refused_and_not_silently_left_out() {
        let args = EvaluateArgs {
            config: None,
            chart: false,
            svg: Some("evidence.svg".into()),
        };
        let failure =
            super::run(&args, std::io::empty(), &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(
            failure
                .message
                .starts_with("--svg evidence.svg: there is nothing to draw"),
            "{failure}"
        );
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let long = " ".repeat(usize::try_from(LONGEST_LINE_BYTES).unwrap() + 2);
        assert!(run(&long).0.unwrap_err().message.contains("longer than"));
    }

    #[test]
    fn a_field_is_found_by_its_path_in_yaml_and_in_json() {
        let yaml = "alpha: 0.1\n# rho: no\nrollback:\n  weights: [1]\n  rho: [2]\n";
        assert_eq!(line_of(yaml, "rollback.rho"), Some(5));
        assert_eq!(line_of(yaml, "alpha"), Some(1));
        assert_eq!(line_of(yaml, "beta"), None);
        assert_eq!(
            line_of("{\n \"delta1\" : 1,\n \"delta0\": 2}", "delta0"),
            Some(3)
        );
    }
}
