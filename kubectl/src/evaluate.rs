//! `kubectl serin evaluate`: runs Serin's decision rule on counters from any source, without a
//! cluster.
//!
//! Reads one JSON object per line and writes one per line, flushed after each line, so that it
//! works in an endless pipe.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use serin_analysis::line_evaluator::{
    LineEvaluator, LineEvaluatorConfig, LineVerdict, OutputLine, TickLine,
};
use serin_analysis::{AnalysisConfig, EvidenceConfig};
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;

use crate::chart::{EvidencePoint, EvidenceSeries};
use crate::cli::EvaluateArgs;
use crate::display::DisplayContext;
use crate::exit::{CliError, Exit};
use crate::json_line;
use crate::manifest::{self, Manifest, yaml_error};

/// Maximum length of an input line: enough for the counts of about ten thousand pods.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

const EXAMPLE: &str = r#"{"t": 15, "canary": {"requests": 150, "errors": 3}, "stable": {"requests": 1350, "errors": 1}}"#;

/// Analyzes every tick of `input` and writes a line for each to `out`. At the end it draws the
/// chart on `aside` and to a file, if requested. The ticks before a malformed line are drawn, too.
///
/// # Errors
/// Fails if the configuration or a line is malformed (the error has its line and field), or if the
/// output cannot be written.
pub fn run(
    args: &EvaluateArgs,
    input: impl BufRead,
    out: &mut dyn Write,
    aside: &mut dyn Write,
) -> Result<(), CliError> {
    let Rule {
        engine,
        alpha,
        margin,
    } = Rule::from_args(args)?;
    let mut course = EvidenceSeries {
        title: "Evidence by tick time in seconds".to_owned(),
        threshold: 1.0 / alpha,
        margin: Some(margin),
        ..EvidenceSeries::default()
    };
    let is_drawn = args.chart || args.svg.file.is_some();
    let ended = evaluate(engine, input, out, |line| {
        if is_drawn {
            course.points.push(point(line));
            if course.markers.is_empty()
                && matches!(line.verdict, LineVerdict::RollBack | LineVerdict::Promote)
            {
                course.markers.push(line.t);
            }
        }
    });
    let Some(chart) = course.chart() else {
        // A malformed line is reported before the missing chart.
        ended?;
        return match &args.svg.file {
            Some(file) => Err(usage_error(format!(
                "--svg {}: nothing to draw: the input has no ticks",
                file.display()
            ))),
            None => Ok(()),
        };
    };
    if args.chart {
        aside.write_all(
            chart
                .for_terminal(DisplayContext::from_terminal().width)
                .as_bytes(),
        )?;
    }
    chart.write_svg(&args.svg)?;
    ended
}

/// The rule that is applied.
struct Rule {
    engine: LineEvaluator,
    /// Maximum probability of rolling back a good release.
    alpha: f64,
    /// Margin of a promotion, as a fraction of requests.
    margin: f64,
}

impl Rule {
    fn from_args(args: &EvaluateArgs) -> Result<Self, CliError> {
        if let Some(file) = &args.file {
            let manifest = manifest::read(file, &args.policies)?;
            return Self::of_rollout(&manifest, args.objective.as_deref());
        }
        let (config, engine) = match args.config.as_deref() {
            Some(file) => read_config(file)?,
            None => (
                LineEvaluatorConfig::default(),
                LineEvaluator::new(&LineEvaluatorConfig::default())
                    .map_err(|error| usage_error(error.to_string()))?,
            ),
        };
        let defaults = EvidenceConfig::for_budget_fraction(config.slo.map_or_else(
            || EvidenceConfig::default().budget_fraction,
            |slo| 1.0 - slo,
        ));
        Ok(Self {
            engine,
            alpha: config.alpha.unwrap_or(AnalysisConfig::default().alpha),
            margin: config.delta1.unwrap_or(defaults.delta1),
        })
    }

