//! `evaluate` as a program in a pipe: output, errors and exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Exit code, standard output and standard error.
fn evaluate(config: Option<&str>, lines: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-serin"));
    command
        .arg("evaluate")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(config) = config {
        std::fs::write(folder.path().join("config.yaml"), config).unwrap();
        command
            .current_dir(folder.path())
            .args(["--config", "config.yaml"]);
    }
    let mut child = command.spawn().unwrap();
    // A program that fails before reading closes the pipe; the write error is expected.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let ended = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        ended.status.code().unwrap(),
        text(ended.stdout),
        text(ended.stderr),
    )
}

fn tick(t: u32, (n_c, e_c, n_s, e_s): (u32, u32, u32, u32)) -> String {
    format!(
        r#"{{"t": {t}, "canary": {{"requests": {n_c}, "errors": {e_c}}}, "stable": {{"requests": {n_s}, "errors": {e_s}}}}}"#
    )
}

/// The third golden vector: the mixture with restarts and clip.
const RESTARTS: &str =
    "k: 1\ndelta0: 0.00005\nwarmUpSeconds: 0\nrestarts: [[1, 0.6], [3, 0.1], [5, 0.1]]\n";
const TICKS: [(u32, u32, u32, u32); 6] = [
    (150, 0, 1350, 1),
    (148, 1, 1352, 0),
    (151, 0, 1349, 1),
    (300, 2, 1200, 0),
    (305, 6, 1195, 1),
    (298, 9, 1202, 0),
];

