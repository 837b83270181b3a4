//! Conversion of files, and the configuration of the tests on their requests.

use std::ffi::OsString;

use serde_json::json;
use serin_crds::analysis::AnalysisSpec;
use serin_metrics_analysis::prometheus::Server;
use serin_metrics_analysis::settings::Settings;
use serin_simulation::real_requests::shipped_evidence;
use serin_simulation::request_log::RequestLog;

use super::*;
use crate::cli::{RequestsTask, Task, parse};

const LINES: &str = concat!(
    "192.0.2.1 - - [01/Mar/2026:10:00:00 +0000] \"GET /cart HTTP/1.1\" 200 512 \"-\" \"curl\"\n",
    "\n",
    "198.51.100.7 - - [01/Mar/2026:10:00:01 +0000] \"POST /pay HTTP/1.1\" 503 0 \"-\" \"é\"\n",
    "192.0.2.1 - - [01/Mar/2026:10:00:03 +0000] \"GET /cart HTTP/1.1\" 404 1 \"-\" \"curl\"",
);

fn arguments(line: &str) -> ConvertArgs {
    let arguments = format!("kubectl-serin requests convert {line}");
    let arguments: Vec<OsString> = arguments.split(' ').map(OsString::from).collect();
    match parse("kubectl-serin", arguments).unwrap().task {
        Task::Requests {
            task: RequestsTask::Convert(args),
        } => *args,
        other => panic!("{other:?}"),
    }
}

fn converted(line: &str, input: &[u8]) -> Result<(String, String), CliError> {
    let (mut out, mut aside) = (Vec::new(), Vec::new());
    convert(&arguments(line), input, &mut out, &mut aside)?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok((text(out), text(aside)))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_access_log_becomes_a_request_log_without_addresses() {
    for input in [LINES.as_bytes().to_vec(), gzip(LINES)] {
        let (out, aside) = converted("-", &input).unwrap();
        assert_eq!(aside, "3 requests, 1 bad (33.333 %), 0 lines skipped\n");
        assert!(!out.contains("192.0.2") && !out.contains("cart"), "{out}");
        let log = RequestLog::read(out.as_bytes()).unwrap();
        let [first, second, third] = log.requests() else {
            panic!("{log:?}");
        };
        assert_eq!((first.at_ms, second.at_ms, third.at_ms), (0, 1000, 3000));
        assert!(first.client == third.client && first.client != second.client);
        assert_eq!(log.bad(), 1);
    }
}

#[test]
fn two_runs_give_a_client_different_numbers() {
    let (first, _) = converted("-", LINES.as_bytes()).unwrap();
    let (second, _) = converted("-", LINES.as_bytes()).unwrap();
    assert_ne!(first, second, "the key of the hash is not random");
}

#[test]
fn an_invalid_line_is_reported_with_file_line_and_fix_or_skipped() {
    let text = format!("{LINES}\nnot a request\n");
    let error = converted("-", text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("-: line 5: has no [time]"), "{error}");
    assert!(error.contains("--skip-invalid"), "{error}");
    let (_, aside) = converted("--skip-invalid -", text.as_bytes()).unwrap();
    assert_eq!(aside, "3 requests, 1 bad (33.333 %), 1 lines skipped\n");
    let error = converted("/nonexistent.log", b"").unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent.log: "), "{error}");
    let error = converted("-", b"").unwrap_err().to_string();
    assert!(error.contains("contains no requests"), "{error}");
    let cut = &gzip(LINES)[..30];
    let error = converted("-", cut).unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
}

#[test]
fn other_statuses_can_be_bad() {
    let (_, aside) = converted("--bad-status 400-599 -", LINES.as_bytes()).unwrap();
    assert_eq!(aside, "3 requests, 2 bad (66.667 %), 0 lines skipped\n");
}

#[test]
fn an_output_file_is_compressed_and_not_overwritten_without_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("requests.csv.gz");
    let line = format!("--output {} -", path.display());
    converted(&line, LINES.as_bytes()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let log = RequestLog::read(BufReader::new(MultiGzDecoder::new(bytes.as_slice()))).unwrap();
    assert_eq!(log.requests().len(), 3);
    let error = converted(&line, LINES.as_bytes()).unwrap_err().to_string();
    assert!(
        error.contains("exists") && error.contains("--force"),
        "{error}"
    );
    converted(&format!("--force {line}"), LINES.as_bytes()).unwrap();
    converted(&format!("--force {line}"), b"not a request").unwrap_err();
    assert!(!path.exists(), "a part of a log is left behind");
}

#[test]
fn a_line_without_an_end_is_refused() {
    let long = vec![b'a'; (1 << 20) + 2];
    let error = converted("-", &long).unwrap_err().to_string();
    assert!(
        error.contains("line 1: is longer than 1048576 bytes"),
        "{error}"
    );
}

#[test]
fn the_tests_on_real_requests_use_the_settings_of_the_controller() {
    let spec: AnalysisSpec = serde_json::from_value(json!({
        "objectives": [{"name": "availability", "objective": 97.5, "indicator": "traefik"}]
    }))
    .unwrap();
    let settings = Settings::new(&spec, None, Server::with_url("http://prometheus")).unwrap();
    let shipped = settings.objective(&spec.objectives[0], Some(0.0125), true);
    let tested = shipped_evidence(shipped.evidence.budget_fraction, 0.0125);
    // Both are ln(1/alpha), as the logarithm of 100 and as minus the logarithm of 0.01.
    let clip = |clip: Option<f64>| clip.map(|clip| (clip * 1e9).round());
    assert_eq!(clip(shipped.evidence.clip), clip(tested.clip));
    let tested = serin_analysis::EvidenceConfig {
        clip: shipped.evidence.clip,
        ..tested
    };
    assert_eq!(shipped.evidence, tested);
    let analysis = serin_analysis::AnalysisConfig::default();
    assert_eq!(settings.analysis.alpha.to_bits(), analysis.alpha.to_bits());
    assert_eq!(settings.analysis.beta.to_bits(), analysis.beta.to_bits());
}
