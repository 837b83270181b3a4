//! `kubectl serin evaluate`: Serin's rule for anybody's counters, without a cluster.
//!
//! One JSON object a line in, one a line out, flushed line by line, so that it can stand in a pipe that never ends.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serin_analysis::evaluate::{Config, Engine, TickLine};

use crate::exit::{Exit, Failure};

/// The longest line that is read: counts of some ten thousand pods.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

/// Judges every tick of `input` and writes a line for each.
///
/// # Errors
/// The configuration or a line is malformed (with its line and field), or the output cannot be written.
pub fn evaluate(config: Option<&Path>, mut input: impl BufRead, out: &mut dyn Write) -> Result<(), Failure> {
    let config = config.map_or_else(|| Ok(Config::default()), read_config)?;
    let mut engine = Engine::new(&config).map_err(|error| wrong(format!("the configuration: {error}")))?;
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        bytes.clear();
        let read = input.by_ref().take(LONGEST_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|error| wrong(format!("line {number}: cannot be read: {error}")))? == 0 {
            break;
        }
        if bytes.len() as u64 > LONGEST_LINE_BYTES {
            return Err(wrong(format!("line {number}: longer than {LONGEST_LINE_BYTES} bytes")));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let tick: TickLine = parse_line(&bytes).map_err(|why| wrong(format!("line {number}: {why}")))?;
        let line = engine.tick(&tick).map_err(|error| wrong(format!("line {number}: {error}")))?;
        serde_json::to_writer(&mut *out, &line).map_err(|error| Failure::from(std::io::Error::from(error)))?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn wrong(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

fn parse_line<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes.trim_ascii());
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| with_field(&error))?;
    json.end().map_err(|error| format!("one object a line: {error}"))?;
    Ok(parsed)
}

/// Reads a configuration in YAML, of which JSON is a part. Its error names the line, and the field where there is one.
fn read_config(file: &Path) -> Result<Config, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| wrong(format!("cannot read {name}: {error}")))?;
    serde_saphyr::from_str(&text).map_err(|error| {
        let at = error.location().map_or_else(String::new, |at| format!("line {}: ", at.line()));
        // The reader of YAML knows the line, the one of values the field: both are told.
        let field = serde_saphyr::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|value| serde_path_to_error::deserialize::<_, Config>(value).err())
            .map_or_else(|| error.to_string(), |error| with_field(&error));
        wrong(format!("{name}: {at}{field}"))
    })
}

fn with_field<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> String {
    // The reader of one line counts lines of its own, which say nothing here.
    let why = error.inner().to_string().replace(" at line 1 column ", " at column ");
    match error.path().to_string().as_str() {
        "." | "" => why,
        path => format!("{path}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &str) -> (Result<(), Failure>, Vec<serde_json::Value>) {
        let mut out = Vec::new();
        let ended = evaluate(None, input.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        (ended, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn tick(t: u32, requests: u32, errors: u32) -> String {
        format!(
            r#"{{"t": {t}, "canary": {{"requests": {requests}, "errors": {errors}}}, "stable": {{"requests": 1350, "errors": 1}}}}"#
        )
    }

    #[test]
    fn each_tick_gives_a_line_and_a_bad_canary_is_rolled_back() {
        let input: Vec<String> = (1..=8).map(|n| tick(n * 15, 150, if n > 4 { 30 } else { 0 })).collect();
        let (ended, lines) = run(&input.join("\n"));
        assert_eq!(ended, Ok(()));
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[0]["verdict"], "continue");
        assert_eq!(lines[7]["verdict"], "rollBack");
        for key in ["t", "ln_e", "cash", "excess", "lower", "upper", "ln_m_good", "phi", "budget_used", "why"] {
            assert!(lines[7].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_malformed_line_is_named_with_its_field_and_what_came_before_stands() {
        let cases = [
            (r#"{"t": 30, "canary": {"requests": "x", "errors": 0}}"#, "line 2: canary.requests: "),
            (
                r#"{"t": 30, "canary": {"requests": 1, "errors": 2}, "stable": {"requests": 1, "errors": 0}}"#,
                "line 2: canary.errors: ",
            ),
            (r#"{"t": 30, "canari": 1}"#, "line 2: canari: unknown field"),
            (r#"{"t": 30}"#, "line 2: missing field `canary` at column "),
            (&format!("{} 1", tick(30, 1, 0)), "line 2: one object a line"),
            ("{", "line 2: "),
        ];
        for (line, expected) in cases {
            let (ended, lines) = run(&format!("{}\n{line}\n", tick(15, 150, 0)));
            let failure = ended.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.starts_with(expected), "{} should begin with {expected}", failure.message);
            assert_eq!(lines.len(), 1);
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let long = " ".repeat(usize::try_from(LONGEST_LINE_BYTES).unwrap() + 2);
        assert!(run(&long).0.unwrap_err().message.contains("longer than"));
    }

    #[test]
    fn a_wrong_configuration_is_named_with_line_and_field() {
        let folder = std::env::temp_dir().join(format!("serin-evaluate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config.yaml");
        let failed = |text: &str| {
            std::fs::write(&file, text).unwrap();
            evaluate(Some(&file), "".as_bytes(), &mut Vec::new()).unwrap_err().message
        };
        let unknown = failed("alpha: 0.01\nbetta: 0.05\n");
        assert!(unknown.contains("line 2") && unknown.contains("betta"), "{unknown}");
        let kind = failed("alpha: 0.01\nrollback:\n  rho: many\n  weights: [1]\n");
        assert!(kind.contains("line 3") && kind.contains("rollback.rho"), "{kind}");
        let range = failed("alpha: 7\n");
        assert!(range.contains("alpha"), "{range}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
