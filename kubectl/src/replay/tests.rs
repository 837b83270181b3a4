//! Replay requests from a file and arguments.

use super::*;
use crate::cli::{PrometheusAccessArgs, Task, parse};

const NOW: &str = "2026-03-01T12:00:00Z";

fn args(line: &str) -> Result<ReplayArgs, String> {
    let line =
        format!("kubectl-serin replay -f rollout.yaml --prometheus http://localhost:9090 {line}");
    let arguments = line.split_whitespace().map(Into::into).collect();
    match parse("kubectl-serin", arguments)
        .map_err(|error| error.to_string())?
        .task
    {
        Task::Replay(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

fn manifest(objective: &str) -> Manifest {
    let text = format!(
        "apiVersion: serin.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: checkout, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: c}}}}\n  \
         template: {{metadata: {{labels: {{app: c}}}}, spec: {{containers: [{{name: c, image: 'i:1'}}]}}}}\n  \
         strategy: {{canary: {{trafficRouting: {{gatewayAPI: {{httpRoute: c}}}}}}}}\n  \
         analysis: {{prometheus: {{address: 'http://in-cluster:9090'}}, objectives: [{{name: availability, objective: 99.9, {objective}}}]}}\n"
    );
    manifest::parse(&text, "-f rollout.yaml").unwrap()
}

const TRAEFIK: &str = "indicator: traefik";
const PODS: &str = "counters: {total: requests_total, errors: errors_total}";
const LABEL: &str = "counters: {total: requests_total, errors: errors_total, variants: {label: version, canary: v2, stable: v1}}";

fn build_request(objective: &str, line: &str) -> Result<ReplayRequest, String> {
    let args = args(line)?;
    let options = ReplayOptions::from_args(&args).map_err(|failure| failure.to_string())?;
    let windows = windows::requested_windows(&args, NOW.parse().unwrap())
        .map_err(|failure| failure.to_string())?;
    replay_request(
        &manifest(objective),
        &options,
        &windows[0],
        NOW.parse().unwrap(),
    )
    .map_err(|failure| failure.to_string())
}

#[test]
fn the_sides_default_to_those_of_the_rollout() {
    let request = build_request(TRAEFIK, "--from -2h --to -1h").unwrap();
    assert_eq!(request.to_ms - request.from_ms, 3_600_000);
    assert_eq!(request.server.url, "http://localhost:9090");
    assert_eq!(request.request.rollout.namespace, "shop");
    assert_eq!(request.request.stable_service.as_deref(), Some("checkout"));
    assert_eq!(request.weights, WeightSource::Observed);
    let given = build_request(TRAEFIK, "--from -2h --stable shop-old --canary shop-new").unwrap();
    assert_eq!(given.request.canary_service.as_deref(), Some("shop-new"));
    let label = build_request(LABEL, "--from -2h --stable v7 --canary v8").unwrap();
    let variants = label.request.analysis.objectives[0]
        .counters
        .clone()
        .unwrap()
        .variants
        .unwrap();
    assert_eq!(
        (variants.stable.as_deref(), variants.canary.as_deref()),
        (Some("v7"), Some("v8"))
    );
    let pods = build_request(
        PODS,
        "--from -2h --stable-pods checkout-abc --canary-pods checkout-def",
    )
    .unwrap();
    assert_eq!(
        pods.request.stable_replica_set.as_deref(),
        Some("checkout-abc")
    );
    assert_eq!(pods.request.canary_replica_set, "checkout-def");
}

#[test]
fn given_weights_are_sorted_by_time() {
    let request = build_request(TRAEFIK, "--from -2h --step-weights 10m=20,0s=5%").unwrap();
    assert_eq!(
        request.weights,
        WeightSource::Set(vec![
            (0, Weight::percent(5)),
            (600_000, Weight::percent(20))
        ])
    );
}

#[test]
fn invalid_arguments_are_refused_with_a_fix() {
    let cases = [
        (TRAEFIK, "--from -1h --to -2h", "swap the two"),
        (TRAEFIK, "--from -60d", "a month at a time"),
        (TRAEFIK, "--from yesterday", "2026-03-01T10:00:00Z"),
        (TRAEFIK, "--from -1h --step-weights 20", "0s=5 or 10m=20"),
        (
            TRAEFIK,
            "--from -1h --step-weights 10m=20",
            "--step-weights: no weight before 10m; start with",
        ),
        (
            TRAEFIK,
            "--from -1h --step-weights 0s=5,10m=20,600s=30",
            "--step-weights: 10m is given twice",
        ),
        (
            TRAEFIK,
            "--from -1h --to 2026-03-01T13:00:00Z",
            "--from and --to: 2026-03-01T13:00:00Z is in the future",
        ),
        (PODS, "--from -1h", "--stable-pods checkout-5d4f8c"),
        (
            "indicator: pod",
            "--from -1h",
            "--stable-pods checkout-5d4f8c",
        ),
        (TRAEFIK, "", "--from <TIME>"),
        (TRAEFIK, "--from -1h --quiet 5", "--quiet"),
        (
            TRAEFIK,
            "--releases /nowhere/releases",
            "--releases /nowhere/releases: cannot be read",
        ),
        (TRAEFIK, "--releases r --from -1h", "cannot be used with"),
        (
            TRAEFIK,
            "--from -1h --bearer-token-file /nowhere/token",
            "--bearer-token-file /nowhere/token",
        ),
        (
            TRAEFIK,
            "--from -1h --ca-file /nowhere/ca.crt",
            "--ca-file /nowhere/ca.crt: cannot be read",
        ),
        (
            TRAEFIK,
            "--from -1h --header X-Scope-OrgID",
            "'X-Scope-OrgID: shop'",
        ),
    ];
    for (objective, line, words) in cases {
        let refusal = build_request(objective, line).unwrap_err();
        assert!(refusal.contains(words), "{line}: {refusal}");
    }
}

#[test]
fn a_release_list_reports_errors_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("releases.jsonl");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        windows::read_windows(&file).map_err(|failure| failure.to_string())
    };
    let one = r#"{"name": "v7", "namespace": "market", "from": "2026-03-01T10:00:00Z", "to": "2026-03-01T10:20:00Z"}"#;
    let windows = read(&format!("{one}\n\n{one}\n")).unwrap();
    assert_eq!(windows.len(), 2);
    let options = ReplayOptions::new(Server::with_url("http://localhost:9090"));
    let request = replay_request(
        &manifest(TRAEFIK),
        &options,
        &windows[0],
        NOW.parse().unwrap(),
    )
    .unwrap();
    assert_eq!(request.request.rollout.namespace, "market");
    assert_eq!(request.to_ms - request.from_ms, 1_200_000);
    let unknown = read(&format!("{one}\n{}", one.replace("to\"", "until\""))).unwrap_err();
    assert!(
        unknown.contains("line 2: until: unknown field `until`")
            && unknown.contains("Write one line per release"),
        "{unknown}"
    );
    let time = read(&one.replace("T10:20", " at 10:20")).unwrap_err();
    assert!(time.contains("line 1: to: "), "{time}");
    let pods = read(&one.replace('}', r#", "podsCreatedAt": {"checkout-7b9c6d-x": "soon"}}"#))
        .unwrap_err();
    assert!(
        pods.contains("line 1: podsCreatedAt.checkout-7b9c6d-x: "),
        "{pods}"
    );
    for (nothing, why) in [
        ("", "contains no release"),
        ("[]", "line 1: not a JSON object"),
        ("v7", "line 1: not a JSON object"),
    ] {
        let refusal = read(nothing).unwrap_err();
        assert!(
            refusal.contains(why) && refusal.contains("Write one line per release"),
            "{refusal}"
        );
    }
    let reversed = read(&one.replace("10:20", "09:20")).unwrap();
    let reversed = replay_request(
        &manifest(TRAEFIK),
        &options,
        &reversed[0],
        NOW.parse().unwrap(),
    )
    .unwrap_err()
    .to_string();
    assert!(
        reversed.contains(
            "releases.jsonl: line 1: 2026-03-01T10:00:00Z is not before 2026-03-01T09:20:00Z"
        ),
        "{reversed}"
    );
    assert_eq!(
        read(&format!("\u{feff}{one}")).unwrap().len(),
        1,
        "some editors begin a file with a mark"
    );
}

#[test]
fn a_token_file_contains_one_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    for (token, is_one) in [
        ("", false),
        ("\n", false),
        ("a\nb", false),
        ("secret", true),
        ("secret\n", true),
    ] {
        std::fs::write(&file, token).unwrap();
        let access = PrometheusAccessArgs {
            bearer_token_file: Some(file.clone()),
            ..PrometheusAccessArgs::default()
        };
        match prometheus::server("http://localhost:9090", &access)
            .map_err(|failure| failure.to_string())
        {
            Ok(server) => assert!(
                is_one && server.headers[0].1 == "Bearer secret",
                "{token:?}"
            ),
            Err(refusal) => assert!(
                !is_one && refusal.contains("contains no token; write"),
                "{token:?}: {refusal}"
            ),
        }
    }
}
