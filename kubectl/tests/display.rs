//! Hostile text in objects of the cluster, shown on a terminal.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::ffi::OsString;

use proptest::prelude::*;
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;
use serin_kubectl::connect::Connection;

/// Clears the screen, writes to the clipboard, colors, returns to the start of the line.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}[H\u{1b}[32mPhase  Healthy\u{1b}]52;c;cm0gLXJmIH4=\u{7}\r\u{9b}2J\u{202e}";

/// A Rollout with `text` in every place that somebody other than the reader may write.
fn rollout(text: &str) -> Value {
    let at = "2026-03-01T11:00:00Z";
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "checkout"}},
            "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": [{"name": text, "image": text}]}},
            "strategy": {"canary": {"steps": []}},
            "analysis": {"checks": [{"name": text, "query": text, "condition": text}],
                "objectives": [{"name": text, "objective": 0.999, "indicator": {"custom": {"total": text, "errors": text}}}]}
        },
        "status": {
            "observedGeneration": 1, "phase": "Degraded", "stage": "Aborted", "message": text,
            "stableRevision": "v1", "currentRevision": "v2", "weights": {"desired": 0.0, "verified": 0.0},
            "abort": {"revision": "v2", "at": at, "cause": "Command", "by": text, "message": text},
            "holds": [{"source": "Cluster", "code": "PodsNotAvailable", "message": text, "blocks": "Advance", "ends": {"by": "Itself"}}],
            "commands": [{"uid": "u", "outcome": {"result": "Refused", "message": text}}],
            "history": [{"revision": text, "result": "Aborted", "at": at, "message": text}],
            "checks": [{"name": text, "result": "Failing", "message": text}],
            "budgets": [{"objective": text, "state": text}],
            "evidence": [{"objective": text}],
            "conditions": [{"type": "Healthy", "status": "False", "reason": text, "message": text, "lastTransitionTime": at}],
            "replicas": 0, "updatedReplicas": 0, "readyReplicas": 0, "availableReplicas": 0
        }
    })
}

/// What a command prints on a terminal with colors: its output and its error.
async fn shown(line: &str, text: &str) -> String {
    let world = FakeCluster::new(7);
    world.apply_object(rollout(text)).unwrap();
    world
        .edit::<Rollout>("shop", "checkout", |stored| {
            stored["status"] = rollout(text)["status"].clone();
        })
        .unwrap();
    let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let invocation = serin_kubectl::cli::parse("kubectl-serin", arguments).unwrap();
    let connection = Connection {
        client: world.client_for("kubectl"),
        namespace: "shop".into(),
    };
    let mut out = Vec::new();
    let ended = serin_kubectl::run(&connection, &invocation.task, &|_| None, &mut out).await;
    ended.unwrap();
    String::from_utf8(out).unwrap()
}

/// The printed text without the styles that the plugin itself uses: bold, dimmed, colors.
fn without_styles(shown: &str) -> String {
    [
        "\u{1b}[0m",
        "\u{1b}[1m",
        "\u{1b}[2m",
        "\u{1b}[22m",
        "\u{1b}[31m",
        "\u{1b}[32m",
        "\u{1b}[33m",
        "\u{1b}[39m",
    ]
    .iter()
    .fold(shown.to_owned(), |text, style| text.replace(style, ""))
}

const COMMANDS: [&str; 4] = [
    "kubectl-serin status checkout",
    "kubectl-serin list",
    "kubectl-serin explain checkout --all",
    "kubectl-serin status checkout -o yaml",
];

#[tokio::test]
async fn no_object_makes_a_command_print_a_control_character() {
    for line in COMMANDS {
        let shown = shown(line, HOSTILE).await;
        assert!(shown.contains("checkout"), "{line}: {shown:?}");
        assert!(
            !shown.contains("\u{1b}[32mPhase  Healthy"),
            "{line}: {shown:?}"
        );
        let rest = without_styles(&shown);
        let is_foreign = |character: char| {
            (character.is_control() && character != '\n') || character == '\u{202e}'
        };
        assert!(!rest.contains(is_foreign), "{line}: {rest:?}");
    }
    let status = shown(COMMANDS[0], HOSTILE).await;
    assert!(
        status.contains("^[[2J"),
        "the text is shown, not hidden: {status:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_random_text_makes_a_command_print_a_control_character(text in "[\\x00-\\x1f\\x7f-\\u{9f}a-z \\u{202a}-\\u{2069}]{0,80}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        for line in COMMANDS {
            let shown = runtime.block_on(shown(line, &text));
            let rest = without_styles(&shown);
            let is_foreign = |character: char| character.is_control() && character != '\n';
            prop_assert!(!rest.contains(is_foreign), "{}: {:?}", line, rest);
        }
    }
}