    /// The rule of an objective of a Rollout. The default is the first one.
    fn of_rollout(manifest: &Manifest, objective: Option<&str>) -> Result<Self, CliError> {
        let invalid = |message: String| {
            usage_error(format!(
                "Rollout {} cannot be used: {message}",
                manifest.name
            ))
        };
        let spec = manifest.spec.analysis.as_ref();
        let spec = spec.ok_or_else(|| invalid("it has no spec.analysis".to_owned()))?;
        let mut objectives = spec.objectives.iter();
        let found = match objective {
            Some(name) => objectives.find(|objective| objective.name == name),
            None => objectives.next(),
        };
        let found = found.ok_or_else(|| {
            let names = spec.objectives.iter().map(|one| one.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let error = match objective {
                Some(name) => invalid(format!("it has no objective {name}")),
                None => invalid("it has no objective".to_owned()),
            };
            error.hint(format!("It has the objectives: {names}."))
        })?;
        let settings =
            Settings::new(spec, None, Server::default()).map_err(|error| invalid(error.message))?;
        let evidence = settings.objective(found, None, true).evidence;
        Ok(Self {
            alpha: settings.analysis.alpha,
            margin: evidence.delta1,
            engine: LineEvaluator::with_rule(settings.analysis, evidence)
                .map_err(|error| invalid(error.to_string()))?,
        })
    }
}

fn point(line: &OutputLine) -> EvidencePoint {
    let OutputLine {
        t,
        ln_e,
        excess,
        lower,
        upper,
        budget_used,
        ..
    } = *line;
    EvidencePoint {
        at_seconds: t,
        ln_e,
        excess,
        budget_used,
        ..EvidencePoint::default()
    }
    .with_bounds(Some(lower), Some(upper))
}

fn evaluate(
    mut engine: LineEvaluator,
    mut input: impl BufRead,
    out: &mut dyn Write,
    mut each: impl FnMut(&OutputLine),
) -> Result<(), CliError> {
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        bytes.clear();
        let read = input
            .by_ref()
            .take(LONGEST_LINE_BYTES + 1)
            .read_until(b'\n', &mut bytes);
        if read.map_err(|error| usage_error(format!("line {number}: cannot be read: {error}")))?
            == 0
        {
            break;
        }
        if bytes.len() as u64 > LONGEST_LINE_BYTES {
            return Err(usage_error(format!(
                "line {number}: longer than {LONGEST_LINE_BYTES} bytes"
            )));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let tick: TickLine = json_line::parse(&bytes).map_err(|why| {
            usage_error(format!("line {number}: {why}"))
                .hint(format!("Write for example {EXAMPLE}"))
        })?;
        let line = engine
            .evaluate(&tick)
            .map_err(|error| usage_error(format!("line {number}: {error}")))?;
        serde_json::to_writer(&mut *out, &line)
            .map_err(|error| CliError::from(std::io::Error::from(error)))?;
        out.write_all(b"\n")?;
        out.flush()?;
        each(&line);
    }
    Ok(())
}

fn usage_error(message: String) -> CliError {
    CliError::new(Exit::Usage, message)
}

/// Reads a configuration in YAML or JSON. Errors name the line and the field.
fn read_config(file: &Path) -> Result<(LineEvaluatorConfig, LineEvaluator), CliError> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage_error(format!("cannot read {name}: {error}")))?;
    let written: Option<serde_json::Value> = serde_saphyr::from_str(&text).ok();
    // A file with only comments means the defaults. serde would read a list as the keys in their
    // order.
    if written
        .as_ref()
        .is_some_and(|written| !written.is_null() && !written.is_object())
    {
        return Err(usage_error(format!(
            "{name}: line 1: contains no keys; write for example slo: 0.999"
        )));
    }
    let config: Option<LineEvaluatorConfig> = serde_saphyr::from_str(&text).map_err(|error| {
        // The YAML parser knows the line and serde knows the field; the error has both.
        let field = written.and_then(|written| {
            serde_path_to_error::deserialize::<_, Option<LineEvaluatorConfig>>(written).err()
        });
        let problem = field.map_or_else(
            || yaml_error(&error),
            |field| {
                let at = error
                    .location()
                    .map_or_else(String::new, |at| format!("line {}: ", at.line()));
                format!("{at}{}", json_line::with_field(&field))
            },
        );
        usage_error(format!("{name}: {problem}"))
    })?;
    let config = config.unwrap_or_default();
    let engine = LineEvaluator::new(&config).map_err(|error| {
        let at =
            line_of(&text, error.field).map_or_else(String::new, |line| format!("line {line}: "));
        usage_error(format!("{name}: {at}{error}"))
    })?;
    Ok((config, engine))
}

/// The line of a field, by its path. Each key follows the key of its parent.
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
    use crate::cli::SvgArgs;

    fn run(input: &str) -> (Result<(), CliError>, Vec<serde_json::Value>) {
        let mut out = Vec::new();
        let engine = LineEvaluator::new(&LineEvaluatorConfig::default()).unwrap();
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
    fn each_tick_has_an_output_line_and_a_bad_canary_is_rolled_back() {
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
    fn a_malformed_line_is_reported_with_its_field_after_the_output_of_earlier_lines() {
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
                "line 2: expected one object per line",
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
    fn a_byte_order_mark_is_ignored() {
        assert_eq!(run(&format!("\u{feff}{}", tick(15, 150, 0))).1.len(), 1);
    }

    #[test]
    fn an_svg_without_data_is_an_error() {
        let args = EvaluateArgs {
            config: None,
            file: None,
            policies: Vec::new(),
            objective: None,
            chart: false,
            svg: SvgArgs {
                file: Some("evidence.svg".into()),
                force: false,
            },
        };
        let failure =
            super::run(&args, std::io::empty(), &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(
            failure
                .message
                .starts_with("--svg evidence.svg: nothing to draw"),
            "{failure}"
        );
    }

    #[test]
    fn an_endless_line_is_refused() {
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