#[test]
fn the_golden_vector_is_reproduced_to_nine_digits() {
    let lines: Vec<String> = (1..)
        .zip(TICKS)
        .map(|(number, counts)| tick(number * 15, counts))
        .collect();
    let (exit, out, _) = evaluate(Some(RESTARTS), &lines.join("\n"));
    assert_eq!(exit, 0);
    let out: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = [
        -0.222_401_426,
        0.361_508_127,
        0.090_734_886_2,
        1.481_768_57,
        5.740_377_37,
        10.338_027_5,
    ];
    assert_eq!(out.len(), expected.len());
    for ((line, ln_e), cash) in out.iter().zip(expected).zip([0.4, 0.4, 0.3, 0.3, 0.2, 0.2]) {
        assert!(
            (line["ln_e"].as_f64().unwrap() / ln_e - 1.0).abs() < 1e-8,
            "{line} should have {ln_e}"
        );
        assert!(
            (line["cash"].as_f64().unwrap() - cash).abs() < 1e-12,
            "{line}"
        );
        let keys: Vec<&str> = line
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut all = [
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
        all.sort_unstable();
        assert_eq!(keys, all);
        assert!(
            line["phi"].is_null() && line["budget_used"].is_null(),
            "{line}"
        );
    }
    let verdicts: Vec<&str> = out
        .iter()
        .map(|line| line["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(
        verdicts,
        [
            "continue", "continue", "continue", "continue", "rollBack", "rollBack"
        ]
    );
}

#[test]
fn undefined_values_are_null_and_floats_round_trip() {
    let lines = [tick(15, (0, 0, 1500, 1)), tick(30, (7, 1, 1493, 3))].join("\n");
    let (_, out, _) = evaluate(None, &lines);
    let (first, second) = out.trim().split_once('\n').unwrap();
    let read: Value = serde_json::from_str(first).unwrap();
    assert!(
        read["excess"].is_null() && read["phi"].is_null() && read["budget_used"].is_null(),
        "{first}"
    );
    assert_eq!(
        (read["lower"].as_f64(), read["upper"].as_f64()),
        (Some(-1.0), Some(1.0))
    );
    assert_eq!(read["verdict"], "hold");
    let read: Value = serde_json::from_str(second).unwrap();
    for key in ["ln_e", "cash", "excess", "lower", "upper", "ln_m_good"] {
        let written = second
            .split(&format!("\"{key}\":"))
            .nth(1)
            .unwrap()
            .split([',', '}'])
            .next()
            .unwrap();
        let parsed: f64 = written.parse().unwrap();
        assert_eq!(
            parsed.to_bits(),
            read[key].as_f64().unwrap().to_bits(),
            "{key}"
        );
        assert_eq!(
            format!("{parsed:?}"),
            written,
            "{key} has the shortest exact representation"
        );
    }
}

// kortix-ai/suna PR #3403: at next to no traffic a single 5xx aborted a release.
#[test]
fn two_errors_at_next_to_no_traffic_do_not_roll_back() {
    let counts = |number| {
        if number == 8 || number == 9 {
            (1, 1, 19, 0)
        } else {
            (1, 0, 19, 0)
        }
    };
    let lines: Vec<String> = (1..=40)
        .map(|number| tick(number * 15, counts(number)))
        .collect();
    let (exit, out, error) = evaluate(None, &lines.join("\n"));
    assert_eq!(exit, 0, "{error}");
    assert_eq!(out.lines().count(), 40);
    for line in out.lines() {
        let read: Value = serde_json::from_str(line).unwrap();
        assert_ne!(read["verdict"], "rollBack", "{line}");
    }
}

#[test]
fn every_configuration_key_is_accepted_in_yaml_and_json() {
    let yaml = "
alpha: 0.02
beta: 0.1
slo: 0.99
rho0: 1.2
delta0: 0.001
delta1: 0.004
k: auto
clip: 3.5
rollback: {rho: [2, 10], weights: [0.5, 0.5]}
promotion: {rho: [0.1, 0.5], plugin: null}
restarts: [[1, 0.5], [10, 0.5]]
warmUpSeconds: 30
warmUpDelta: 0.1
allotment: 500
";
    let json = r#"{"alpha": 0.02, "beta": 0.1, "slo": 0.99, "rho0": 1.2, "delta0": 0.001, "delta1": 0.004, "k": "auto", "clip": 3.5,
        "rollback": {"rho": [2, 10], "weights": [0.5, 0.5]}, "promotion": {"rho": [0.1, 0.5], "plugin": null},
        "restarts": [[1, 0.5], [10, 0.5]], "warmUpSeconds": 30, "warmUpDelta": 0.1, "allotment": 500}"#;
    let lines = [tick(15, (150, 1, 1350, 9)), tick(60, (150, 5, 1350, 9))].join("\n");
    let (exit, out, error) = evaluate(Some(yaml), &lines);
    assert_eq!((exit, error.as_str()), (0, ""));
    assert_eq!(evaluate(Some(json), &lines).1, out);
    assert_ne!(evaluate(None, &lines).1, out);
    assert_eq!(
        evaluate(Some("# nothing\n"), &lines),
        evaluate(None, &lines),
        "every key is optional"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of data")]
fn configuration_errors_have_line_and_field() {
    let cases = [
        ("alpha: 0.01\nbetta: 0.05\n", "line 2: betta: unknown field"),
        (
            "alpha: 0.01\nrollback:\n  rho: many\n  weights: [1]\n",
            "line 3: rollback.rho: ",
        ),
        (
            "rollback: {rho: [2], wheights: [1]}\n",
            "line 1: rollback.wheights: unknown field",
        ),
        ("promotion: {plugin: often}\n", "line 1: promotion.plugin: "),
        (
            "beta: 0.05\nk: sometimes\n",
            "line 2: k: expected a number from 1, or auto",
        ),
        (
            "clip: none\n",
            "line 1: clip: expected a number of nats above 0, or off",
        ),
        ("restarts: [[1, 0.5, 2]]\n", "line 1: restarts"),
        (
            "# first\nalpha: 7\n",
            "line 2: alpha: must be from 0.000000000001 to 0.5, not 7",
        ),
        ("beta: 0\n", "line 1: beta: must be from "),
        ("slo: 99.9\n", "line 1: slo: must be from 0 to "),
        ("rho0: 0.5\n", "line 1: rho0: must be from 1 "),
        ("delta0: -1\n", "line 1: delta0: must be from 0 "),
        ("delta1: 0\n", "line 1: delta1: must be above 0 "),
        ("k: 0.5\n", "line 1: k: must be from 1 "),
        ("clip: 0\n", "line 1: clip: must be above 0 "),
        (
            "rollback:\n  rho: [0.5]\n  weights: [1]\n",
            "line 2: rollback.rho: from 1 to 32 ratios, each above 1",
        ),
        (
            "rollback:\n  rho: [2]\n  weights: [0.9]\n",
            "line 3: rollback.weights: one share for each rho",
        ),
        (
            "promotion:\n  rho: [1.5]\n",
            "line 2: promotion.rho: from 1 to 32 ratios",
        ),
        (
            "promotion: {plugin: 2}\n",
            "line 1: promotion.plugin: must be from 0 to 1, not 2",
        ),
        (
            "restarts: [[0, 0.5]]\n",
            "line 1: restarts: pairs of a tick from 1",
        ),
        (
            "restarts: [[1, 0.7], [2, 0.7]]\n",
            "line 1: restarts: the shares sum to more than 1",
        ),
        (
            "warmUpSeconds: -1\n",
            "line 1: warmUpSeconds: must be from 0 ",
        ),
        (
            "warmUpDelta: 2\n",
            "line 1: warmUpDelta: must be from 0 to 1, not 2",
        ),
        ("allotment: 0\n", "line 1: allotment: must be above 0 "),
        ("delta1: .nan\n", "line 1: delta1: must be above 0 "),
        ("alpha: [\n", "line "),
        (
            "- 0.05\n- 0.05\n",
            "line 1: contains no keys; write for example slo: 0.999",
        ),
        (
            "alpha: 0.01\nalpha: 0.02\n",
            "line 2: invalid YAML: duplicate",
        ),
        ("---\nalpha: 0.01\n---\nalpha: 0.02\n", "invalid YAML: "),
    ];
    for (config, expected) in cases {
        let (exit, out, error) = evaluate(Some(config), &tick(15, (150, 0, 1350, 1)));
        assert_eq!((exit, out.as_str()), (2, ""), "{config}: {error}");
        assert!(
            error.starts_with("error: config.yaml: "),
            "{config}: {error}"
        );
        assert!(
            error.contains(expected),
            "{config}: {error} should have {expected}"
        );
        assert!(
            !error.contains("from_str") && !error.contains("Policy"),
            "contains internal names: {error}"
        );
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_kubectl-serin"))
        .args(["evaluate", "--config", "/nowhere/config.yaml"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn input_errors_have_line_and_field_and_keep_earlier_output() {
    let with = |from: &str, to: &str| tick(30, (150, 0, 1350, 1)).replace(from, to);
    let cases = [
        (
            with("150", "\"many\""),
            "line 2: canary.requests: invalid type",
        ),
        (
            with("150", "150.5"),
            "line 2: canary.requests: must be a whole number",
        ),
        (
            with("150", "-150"),
            "line 2: canary.requests: must be a whole number",
        ),
        (
            with("150", "9007199254740994"),
            "line 2: canary.requests: must be a whole number from 0 to 2^53",
        ),
        (
            with("\"errors\": 0", "\"errors\": 151"),
            "line 2: canary.errors: 151 of 150 requests",
        ),
        (
            with("\"errors\": 1", "\"errors\": 1351"),
            "line 2: stable.errors: 1351 of 1350 requests",
        ),
        (
            with("1350", "null"),
            "line 2: stable.requests: invalid type",
        ),
        (with("30", "-30"), "line 2: t: must be seconds"),
        (with("\"t\"", "\"at\""), "line 2: at: unknown field"),
        (
            with("\"canary\"", "\"canari\""),
            "line 2: canari: unknown field",
        ),
        (
            with("\"stable\": {", "\"stable\": {\"version\": 1, "),
            "line 2: stable.version: unknown field",
        ),
        (
            with("{\"t\"", "{\"weight\": 20, \"t\""),
            "line 2: weight: must be from 0 to 1",
        ),
        ("{\"t\": 30}".to_owned(), "line 2: missing field `canary`"),
        (
            "not json".to_owned(),
            "line 2: not a JSON object\n  Write for example {",
        ),
        ("[15, 1, 2]".to_owned(), "line 2: not a JSON object"),
        ("{\"t\": 30".to_owned(), "line 2: EOF"),
        (
            format!("{} {}", with("30", "30"), with("30", "45")),
            "line 2: expected one object per line",
        ),
    ];
    for (line, expected) in cases {
        let (exit, out, error) =
            evaluate(None, &format!("{}\n{line}\n", tick(15, (150, 0, 1350, 1))));
        assert_eq!(exit, 2, "{line}: {error}");
        assert_eq!(out.lines().count(), 1, "{line}");
        assert!(
            error.starts_with(&format!("error: {expected}")),
            "{line}: {error} should have {expected}"
        );
    }
}

#[test]
fn the_example_in_the_documentation_runs() {
    let page = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/reference/evaluate.md"
    ))
    .unwrap();
    let example = page.split("## An example").nth(1).unwrap();
    let block = |number: usize| {
        let block = example.split("```").nth(2 * number + 1).unwrap();
        block.split_once('\n').unwrap().1.to_owned()
    };
    let (exit, out, error) = evaluate(Some(&block(0)), &block(1));
    assert_eq!((exit, error.as_str()), (0, ""));
    assert_eq!(out, block(2));
}
