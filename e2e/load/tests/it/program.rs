//! Tests of the program: exit codes and output.

use std::process::{Command, Output};

use crate::server::{Reply, Server, response};

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_serin-load"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

// The program blocks the thread of the test, so the server needs another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_clean_run_prints_a_table_and_succeeds() {
    let server = Server::always_ok().await;
    let run = program(&[
        "--url",
        &server.url("/"),
        "--rate",
        "100",
        "--duration",
        "100ms",
        "--fail-on-routing",
    ]);
    let printed = text(&run.stdout);
    assert_eq!(run.status.code(), Some(0), "{printed}{}", text(&run.stderr));
    assert!(printed.contains("10 requests in"), "{printed}");
    assert!(
        printed
            .lines()
            .any(|line| line.trim_start().starts_with("v1       10")),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn routing_failures_fail_the_program_only_with_the_flag() {
    let server = Server::start(|_, _| async { Reply::Write(response(502, None)) }).await;
    let url = server.url("/");
    let arguments = [
        "--url",
        &url,
        "--rate",
        "100",
        "--duration",
        "50ms",
        "--json",
    ];
    let lenient = program(&arguments);
    assert_eq!(lenient.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&lenient.stdout).unwrap();
    assert_eq!(json["sent"], 5);
    assert_eq!(json["counts"]["routing"]["502"], 5);
    assert_eq!(
        json["failures"][0]["detail"],
        "answered 502 Bad Gateway without x-version"
    );
    let strict = program(&[&arguments[..], &["--fail-on-routing"]].concat());
    assert_eq!(strict.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn service_errors_are_not_routing_failures() {
    let server = Server::start(|_, _| async { Reply::Write(response(500, Some("v2"))) }).await;
    let run = program(&[
        "--url",
        &server.url("/"),
        "--rate",
        "100",
        "--duration",
        "50ms",
        "--fail-on-routing",
    ]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stdout));
}

#[test]
fn a_load_that_cannot_start_reports_the_reason() {
    for (arguments, message) in [
        (
            &["--url", "http://8.8.8.8/"][..],
            "8.8.8.8 is neither loopback nor private",
        ),
        (
            &["--url", "http://127.0.0.1/", "--rate", "9999"],
            "rate_per_second must be from 1 to 5000, not 9999",
        ),
        (
            &["--url", "http://127.0.0.1/", "--duration", "soon"],
            "invalid value 'soon' for '--duration",
        ),
        (
            &["--url", "http://127.0.0.1/", "--duration=-1s"],
            "it must not be negative",
        ),
    ] {
        let run = program(arguments);
        assert_eq!(run.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&run.stderr).contains(message),
            "{arguments:?}: {}",
            text(&run.stderr)
        );
    }
}
